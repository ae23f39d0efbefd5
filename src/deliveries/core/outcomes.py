"""What an adapter says of its attempt: values, never control flow.

Returned or raised, an outcome means the same; each is an exception too, so that deep code can
`raise Cancel("no such user")`. Any other exception is a failed attempt.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from deliveries.core.notes import MAX_NAME, clean, type_name

MAX_AFTER = timedelta(days=30)
"""A `Retry(after=)` or a snooze is capped here."""


def seconds(value: float | timedelta, name: str) -> float:
    """`value` in seconds, finite and not negative; the library's one reading of a duration.

    Raises: ValueError, naming `name`.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ValueError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    try:
        number = float(number)
    except OverflowError:
        raise ValueError(f"{name} is out of range") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{name} must be finite and not negative, not {number}")
    return number


class Outcome(Exception):
    """Base of all outcomes. `text` is what is kept as a note, erasable; None keeps nothing."""

    text: object = None  # for a subclass that forgets to call our constructor

    def __init__(self, text: object = None) -> None:
        super().__init__(*(() if text is None else (text,)))
        self.text = text

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, vars(self).copy())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


def _rebuilt(kind: type[Outcome], args: tuple[Any, ...], fields: dict[str, Any]) -> Outcome:
    """A copy without calling `__init__`, whose arguments differ from kind to kind."""
    outcome = kind.__new__(kind, *args)
    outcome.__dict__.update(fields)
    return outcome


MAX_REFERENCE = 255
"""Characters of a provider's reference."""


class Delivered(Outcome):
    """The effect happened. `receipt`: what the provider answered, any JSON value or text.

    `reference`: the provider's own id of the effect, 1..255 printable characters, nothing personal.
    What the provider reports later is matched by it (`Deliveries.record_evidence`). One that is
    no such text is not kept: it must not turn a success into a failure.
    """

    reference: str | None = None

    def __init__(self, receipt: Any = None, *, reference: str | None = None) -> None:
        super().__init__(receipt)
        self.receipt = receipt
        if reference is not None:
            self.reference = reference


class Retry(Outcome):
    """Nothing happened; try again, after `after` (seconds or a timedelta) or by the backoff."""

    error: object = None
    after: float | None = None

    def __init__(self, error: object = None, *, after: float | timedelta | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.after = None if after is None else min(seconds(after, "after"), MAX_AFTER.total_seconds())


class Cancel(Outcome):
    """It can never succeed: cancelled as a permanent failure, with no further attempt."""

    cause = "permanent_failure"


class Bounced(Cancel):
    """The recipient does not exist or refuses us: cancelled as bounced."""

    cause = "bounced"


class Discard(Outcome):
    """Not worth another attempt: exhausted, with cause `discarded`."""


class Snooze(Outcome):
    """Not now. Exactly one of `for_` (seconds or a timedelta) and `until` (an aware datetime)."""

    for_: float | None = None
    until: datetime | None = None

    def __init__(
        self,
        for_: float | timedelta | None = None,
        *,
        until: datetime | None = None,
        reason: object = None,
    ) -> None:
        super().__init__(reason)
        if (for_ is None) == (until is None):
            raise ValueError("Snooze takes exactly one of for_ and until")
        if until is not None and (not isinstance(until, datetime) or until.utcoffset() is None):
            raise ValueError("until must be an aware datetime")
        self.for_ = None if for_ is None else seconds(for_, "for_")
        self.until = None if until is None else _utc(until)

    def due_at(self, now: datetime) -> datetime:
        """When it is due again: never before `now`, never more than `MAX_AFTER` later."""
        latest = now + MAX_AFTER
        if self.until is not None:
            return min(max(self.until, now), latest)
        return now + timedelta(seconds=min(self.for_ or 0.0, MAX_AFTER.total_seconds()))


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("until is out of range") from None


class Suppress(Outcome):
    """It must not be sent to this recipient."""


class Unknown(Outcome):
    """Nobody can tell whether it happened; the channel's `on_unknown` decides."""


class NotDone(Outcome):
    """A lookup's answer: the effect did not happen, so the delivery may be attempted again."""


_KINDS = (Delivered, Retry, Bounced, Cancel, Discard, Snooze, Suppress, Unknown, NotDone)


def sound(outcome: Outcome) -> Outcome:
    """What `outcome` decides, made anew as exactly the kind of ours that it is, without its text.

    What is decided from must be data: a subclass may override anything, and anybody may have changed
    a field since it was made. Raises: ValueError, TypeError where its numbers make no sense any more.
    """
    kind = next((one for one in _KINDS if issubclass(type(outcome), one)), Outcome)
    told: Any = outcome
    if kind is Retry:
        return Retry(after=told.after)
    if kind is Snooze:
        return Snooze(told.for_, until=told.until)
    made = kind()
    if isinstance(made, Cancel) and issubclass(type(told.cause), str):
        made.cause = clean(str.__str__(told.cause), MAX_NAME)  # a user's own kind of Cancel may have its own
    return made


def text_of(outcome: Outcome) -> object:
    """The text of `outcome`, which never decides what it means."""
    try:
        return outcome.text
    except BaseException:
        return f"<unreadable {type_name(outcome)}>"


def reference_of(outcome: object) -> str | None:
    """The provider's reference that a `Delivered` carries; None where there is none that can be kept."""
    try:
        found = outcome.reference if issubclass(type(outcome), Delivered) else None  # type: ignore[attr-defined]
        if not issubclass(type(found), str):
            return None
        text = str.__str__(found)
        return text if 1 <= len(text) <= MAX_REFERENCE and text.isprintable() else None
    except BaseException:  # what an adapter made may defend itself against being read
        return None


def outcome_of(value: object) -> Outcome:
    """The outcome that a returned value stands for: anything that is not an outcome is success."""
    if issubclass(type(value), Outcome):  # not isinstance: `__class__` may be a property that raises
        return value  # type: ignore[return-value]  # an Outcome, as just asked
    return Delivered()
