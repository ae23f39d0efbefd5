"""The aggregate's state: what a fold over its events yields."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from msgspec import Struct

from deliveries.core.events import Rules


class Status(StrEnum):
    """Where a delivery stands. The last four are terminal."""

    PENDING = "pending"
    ATTEMPTING = "attempting"
    HELD = "held"
    SUCCEEDED = "succeeded"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"


class Delivery(Struct, frozen=True, kw_only=True, gc=False):
    """One effect owed to one recipient through one channel. Immutable.

    (`gc=False` here and in the other values: none can be part of a cycle, and batches make thousands.)

    The last three fields are not folded from events: they come from the erasable contents, or
    from the call that returned the delivery.
    """

    id: UUID
    """UUIDv7: ids sort by the time they were made."""
    channel: str
    queue: str
    status: Status
    version: int
    """Number of events in the stream; starts at 1."""
    scheduled_at: datetime
    due_at: datetime | None
    """When the next attempt is due; None unless pending. UTC."""
    expires_at: datetime | None = None
    """No attempt starts at or after this instant. UTC."""
    priority: int = 5
    """0..9, 0 first."""
    tenant: str = ""
    key: str | None = None
    """The caller's idempotency key, unique per tenant. Not what receivers get."""
    tags: tuple[str, ...] = ()
    correlation_id: str | None = None
    causation_id: str | None = None
    root_id: UUID | None = None
    max_attempts: int | None = None
    """The caller's own bound; None: the adapter's."""

    attempt: int = 0
    """Number of the last attempt started; 0 before the first."""
    endings: int = 0
    """Endings that count on `max_attempts`: failures, crashes, unknown outcomes."""
    interruptions: int = 0
    """Crashes among them; these count on `max_interruptions` too."""
    snoozes: int = 0
    cancel_requested: str | None = None
    """The cause of a cancel that waits for the running attempt; None: none asked."""
    rules: Rules | None = None
    """The rules that the last attempt froze."""

    recipient: str | None = None
    payload: Any = None
    created: bool = True
    """False where `schedule` found the key taken by this delivery already."""

    @property
    def is_terminal(self) -> bool:
        """True once nothing can change any more."""
        return self.status not in _LIVE

    @property
    def idempotency_key(self) -> str:
        """What receivers get: one for all attempts, 36 characters, no `.`."""
        return str(self.root_id or self.id)


class Attempt(Struct, frozen=True, kw_only=True, gc=False):
    """One call of the adapter, as the adapter sees it."""

    number: int
    """Starts at 1; no holes."""
    is_last: bool
    """True where a failure of this attempt ends the delivery."""
    timeout: float
    """Seconds the adapter may take."""
    started_at: datetime
    """When it was recorded, UTC, by the database's clock."""


_LIVE = (Status.PENDING, Status.ATTEMPTING, Status.HELD)
"""Only a shortcut for `is_terminal`: a test holds it equal to what the transition table derives."""
