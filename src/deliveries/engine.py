"""From what the user has (a URL, an engine, an async engine) to the engine we work with."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import URL, Engine, QueuePool, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from deliveries import sqlite
from deliveries.errors import CallerError

_SYNC_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+asyncpg": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
}


def engine_of(source: str | URL | Engine | AsyncEngine | None) -> Engine:
    """A synchronous engine for `source`; None reads `DELIVERIES_URL`.

    An engine is used as it is. For an async engine, and for a URL, an engine of our own is made: the
    same database through psycopg or sqlite3, configured. Raises: CallerError.
    """
    if isinstance(source, Engine):
        return source
    if source is None:
        source = os.environ.get("DELIVERIES_URL")
        if not source:
            raise CallerError("no database: give a URL or an engine, or set DELIVERIES_URL")
    try:
        url = make_url(source.url if isinstance(source, AsyncEngine) else source)
    except (ArgumentError, ValueError):  # a port that is no number
        raise CallerError("the database URL cannot be parsed; example: sqlite:///deliveries.db") from None
    url = url.set(drivername=_SYNC_DRIVERS.get(url.drivername, url.drivername))
    in_memory = url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")
    if in_memory and isinstance(source, AsyncEngine):
        raise CallerError("an in-memory database belongs to one engine: give a sync engine, or a file")
    return _create(url, in_memory)


_ALIVE = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""libpq's: how soon a server that is gone without a word is given up, instead of after two hours."""


def _psycopg(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL, and psycopg's own arguments: what it does not say of `_ALIVE`, and its `prepare_threshold`.

    `?prepare_threshold=none` is for poolers that do not keep track of prepared statements.
    """
    arguments: dict[str, Any] = {name: value for name, value in _ALIVE.items() if name not in url.query}
    threshold = str(url.query.get("prepare_threshold", "")).lower()
    if threshold:
        if threshold != "none" and not threshold.isdecimal():
            raise CallerError("prepare_threshold in the database URL must be a number or none")
        arguments["prepare_threshold"] = None if threshold == "none" else int(threshold)
        url = url.difference_update_query(["prepare_threshold"])
    return url, arguments


def _create(url: URL, in_memory: bool) -> Engine:
    try:
        if in_memory:  # one connection for all threads, one at a time: there is only one database in it
            engine = create_engine(
                url,
                hide_parameters=True,
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=0,
                connect_args={"check_same_thread": False},
            )
        elif url.get_driver_name() == "psycopg":
            url, arguments = _psycopg(url)
            engine = create_engine(url, hide_parameters=True, connect_args=arguments)
        else:
            engine = create_engine(url, hide_parameters=True)  # they are recipients, payloads and notes
    except ModuleNotFoundError as error:
        if error.name == "psycopg":
            raise CallerError("PostgreSQL needs psycopg: pip install 'deliveries[postgres]'") from None
        raise CallerError(f"the database driver {error.name!r} is not installed") from None
    except ArgumentError as error:
        raise CallerError(f"the database URL cannot be used: {error}") from None
    sqlite.configure(engine)
    return engine
