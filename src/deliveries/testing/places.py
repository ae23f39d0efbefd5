"""Where a test's deliveries live: in memory, in a schema of its own, or in an engine that is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import URL, Engine, NullPool, QueuePool, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from deliveries import sqlite
from deliveries.clock import Clock
from deliveries.engine import engine_of
from deliveries.errors import CallerError
from deliveries.store.store import Store

Place = str | URL | Engine | AsyncEngine


@contextmanager
def place(database: Place, clock: Clock) -> Iterator[Engine]:
    """An engine on `database`, with our tables in it.

    `sqlite://` is a new database in memory, for all threads, gone at the end. A PostgreSQL URL gets
    a schema of its own, first on the search path and dropped at the end, so that no test sees
    another one's deliveries. Another URL, and an engine, is used as it is and keeps what it holds.
    """
    if isinstance(database, (Engine, AsyncEngine)):
        given = engine_of(database)
        Store(given, clock).create_schema()
        yield given
        if given is not database:
            given.dispose()
        return
    url = make_url(database)
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        engine, drop = _in_memory(), _nothing
    elif url.get_backend_name() == "postgresql":
        engine, drop = _in_a_schema(url, clock)
    else:
        engine, drop = engine_of(url), _nothing
    try:
        Store(engine, clock).create_schema()
        yield engine
    finally:
        engine.dispose()
        drop()


class OneConnection(QueuePool):
    """One connection for all threads, one at a time: there is only one database in it.

    Whoever asks while its own thread has the connection would wait for ever, and is told so.
    `afterwards` is called once, when the connection is back and before its giver goes on.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.afterwards: Callable[[], None] | None = None
        self._holder: int | None = None

    def _do_get(self) -> Any:
        if self.checkedout() and self._holder == threading.get_ident():
            raise CallerError(
                "the database in memory has one connection, and an open transaction of this thread has it: "
                "end that first, or pass session= to look into it"
            )
        record = super()._do_get()
        self._holder = threading.get_ident()
        return record

    def _do_return_conn(self, record: Any) -> None:
        super()._do_return_conn(record)
        self.afterwards, afterwards = None, self.afterwards
        if afterwards is not None:
            afterwards()


def _in_memory() -> Engine:
    engine = create_engine(
        "sqlite://",
        poolclass=OneConnection,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )
    sqlite.configure(engine)
    return engine


def _in_a_schema(url: URL, clock: Clock) -> tuple[Engine, Callable[[], None]]:
    name = f"deliveries_test_{uuid4().hex}"

    def run(statement: str) -> None:
        admin = create_engine(engine_of(url).url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with admin.connect() as connection:
            connection.exec_driver_sql(statement)

    run(f"CREATE SCHEMA {name}")
    alone = engine_of(_searching(url, name))  # or tables of ours in `public` would be taken for those
    try:
        Store(alone, clock).create_schema()
    finally:
        alone.dispose()
    return engine_of(_searching(url, f"{name},public")), lambda: run(f"DROP SCHEMA {name} CASCADE")


def _searching(url: URL, path: str) -> URL:
    given = url.query.get("options", "")
    options = given if isinstance(given, str) else " ".join(given)
    return url.update_query_dict({"options": f"{options} -csearch_path={path}".strip()})


def _nothing() -> None:
    """Nothing is left to drop."""
