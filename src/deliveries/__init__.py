"""Effects owed to the outside world, written down in your own transaction and paid as promised."""

from deliveries import sqlite
from deliveries.app import Deliveries
from deliveries.audit.explain import Explanation
from deliveries.bulk import Report
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
    DeliveryPruned,
    EngineNotConfigured,
    IdempotencyConflict,
    InvalidAdapter,
    InvalidCommand,
    InvalidFilter,
    InvalidPayload,
    InvalidSchedule,
    ReferenceNotFound,
    SchemaMissing,
    SchemaTooNew,
    UnknownChannel,
)
from deliveries.processor.ledger import Summary
from deliveries.processor.performed import Performed
from deliveries.scheduling import Draft
from deliveries.store.evidence import Evidence
from deliveries.store.schema import metadata
from deliveries.where import Where

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
    "DeliveryPruned",
    "Discard",
    "Draft",
    "EngineNotConfigured",
    "Evidence",
    "Explanation",
    "IdempotencyConflict",
    "InvalidAdapter",
    "InvalidCommand",
    "InvalidFilter",
    "InvalidPayload",
    "InvalidSchedule",
    "NotDone",
    "Performed",
    "Recorded",
    "ReferenceNotFound",
    "Report",
    "Retry",
    "SchemaMissing",
    "SchemaTooNew",
    "Snooze",
    "Status",
    "Summary",
    "Suppress",
    "Unknown",
    "UnknownChannel",
    "Where",
    "metadata",
    "sqlite",
]
