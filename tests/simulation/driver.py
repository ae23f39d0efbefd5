"""SQLite's driver, with faults at every call: before it, after it, and death at either side.

SQLAlchemy and everything above it are as always; they see a driver that sometimes fails.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Protocol

from sqlalchemy import Engine, QueuePool, create_engine

from deliveries import sqlite


class Saboteur(Protocol):
    """Asked at every call of the driver. It may raise."""

    def before(self, call: str) -> None: ...

    def after(self, call: str) -> None: ...


class Peace:
    """Nothing fails."""

    def before(self, call: str) -> None: ...

    def after(self, call: str) -> None: ...


class Faulty:
    """One database in memory, behind a driver that fails as the saboteur says."""

    def __init__(self) -> None:
        self.saboteur: Saboteur = Peace()
        self.connection = _Connection(":memory:", check_same_thread=False)
        self.connection.shared = self

    def engine(self) -> Engine:
        """All its connections are the same one: the database is gone with its last."""
        engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=QueuePool, pool_size=1, max_overflow=0
        )
        sqlite.configure(engine)
        return engine

    def _connect(self) -> sqlite3.Connection:
        self.saboteur.before("CONNECT")
        return self.connection


class _Connection(sqlite3.Connection):
    shared: Faulty

    def cursor(self, *arguments: Any) -> Any:
        cursor = super().cursor(_Cursor)
        cursor.shared = self.shared
        return cursor

    def commit(self) -> None:
        self.shared.saboteur.before("COMMIT")
        super().commit()
        self.shared.saboteur.after("COMMIT")

    def close(self) -> None:
        """As another process would see it: what was open is rolled back."""
        self.rollback()

    def create_function(self, *arguments: Any, **named: Any) -> None:
        """The dialect's own; nobody here needs it, and SQLite refuses it beside an open cursor."""


class _Cursor(sqlite3.Cursor):
    shared: Faulty

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement.startswith("PRAGMA"):  # a new connection's: it fails as a whole, or not
            return super().execute(statement, *parameters)
        self.shared.saboteur.before(statement)
        super().execute(statement, *parameters)
        self._done(statement)
        return self

    def executemany(self, statement: str, parameters: Any) -> Any:
        self.shared.saboteur.before(statement)
        super().executemany(statement, parameters)
        self._done(statement)
        return self

    def _done(self, statement: str) -> None:
        try:
            self.shared.saboteur.after(statement)
        except BaseException:
            self.close()  # nobody will fetch what it found
            raise
