"""Attempts: who made them, how long they waited and ran, and what is known of their effects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, structs

from deliveries.audit.explain.timeline import Step, between, waited
from deliveries.core import events as e
from deliveries.core.delivery import Status

Effect = Literal["happened", "none", "unknown", "open"]
"""What is known of an attempt's effect; `open`: the attempt is not closed."""


class Run(Struct, frozen=True, kw_only=True):
    """One attempt, from its start to what is known of it in the end."""

    number: int
    """Starts at 1."""
    worker: str
    started_at: datetime
    waited: float
    """Seconds between the moment it was due and its start."""
    ended_at: datetime | None = None
    """When it was closed; None while it is open."""
    ran: float | None = None
    """Seconds between start and closing."""
    outcome: str = "is under way"
    effect: Effect = "open"

    def __str__(self) -> str:
        return f"attempt {self.number} {self.outcome}"


def runs(steps: Sequence[Step]) -> list[Run]:
    """One run for each attempt, in their order."""
    found: list[Run] = []
    for one in steps:
        event: Any = one.event
        if isinstance(event, e.Attempted):
            at, late = one.recorded.recorded_at, waited(one) or 0.0
            found.append(Run(number=event.attempt, worker=event.worker, started_at=at, waited=late))
        elif one.before is not None and one.before.status in (Status.ATTEMPTING, Status.HELD):
            found[-1] = _after(found[-1], one)
    return found


def _after(run: Run, one: Step) -> Run:
    """`run` after an event that names its attempt."""
    if isinstance(one.event, e.CancelRequested):
        return run
    was_held = run.ended_at is not None
    if not was_held:
        at = one.recorded.recorded_at
        run = structs.replace(run, ended_at=at, ran=between(run.started_at, at))
    outcome, effect = _known(one.event, was_held)
    return structs.replace(run, outcome=outcome, effect=effect)


_BY = {"adapter": "succeeded", "lookup": "succeeded, says the lookup", "operator": "succeeded, says a person"}
_NOTHING = "is known to have done nothing"
_MOVED = {"snoozed": "snoozed", "released": _NOTHING}
_CANCELLED = {"permanent_failure": "said that it can never succeed", "bounced": "bounced"}
_SPENT = {"attempts": "failed", "snoozes": "snoozed once too often", "discarded": "was discarded"}


def _known(event: Any, was_held: bool) -> tuple[str, Effect]:
    """What the closing event says of the attempt, and of its effect."""
    unknown: tuple[str, Effect] = ("has an unknown outcome", "unknown")
    match event:
        case e.Succeeded():
            return _BY[event.by], "happened"
        case e.Failed(cause="error"):
            return "failed", "none"
        case e.Interrupted(cause="given_back"):
            return "was given back", "none"
        case e.Failed(cause="timeout") | e.Held(cause="timeout"):
            return "timed out", "unknown"
        case e.Interrupted() | e.Held(cause="crashed"):
            return "was never reported", "unknown"
        case e.Rescheduled():
            return _MOVED.get(event.cause, "was put off"), "none"
        case e.Cancelled(outcome_unknown=False):
            return _CANCELLED.get(event.cause, "was cancelled"), "none"
        case e.Exhausted(outcome_unknown=False):
            found_out = was_held and event.cause != "discarded"
            return _NOTHING if found_out else _SPENT.get(event.cause, "ended without effect"), "none"
        case e.Suppressed():
            return "said that it must not be sent", "none"
    return unknown
