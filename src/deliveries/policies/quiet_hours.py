"""Hours in which nobody is to be disturbed, by the clock on the recipient's wall."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from deliveries.core.delivery import Delivery
from deliveries.core.policy import Decision, Defer, Proceed
from deliveries.errors import InvalidPolicy, shown
from deliveries.policies.registered import Asked, Moment

Zone = str | ZoneInfo


class QuietHours:
    """Nothing from `start` to `end` (not included), local time; it is deferred to the end.

    `start` and `end`: "22:00" or a `datetime.time`; over midnight where the end is the earlier.
    `timezone`: a name such as "Europe/Berlin", a ZoneInfo, or a function of the delivery that gives
    either. Asked at scheduling, about the time at which it will be due, and before each attempt.

    When clocks are put forward over the end, quiet hours end with the jump; put back over it, they
    end once, when the end is first reached. Raises: InvalidPolicy.
    """

    when: ClassVar[tuple[Moment, ...]] = ("schedule", "attempt")

    def __init__(
        self, start: str | time, end: str | time, timezone: Zone | Callable[[Delivery], Zone] = "UTC"
    ) -> None:
        self._start, self._end = _time(start, "start"), _time(end, "end")
        if self._start == self._end:
            raise InvalidPolicy("quiet hours that start when they end are all day or never: say which")
        self._timezone = timezone if callable(timezone) else _checked(timezone)

    def __call__(self, delivery: Delivery) -> Decision:
        """By this machine's clock; `app.policy` goes by the one that decides."""
        return self.at(delivery, datetime.now(UTC))

    def ask(self, delivery: Delivery, asked: Asked) -> Decision:
        """By the clock that decides."""
        return self.at(delivery, asked.now)

    def at(self, delivery: Delivery, now: datetime) -> Decision:
        """The decision at `now`, an aware datetime, or at the delivery's due time if that is later."""
        moment = now if delivery.due_at is None else max(now, delivery.due_at)
        zone = self._timezone(delivery) if callable(self._timezone) else self._timezone
        until = self.quiet_until(moment, zone if isinstance(zone, ZoneInfo) else ZoneInfo(zone))
        return Proceed() if until is None else Defer(until, f"quiet hours until {self._end:%H:%M}")

    def quiet_until(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """When quiet hours end that `moment` falls into, UTC; None where it falls into none."""
        local = moment.astimezone(zone)
        if not self._is_quiet(local):
            return None
        day = local.date() + timedelta(days=local.time() >= self._end)
        first, second = (
            datetime.combine(day, self._end.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1)
        )
        if first.astimezone(zone).time() != self._end:  # clocks jump over it
            return self._jump(zone, moment.astimezone(UTC).replace(microsecond=0), first)
        return first if first > moment else second

    def _is_quiet(self, local: datetime) -> bool:
        at = local.time()
        if self._start < self._end:
            return self._start <= at < self._end
        return at >= self._start or at < self._end

    def _jump(self, zone: ZoneInfo, quiet: datetime, loud: datetime) -> datetime:
        """The second in which clocks are put forward, between an instant before it and one after."""
        while (between := int((loud - quiet).total_seconds())) > 1:
            middle = quiet + timedelta(seconds=between // 2)
            if self._is_quiet(middle.astimezone(zone)):
                quiet = middle
            else:
                loud = middle
        return loud


def _time(value: Any, name: str) -> time:
    try:
        found = time.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, time) or found.tzinfo is not None:
        raise InvalidPolicy(f'{name} {shown(value)}: a local time such as "22:00" is needed')
    return found.replace(fold=0)


def _checked(timezone: Any) -> ZoneInfo:
    try:
        return timezone if isinstance(timezone, ZoneInfo) else ZoneInfo(timezone)
    except Exception:
        raise InvalidPolicy(f'timezone {shown(timezone)}: a name such as "Europe/Berlin" is needed') from None
