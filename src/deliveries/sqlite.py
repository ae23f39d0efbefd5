"""Making a SQLite engine right.

Python's driver opens a transaction late: not before a SAVEPOINT, not before a SELECT. A caller's
outer rollback could then leave a delivery behind. A configured engine lets SQLAlchemy say BEGIN,
and says it IMMEDIATE, so that a transaction that reads first and writes later is never refused in
the middle. It also sets WAL, `synchronous=FULL` (a commit survives a power cut) and a busy timeout.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from deliveries.errors import CallerError, EngineNotConfigured

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a statement waits for another process's write transaction."""

READ_ONLY = "deliveries_read_only"
"""Execution option: the transaction only reads, so it begins DEFERRED and waits for no writer."""

_MARK = "deliveries.sqlite"


def configure(engine: Engine | AsyncEngine) -> None:
    """Make `engine` keep our promises: its own BEGIN IMMEDIATE, WAL, full synchronisation.

    Call it once, before the engine's first connection. Engines made by `Deliveries(url)` are
    configured already; on other databases this does nothing. A session that only reads may say
    `connection.execution_options(deliveries_read_only=True)` to not wait for writers.

    Raises: CallerError if the engine has connections already.
    """
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync.dialect.name != "sqlite" or event.contains(sync, "begin", _begin):
        return
    if getattr(sync.pool, "checkedout", int)() or getattr(sync.pool, "checkedin", int)():
        raise CallerError("configure the SQLite engine before its first connection")
    event.listen(sync, "connect", _connect)
    event.listen(sync, "begin", _begin)


def check(connection: Connection) -> None:
    """Refuse a connection on which a rollback would not undo what we write.

    Raises: EngineNotConfigured.
    """
    if connection.info.get(_MARK) is None:
        raise EngineNotConfigured(
            "this SQLite engine does not begin transactions by itself, so a rollback could leave "
            "a delivery behind: call deliveries.sqlite.configure(engine) before its first connection"
        )
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        raise EngineNotConfigured("this SQLite connection is in autocommit mode: begin a transaction")


def _connect(dbapi_connection: Any, record: Any) -> None:
    dbapi_connection.isolation_level = None  # the driver begins nothing by itself any more
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
    record.info[_MARK] = True


def _write_ahead(cursor: Any) -> None:
    """Turn WAL on, trying again while the file is busy.

    The change wants the file alone for a moment, and beside a writer SQLite refuses it at once,
    whatever the busy timeout says: two processes that open a new file meet here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
