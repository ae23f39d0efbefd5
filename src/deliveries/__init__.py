"""Effects owed to the outside world, written down in your own transaction and paid as promised."""

from deliveries import sqlite
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
    InvalidPayload,
    InvalidQueue,
    InvalidSchedule,
    SchemaMissing,
    SchemaTooNew,
    UnknownChannel,
)
from deliveries.processor.ledger import Summary
from deliveries.processor.performed import Performed
from deliveries.queues import Queue
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
    "InvalidPayload",
    "InvalidQueue",
    "InvalidSchedule",
    "NotDone",
    "Performed",
    "Queue",
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
    "metadata",
    "sqlite",
]
