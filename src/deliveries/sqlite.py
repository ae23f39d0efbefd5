"""Making a SQLite engine right.

Python's driver opens a transaction late: not before a SAVEPOINT, not before a SELECT. A caller's
outer rollback could then leave a delivery behind. A configured engine lets SQLAlchemy say BEGIN,
and says it IMMEDIATE, so that a transaction that reads first and writes later is never refused in
the middle. It also sets WAL, `synchronous=FULL` (a commit survives a power cut) and a busy timeout.

SQLite has no queue of writers: each asks now and then, after pauses of up to 100 ms, and beside a busy
processor none of the questions may meet a free moment for seconds. A cursor of ours asks often, and those
of one engine ask one after the other.

SQLite keeps a text that is no UTF-8, and the driver fails whatever is read beside it. Here each byte of
such a text comes as a lone surrogate (PEP 383).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncEngine

from deliveries.errors import CallerError, DatabaseMoved, EngineNotConfigured

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a statement waits for another's write transaction."""

ASK_EVERY_SECONDS = 0.0005
"""The pause between two questions of who waits to begin."""

OLDEST = (3, 37, 0)
"""The first SQLite with strict tables."""

READ_ONLY = "deliveries_read_only"
"""Execution option: the transaction only reads, so it begins DEFERRED and waits for no writer."""

_MARK = "deliveries.sqlite"
_FILE = "deliveries.sqlite.file"
_BEGIN = "BEGIN IMMEDIATE"

_text = partial(str, encoding="utf-8", errors="surrogateescape")


def configure(engine: Engine | AsyncEngine) -> None:
    """Make `engine` keep our promises: its own BEGIN IMMEDIATE, WAL, full synchronisation.

    Call it once, before the engine's first connection. Engines made by `Deliveries(url)` are
    configured already; on other databases this does nothing. Its connections wait for the file in turn,
    unless a `creator` or `factory` of yours makes them; then they wait as SQLite does. Texts that are no
    UTF-8 are read with lone surrogates in place of their bytes, yours too. A session that only reads may
    say `connection.execution_options(deliveries_read_only=True)` to not wait for writers.

    Raises: CallerError if the engine has connections already, or where SQLite is too old.
    """
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync.dialect.name != "sqlite" or event.contains(sync, "begin", _begin):
        return
    if sqlite3.sqlite_version_info < OLDEST:
        raise CallerError(
            f"SQLite {'.'.join(map(str, OLDEST))} or newer is needed, not {sqlite3.sqlite_version}"
        )
    if getattr(sync.pool, "checkedout", int)() or getattr(sync.pool, "checkedin", int)():
        raise CallerError("configure the SQLite engine before its first connection")
    event.listen(sync, "do_connect", _in_turn())
    event.listen(sync, "connect", _connect)
    event.listen(sync, "begin", _begin)
    event.listen(sync, "handle_error", _rolled_back_by_itself)


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


class _Connection(sqlite3.Connection):
    turn: threading.Lock
    """Held by the one, of those that share it, that asks whether it may begin."""

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _Cursor)


class _Cursor(sqlite3.Cursor):
    """Begins in turn; it does so in the thread that waits, which beside an event loop is the driver's."""

    connection: _Connection

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return self._begin_in_turn() if sql == _BEGIN else super().execute(sql, parameters)

    def _begin_in_turn(self) -> _Cursor:
        """Begin within the connection's busy timeout, which may be the caller's own."""
        (patience,) = self.connection.execute("PRAGMA busy_timeout").fetchone()
        deadline = time.monotonic() + patience / 1000
        has_turn = self.connection.turn.acquire(timeout=patience / 1000)
        try:
            self.connection.execute("PRAGMA busy_timeout = 0")
            while True:
                try:
                    return super().execute(_BEGIN)
                except sqlite3.OperationalError as error:
                    if not _is_busy(error) or time.monotonic() >= deadline:
                        raise
                time.sleep(ASK_EVERY_SECONDS)
        finally:
            if has_turn:
                self.connection.turn.release()
            self.connection.execute(f"PRAGMA busy_timeout = {patience}")


def _in_turn() -> Callable[..., None]:
    """What makes a connection wait its turn. A factory of the caller's own, or another driver's, stays."""
    turns: dict[int, threading.Lock] = {}  # by process: one that is forked while somebody asks has its own

    def make(*args: Any, **options: Any) -> _Connection:
        connection = _Connection(*args, **options)
        connection.turn = turns.setdefault(os.getpid(), threading.Lock())
        return connection

    def listener(dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        module = getattr(dialect.dbapi, "sqlite", dialect.dbapi)  # aiosqlite's, or itself
        if module.Connection is sqlite3.Connection:
            options.setdefault("factory", make)

    return listener


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _connect(dbapi_connection: Any, record: Any) -> None:
    driver: Any = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    driver.text_factory = _text
    dbapi_connection.isolation_level = None  # the driver begins nothing by itself any more
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA database_list")
    path = cursor.fetchall()[0][2]
    cursor.close()
    record.info[_MARK] = True
    record.info[_FILE] = (path, _identity(path)) if path else None


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
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    if (file := connection.info.get(_FILE)) is not None and _identity(file[0]) != file[1]:
        # SQLite would go on in a file without a name, and all that is committed there is lost
        raise DatabaseMoved(file[0])
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else _BEGIN)


def _identity(path: str) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _rolled_back_by_itself(context: ExceptionContext) -> None:
    """Refuse what follows an error on which SQLite has ended the transaction by itself.

    It does so where the disk is full or fails, and where a constraint of yours says ROLLBACK. The next
    statement would commit alone. An invalid connection takes none before the caller has rolled back.
    """
    connection = context.connection
    if connection is None or not connection.in_transaction() or connection.info.get(_FILE) is None:
        return
    driver: Any = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
