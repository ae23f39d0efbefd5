"""Many rows in one statement: each value arrives as it was, whatever its neighbours are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from deliveries.store.arrays import Rows

KINDS = {
    "id": "uuid",
    "body": "bytea",
    "salt": "bytea",
    "text": "text",
    "number": "int",
    "seconds": "float8",
    "at": "timestamptz",
}
NOW = datetime(2026, 11, 27, 10, 30, 0, 123456, tzinfo=UTC)
ROWS: list[tuple[Any, ...]] = [
    (UUID(int=1), b"\x00\xff\\x00", None, 'a "b", \\c', -1, 0.1, NOW),
    (UUID(int=2), b"", b"salt", "", None, None, None),
    (UUID(int=3), b"{}", b"", None, 2**31 - 1, 1e300, NOW),
    (UUID(int=4), b"x" * 10_000, b"last", "NULL", 0, -0.5, NOW.replace(year=9999)),
]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_values_arrive_as_they_were(postgresql_url: str, engines: Callable[..., Engine], count: int) -> None:
    rows = Rows("WITH u AS {rows} SELECT * FROM u ORDER BY id", None, KINDS).filled(ROWS[-count:])
    with engines(postgresql_url).connect() as connection:
        assert [tuple(row) for row in rows.statement.run(connection, rows.values).fetchall()] == ROWS[-count:]
