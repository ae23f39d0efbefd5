"""A clock that stands still until it is moved."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class VirtualClock:
    """Decides what is due and whose lease is over, on both databases, instead of theirs.

    `start`: an aware datetime; None: the present, so that what your code reads from the machine's
    clock makes sense beside it. `tick`: what each look at it takes (seconds or a timedelta), for
    tests in which no two moments may be equal; none by default. May be used from any thread.
    """

    authoritative = True

    def __init__(self, start: datetime | None = None, *, tick: float | timedelta = 0) -> None:
        self._instant = datetime.now(UTC) if start is None else _utc(start)
        self._tick = _duration(tick)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The present, UTC."""
        with self._lock:
            self._instant += self._tick
            return self._instant

    def advance(self, by: float | timedelta) -> datetime:
        """Let `by` (seconds or a timedelta) pass at once; returns the present.

        Less than nothing sets the clock back, as happens to clocks; what is recorded keeps its order.
        """
        with self._lock:
            self._instant += _duration(by)
            return self._instant

    def travel(self, to: datetime) -> datetime:
        """Be at the moment `to`. Raises: ValueError for a naive one."""
        moment = _utc(to)
        with self._lock:
            self._instant = moment
        return moment


def _duration(value: float | timedelta) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _utc(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ValueError(f"{moment} is naive: give it a time zone, such as UTC")
    return moment.astimezone(UTC)
