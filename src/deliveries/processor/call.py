"""One attempt in flight: from the commit of its `Attempted` to the report that closes it."""

from __future__ import annotations

import math
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
from deliveries.registration import Registration

Cause = Literal["error", "timeout", "unknown"]


@dataclass(frozen=True, slots=True)
class Words:
    """What an adapter said of its attempt, as plain data that runs nobody's code any more."""

    outcome: o.Outcome
    cause: Cause = "error"
    error_type: str | None = None
    text: str | None = None
    retry_in: float | None = None
    """Seconds that the channel's own backoff wants after this error."""
    said: str = ""
    """The kind of it: the name of an exception's or an outcome's class."""
    reference: str | None = None
    """The provider's, of an effect that happened."""


_NOTHING_SAID = Words(outcome=o.Delivered(), said=notes.type_name(o.Delivered()))
"""What an adapter means that just returns, as most do."""


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
    delivery: Delivery = field(init=False)
    """The delivery that is attempted."""
    is_lookup: bool = field(init=False)
    """True where the provider is asked, not called."""
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
    words: Words | None = None
    """What was said, in our own words."""
    cause: Cause = "error"
    gave_up: bool = False
    """True: cancelled by a shutdown after it was entered."""
    held_up_at: float = math.inf
    """When a batch first left its outcome out, since somebody held the row or had moved it on."""
    tried: Change | None = None
    """What was last written for this call alone, if it was: its commit's answer may have been lost."""
    heard: dict[str, datetime] | None = None
    """What was first found to be late, and when: the same each time it is written; None: nothing."""
    reporting: commands.Command | None = field(default=None, repr=False)
    """The report, once made: it must not change when it is written again."""

    def __post_init__(self) -> None:
        assert self.stream.delivery is not None
        self.delivery = self.stream.delivery
        self.is_lookup = self.lookups > 0

    @property
    def is_async(self) -> bool:
        """Whether it must be awaited."""
        return self.registration.asks_async if self.is_lookup else self.registration.is_async

    @property
    def function(self) -> Any:
        """What to call with (delivery, attempt)."""
        return self.registration.lookup if self.is_lookup else self.registration.function

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

    def read(self) -> None:
        """Put what was said into our own words.

        For the thread that ran the adapter: a text is made by the code of whoever wrote it, which
        may take for ever.
        """
        try:
            self.words = self._words()
        except BaseException:  # what was said defends itself against being read
            self.value, self.error = None, TypeError("what the adapter said cannot be read")
            self.words = self._words()
        self.value = self.error = None  # it may have 100 MB

    def kind(self) -> str:
        """The class of what was said, once the call is over."""
        if self.words is None:
            self.read()
        assert self.words is not None
        return self.words.said

    def command(self, now: datetime) -> commands.Command:
        """The command that closes this call; the same each time it is asked for."""
        if self.reporting is None:
            self.reporting = self._command(now)
        return self.reporting

    def _command(self, now: datetime) -> commands.Command:
        number = self.delivery.attempt
        if not self.entered:
            return commands.GiveBack(now=now, attempt=number)
        if self.gave_up:
            return commands.Interrupt(now=now, attempt=number)
        if self.cause != "timeout" and self.words is None:
            self.read()
        words = self._words() if self.cause == "timeout" or self.words is None else self.words
        note = None if words.text is None else notes.Note(words.text, os.urandom(16))
        if self.is_lookup:
            return commands.Resolve(
                now=now,
                outcome=words.outcome,
                by="lookup",
                attempt=number,
                note=note,
                error_type=words.error_type,
            )
        not_before = None
        if self.cause == "timeout" and not self.returned:  # it is still running
            left = max(0.0, self.lease_until - ticks.monotonic())
            not_before = now + timedelta(seconds=left + self.margin)
        return commands.Report(
            now=now,
            attempt=number,
            outcome=words.outcome,
            cause=words.cause,
            error_type=words.error_type,
            note=note,
            retry_in=words.retry_in,
            not_before=not_before,
        )

    def _words(self) -> Words:
        said = self.value if self.error is None else self.error
        if said is None and self.cause == "error" and not self.is_lookup:
            return _NOTHING_SAID
        outcome, error, text = self._outcome(said)
        retry_in = None
        if error is not None and not self.is_lookup and getattr(self.registration.backoff, "function", None):
            retry_in = self.registration.wait(self.delivery, self.delivery.attempt, error)
        return Words(
            outcome=outcome,
            cause="unknown" if error is None and isinstance(outcome, o.Unknown) else self.cause,
            error_type=None if error is None else notes.type_name(error),
            text=None if text is None else _text(text),
            retry_in=retry_in,
            said=notes.type_name(said) if issubclass(type(said), BaseException) else _NOTHING_SAID.said,
            reference=o.reference_of(said),
        )

    def _outcome(self, said: object) -> tuple[o.Outcome, BaseException | None, object]:
        """The outcome, the exception behind it where there was one, and its text.

        Returned or raised, an outcome means the same. For an unsafe adapter, and for a lookup, any
        other exception says nothing about the effect.
        """
        error = self.error
        if self.cause == "timeout":
            error = TimeoutError(f"no answer within {self.timeout:g} s")
        elif error is None or issubclass(type(error), o.Outcome):  # never asking its `__class__`
            try:
                return self._meant(said)
            except (TypeError, ValueError) as wrong:
                error = wrong
        if self.registration.effect == "unsafe" or self.is_lookup:
            return o.Unknown(), error, error
        return o.Retry(), error, error

    def _meant(self, said: object) -> tuple[o.Outcome, BaseException | None, object]:
        """Raises: TypeError, ValueError where an outcome was meant and something else was said."""
        if issubclass(type(said), type) and issubclass(said, o.Outcome):  # type: ignore[arg-type]  # a class
            # calling that success could lose a debt
            raise TypeError("the adapter returned the class of an outcome, not an instance")
        if self.is_lookup and not issubclass(type(said), o.Outcome):
            return o.Unknown(), None, "the lookup gave no answer"  # silence is no success
        outcome = o.outcome_of(said)
        behind = getattr(outcome, "error", None)
        error = behind if issubclass(type(behind), BaseException) else None
        return o.sound(outcome), error, o.text_of(outcome)


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
