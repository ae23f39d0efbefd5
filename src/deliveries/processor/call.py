"""One attempt in flight: from the commit of its `Attempted` to the report that closes it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from deliveries.core import commands, notes
from deliveries.core import outcomes as o
from deliveries.core.delivery import Attempt, Delivery
from deliveries.core.stream import Change, Stream
from deliveries.processor import ticks
from deliveries.registration import Registration, is_async

Cause = Literal["error", "timeout", "unknown"]


@dataclass(eq=False, slots=True)
class Call:
    """An attempt (or a lookup) that a processor owns. Times are `ticks.monotonic()` seconds."""

    stream: Stream
    """Where the stream stood when the call began: after `Attempted`, or after `Held` for a lookup."""
    registration: Registration
    started_at: datetime
    lease_until: float
    """When our lease ends, by our own clock: counted from before it was asked for, so never too late."""
    margin: float = 0.0
    """A call is not entered in so last a moment: two clocks differ in pace, and to enter takes time."""
    lookups: int = 0
    """Which question this is, from 1; 0 for an attempt."""
    entered: bool = False
    withdrawn: bool = False
    """True: not to be entered any more."""
    returned: bool = False
    """True once the adapter no longer runs, so that its slot is free."""
    reported: bool = False
    """True once the processor has taken the outcome, or decided without it."""
    entered_at: float = 0.0
    value: object = None
    error: BaseException | None = None
    cause: Cause = "error"
    gave_up: bool = False
    """True: cancelled by a shutdown after it was entered."""
    tried: Change | None = None
    """What was last written for this call alone, if it was: its commit's answer may have been lost."""
    reporting: commands.Command | None = field(default=None, repr=False)
    """The report, once made: it must not change when it is written again."""

    @property
    def delivery(self) -> Delivery:
        """The delivery that is attempted."""
        assert self.stream.delivery is not None
        return self.stream.delivery

    @property
    def is_lookup(self) -> bool:
        """True where the provider is asked, not called."""
        return self.lookups > 0

    @property
    def function(self) -> Any:
        """What to call with (delivery, attempt)."""
        return self.registration.lookup if self.is_lookup else self.registration.function

    @property
    def is_async(self) -> bool:
        """Whether it must be awaited."""
        return is_async(self.function)

    @property
    def timeout(self) -> float:
        """Seconds it may take."""
        return self.registration.timeout_seconds

    @property
    def attempt(self) -> Attempt:
        """What the adapter is told of this attempt."""
        delivery, rules = self.delivery, self.delivery.rules
        last = rules is not None and delivery.endings + 1 >= rules.max_attempts
        return Attempt(
            number=delivery.attempt, is_last=last, timeout=self.timeout, started_at=self.started_at
        )

    def enter(self) -> bool:
        """Whether the adapter may be entered now: not withdrawn, and the lease still ours."""
        self.entered_at = ticks.monotonic()
        if self.withdrawn or self.entered_at >= self.lease_until - self.margin:
            return False
        self.entered = True
        return True

    def time_out(self) -> None:
        """The adapter did not answer in time. What it says later does not count."""
        self.cause = "timeout"

    def command(self, now: datetime) -> commands.Command:
        """The command that closes this call; the same each time it is asked for."""
        if self.reporting is None:
            try:
                self.reporting = self._command(now)
            except BaseException:  # what was said defends itself against being read
                self.value, self.error = None, TypeError("what the adapter said cannot be read")
                self.reporting = self._command(now)
        return self.reporting

    def _command(self, now: datetime) -> commands.Command:
        number = self.delivery.attempt
        if not self.entered:
            return commands.GiveBack(now=now, attempt=number)
        if self.gave_up:
            return commands.Interrupt(now=now, attempt=number)
        outcome, error = self._outcome()
        note = _note(outcome)
        error_type = None if error is None else notes.type_name(error)
        if self.is_lookup:
            return commands.Resolve(
                now=now, outcome=outcome, by="lookup", attempt=number, note=note, error_type=error_type
            )
        retry_in = None
        if error is not None and getattr(self.registration.backoff, "function", None):
            retry_in = self.registration.wait(self.delivery, number, error)
        still_running = not self.returned and self.cause == "timeout"
        left = max(0.0, self.lease_until - ticks.monotonic())
        return commands.Report(
            now=now,
            attempt=number,
            outcome=outcome,
            cause="unknown" if error is None and isinstance(outcome, o.Unknown) else self.cause,
            error_type=error_type,
            note=note,
            retry_in=retry_in,
            not_before=now + timedelta(seconds=left + self.margin) if still_running else None,
        )

    def said(self) -> object:
        """What the adapter returned or raised, whenever it did."""
        return self.value if self.error is None else self.error

    def _outcome(self) -> tuple[o.Outcome, BaseException | None]:
        """The outcome, and the exception behind it where there was one.

        Returned or raised, an outcome means the same. For an unsafe adapter, and for a lookup, any
        other exception says nothing about the effect.
        """
        error = self.error
        if self.cause == "timeout":
            error = TimeoutError(f"no answer within {self.timeout:g} s")
        elif error is None or isinstance(error, o.Outcome):
            try:
                return self._meant(self.said())
            except (TypeError, ValueError) as wrong:
                error = wrong
        if self.registration.effect == "unsafe" or self.is_lookup:
            return o.Unknown(error), error
        return o.Retry(error), error

    def _meant(self, said: object) -> tuple[o.Outcome, BaseException | None]:
        """Raises: TypeError, ValueError where an outcome was meant and something else was said."""
        if isinstance(said, type) and issubclass(said, o.Outcome):
            # calling that success could lose a debt
            raise TypeError(f"the adapter returned the class {said.__name__}, not an instance")
        if self.is_lookup and not isinstance(said, o.Outcome):
            return o.Unknown("the lookup gave no answer"), None  # silence is no success
        outcome = o.sound(o.outcome_of(said))
        behind = getattr(outcome, "error", None)
        return outcome, behind if isinstance(behind, BaseException) else None


def _note(outcome: o.Outcome) -> notes.Note | None:
    if outcome.text is None:
        return None
    return notes.Note(_text(outcome.text), os.urandom(16))


def _text(value: object) -> str:
    """A receipt as JSON where it is JSON; everything else as it describes itself."""
    if issubclass(type(value), (dict, list, tuple, int, float)):  # never asking the value's `__class__`
        try:
            return notes.clean(msgspec.json.encode(value).decode())
        except Exception:
            return notes.describe(value)
    if issubclass(type(value), BaseException):
        text = notes.describe(value)
        name = notes.type_name(value)
        return text if text == name else notes.clean(f"{name}: {text}")
    return notes.describe(value)
