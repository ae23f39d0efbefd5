"""A cron expression in a time zone, as a row of instants.

The expression is cronsim's, which follows Debian's cron: five fields, or six with seconds first. Over
a change of the clocks, what has a fixed hour happens once: a time that is skipped comes as soon as
the clock has moved on, one that is repeated the first time only. What has `*` or `*/n` for its
minute or hour goes by elapsed time, and so happens in both of the repeated hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

from deliveries.errors import CallerError, InvalidSchedule, shown

NICKNAMES: Final = MappingProxyType(
    {
        "@hourly": "0 * * * *",
        "@daily": "0 0 * * *",
        "@midnight": "0 0 * * *",
        "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *",
        "@yearly": "0 0 1 1 *",
        "@annually": "0 0 1 1 *",
    }
)
"""Cron's own short words."""

MAX_EXPRESSION = 200
"""Characters."""

_MINUTE = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)
_HALF_HOUR = timedelta(minutes=30)


class Cron:
    """When something recurs.

    `expression` is five fields, six with seconds first, or one of `NICKNAMES`; `timezone` a name of
    the IANA database. Raises: InvalidSchedule, naming `expression` or `timezone`, also where it
    would not come within fifty years after `now`; CallerError without cronsim.
    """

    def __init__(self, expression: str, timezone: str, now: datetime) -> None:
        self.expression, self.timezone = expression, timezone
        self._zone = _zone(timezone)
        if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
            raise InvalidSchedule("expression", f"a cron expression is needed, not {shown(expression)}")
        self._fields = NICKNAMES.get(expression.strip().lower(), expression)
        if next(self.after(now), None) is None:
            raise InvalidSchedule("expression", f"{shown(expression)} never comes")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The instants after `moment`, ascending, in UTC, on whole seconds."""
        last = moment.astimezone(UTC)
        for tick in self._simulated(last):
            # cronsim jumps by whole hours, and so over some of what follows a change of the clocks by
            # half an hour (Australia/Lord_Howe): begin anew where the clocks changed, and soon after
            change = self._change(last - 4 * _HALF_HOUR, tick)
            for early in self._between(change, last, tick) if change else ():
                yield early
                last = early
            if tick > last:
                yield tick
                last = tick

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """The last instant in (after, until]; None where there is none.

        Looks back twice as far each time, so that years are a few steps: cronsim's own way backwards
        differs from its way forwards around a change of the clocks.
        """
        back = _MINUTE
        while True:
            start = max(after, until - back)
            found = None
            for tick in self.after(start):
                if tick > until:
                    break
                found = tick
            if found is not None or start == after:
                return found
            back *= 2

    def _between(self, change: datetime, last: datetime, tick: datetime) -> list[datetime]:
        """What cronsim sees of (last, tick) if it begins in there."""
        found: set[datetime] = set()
        for start in (change, *(change + n * _HALF_HOUR - _SECOND for n in range(7))):
            if last - _SECOND <= start < tick:
                found.update(takewhile(lambda early: early < tick, self._simulated(start)))
        return sorted(early for early in found if early > last)

    def _simulated(self, moment: datetime) -> Iterator[datetime]:
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError:
            raise CallerError("periodic deliveries need cronsim: pip install 'deliveries[cron]'") from None
        try:
            found = CronSim(self._fields, moment.astimezone(self._zone))
        except (CronSimError, AssertionError, ValueError, TypeError) as error:
            why = str(error) or "cannot be read"
            raise InvalidSchedule("expression", f"{shown(self.expression)}: {why}") from None
        for tick in found:
            # of two equal local times cronsim means the first, which may lie before where we began
            if (instant := tick.astimezone(UTC)) > moment:
                yield instant

    def _change(self, low: datetime, high: datetime) -> datetime | None:
        """When the clocks change between two ticks; of several changes, one."""
        before = low.astimezone(self._zone).utcoffset()
        if before == high.astimezone(self._zone).utcoffset():
            return None
        low, high = low.replace(microsecond=0), high.replace(microsecond=0)
        while high - low > _SECOND:
            middle = (low + (high - low) / 2).replace(microsecond=0)
            same = middle.astimezone(self._zone).utcoffset() == before
            low, high = (middle, high) if same else (low, middle)
        return high


def _zone(timezone: str) -> ZoneInfo:
    if not isinstance(timezone, str) or not timezone:
        raise InvalidSchedule("timezone", f"a name such as Europe/Berlin is needed, not {shown(timezone)}")
    try:
        return ZoneInfo(timezone)
    except (LookupError, ValueError, OSError):  # unknown, a path that leads elsewhere, a directory
        raise InvalidSchedule("timezone", f"{shown(timezone)} is unknown here") from None
