"""What went wrong in the database, in words that may be logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError

from deliveries.core.notes import clean, describe, type_name
from deliveries.errors import ConcurrentChange, ConcurrentSchedule

_SERIALIZATION_FAILURES = {"40001", "40P01"}


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
