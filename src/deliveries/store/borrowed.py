"""A plain psycopg connection of the caller's, and what SQLAlchemy needs around it for one call.

SQLAlchemy's own connection costs as much client time as writing one delivery does; who works without
it should not pay for it. The transaction stays the caller's: none is begun here that psycopg would not
begin by itself, and none is ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard, cast

from sqlalchemy import Connection, Dialect, Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from deliveries.errors import CallerError


class Plain(Protocol):
    """A `psycopg.Connection`."""

    @property
    def pgconn(self) -> Any:
        """The link to the server."""

    @property
    def autocommit(self) -> bool:
        """Whether each statement is a transaction of its own."""


def is_plain(bind: object) -> TypeGuard[Plain]:
    """Whether `bind` is a connection of psycopg's, which is not imported for the question."""
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(bind, psycopg.Connection)


def borrow(raw: Plain, engine: Engine) -> Connection:
    """`raw` as a connection of `engine`, in the transaction that the caller has begun, or will have.

    Raises: CallerError where the engine speaks to its database through another driver.
    """
    if engine.dialect.driver != "psycopg":
        raise CallerError(
            f"a psycopg connection was given, and this app's engine uses {engine.dialect.driver}"
        )
    return Connection(engine, cast("PoolProxiedConnection", Borrowed(raw)))


def borrowed(connection: Connection) -> Borrowed | None:
    """What `borrow` made `connection` of; None: it is another."""
    lent: Any = connection.connection
    return lent if isinstance(lent, Borrowed) else None


class Borrowed:
    """Stands where a pool's connection would: gives cursors, and ends nothing."""

    is_valid = True

    def __init__(self, raw: Plain) -> None:
        self.plain: Plain = raw
        self.dbapi_connection: Any = raw
        self.driver_connection: Any = raw
        self.info: dict[str, Any] = {}

    @property
    def in_transaction(self) -> bool:
        """Whether one is open: at work, idle inside it, or failed (libpq's states 1, 2 and 3)."""
        return self.plain.pgconn.transaction_status in (1, 2, 3)

    def run(self, sql: str, values: Mapping[str, Any], dialect: Dialect) -> Any:
        """Execute, and return the cursor. Raises: DBAPIError, as SQLAlchemy would."""
        import psycopg

        cursor = self.cursor()
        try:
            cursor.execute(sql, values)
        except psycopg.Error as error:
            raise DBAPIError.instance(
                sql, None, error, psycopg.Error, hide_parameters=True, dialect=dialect
            ) from error
        return cursor

    def cursor(self, *args: Any, **options: Any) -> Any:
        """A cursor that gives tuples, whatever the caller's own ones give."""
        import psycopg
        from psycopg.rows import tuple_row

        kind = psycopg.ServerCursor if args or options else psycopg.Cursor
        return kind(self.dbapi_connection, *args, **options, row_factory=tuple_row)

    def commit(self) -> None:
        """The caller does that."""

    rollback = close = commit

    def invalidate(self, *_: Any, **__: Any) -> None:
        """It broke, and that is the caller's to mend."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dbapi_connection, name)
