"""The facts of a delivery's life, by their public names: what hooks wait for, and histories hold."""

from deliveries.core.events import (
    Attempted,
    Cancelled,
    CancelRequested,
    Event,
    Exhausted,
    Failed,
    Held,
    Interrupted,
    Rescheduled,
    Scheduled,
    Succeeded,
    Suppressed,
)

__all__ = [
    "Attempted",
    "CancelRequested",
    "Cancelled",
    "Event",
    "Exhausted",
    "Failed",
    "Held",
    "Interrupted",
    "Rescheduled",
    "Scheduled",
    "Succeeded",
    "Suppressed",
]
