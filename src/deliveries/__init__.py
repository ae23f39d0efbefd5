"""Effects owed to the outside world, written down in your own transaction and paid as promised."""

from deliveries import events, policies, sqlite
from deliveries.app import Deliveries
from deliveries.audit.explain import Explanation
from deliveries.core.backoff import Backoff
from deliveries.core.delivery import Attempt, Delivery, Status
from deliveries.core.outcomes import (
    Bounced,
    Cancel,
    Delivered,
    Discard,
    NotDone,
    Retry,
    Snooze,
    Suppress,
    Unknown,
)
from deliveries.core.policy import Defer, Proceed
from deliveries.core.stream import Recorded
from deliveries.errors import (
    ConcurrentChange,
    ConcurrentSchedule,
    CorruptHistory,
    DatabaseMoved,
    DeliveriesError,
    DeliveryNotFound,
    EngineNotConfigured,
    IdempotencyConflict,
    InvalidAdapter,
    InvalidCommand,
    InvalidHook,
    InvalidPayload,
    InvalidPolicy,
    InvalidSchedule,
    SchemaMissing,
    SchemaTooNew,
    UnknownChannel,
)
from deliveries.processor.ledger import Summary
from deliveries.processor.performed import Performed
from deliveries.scheduling import Draft
from deliveries.store.schema import metadata

__all__ = [
    "Attempt",
    "Backoff",
    "Bounced",
    "Cancel",
    "ConcurrentChange",
    "ConcurrentSchedule",
    "CorruptHistory",
    "DatabaseMoved",
    "Defer",
    "Delivered",
    "Deliveries",
    "DeliveriesError",
    "Delivery",
    "DeliveryNotFound",
    "Discard",
    "Draft",
    "EngineNotConfigured",
    "Explanation",
    "IdempotencyConflict",
    "InvalidAdapter",
    "InvalidCommand",
    "InvalidHook",
    "InvalidPayload",
    "InvalidPolicy",
    "InvalidSchedule",
    "NotDone",
    "Performed",
    "Proceed",
    "Recorded",
    "Retry",
    "SchemaMissing",
    "SchemaTooNew",
    "Snooze",
    "Status",
    "Summary",
    "Suppress",
    "Unknown",
    "UnknownChannel",
    "events",
    "metadata",
    "policies",
    "sqlite",
]
