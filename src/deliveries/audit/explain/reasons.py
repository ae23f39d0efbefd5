"""Why: the status in a sentence, the rule that made it so, and what is left of the budgets.

Everything here is read off the fold, so that it cannot say otherwise than the state machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from deliveries.audit.explain.sayings import counted, say, span
from deliveries.audit.explain.timeline import Step, between
from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.core.events import Rules


class Budget(Struct, frozen=True, kw_only=True):
    """How much of one bound is used."""

    name: str
    """attempts, interruptions, snoozes or lookups."""
    used: int
    most: int | None
    """None: nobody has said, since no attempt has frozen it and this program knows no adapter."""

    @property
    def left(self) -> int | None:
        """What is left of it, at least 0."""
        return None if self.most is None else max(0, self.most - self.used)

    def __str__(self) -> str:
        return f"{self.used} of {self.most} {self.name} used, {self.left} left"


def budgets(delivery: Delivery, registered: Rules | None = None) -> tuple[Budget, ...]:
    """What is left; the bounds are those that the last attempt froze, or else the adapter's of now."""
    rules = delivery.rules or registered
    most = delivery.max_attempts or (rules.max_attempts if rules else None)
    return (
        Budget(name="attempts", used=delivery.endings, most=most),
        Budget(
            name="interruptions",
            used=delivery.interruptions,
            most=rules.max_interruptions if rules else None,
        ),
        Budget(name="snoozes", used=delivery.snoozes, most=rules.max_snoozes if rules else None),
    )


def sentence(steps: Sequence[Step]) -> str:
    """The status, and in one breath how far it is."""
    last, delivery = steps[-1], steps[-1].after
    made = counted(delivery.attempt, "attempt")
    age = span(between(delivery.scheduled_at, last.recorded.recorded_at))
    match delivery.status:
        case Status.PENDING:
            so_far = f"after {made} that did not end it" if delivery.attempt else "not attempted yet"
            return f"pending: {so_far}, attempt {delivery.attempt + 1} is to come"
        case Status.ATTEMPTING:
            cancel = ", and a cancel waits for it" if delivery.cancel_requested is not None else ""
            return f"attempting: attempt {delivery.attempt} is under way{cancel}"
        case Status.HELD:
            return f"held: nobody knows yet what became of attempt {delivery.attempt}"
        case Status.SUCCEEDED:
            return f"succeeded: with attempt {delivery.attempt}, {age} after it was scheduled"
        case Status.SUPPRESSED:
            return f"suppressed: it must not be sent; {made} before that"
        case Status.CANCELLED:
            return f"cancelled: given up on purpose, {made} before that"
        case Status.EXHAUSTED:
            return f"exhausted: given up after {made}, {age} after it was scheduled"


def why(steps: Sequence[Step]) -> str:
    """What the deciding event, which is the last, says."""
    last, delivery = steps[-1], steps[-1].after
    if delivery.cancel_requested is not None and delivery.status is Status.ATTEMPTING:
        return f"attempt {delivery.attempt} is running; a cancel was requested and waits for it"
    said = say(last.event)
    return f"{said}: {last.recorded.note}" if last.recorded.note else said


def rule(steps: Sequence[Step]) -> str:
    """The rule of the state machine, or the budget, by which the deciding event led here."""
    last = steps[-1]
    text = _RULES[type(last.event)](last.event, last.before or last.after, last.after)
    return f"{last.recorded.type}, event {last.recorded.version}: {text}"


def _rescheduled(event: Any, before: Delivery, after: Delivery) -> str:
    snoozes = (
        "" if after.rules is None else f"; {after.snoozes} of {after.rules.max_snoozes} snoozes are used"
    )
    return {
        "deferred": "a policy may defer an attempt before it starts; that counts on no budget",
        "snoozed": f"a snooze counts on no attempt{snoozes}",
        "operator": "a pending delivery may be moved; that counts on no budget",
        "released": "what is known to have done nothing may be made again; its ending is counted",
    }[event.cause]


def _used(after: Delivery) -> str:
    rules = after.rules
    return "" if rules is None else f"{after.endings} of {rules.max_attempts} attempts are used"


def _failed(event: Any, before: Delivery, after: Delivery) -> str:
    what = {
        "error": "a failure counts on the attempts",
        "timeout": "a timeout counts on the attempts",
        "unknown": 'an unknown outcome counts on the attempts where on_unknown is "retry"',
    }
    return f"{what[event.cause]}; {_used(after)}, so another one follows"


def _interrupted(event: Any, before: Delivery, after: Delivery) -> str:
    if event.cause == "given_back":
        return "an attempt whose adapter was never entered counts on nothing"
    assert after.rules is not None, "an attempt was started"
    crashes = f"{after.interruptions} of {after.rules.max_interruptions} interruptions"
    return (
        f"a crash counts on attempts and interruptions; {_used(after)} and {crashes}, so another one follows"
    )


def _held(event: Any, before: Delivery, after: Delivery) -> str:
    asked = "its lookup" if event.lookup else "a person"
    assert after.rules is not None, "an attempt was started"
    return f'attempt {event.attempt} froze on_unknown="{after.rules.on_unknown}": only {asked} may tell'


def _cancelled(event: Any, before: Delivery, after: Delivery) -> str:
    if before.cancel_requested is not None:
        return "once a cancel was requested, every closing of the attempt but a success ends in cancelled"
    if before.status is Status.PENDING:
        return "what is pending can be cancelled at once"
    if before.status is Status.HELD and event.outcome_unknown:
        return "what is held can be cancelled; nobody knows then whether the effect happened"
    return "whoever knows that it can never succeed ends it, whatever budgets are left"


def _exhausted(event: Any, before: Delivery, after: Delivery) -> str:
    rules = before.rules
    if event.cause == "deadline" or rules is None:
        return "no attempt starts at or after expires_at, and the sweep ends what waits past it"
    endings = before.endings + (before.status is Status.ATTEMPTING)
    crashes = before.interruptions + (before.status is Status.ATTEMPTING)
    return {
        "attempts": f"{endings} of {rules.max_attempts} attempts are used, and max_attempts is the bound",
        "interruptions": f"{crashes} of {rules.max_interruptions} interruptions are used, "
        "and max_interruptions is the bound",
        "snoozes": f"{before.snoozes} of {rules.max_snoozes} snoozes are used, and max_snoozes is the bound",
        "discarded": "a discard says that no further attempt is worth it, whatever budgets are left",
    }[str(event.cause)]


_RULES: dict[type[e.Event], Any] = {
    e.Scheduled: lambda *_: "a delivery is pending from its first event on",
    e.Rescheduled: _rescheduled,
    e.Attempted: lambda *_: (
        "an attempt is on record before it is made; only its report, a sweep or a shutdown closes it"
    ),
    e.Failed: _failed,
    e.Interrupted: _interrupted,
    e.Held: _held,
    e.CancelRequested: lambda *_: "a running attempt reports truthfully, and no further one starts",
    e.Succeeded: lambda *_: "the first success ends a delivery, whatever budgets are left",
    e.Suppressed: lambda *_: "who says that it must not be sent ends it, whatever budgets are left",
    e.Cancelled: _cancelled,
    e.Exhausted: _exhausted,
}
"""(event, state before, state after) -> the rule."""
