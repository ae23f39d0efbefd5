"""How often something may start: at most so many in any stretch of time of a given length.

A token bucket that is filled to the brim lets twice its size through within one period: the burst,
and what trickles in after it. A receiver that counts ("100 a minute") refuses that. So the starts of
the last period are kept, and the rate holds for every window, wherever it begins.

Kept are not single starts but cells, a fiftieth of a period each. A cell is as young as its youngest
start, so rounding errs on the side of waiting, by a fiftieth of a period at most.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct, structs

from deliveries.core.codec import instant, micros

CELLS = 50
"""Into so many cells a period is divided: the most that is kept, whatever the rate is."""

HORIZON_SECONDS = 300.0
"""How far ahead those who wait are given a moment; whoever does not fit is looked at again then."""


class Window(Struct, frozen=True):
    """What one share of a queue has started lately. All times in microseconds since 1970."""

    starts: tuple[tuple[int, int], ...] = ()
    """(the youngest start of a cell, starts in it), oldest first."""
    given_at: int = 0
    """The last moment that was given to some who wait."""
    given: int = 0
    """To how many it was given."""


class Rate(Struct, frozen=True):
    """At most `amount` starts in any window of `seconds`: a start at t counts until t + seconds."""

    amount: int
    seconds: float

    @property
    def period(self) -> int:
        """Microseconds, at least one."""
        return max(1, round(self.seconds * 1_000_000))

    def room(self, window: Window, now: datetime) -> int:
        """How many may start at `now`."""
        return max(0, self.amount - sum(count for _, count in self._live(window, micros(now))))

    def take(self, window: Window, count: int, now: datetime) -> Window:
        """`window` after `count` more have started at `now`."""
        at, cell = micros(now), max(1, self.period // CELLS)
        starts = self._live(window, at)
        if starts and starts[-1][0] // cell == at // cell:
            count += starts.pop()[1]
        return structs.replace(window, starts=(*starts, (at, count)))

    def opens(self, window: Window, now: datetime) -> datetime:
        """The first moment, not before `now`, at which one more may start."""
        at = micros(now)
        starts = self._live(window, at)
        left = sum(count for _, count in starts)
        for young, count in starts:
            if left < self.amount:
                break
            left, at = left - count, young + self.period
        return instant(at)

    def over(self, window: Window) -> datetime:
        """From then on the window says nothing any more."""
        youngest = max((at for at, _ in window.starts), default=0)
        return instant(max(youngest + self.period, window.given_at))

    def wait(self, window: Window, now: datetime, ahead: int) -> tuple[Window, datetime]:
        """When to look again at one for whom there is no room, with `ahead` others put off just now.

        As many as may start get the moment at which there is room again. The others are spread over
        the periods behind it, so that a long line is not walked whenever one may start; each of them
        is given a moment once.
        """
        opening = micros(self.opens(window, now))
        if ahead < self.amount:
            return window, instant(opening)
        at, given = window.given_at, window.given
        if at < opening + self.period:
            at, given = opening + self.period, 0
        if given >= self.amount:
            at, given = at + self.period, 0
        last = max(opening, micros(now + timedelta(seconds=HORIZON_SECONDS)))
        if at > last:
            return window, instant(last)
        return structs.replace(window, given_at=at, given=given + 1), instant(at)

    def _live(self, window: Window, now: int) -> list[tuple[int, int]]:
        """The cells that still count. One from a clock that was ahead counts as one of now."""
        return [(min(at, now), count) for at, count in window.starts if min(at, now) > now - self.period]
