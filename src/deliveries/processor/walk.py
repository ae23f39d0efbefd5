"""Where a claim begins to look: at the very first that may be due, unless the way from there is long.

PostgreSQL removes nothing that somebody's snapshot may still see. While a transaction stays open for
minutes, the index of what is due keeps an entry of all that was claimed since, and a claim walks every
one of them on its way to those that are due. So after a claim that took long others begin where it
ended. All is looked at again before long, for what stands further back: what was committed late, was
given a due time in the past, or was held by somebody who let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from deliveries.processor import ticks
from deliveries.store.rows import Claimed

LONG_SECONDS = 0.01
"""A claim that took so long is not made from the beginning each time."""

SHARE = 20
"""The way from the beginning is walked for at most one part in so many of the time,"""

MOST_SECONDS = 10.0
"""and at least so often."""

LATE = timedelta(seconds=2)
"""What is committed within this time of being due is found at once, wherever claims begin."""

_PRIORITIES = 10


class Walk:
    """How far one queue was walked, priority by priority."""

    def __init__(self) -> None:
        self._floors: list[datetime | None] = [None] * _PRIORITIES
        self._whole_at = 0.0

    def floors(self) -> list[datetime | None] | None:
        """What is due before these times is not looked at; None: all is."""
        return self._floors if ticks.monotonic() < self._whole_at else None

    def walked(
        self, found: Sequence[Claimed], full: bool, seconds: float, *, from_the_beginning: bool
    ) -> None:
        """A claim took so long and found these; `full`: there may be more behind the last of them."""
        if from_the_beginning:
            is_long = seconds >= LONG_SECONDS
            self._whole_at = ticks.monotonic() + min(SHARE * seconds, MOST_SECONDS) if is_long else 0.0
            self._floors = [None] * _PRIORITIES
        if not found or found[-1].problem is not None:
            return
        last, seen = found[-1].delivery, found[-1].now - LATE
        exhausted = last.priority if full else _PRIORITIES  # what is due before it was seen, all of it
        self._floors[:exhausted] = [seen] * exhausted
        if full and last.due_at is not None:
            self._floors[last.priority] = min(last.due_at, seen)
