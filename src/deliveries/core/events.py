"""The facts of a delivery's life. Frozen, versioned, and free of personal data.

An event's class name is its public name for ever; `schema_version` counts changes of its fields
from 1. Bodies are JSON. What a person could be recognised by (recipient, payload, error text,
receipt, reason) lives beside the stream and is erasable; the event holds a salted SHA-256 of it,
in hex, under `note`, `recipient_digest` or `payload_digest`.

Fields with a default are left out of the body while they hold it, so a default is part of the
schema: changing one means a new `schema_version`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from msgspec import Meta, Struct

Instant = Annotated[datetime, Meta(tz=True)]
"""An aware instant: a naive one in a row makes the event unreadable."""
Seconds = Annotated[float, Meta(ge=0, le=366 * 86_400)]

OnUnknown = Literal["retry", "lookup", "hold"]


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What governs one attempt, frozen when it starts, so that anybody can close it from the stream."""

    max_attempts: int
    """Endings that count (`Failed`, a crash, `Held`) before the delivery is exhausted; at least 1."""
    max_interruptions: int
    """Crashes before the delivery is exhausted; at least 1."""
    max_snoozes: int
    """Snoozes allowed; at least 0."""
    on_unknown: OnUnknown
    """What an unknown outcome leads to."""
    timeout: Seconds
    """Seconds the adapter may take."""
    retry_in: Seconds
    """Seconds until the next attempt if this one fails or is interrupted without saying more."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Base of all events. Each names, in its docstring, what it means."""

    schema_version: ClassVar[int] = 1


class Scheduled(Event, frozen=True, kw_only=True):
    """The debt exists. Always version 1, and only there."""

    delivery_id: UUID
    channel: str
    queue: str
    scheduled_at: Instant
    payload_digest: str
    recipient_digest: str | None = None
    due_at: Instant | None = None
    """None: due at once, by the database's clock."""
    expires_at: Instant | None = None
    priority: int = 5
    max_attempts: int | None = None
    tenant: str = ""
    key: str | None = None
    tags: tuple[str, ...] = ()
    correlation_id: str | None = None
    causation_id: str | None = None
    root_id: UUID | None = None
    """The delivery whose idempotency key this one keeps; None: its own."""
    actor: str | None = None
    """Who redrove an ended delivery as this one; None where a program scheduled it."""
    note: str | None = None


class Rescheduled(Event, frozen=True, kw_only=True):
    """The due time moved. Counts on no attempt budget."""

    due_at: Instant
    cause: Literal["deferred", "snoozed", "operator", "released"]
    attempt: int | None = None
    actor: str | None = None
    note: str | None = None


class Attempted(Event, frozen=True, kw_only=True):
    """Attempt `attempt` starts. Committed before the adapter is called."""

    attempt: int
    worker: str
    rules: Rules


class Failed(Event, frozen=True, kw_only=True):
    """The attempt failed; the next one is due at `due_at`."""

    attempt: int
    due_at: Instant
    cause: Literal["error", "timeout", "unknown"] = "error"
    error_type: str | None = None
    note: str | None = None


class Interrupted(Event, frozen=True, kw_only=True):
    """Nobody reported the attempt (`crashed`), or it was given back before its adapter was entered."""

    attempt: int
    due_at: Instant
    cause: Literal["crashed", "given_back"] = "crashed"


class Held(Event, frozen=True, kw_only=True):
    """The attempt's outcome is unknown and must not be guessed."""

    attempt: int
    cause: Literal["error", "timeout", "unknown", "crashed"]
    lookup: bool = False
    """True: the adapter's lookup will be asked first. False: only a person can tell."""
    error_type: str | None = None
    note: str | None = None


class CancelRequested(Event, frozen=True, kw_only=True):
    """No further attempt; the running one reports truthfully."""

    attempt: int
    cause: str = "operator"
    actor: str | None = None
    note: str | None = None


class Succeeded(Event, frozen=True, kw_only=True):
    """The effect happened. Terminal."""

    attempt: int
    by: Literal["adapter", "lookup", "operator"] = "adapter"
    actor: str | None = None
    note: str | None = None


class Suppressed(Event, frozen=True, kw_only=True):
    """It must not be sent. Terminal."""

    attempt: int | None = None
    by: Literal["adapter", "policy", "operator"] = "operator"
    actor: str | None = None
    note: str | None = None


class Cancelled(Event, frozen=True, kw_only=True):
    """It will not be sent: given up on purpose. Terminal."""

    cause: str
    """`operator`, `permanent_failure`, `bounced`, `superseded`, ..."""
    attempt: int | None = None
    outcome_unknown: bool = False
    """True: the effect of `attempt` may have happened all the same."""
    actor: str | None = None
    error_type: str | None = None
    note: str | None = None


class Exhausted(Event, frozen=True, kw_only=True):
    """A budget is spent. Terminal."""

    cause: Literal["attempts", "interruptions", "snoozes", "deadline", "discarded"]
    attempt: int | None = None
    outcome_unknown: bool = False
    """True: the effect of `attempt` may have happened all the same."""
    error_type: str | None = None
    actor: str | None = None
    note: str | None = None


EVENTS: tuple[type[Event], ...] = (
    Scheduled,
    Rescheduled,
    Attempted,
    Failed,
    Interrupted,
    Held,
    CancelRequested,
    Succeeded,
    Suppressed,
    Cancelled,
    Exhausted,
)
"""The closed registry's content, in the order of the table in the documentation."""
