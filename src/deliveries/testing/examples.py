"""One example of everything: events, rules, commands and moments, small and always the same.

For stories (`given`) and for lives; each takes keyword arguments for what shall be different.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from msgspec import structs

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.notes import Note

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
ID = UUID("018cc4f5-7a00-7000-8000-00000000cafe")
DIGEST = "ab" * 32
NOTE = Note("a text beside the stream", b"salt")


def at(seconds: float) -> datetime:
    """So many seconds after `NOW`."""
    return NOW + timedelta(seconds=seconds)


def rules(**changes: Any) -> e.Rules:
    """Small budgets: 3 attempts, 2 crashes, 1 snooze; a minute between attempts."""
    return structs.replace(
        e.Rules(
            max_attempts=3,
            max_interruptions=2,
            max_snoozes=1,
            on_unknown="retry",
            timeout=30.0,
            retry_in=60.0,
        ),
        **changes,
    )


def scheduled(**changes: Any) -> e.Scheduled:
    """A debt through channel `email`, due at once."""
    return structs.replace(
        e.Scheduled(
            delivery_id=ID,
            channel="email",
            queue="email",
            scheduled_at=NOW,
            payload_digest=DIGEST,
        ),
        **changes,
    )


def attempted(attempt: int = 1, **limits: Any) -> e.Attempted:
    """The start of an attempt under `rules(**limits)`."""
    return e.Attempted(attempt=attempt, worker="w1", rules=rules(**limits))


def failed(attempt: int = 1) -> e.Failed:
    """A failure, to be retried a minute after `NOW`."""
    return e.Failed(attempt=attempt, due_at=at(60))


def crashed(attempt: int = 1) -> e.Interrupted:
    """A crash, to be retried a minute after `NOW`."""
    return e.Interrupted(attempt=attempt, due_at=at(60))


def snoozed(attempt: int = 1) -> e.Rescheduled:
    """A snooze, until a minute after `NOW`."""
    return e.Rescheduled(due_at=at(60), cause="snoozed", attempt=attempt)


def held(attempt: int = 1, cause: Any = "unknown", *, lookup: bool = False) -> e.Held:
    """An outcome that nobody knows; `lookup` says who is asked."""
    return e.Held(attempt=attempt, cause=cause, lookup=lookup)


def cancel_requested(attempt: int = 1, cause: str = "operator") -> e.CancelRequested:
    """A cancel that waits for the running attempt."""
    return e.CancelRequested(attempt=attempt, cause=cause)


def start(**limits: Any) -> c.Start:
    """Begin the next attempt under `rules(**limits)`."""
    return c.Start(now=NOW, worker="w1", rules=rules(**limits))


def report(attempt: int, outcome: o.Outcome, **fields: Any) -> c.Report:
    """What the adapter said of an attempt."""
    return c.Report(now=NOW, attempt=attempt, outcome=outcome, **fields)


def resolve(outcome: o.Outcome, by: Literal["lookup", "operator"], **fields: Any) -> c.Resolve:
    """What became of a held attempt, says `by`."""
    return c.Resolve(now=NOW, outcome=outcome, by=by, **fields)
