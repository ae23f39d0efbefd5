"""What happens next, and when."""

from __future__ import annotations

from datetime import datetime

from deliveries.audit.explain.sayings import span, when
from deliveries.audit.explain.situation import Situation
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery, Status

NOTHING = "nothing: this is the end"


def outlook(delivery: Delivery, last: e.Event, now: datetime, beside: Situation | None) -> str:
    """What follows for `delivery` by itself, and what must be done for anything to follow."""
    if delivery.is_terminal:
        return NOTHING
    if delivery.status is Status.PENDING:
        held_back = "" if beside is None else beside.held_back(delivery.queue)
        return _attempt(delivery, last, now, beside) + held_back
    if delivery.status is Status.ATTEMPTING:
        return _report(delivery, now, beside)
    return _answer(last, beside)


def _attempt(delivery: Delivery, last: e.Event, now: datetime, beside: Situation | None) -> str:
    due, deadline = delivery.due_at, delivery.expires_at
    if deadline is not None and deadline <= now:
        return f"no attempt: its deadline, {when(deadline)}, has passed, and the next sweep ends it"
    if deadline is not None and due is not None and deadline <= due:
        return f"no attempt: its deadline, {when(deadline)}, comes before it is due, at {when(due)}"
    text = f"attempt {delivery.attempt + 1} starts {_start(delivery, now, beside)}"
    if isinstance(last, e.Rescheduled) and last.cause == "deferred" and last.actor:
        text += f", as policy {last.actor} deferred it"
    most = delivery.max_attempts or (delivery.rules.max_attempts if delivery.rules else None)
    if most is not None:
        text += f"; {max(0, most - delivery.endings)} of {most} attempts left"
    return text if deadline is None else f"{text}; it expires at {when(deadline)}"


def _start(delivery: Delivery, now: datetime, beside: Situation | None) -> str:
    due = delivery.due_at
    if due is not None and due > now:
        return f"at {when(due)} (in {span((due - now).total_seconds())})"
    until = None if beside is None else beside.aside_until(now)
    if beside is None or until is None:
        return "as soon as a processor is free"
    if beside.lease_owner:
        return f"if its policies let it: {beside.lease_owner} asks them, until {when(until)} at the latest"
    return f"no earlier than {when(until)}: it was put aside, for a rate or because it could not start"


def _report(delivery: Delivery, now: datetime, beside: Situation | None) -> str:
    """By whom the open attempt is closed; what a sweep would decide is asked of the machine itself."""
    timeout = f" within {delivery.rules.timeout:g} s" if delivery.rules else ""
    text = f"attempt {delivery.attempt} reports{timeout}, or its lease runs out and a sweep closes it"
    if beside is not None and beside.lease_until is not None and beside.lease_until <= now:
        text = (
            f"the lease of attempt {delivery.attempt} is over since {when(beside.lease_until)}: "
            "the next sweep closes it"
        )
    (event,) = decide(c.Interrupt(now=now, attempt=delivery.attempt), delivery) or (None,)
    return text if event is None else f"{text}, as {_CLOSED[type(event)]}"


_CLOSED: dict[type[e.Event], str] = {
    e.Interrupted: "interrupted, and it is made again",
    e.Held: "held, since nobody may guess",
    e.Exhausted: "exhausted",
    e.Cancelled: "cancelled, its outcome unknown",
}


def _answer(last: e.Event, beside: Situation | None) -> str:
    person = "a person must say what became of it (resolve or cancel)"
    if not (isinstance(last, e.Held) and last.lookup):
        return f"nothing by itself: {person}"
    if beside is None:
        return "the provider is asked what became of it; if it cannot tell, a person must resolve it"
    if beside.lookup_at is None:
        return f"nothing by itself: the provider was asked {beside.lookups} times; {person}"
    left = "" if beside.max_lookups is None else f", time {beside.lookups + 1} of {beside.max_lookups}"
    return (
        f"the provider is asked what became of it, at {when(beside.lookup_at)}{left}; "
        "if it cannot tell, a person must resolve it"
    )
