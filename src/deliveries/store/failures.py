"""What went wrong in the database, in words that may be logged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from deliveries.core.notes import clean, describe, type_name
from deliveries.errors import ConcurrentChange, ConcurrentSchedule

_SERIALIZATION_FAILURES = {"40001", "40P01"}
_CANCELLED = "57014"
"""PostgreSQL: the statement took longer than it may, and would again."""
_SQLITE_PASSING = {5, 6, 10, 13, 14}
"""SQLite's primary codes: busy, locked, the disk fails, it is full, the file cannot be opened. What is
wrong with a statement or a row, a table that is not there, it calls an operational error, too."""


def cause(error: BaseException) -> str:
    """One line about `error`. A database error's own text holds the statement's parameters, and so
    recipients, payloads and error texts: only what the driver said is kept of it.
    """
    behind = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return clean(f"{type_name(behind)}: {describe(behind)}".partition("\n")[0], 500)


def is_serialization_failure(error: DBAPIError) -> bool:
    """Whether the transaction was refused because of another one, and may simply be run again."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state in _SERIALIZATION_FAILURES


def is_passing(error: BaseException) -> bool:
    """Whether the database is in trouble, or somebody in the way, and the same may succeed later."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_PASSING
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) != _CANCELLED


@contextmanager
def appending_evidence(what: str) -> Iterator[None]:
    """At a strict isolation level the row's lock shows nothing newer: who comes second is refused.

    Raises: ConcurrentChange.
    """
    try:
        yield
    except ConcurrentSchedule as error:
        raise ConcurrentChange(f"{what} changed meanwhile") from error
    except DBAPIError as error:
        error.hide_parameters = True
        if isinstance(error, IntegrityError) or is_serialization_failure(error):
            raise ConcurrentChange(f"{what} changed meanwhile") from error
        raise
