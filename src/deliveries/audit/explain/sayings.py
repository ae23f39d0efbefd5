"""Events, moments and spans of time in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from deliveries.core import events as e


def say(event: e.Event) -> str:
    """What happened, without who did it."""
    said: str = _SAY[type(event)](event)
    return said


def when(at: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    try:
        return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:23] + "Z"
    except OverflowError:  # at the edge of the calendar, west of it
        return at.isoformat()


def span(seconds: float) -> str:
    """A length of time, as exact as anybody asks for."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{int(seconds)} s"
    if seconds < 7_200:
        return f"{int(seconds // 60)} min"
    return f"{int(seconds // 3_600)} h" if seconds < 172_800 else f"{int(seconds // 86_400)} days"


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _attempt(event: Any) -> str:
    return "" if event.attempt is None else f" (attempt {event.attempt})"


def _scheduled(event: e.Scheduled) -> str:
    due = "at once" if event.due_at is None else f"at {when(event.due_at)}"
    cause = "" if event.causation_id is None else f", caused by {event.causation_id}"
    root = "" if event.root_id is None else f", with the key of {event.root_id}"
    return f"scheduled on queue {event.queue!r}, due {due}{cause}{root}"


def _rescheduled(event: e.Rescheduled) -> str:
    what = {
        "deferred": "deferred by a policy",
        "snoozed": f"attempt {event.attempt} snoozed",
        "operator": "moved",
        "released": f"attempt {event.attempt} is known to have done nothing",
    }[event.cause]
    return f"{what}; due at {when(event.due_at)}"


def _failed(event: e.Failed) -> str:
    what = {"error": "failed", "timeout": "timed out", "unknown": "has an unknown outcome"}[event.cause]
    kind = f" with {event.error_type}" if event.error_type and event.cause != "timeout" else ""
    return f"attempt {event.attempt} {what}{kind}; the next is due at {when(event.due_at)}"


def _interrupted(event: e.Interrupted) -> str:
    if event.cause == "given_back":
        return f"attempt {event.attempt} was given back before its adapter was entered"
    return f"attempt {event.attempt} was never reported (crash or lost lease); due at {when(event.due_at)}"


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


_SAY: Final[Mapping[type[e.Event], Callable[[Any], str]]] = MappingProxyType(
    {
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
)
