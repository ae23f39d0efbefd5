"""The one port through which time comes in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Whose time it is.

    `authoritative`: True where this clock decides what is due and whose lease is over, instead of
    the database's (for tests; on SQLite, which has no clock, every clock decides).
    """

    authoritative: bool

    def now(self) -> datetime:
        """An aware UTC instant."""


class SystemClock:
    """The machine's clock; on PostgreSQL the database's decides."""

    authoritative = False

    def now(self) -> datetime:
        """The present, UTC."""
        return datetime.now(UTC)
