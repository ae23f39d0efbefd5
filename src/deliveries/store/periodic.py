"""Up to when each periodic entry was looked at: one row for an entry as it is written."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from deliveries.store.schema import periodic

Entry = tuple[str, str]
"""Name, and the expression with its time zone: an entry that is changed begins anew."""


def seen(connection: Connection) -> dict[Entry, datetime]:
    """Up to when each entry was looked at; takes no lock."""
    rows = connection.execute(select(periodic))
    return {(row.name, row.expression): row.seen_at for row in rows}


def begin(connection: Connection, entries: Iterable[Entry], now: datetime) -> None:
    """Look at these entries from `now` on. Does nothing for those that somebody else began."""
    insert: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    rows = [{"name": name, "expression": expression, "seen_at": now} for name, expression in sorted(entries)]
    connection.execute(insert(periodic).on_conflict_do_nothing(), rows)


def lock(connection: Connection, entry: Entry) -> datetime | None:
    """Lock the row of `entry` until the transaction's end; up to when it was looked at by now."""
    statement = select(periodic.c.seen_at).where(*_is(entry)).with_for_update()
    found: datetime | None = connection.scalar(statement)
    return found


def move(connection: Connection, entry: Entry, seen_at: datetime) -> None:
    """`entry`, whose row is locked, was looked at up to `seen_at`."""
    connection.execute(update(periodic).where(*_is(entry)).values(seen_at=seen_at))


def _is(entry: Entry) -> tuple[Any, ...]:
    return periodic.c.name == entry[0], periodic.c.expression == entry[1]
