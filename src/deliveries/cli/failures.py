"""Whose fault it was: an exception's exit code, and its one line."""

from __future__ import annotations

import sys

from deliveries.errors import CallerError, DeliveriesError, DeliveryNotFound, IdempotencyConflict

FOUND = 1
"""The command was right, but what it found is not."""
USAGE = 2
"""The command itself was wrong."""


class UsageError(CallerError):
    """The command line asks for what cannot be."""


def judge(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for `error`."""
    if isinstance(error, (DeliveryNotFound, IdempotencyConflict)):
        return FOUND, str(error)
    if isinstance(error, DeliveriesError):
        return USAGE if isinstance(error, CallerError) else FOUND, str(error)
    if _is_of_the_database(error):
        from deliveries.store.failures import cause

        return FOUND, f"the database says: {cause(error)}"
    return FOUND, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _is_of_the_database(error: Exception) -> bool:
    """Whether it is SQLAlchemy's; importing it only to ask would cost more than the whole command."""
    library = sys.modules.get("sqlalchemy.exc")
    return library is not None and isinstance(error, library.SQLAlchemyError)
