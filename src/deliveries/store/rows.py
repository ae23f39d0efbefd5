"""What goes into a row and what comes out, the same for both databases."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from deliveries.core.delivery import Delivery, Status
from deliveries.core.events import Scheduled
from deliveries.core.stream import START, Change, Recorded, Stream
from deliveries.errors import CorruptHistory
from deliveries.store.schema import contents, deliveries


class Contents(Struct, frozen=True, kw_only=True):
    """What stands beside a `Scheduled`: erasable."""

    recipient: str | None
    payload: str
    """JSON, with sorted keys, so that equal payloads are equal texts."""
    salt: bytes


class Birth(Struct, frozen=True):
    """One delivery about to be scheduled."""

    change: Change
    contents: Contents

    @property
    def scheduled(self) -> Scheduled:
        """The event."""
        assert isinstance(self.change.event, Scheduled)
        return self.change.event


class Write(Struct, frozen=True):
    """One event about to be appended, with the operational columns that go with it."""

    change: Change
    lease_owner: str | None = None
    lease_seconds: float | None = None
    """From the database's now; None keeps a lease that an open attempt has."""
    lookup_seconds: float | None = None
    """When to ask an adapter's lookup, from the database's now; None: never."""
    reference: str | None = None
    """The provider's, of an effect that happened."""


class Claimed(Struct, frozen=True):
    """A row locked for this transaction, and the database's time."""

    id: UUID
    stream: Stream
    now: datetime
    lookups: int = 0
    problem: str | None = None
    """Why the row cannot be read; such a one is put aside, and stops nobody else."""

    @property
    def delivery(self) -> Delivery:
        """The delivery in the row."""
        assert self.stream.delivery is not None
        return self.stream.delivery


CLAIM_COLUMNS = (
    *(column for column in deliveries.c if not column.name.startswith("lease_")),
    contents.c.recipient,
    contents.c.payload,
)

DELIVERY_COLUMNS = tuple(
    column
    for column in deliveries.c
    if column.name not in {"recorded_at", "digest", "lease_owner", "lease_until", "lookup_at", "lookups"}
)

_decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_payload = msgspec.json.Decoder().decode
_STATUS = {status.value: status for status in Status}


def delivery_of(row: Any) -> Delivery:
    """The delivery in a row that has at least `DELIVERY_COLUMNS`, without contents and rules.

    Raises: CorruptHistory where somebody wrote into the row what we never write.
    """
    try:
        return _delivery_of(row)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptHistory(f"the row of delivery {row.id} cannot be read: {type(error).__name__}") from None


def _delivery_of(row: Any) -> Delivery:
    return Delivery(
        id=row.id,
        channel=row.channel,
        queue=row.queue,
        status=_STATUS[row.status],
        version=row.version,
        scheduled_at=row.scheduled_at,
        due_at=row.due_at,
        expires_at=row.expires_at,
        priority=row.priority,
        tenant=row.tenant,
        key=row.key,
        tags=_decode_tags(row.tags) if row.tags else (),
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        root_id=row.root_id,
        max_attempts=row.max_attempts,
        attempt=row.attempt,
        endings=row.endings,
        interruptions=row.interruptions,
        snoozes=row.snoozes,
        cancel_requested=row.cancel_requested,
    )


def with_contents(delivery: Delivery, recipient: str | None, payload: str | None) -> Delivery:
    """`delivery` with what stands beside it; None where it was erased. Raises: CorruptHistory."""
    try:
        value = None if payload is None else _decode_payload(payload)
    except (ValueError, RecursionError) as error:
        raise CorruptHistory(
            f"the payload of delivery {delivery.id} cannot be read: {type(error).__name__}"
        ) from None
    return msgspec.structs.replace(delivery, recipient=recipient, payload=value)


def claimed_of(row: Any, now: datetime) -> Claimed:
    """A claimed row: a pending one is its fold, since the rules are frozen anew by `Attempted`."""
    try:
        delivery = with_contents(delivery_of(row), row.recipient, row.payload)
    except CorruptHistory as error:
        return Claimed(row.id, START, now, problem=str(error))
    return Claimed(row.id, Stream(delivery, row.digest, row.recorded_at), now, row.lookups)


def recorded_of(row: Any, note: str | None = None) -> Recorded:
    """The event in a row of `delivery_events`, with the text beside it."""
    return Recorded(
        delivery_id=row.delivery_id,
        version=row.version,
        type=row.type,
        schema_version=row.schema_version,
        recorded_at=row.recorded_at,
        body=row.body,
        digest=row.digest,
        position=row.position,
        note=note,
    )


def encode_tags(tags: tuple[str, ...]) -> str | None:
    """Tags as a JSON text, None for none."""
    return msgspec.json.encode(tags).decode() if tags else None


def event_values(recorded: Recorded) -> dict[str, Any]:
    """An event's columns."""
    return {
        "id": recorded.delivery_id,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "recorded_at": recorded.recorded_at,
        "body": recorded.body,
        "digest": recorded.digest,
    }


def birth_values(birth: Birth) -> dict[str, Any]:
    """The columns of a new delivery, its event and its contents."""
    delivery, beside = birth.change.after, birth.contents
    return event_values(birth.change.recorded) | {
        "channel": delivery.channel,
        "queue": delivery.queue,
        "priority": delivery.priority,
        "scheduled_at": delivery.scheduled_at,
        "due_at": birth.scheduled.due_at,  # None: due at once, by the database's clock
        "expires_at": delivery.expires_at,
        "tenant": delivery.tenant,
        "key": delivery.key,
        "tags": encode_tags(delivery.tags),
        "correlation_id": delivery.correlation_id,
        "causation_id": delivery.causation_id,
        "root_id": delivery.root_id,
        "max_attempts": delivery.max_attempts,
        "recipient": beside.recipient,
        "payload": beside.payload,
        "salt": beside.salt,
    }


def write_values(write: Write) -> dict[str, Any]:
    """The columns that an appended event changes, and its note."""
    delivery, note = write.change.after, write.change.note
    return event_values(write.change.recorded) | {
        "status": delivery.status.value,
        "due_at": delivery.due_at,
        "attempt": delivery.attempt,
        "endings": delivery.endings,
        "interruptions": delivery.interruptions,
        "snoozes": delivery.snoozes,
        "cancel_requested": delivery.cancel_requested,
        "lease_owner": write.lease_owner,
        "lease_seconds": write.lease_seconds,
        "lookup_seconds": write.lookup_seconds,
        "note": None if note is None else note.text,
        "salt": None if note is None else note.salt,
    }
