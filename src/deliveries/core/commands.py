"""What can be asked of a delivery. Time, randomness and ids come in with the command.

`note` is the text's digest holder: the shell writes the text beside the stream, the event keeps
its digest. `now` is an aware UTC instant.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from deliveries.core.events import Rules, Scheduled
from deliveries.core.notes import Note
from deliveries.core.outcomes import Outcome


class Command(Struct, frozen=True, kw_only=True, gc=False):
    """Base of all commands."""

    now: datetime
    note: Note | None = None


class Schedule(Command, frozen=True, kw_only=True):
    """Write the debt down."""

    scheduled: Scheduled


class Start(Command, frozen=True, kw_only=True):
    """Begin the next attempt. Whether it is due was decided by the claim, on the database's clock."""

    worker: str
    rules: Rules


class Report(Command, frozen=True, kw_only=True):
    """What the adapter said of attempt `attempt`."""

    attempt: int
    outcome: Outcome
    cause: Literal["error", "timeout", "unknown"] = "error"
    """Why, where the outcome is a `Retry` or `Unknown` that nobody returned."""
    error_type: str | None = None
    retry_in: float | None = None
    """Seconds; overrides the wait that the attempt froze (a custom backoff saw the error)."""
    not_before: datetime | None = None
    """No retry earlier than this: the call is still running in a thread."""


class Interrupt(Command, frozen=True, kw_only=True):
    """Attempt `attempt` was abandoned after its adapter may have been entered."""

    attempt: int


class GiveBack(Command, frozen=True, kw_only=True):
    """Attempt `attempt` (None: the open one) never entered its adapter; counts on nothing."""

    attempt: int | None = None


class Defer(Command, frozen=True, kw_only=True):
    """A policy says: not before `until`."""

    until: datetime
    actor: str | None = None
    """The policy's name."""


class Cancel(Command, frozen=True, kw_only=True):
    """Give up on purpose."""

    cause: str = "operator"
    actor: str | None = None


class Suppress(Command, frozen=True, kw_only=True):
    """It must not be sent."""

    by: Literal["policy", "operator"] = "operator"
    actor: str | None = None


class Reschedule(Command, frozen=True, kw_only=True):
    """Move the due time of a pending delivery."""

    due_at: datetime
    actor: str | None = None


class Resolve(Command, frozen=True, kw_only=True):
    """Say what became of a held attempt: the lookup's answer, or a person's."""

    outcome: Outcome
    by: Literal["lookup", "operator"]
    attempt: int | None = None
    """The attempt it speaks of: an answer to an older question resolves nothing. None: the held one."""
    actor: str | None = None
    error_type: str | None = None


class Expire(Command, frozen=True, kw_only=True):
    """End a pending delivery whose deadline has passed."""
