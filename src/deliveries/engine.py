"""From what the user has (a URL, an engine, an async engine) to the engine we work with."""

from __future__ import annotations

import os

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
