"""What an engine made from a URL tells libpq and psycopg, on a real connection."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import make_url

from deliveries.engine import engine_of
from deliveries.errors import CallerError


def connected(url: str, **query: str) -> tuple[Any, dict[str, str]]:
    """psycopg's connection, and what libpq was told."""
    engine = engine_of(make_url(url).update_query_dict(query))
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            return driver.prepare_threshold, driver.info.get_parameters()
    finally:
        engine.dispose()


def test_a_server_that_is_gone_without_a_word_is_given_up(postgresql_url: str) -> None:
    threshold, told = connected(postgresql_url)
    assert threshold == 5  # psycopg's own default
    assert {name: told.get(name) for name in ("connect_timeout", "keepalives_idle", "tcp_user_timeout")} == {
        "connect_timeout": "10",
        "keepalives_idle": "30",
        "tcp_user_timeout": "30000",
    }


def test_the_url_has_the_last_word(postgresql_url: str) -> None:
    threshold, told = connected(postgresql_url, tcp_user_timeout="5000", prepare_threshold="none")
    assert threshold is None
    assert told["tcp_user_timeout"] == "5000"
    assert connected(postgresql_url, prepare_threshold="2")[0] == 2


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(CallerError, match="prepare_threshold"):
        engine_of("postgresql://host/shop?prepare_threshold=often")
