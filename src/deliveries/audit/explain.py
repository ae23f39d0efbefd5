"""Why a delivery is where it is: an answer in words, computed from its events alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Recorded, replay
from deliveries.store.evidence import Evidence


class Entry(Struct, frozen=True):
    """One line of the timeline."""

    at: datetime
    version: int
    type: str
    text: str
    note: str | None = None


class Explanation(Struct, frozen=True):
    """The answer. `str()` of it is for people."""

    delivery: Delivery
    status: str
    """One word, the delivery's status."""
    why: str
    """What the deciding event says."""
    next: str
    """What happens next, and when."""
    timeline: tuple[Entry, ...]
    """One entry for each event, oldest first."""
    evidence: tuple[str, ...] = ()
    """Facts that came too late to decide."""

    def __str__(self) -> str:
        delivery = self.delivery
        key = f", key {delivery.key}" if delivery.key else ""
        lines = [
            f"Delivery {delivery.id} through {delivery.channel!r}{key}",
            f"  status  {self.status}",
            f"  why     {self.why}",
            f"  next    {self.next}",
            "  timeline",
        ]
        for entry in self.timeline:
            lines.append(f"    {_time(entry.at)}  {entry.text}")
            if entry.note:
                lines.append(f"    {'':26}  | {entry.note}")
        lines += [f"  evidence  {fact}" for fact in self.evidence]
        return "\n".join(lines)


def explain(history: Sequence[Recorded], now: datetime, evidence: Sequence[str] = ()) -> Explanation:
    """What `history`, one whole stream, amounts to at `now`.

    Raises: CorruptHistory.
    """
    delivery = replay(history).delivery
    assert delivery is not None, "a stream has at least one event"
    return Explanation(
        delivery=delivery,
        status=delivery.status.value,
        why=_why(history, delivery),
        next=_next(delivery, history[-1].event, now),
        timeline=tuple(_entries(history)),
        evidence=tuple(evidence),
    )


def told(one: Evidence) -> str:
    """One line about a piece of evidence."""
    fact = one.fact
    if isinstance(fact, dict):
        said = (f"{name} {value if isinstance(value, str) else _json(value)}" for name, value in fact.items())
        fact = ", ".join(said)
    return f"{_time(one.recorded_at)} {one.kind}" + (f": {fact}" if fact else "")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _entries(history: Sequence[Recorded]) -> list[Entry]:
    entries = []
    for recorded in history:
        event = recorded.event
        text = _SAY[type(event)](event)
        actor = getattr(event, "actor", None)
        if actor:
            text += f", by {actor}"
        entries.append(Entry(recorded.recorded_at, recorded.version, recorded.type, text, recorded.note))
    return entries


def _why(history: Sequence[Recorded], delivery: Delivery) -> str:
    """What the last event that moved the status says."""
    last = history[-1]
    said: str = _SAY[type(last.event)](last.event)
    note = f": {last.note}" if last.note else ""
    if delivery.cancel_requested and delivery.status is Status.ATTEMPTING:
        return f"attempt {delivery.attempt} is running; a cancel was requested and waits for it"
    return said + note


def _next(delivery: Delivery, last: e.Event, now: datetime) -> str:
    if delivery.is_terminal:
        return "nothing: this is the end"
    if delivery.status is Status.PENDING:
        return _next_attempt(delivery, now)
    rules = delivery.rules
    timeout = f" within {rules.timeout:g} s" if rules else ""
    if delivery.status is Status.ATTEMPTING:
        return f"attempt {delivery.attempt} reports{timeout}, or its lease runs out and a sweep closes it"
    if isinstance(last, e.Held) and last.lookup:
        return "the provider is asked what became of it; if it cannot tell, a person must resolve it"
    return "nothing by itself: a person must say what became of it (resolve or cancel)"


def _next_attempt(delivery: Delivery, now: datetime) -> str:
    due = delivery.due_at
    when = "as soon as a processor is free" if due is None or due <= now else f"at {_time(due)}"
    if due is not None and due > now:
        when += f" (in {_span(due - now)})"
    text = f"attempt {delivery.attempt + 1} starts {when}"
    most = delivery.max_attempts or (delivery.rules.max_attempts if delivery.rules else None)
    if most is not None:
        text += f"; {max(0, most - delivery.endings)} of {most} attempts left"
    if delivery.expires_at is not None:
        text += f"; it expires at {_time(delivery.expires_at)}"
    return text


def _attempt(event: Any) -> str:
    return "" if event.attempt is None else f" (attempt {event.attempt})"


def _scheduled(event: e.Scheduled) -> str:
    when = "at once" if event.due_at is None else f"at {_time(event.due_at)}"
    cause = "" if event.causation_id is None else f", caused by {event.causation_id}"
    root = "" if event.root_id is None else f", with the key of {event.root_id}"
    return f"scheduled on queue {event.queue!r}, due {when}{cause}{root}"


def _rescheduled(event: e.Rescheduled) -> str:
    what = {
        "deferred": "deferred by a policy",
        "snoozed": f"attempt {event.attempt} snoozed",
        "operator": "moved",
        "released": f"attempt {event.attempt} is known to have done nothing",
    }[event.cause]
    return f"{what}; due at {_time(event.due_at)}"


def _failed(event: e.Failed) -> str:
    what = {"error": "failed", "timeout": "timed out", "unknown": "has an unknown outcome"}[event.cause]
    kind = f" with {event.error_type}" if event.error_type and event.cause != "timeout" else ""
    return f"attempt {event.attempt} {what}{kind}; the next is due at {_time(event.due_at)}"


def _interrupted(event: e.Interrupted) -> str:
    if event.cause == "given_back":
        return f"attempt {event.attempt} was given back before its adapter was entered"
    return f"attempt {event.attempt} was never reported (crash or lost lease); due at {_time(event.due_at)}"


def _held(event: e.Held) -> str:
    what = {"crashed": "was never reported", "timeout": "timed out"}.get(event.cause, "may have happened")
    return f"attempt {event.attempt} {what}: its outcome is unknown, so the delivery is held"


def _succeeded(event: e.Succeeded) -> str:
    said = {"adapter": "", "lookup": ", says the lookup", "operator": ", says a person"}[event.by]
    return f"attempt {event.attempt} succeeded{said}"


def _doubt(event: e.Cancelled | e.Exhausted) -> str:
    return "; the effect may have happened all the same" if event.outcome_unknown else ""


def _cancelled(event: e.Cancelled) -> str:
    return f"cancelled{_attempt(event)}, cause {event.cause}{_doubt(event)}"


def _exhausted(event: e.Exhausted) -> str:
    what = {
        "attempts": "no attempts left",
        "interruptions": "crashed too often",
        "snoozes": "snoozed too often",
        "deadline": "its deadline passed",
        "discarded": "discarded by its adapter",
    }[event.cause]
    kind = f", last error {event.error_type}" if event.error_type else ""
    return f"exhausted{_attempt(event)}: {what}{kind}{_doubt(event)}"


_SAY: dict[type[e.Event], Any] = {
    e.Scheduled: _scheduled,
    e.Rescheduled: _rescheduled,
    e.Attempted: lambda event: f"attempt {event.attempt} started by {event.worker}",
    e.Failed: _failed,
    e.Interrupted: _interrupted,
    e.Held: _held,
    e.CancelRequested: lambda event: f"cancel requested while attempt {event.attempt} is running",
    e.Succeeded: _succeeded,
    e.Suppressed: lambda event: f"suppressed{_attempt(event)} by the {event.by}",
    e.Cancelled: _cancelled,
    e.Exhausted: _exhausted,
}


def _time(at: datetime) -> str:
    try:
        return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:23] + "Z"
    except OverflowError:  # at the edge of the calendar, west of it
        return at.isoformat()


def _span(wait: timedelta) -> str:
    seconds = int(wait.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7_200:
        return f"{seconds // 60} min"
    return f"{seconds // 3_600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
