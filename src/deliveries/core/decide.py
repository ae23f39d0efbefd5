"""What follows from a command: no event or one, never an exception for being late.

While an attempt is open only its own report, its abandonment or a give-back closes it; a cancel
waits for it. After a cancel was asked, every closing but success ends in `Cancelled`, and says so
where the outcome is unknown. From held only a resolution or a cancel leads out. In a terminal
state every command yields nothing.

A terminal event closing attempt *n* carries `attempt=n`; one that ends a pending delivery
carries none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.delivery import Delivery, Status

Events = tuple[e.Event, ...]

NOTHING: Final[Events] = ()


def decide(command: c.Command, delivery: Delivery | None) -> Events:
    """The events that follow from `command` in the state `delivery`; `()` where it comes too late."""
    if isinstance(command, c.Schedule):
        return (command.scheduled,) if delivery is None else NOTHING
    if delivery is None or delivery.is_terminal:
        return NOTHING
    decider = _DECIDERS.get((delivery.status, type(command)))
    if decider is None:
        return NOTHING
    event = decider(delivery, command)
    return NOTHING if event is None else (event,)


# -- pending -----------------------------------------------------------------------------------


def _start(delivery: Delivery, command: c.Start) -> e.Event:
    if delivery.expires_at is not None and command.now >= delivery.expires_at:
        return e.Exhausted(cause="deadline")
    return e.Attempted(attempt=delivery.attempt + 1, worker=command.worker, rules=command.rules)


def _expire(delivery: Delivery, command: c.Expire) -> e.Event | None:
    if delivery.expires_at is None or command.now < delivery.expires_at:
        return None
    return e.Exhausted(cause="deadline")


def _defer(delivery: Delivery, command: c.Defer) -> e.Event:
    due_at = max(command.until, command.now)
    return e.Rescheduled(due_at=due_at, cause="deferred", actor=command.actor, note=_note(command))


def _reschedule(delivery: Delivery, command: c.Reschedule) -> e.Event:
    return e.Rescheduled(due_at=command.due_at, cause="operator", actor=command.actor, note=_note(command))


def _cancel_pending(delivery: Delivery, command: c.Cancel) -> e.Event:
    return e.Cancelled(cause=command.cause, actor=command.actor, note=_note(command))


def _suppress_pending(delivery: Delivery, command: c.Suppress) -> e.Event:
    return e.Suppressed(by=command.by, actor=command.actor, note=_note(command))


# -- attempting --------------------------------------------------------------------------------


def _cancel_attempting(delivery: Delivery, command: c.Cancel) -> e.Event | None:
    return _request_cancel(delivery, command, command.cause)


def _suppress_attempting(delivery: Delivery, command: c.Suppress) -> e.Event | None:
    return _request_cancel(delivery, command, "suppressed")


def _request_cancel(delivery: Delivery, command: Any, cause: str) -> e.Event | None:
    if delivery.cancel_requested is not None:
        return None
    return e.CancelRequested(attempt=delivery.attempt, cause=cause, actor=command.actor, note=_note(command))


def _report(delivery: Delivery, command: c.Report) -> e.Event | None:
    if command.attempt != delivery.attempt:
        return None
    outcome = command.outcome
    if isinstance(outcome, o.Delivered):
        return e.Succeeded(attempt=delivery.attempt, note=_note(command))
    unknown = isinstance(outcome, o.Unknown)
    if delivery.cancel_requested is not None:
        # a call that timed out may have happened, and may still be running
        return _cancelled_at_last(
            delivery, delivery.cancel_requested, command, unknown or command.cause != "error"
        )
    if unknown:
        return _unknown(delivery, command, command.cause)
    if isinstance(outcome, o.Suppress):
        return e.Suppressed(attempt=delivery.attempt, by="adapter", note=_note(command))
    if isinstance(outcome, o.Snooze):
        return _snoozed(delivery, command, outcome)
    cause: Literal["error", "timeout"] = "timeout" if command.cause == "timeout" else "error"
    return _final(delivery, command, outcome) or _failed(delivery, command, cause)


def _snoozed(delivery: Delivery, command: c.Report, outcome: o.Snooze) -> e.Event:
    rules = _rules(delivery)
    if delivery.snoozes >= rules.max_snoozes:
        return e.Exhausted(cause="snoozes", attempt=delivery.attempt, note=_note(command))
    due_at = outcome.due_at(command.now)
    return e.Rescheduled(due_at=due_at, cause="snoozed", attempt=delivery.attempt, note=_note(command))


def _failed(delivery: Delivery, command: c.Report, cause: Literal["error", "timeout", "unknown"]) -> e.Event:
    attempt, note = delivery.attempt, _note(command)
    if delivery.endings + 1 >= _rules(delivery).max_attempts:
        return e.Exhausted(
            cause="attempts",
            attempt=attempt,
            outcome_unknown=cause != "error",
            error_type=command.error_type,
            note=note,
        )
    after = command.outcome.after if isinstance(command.outcome, o.Retry) else None
    due_at = _retry_at(delivery, command.now, command.retry_in if after is None else after)
    if command.not_before is not None:
        due_at = max(due_at, command.not_before)
    return e.Failed(attempt=attempt, due_at=due_at, cause=cause, error_type=command.error_type, note=note)


def _unknown(delivery: Delivery, command: c.Report, cause: Any) -> e.Event:
    if _rules(delivery).on_unknown == "retry":
        return _failed(delivery, command, "timeout" if cause == "timeout" else "unknown")
    return _hold(delivery, cause, command.error_type, _note(command))


def _interrupt(delivery: Delivery, command: c.Interrupt) -> e.Event | None:
    if command.attempt != delivery.attempt:
        return None
    if delivery.cancel_requested is not None:
        return _cancelled_at_last(delivery, delivery.cancel_requested, command, unknown=True)
    rules = _rules(delivery)
    if rules.on_unknown != "retry":
        return _hold(delivery, "crashed", None, None)
    spent = _spent(delivery, delivery.endings + 1, delivery.interruptions + 1)
    if spent is not None:
        return e.Exhausted(cause=spent, attempt=delivery.attempt, outcome_unknown=True)
    return e.Interrupted(attempt=delivery.attempt, due_at=_retry_at(delivery, command.now, None))


def _give_back(delivery: Delivery, command: c.GiveBack) -> e.Event | None:
    if command.attempt not in (None, delivery.attempt):
        return None
    if delivery.cancel_requested is not None:
        return _cancelled_at_last(delivery, delivery.cancel_requested, command, unknown=False)
    return e.Interrupted(attempt=delivery.attempt, due_at=command.now, cause="given_back")


def _hold(delivery: Delivery, cause: Any, error_type: str | None, note: str | None) -> e.Event:
    return e.Held(
        attempt=delivery.attempt,
        cause=cause,
        lookup=_rules(delivery).on_unknown == "lookup",
        error_type=error_type,
        note=note,
    )


def _cancelled_at_last(delivery: Delivery, cause: str, command: c.Command, unknown: bool) -> e.Event:
    return e.Cancelled(
        cause=cause,
        attempt=delivery.attempt,
        outcome_unknown=unknown,
        error_type=getattr(command, "error_type", None),
        note=_note(command),
    )


# -- held --------------------------------------------------------------------------------------


def _cancel_held(delivery: Delivery, command: c.Cancel) -> e.Event:
    return e.Cancelled(
        cause=command.cause,
        attempt=delivery.attempt,
        outcome_unknown=True,
        actor=command.actor,
        note=_note(command),
    )


def _resolve(delivery: Delivery, command: c.Resolve) -> e.Event | None:
    outcome, attempt = command.outcome, delivery.attempt
    if command.attempt not in (None, attempt):
        return None
    if isinstance(outcome, o.Delivered):
        return e.Succeeded(attempt=attempt, by=command.by, actor=command.actor, note=_note(command))
    if isinstance(outcome, (o.NotDone, o.Retry)):
        return _released(delivery, command)
    if isinstance(outcome, o.Suppress):  # the table knows no way from held to suppressed
        return e.Cancelled(cause="suppressed", attempt=attempt, actor=command.actor, note=_note(command))
    return _final(delivery, command, outcome)


def _released(delivery: Delivery, command: c.Resolve) -> e.Event:
    """The attempt is known to have done nothing. Its ending was counted when it was held.

    A lookup keeps to the budgets; a person who asks for one more attempt gets it.
    """
    attempt, note = delivery.attempt, _note(command)
    spent = _spent(delivery, delivery.endings, delivery.interruptions)
    if spent is not None and command.by == "lookup":
        return e.Exhausted(cause=spent, attempt=attempt, note=note)
    after = command.outcome.after if isinstance(command.outcome, o.Retry) else None
    if command.by == "operator":
        after = after or 0.0
    due_at = _retry_at(delivery, command.now, after)
    return e.Rescheduled(due_at=due_at, cause="released", attempt=attempt, actor=command.actor, note=note)


# -- shared ------------------------------------------------------------------------------------


def _final(delivery: Delivery, command: Any, outcome: o.Outcome) -> e.Event | None:
    """The end that `Cancel`, `Bounced` and `Discard` mean, from attempting and from held alike."""
    actor = getattr(command, "actor", None)
    if isinstance(outcome, o.Cancel):
        return e.Cancelled(cause=outcome.cause, attempt=delivery.attempt, actor=actor, note=_note(command))
    if isinstance(outcome, o.Discard):
        return e.Exhausted(cause="discarded", attempt=delivery.attempt, actor=actor, note=_note(command))
    return None


def _spent(
    delivery: Delivery, endings: int, interruptions: int
) -> Literal["attempts", "interruptions"] | None:
    rules = _rules(delivery)
    if endings >= rules.max_attempts:
        return "attempts"
    return "interruptions" if interruptions >= rules.max_interruptions else None


def _retry_at(delivery: Delivery, now: datetime, wait: float | None) -> datetime:
    return now + timedelta(seconds=_rules(delivery).retry_in if wait is None else wait)


def _rules(delivery: Delivery) -> e.Rules:
    assert delivery.rules is not None, "an attempt was started, so its rules are frozen"
    return delivery.rules


def _note(command: c.Command) -> str | None:
    return None if command.note is None else command.note.digest


_DECIDERS: Final[Mapping[tuple[Status, type[c.Command]], Callable[[Delivery, Any], e.Event | None]]] = (
    MappingProxyType(
        {
            (Status.PENDING, c.Start): _start,
            (Status.PENDING, c.Expire): _expire,
            (Status.PENDING, c.Defer): _defer,
            (Status.PENDING, c.Reschedule): _reschedule,
            (Status.PENDING, c.Cancel): _cancel_pending,
            (Status.PENDING, c.Suppress): _suppress_pending,
            (Status.ATTEMPTING, c.Report): _report,
            (Status.ATTEMPTING, c.Interrupt): _interrupt,
            (Status.ATTEMPTING, c.GiveBack): _give_back,
            (Status.ATTEMPTING, c.Cancel): _cancel_attempting,
            (Status.ATTEMPTING, c.Suppress): _suppress_attempting,
            (Status.HELD, c.Resolve): _resolve,
            (Status.HELD, c.Cancel): _cancel_held,
        }
    )
)
"""Every cell that can lead somewhere; all the others yield nothing."""
