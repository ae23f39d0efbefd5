"""Effects owed to the outside world, written down in your own transaction and paid as promised.

A name is imported when it is first asked for, so that a program pays for what it uses: an adapter's
module needs the outcomes and no database, and `deliveries --help` needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deliveries import events, policies, sqlite
    from deliveries.app import Deliveries
    from deliveries.audit.doctor import Diagnosis
    from deliveries.audit.explain import Explanation
    from deliveries.audit.trace import Trace
    from deliveries.audit.verify import AuditReport
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
    from deliveries.core.policy import Defer, Proceed
    from deliveries.core.stream import Recorded
    from deliveries.core.unique import Unique
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
        InvalidHook,
        InvalidPayload,
        InvalidPolicy,
        InvalidProjection,
        InvalidQueue,
        InvalidSchedule,
        ReferenceNotFound,
        SchemaMissing,
        SchemaTooNew,
        UnknownChannel,
    )
    from deliveries.follower import Followed
    from deliveries.processor.ledger import Summary
    from deliveries.processor.performed import Performed
    from deliveries.projection import Projection
    from deliveries.queues import Queue
    from deliveries.scheduling import Draft
    from deliveries.store.evidence import Evidence
    from deliveries.store.positions import Entry
    from deliveries.store.schema import metadata
    from deliveries.where import Where

__all__ = [
    "Attempt",
    "AuditReport",
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
    "DeliveryPruned",
    "Diagnosis",
    "Discard",
    "Draft",
    "EngineNotConfigured",
    "Entry",
    "Evidence",
    "Explanation",
    "Followed",
    "IdempotencyConflict",
    "InvalidAdapter",
    "InvalidCommand",
    "InvalidFilter",
    "InvalidHook",
    "InvalidPayload",
    "InvalidPolicy",
    "InvalidProjection",
    "InvalidQueue",
    "InvalidSchedule",
    "NotDone",
    "Performed",
    "Proceed",
    "Projection",
    "Queue",
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
    "Trace",
    "Unique",
    "Unknown",
    "UnknownChannel",
    "Where",
    "events",
    "metadata",
    "policies",
    "sqlite",
]

_HOMES = {
    "Attempt": "deliveries.core.delivery",
    "AuditReport": "deliveries.audit.verify",
    "Backoff": "deliveries.core.backoff",
    "Bounced": "deliveries.core.outcomes",
    "Cancel": "deliveries.core.outcomes",
    "ConcurrentChange": "deliveries.errors",
    "ConcurrentSchedule": "deliveries.errors",
    "CorruptHistory": "deliveries.errors",
    "DatabaseMoved": "deliveries.errors",
    "Defer": "deliveries.core.policy",
    "Delivered": "deliveries.core.outcomes",
    "Deliveries": "deliveries.app",
    "DeliveriesError": "deliveries.errors",
    "Delivery": "deliveries.core.delivery",
    "DeliveryNotFound": "deliveries.errors",
    "DeliveryPruned": "deliveries.errors",
    "Diagnosis": "deliveries.audit.doctor",
    "Discard": "deliveries.core.outcomes",
    "Draft": "deliveries.scheduling",
    "EngineNotConfigured": "deliveries.errors",
    "Entry": "deliveries.store.positions",
    "Evidence": "deliveries.store.evidence",
    "Explanation": "deliveries.audit.explain",
    "Followed": "deliveries.follower",
    "IdempotencyConflict": "deliveries.errors",
    "InvalidAdapter": "deliveries.errors",
    "InvalidCommand": "deliveries.errors",
    "InvalidFilter": "deliveries.errors",
    "InvalidHook": "deliveries.errors",
    "InvalidPayload": "deliveries.errors",
    "InvalidPolicy": "deliveries.errors",
    "InvalidProjection": "deliveries.errors",
    "InvalidQueue": "deliveries.errors",
    "InvalidSchedule": "deliveries.errors",
    "NotDone": "deliveries.core.outcomes",
    "Performed": "deliveries.processor.performed",
    "Proceed": "deliveries.core.policy",
    "Projection": "deliveries.projection",
    "Queue": "deliveries.queues",
    "Recorded": "deliveries.core.stream",
    "ReferenceNotFound": "deliveries.errors",
    "Report": "deliveries.bulk",
    "Retry": "deliveries.core.outcomes",
    "SchemaMissing": "deliveries.errors",
    "SchemaTooNew": "deliveries.errors",
    "Snooze": "deliveries.core.outcomes",
    "Status": "deliveries.core.delivery",
    "Summary": "deliveries.processor.ledger",
    "Suppress": "deliveries.core.outcomes",
    "Trace": "deliveries.audit.trace",
    "Unique": "deliveries.core.unique",
    "Unknown": "deliveries.core.outcomes",
    "UnknownChannel": "deliveries.errors",
    "Where": "deliveries.where",
    "events": "deliveries.events",
    "metadata": "deliveries.store.schema",
    "policies": "deliveries.policies",
    "sqlite": "deliveries.sqlite",
}
"""Where each name lives: what `import` does at run time, and the lines above tell type checkers."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(home)
    found = module if home == f"{__name__}.{name}" else getattr(module, name)
    return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
