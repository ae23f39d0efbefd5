"""The transition table once more, by hand, for tests to compare with."""

from __future__ import annotations

from deliveries.core import events as e
from deliveries.core.delivery import Status

TABLE: dict[type[e.Event], tuple[set[Status | None], Status]] = {
    e.Scheduled: ({None}, Status.PENDING),
    e.Rescheduled: ({Status.PENDING, Status.ATTEMPTING, Status.HELD}, Status.PENDING),
    e.Attempted: ({Status.PENDING}, Status.ATTEMPTING),
    e.Failed: ({Status.ATTEMPTING}, Status.PENDING),
    e.Interrupted: ({Status.ATTEMPTING}, Status.PENDING),
    e.Held: ({Status.ATTEMPTING}, Status.HELD),
    e.CancelRequested: ({Status.ATTEMPTING}, Status.ATTEMPTING),
    e.Succeeded: ({Status.ATTEMPTING, Status.HELD}, Status.SUCCEEDED),
    e.Suppressed: ({Status.PENDING, Status.ATTEMPTING}, Status.SUPPRESSED),
    e.Cancelled: ({Status.PENDING, Status.ATTEMPTING, Status.HELD}, Status.CANCELLED),
    e.Exhausted: ({Status.PENDING, Status.ATTEMPTING, Status.HELD}, Status.EXHAUSTED),
}
"""The table of the architecture, by hand: event -> (states it may come from, state it leads to)."""
