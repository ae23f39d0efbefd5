"""Every error this library raises, split by whose fault it is.

::

    DeliveriesError
    ├── CallerError                  the call was wrong; nothing was written
    │   ├── UnknownChannel           no adapter is registered for that channel
    │   ├── InvalidPayload           not JSON, or too large; `.path` names the place
    │   ├── InvalidSchedule          a field of a draft is out of range; `.field` names it
    │   ├── InvalidAdapter           a registration that could not be honoured
    │   ├── InvalidPolicy            the same, of a policy
    │   ├── InvalidHook              the same, of a hook; or what a hook must not do
    │   ├── InvalidProjection        the same, of a projection; or what its handler must not do
    │   ├── InvalidCommand           an operator's act that makes no sense
    │   ├── InvalidFilter            a field of a filter is unknown or out of range; `.field` names it
    │   ├── InvalidQueue             a queue cannot be set so; `.field` names what
    │   ├── IdempotencyConflict      the key is taken by a different debt
    │   ├── DeliveryNotFound         no such delivery
    │   │   ├── DeliveryPruned       there was one; its tombstone is left
    │   │   ├── NotThen              not at that moment, or without that version
    │   │   └── ReferenceNotFound    no delivery has that reference yet (`.retryable`)
    │   ├── InvalidSeal              a file that is no seal, or not what its signer made
    │   ├── InvalidMoment            a moment or a version that nothing can have been at
    │   └── EngineNotConfigured      the connection cannot keep our promises
    ├── StoreError                   the database, not the call
    │   ├── SchemaMissing            our tables are not there
    │   ├── SchemaTooNew             a newer library has been here
    │   ├── ConcurrentSchedule       run the transaction again (`.retryable`)
    │   ├── DatabaseMoved            the SQLite file was deleted or replaced
    │   ├── ConcurrentChange         another writer got in between (`.retryable`)
    │   └── StandbyReader            a hot standby cannot tell what is still open
    └── CorruptHistory               the events cannot have been written by us
        └── UnreadableEvent          one event cannot be decoded
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def shown(value: object, limit: int = 80) -> str:
    """What a refused value looks like, at most `limit` characters; its own `repr` may raise."""
    try:
        return repr(value)[:limit]
    except Exception:
        return f"<{type(value).__name__}>"


class DeliveriesError(Exception):
    """The root: `except DeliveriesError` catches all that this library raises on purpose."""

    retryable: bool = False
    """True where running the whole transaction again can succeed without any change."""


class CallerError(DeliveriesError, ValueError):
    """The arguments were wrong. Raised before any SQL, so nothing was written."""


class UnknownChannel(CallerError):
    """No adapter is registered for the channel."""

    def __init__(self, channel: str, known: tuple[str, ...]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(
            f"unknown channel {shown(channel)}: no adapter is registered for it here (registered: {names})"
        )
        self.channel = channel


class InvalidPayload(CallerError):
    """The payload is not a JSON value, or larger than allowed.

    `path` names the offending place in the payload, `$` being the whole.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"payload at {path}: {problem}")
        self.path = path


class InvalidSchedule(CallerError):
    """A field of a draft is out of its range; `field` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class InvalidAdapter(CallerError):
    """An adapter was registered with options that cannot be honoured."""


class InvalidPolicy(CallerError):
    """A policy was registered with options that cannot be honoured."""


class InvalidHook(CallerError):
    """A hook was registered for what never happens, or does what a hook must not do."""


class InvalidProjection(CallerError):
    """A projection that could not be kept, or that does what its handler must not do."""


class InvalidCommand(CallerError):
    """An operator's act with arguments that make no sense."""


class InvalidFilter(CallerError):
    """A field of a filter is unknown, or its value is none of its kind; `field` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"filter {field}: {problem}")
        self.field = field


class InvalidQueue(CallerError):
    """What is wanted of a queue is out of its range; `field` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class IdempotencyConflict(CallerError):
    """The key belongs to a delivery whose channel, recipient or payload differ."""

    def __init__(self, key: str, delivery_id: object, differs: str) -> None:
        super().__init__(f"key {key!r} already belongs to delivery {delivery_id} with another {differs}")
        self.key = key
        self.delivery_id = delivery_id
        self.differs = differs


class DeliveryNotFound(CallerError, LookupError):
    """There is no delivery with that id."""

    def __init__(self, delivery_id: object) -> None:
        super().__init__(f"no delivery {delivery_id}")
        self.delivery_id = delivery_id


class DeliveryPruned(DeliveryNotFound):
    """The delivery had ended and was pruned; `version` counts the events it had, `digest` is the last's."""

    def __init__(self, delivery_id: object, pruned_at: datetime, version: int, digest: bytes) -> None:
        DeliveriesError.__init__(
            self,
            f"delivery {delivery_id} was pruned at {pruned_at:%Y-%m-%d %H:%M:%S}Z: "
            f"it had {version} events, the last with digest {digest.hex()[:16]}",
        )
        self.delivery_id = delivery_id
        self.pruned_at, self.version, self.digest = pruned_at, version, digest


class NotThen(DeliveryNotFound):
    """There was no such delivery at that moment, or it had no such version."""

    def __init__(self, delivery_id: object, when: str) -> None:
        DeliveriesError.__init__(self, f"delivery {delivery_id} {when}")
        self.delivery_id = delivery_id


class InvalidSeal(CallerError):
    """A file that is no seal, or not what its signer made."""


class InvalidMoment(CallerError):
    """A moment or a version that nothing can have been at."""


class ReferenceNotFound(DeliveryNotFound):
    """No delivery has that reference, or none has it yet.

    A provider may report an effect before its success is recorded. Answer its request with an
    error, so that it repeats it.
    """

    retryable = True

    def __init__(self, reference: str, channel: str | None = None) -> None:
        through = "" if channel is None else f" through {shown(channel)}"
        DeliveriesError.__init__(self, f"no delivery{through} has the reference {shown(reference)}")
        self.reference, self.channel = reference, channel
        self.delivery_id = None


class EngineNotConfigured(CallerError):
    """The caller's connection would break a promise, so it is refused."""


class StoreError(DeliveriesError):
    """The database is not in a state to serve the call."""


class SchemaMissing(StoreError):
    """The database has no tables of ours."""

    def __init__(self) -> None:
        super().__init__(
            "this database has no deliveries schema: run `deliveries db upgrade`, or call app.create_schema()"
        )


class SchemaTooNew(StoreError):
    """The schema was written by a newer library than this one."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the database has deliveries schema {found}, this library knows {known}: upgrade the library"
        )


class DatabaseMoved(StoreError):
    """The SQLite file that a connection has open is no longer the one of that name: start again."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the database file was deleted, moved or replaced while in use: {path}")


class ConcurrentSchedule(StoreError):
    """Another transaction took the same key, and the caller's isolation level hides what it did.

    Run the whole transaction again.
    """

    retryable = True


class ConcurrentChange(StoreError):
    """Another writer changed the delivery in between. Run the whole transaction again."""

    retryable = True


class StandbyReader(StoreError):
    """The event log was read on a hot standby, where open transactions cannot be seen."""


class CorruptHistory(DeliveriesError):
    """A stream holds events that the state machine forbids; only that stream is affected."""


class UnreadableEvent(CorruptHistory):
    """An event cannot be decoded: unknown type, unknown schema version, or a broken body."""
