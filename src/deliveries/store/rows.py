"""What goes into a row and what comes out, the same for both databases."""

from __future__ import annotations

from collections.abc import Sequence
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


class Contents(Struct, frozen=True, kw_only=True, gc=False):
    """What stands beside a `Scheduled`: erasable."""

    recipient: str | None
    payload: str
    """JSON, with sorted keys, so that equal payloads are equal texts."""
    salt: bytes


class Birth(Struct, frozen=True, gc=False):
    """One delivery about to be scheduled."""

    change: Change
    contents: Contents

    @property
    def scheduled(self) -> Scheduled:
        """The event."""
        assert isinstance(self.change.event, Scheduled)
        return self.change.event


class Ready(Struct, frozen=True, gc=False):
    """Deliveries about to be scheduled, as a backend wants them."""

    births: Sequence[Birth]
    ids: frozenset[UUID]
    form: Sequence[Any] = ()
    """The backend's own."""


def ids_of(births: Sequence[Birth]) -> frozenset[UUID]:
    """The ids of deliveries that are about to be scheduled."""
    return frozenset(birth.change.after.id for birth in births)


class Write(Struct, frozen=True, gc=False):
    """One event about to be appended, with the operational columns that go with it."""

    change: Change
    lease_owner: str | None = None
    lease_seconds: float | None = None
    """From the database's now; None keeps a lease that an open attempt has."""
    lookup_seconds: float | None = None
    """When to ask an adapter's lookup, from the database's now; None: never."""
    reference: str | None = None
    """The provider's, of an effect that happened."""


class Claimed(Struct, frozen=True, gc=False):
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


DELIVERY_COLUMNS = tuple(deliveries.c)[: list(deliveries.c.keys()).index("max_attempts") + 1]
"""The columns that are fields of a `Delivery`: the first of the table."""
_DELIVERY = len(DELIVERY_COLUMNS)

CLAIM_COLUMNS = (
    *DELIVERY_COLUMNS,
    *(deliveries.c[name] for name in ("recorded_at", "digest", "lookups")),
    contents.c.recipient,
    contents.c.payload,
)

_decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_payload = msgspec.json.Decoder().decode
_STATUS = {status.value: status for status in Status}


def delivery_of(row: Any) -> Delivery:
    """The delivery in a row that begins with `DELIVERY_COLUMNS`, without contents and rules.

    Raises: CorruptHistory where somebody wrote into the row what we never write.
    """
    return _read(row)


def _read(row: Any, recipient: str | None = None, payload: Any = None) -> Delivery:
    try:
        return _delivery_of(row[:_DELIVERY], recipient, payload)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptHistory(f"the row of delivery {row[0]} cannot be read: {type(error).__name__}") from None


def _delivery_of(columns: Any, recipient: str | None = None, payload: Any = None) -> Delivery:
    id, version, status, channel, queue, priority, scheduled_at, due_at, expires_at = columns[:9]
    attempt, endings, interruptions, snoozes, cancel_requested, tenant, key, tags = columns[9:17]
    correlation_id, causation_id, root_id, max_attempts = columns[17:]
    return Delivery(
        id=id,
        channel=channel,
        queue=queue,
        status=_STATUS[status],
        version=version,
        scheduled_at=scheduled_at,
        due_at=due_at,
        expires_at=expires_at,
        priority=priority,
        tenant=tenant,
        key=key,
        tags=_decode_tags(tags) if tags else (),
        correlation_id=correlation_id,
        causation_id=causation_id,
        root_id=root_id,
        max_attempts=max_attempts,
        attempt=attempt,
        endings=endings,
        interruptions=interruptions,
        snoozes=snoozes,
        cancel_requested=cancel_requested,
        recipient=recipient,
        payload=payload,
    )


def with_contents(delivery: Delivery, recipient: str | None, payload: str | None) -> Delivery:
    """`delivery` with what stands beside it; None where it was erased. Raises: CorruptHistory."""
    return msgspec.structs.replace(
        delivery, recipient=_recipient(delivery.id, recipient), payload=_payload(delivery.id, payload)
    )


def _recipient(id: UUID, text: str | None) -> str | None:
    try:
        if text is not None and not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise CorruptHistory(
            f"the recipient of delivery {id} cannot be read: {type(error).__name__}"
        ) from None
    return text


def _payload(id: UUID, text: str | None) -> Any:
    try:
        return None if text is None else _decode_payload(text)
    except (ValueError, RecursionError) as error:
        raise CorruptHistory(f"the payload of delivery {id} cannot be read: {type(error).__name__}") from None


def claimed_of(row: Any, now: datetime) -> Claimed:
    """A row of `CLAIM_COLUMNS`: a pending one is its fold, since the rules are frozen anew by `Attempted`."""
    recorded_at, digest, lookups, recipient, payload = row[_DELIVERY : _DELIVERY + 5]
    try:
        delivery = _read(row, _recipient(row[0], recipient), _payload(row[0], payload))
    except CorruptHistory as error:
        return Claimed(row[0], START, now, problem=str(error))
    return Claimed(delivery.id, Stream(delivery, digest, recorded_at), now, lookups)


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


EVENT_COLUMNS = ("id", "version", "type", "schema_version", "recorded_at", "body", "digest")
"""What `event_row` gives; `id` is the delivery's."""

BIRTH_COLUMNS = (
    *EVENT_COLUMNS,
    *("channel", "queue", "priority", "scheduled_at", "due_at", "expires_at", "tenant", "key", "tags"),
    *("correlation_id", "causation_id", "root_id", "max_attempts", "recipient", "payload", "salt"),
)
"""What `birth_row` gives."""

WRITE_COLUMNS = (
    *EVENT_COLUMNS,
    *("status", "due_at", "attempt", "endings", "interruptions", "snoozes", "cancel_requested"),
    *("lease_owner", "lease_seconds", "lookup_seconds", "note", "salt"),
)
"""What `write_row` gives."""


def event_row(recorded: Recorded) -> tuple[Any, ...]:
    """An event's columns."""
    return (
        recorded.delivery_id,
        recorded.version,
        recorded.type,
        recorded.schema_version,
        recorded.recorded_at,
        recorded.body,
        recorded.digest,
    )


def birth_row(birth: Birth) -> tuple[Any, ...]:
    """The columns of a new delivery, its event and its contents."""
    delivery, beside = birth.change.after, birth.contents
    return (
        *event_row(birth.change.recorded),
        delivery.channel,
        delivery.queue,
        delivery.priority,
        delivery.scheduled_at,
        birth.scheduled.due_at,  # None: due at once, by the database's clock
        delivery.expires_at,
        delivery.tenant,
        delivery.key,
        encode_tags(delivery.tags),
        delivery.correlation_id,
        delivery.causation_id,
        delivery.root_id,
        delivery.max_attempts,
        beside.recipient,
        beside.payload,
        beside.salt,
    )


def write_row(write: Write) -> tuple[Any, ...]:
    """The columns that an appended event changes, and its note."""
    delivery, note = write.change.after, write.change.note
    return (
        *event_row(write.change.recorded),
        delivery.status.value,
        delivery.due_at,
        delivery.attempt,
        delivery.endings,
        delivery.interruptions,
        delivery.snoozes,
        delivery.cancel_requested,
        write.lease_owner,
        write.lease_seconds,
        write.lookup_seconds,
        None if note is None else note.text,
        None if note is None else note.salt,
    )


def birth_values(birth: Birth) -> dict[str, Any]:
    """`birth_row` by column."""
    return dict(zip(BIRTH_COLUMNS, birth_row(birth), strict=True))


def write_values(write: Write) -> dict[str, Any]:
    """`write_row` by column."""
    return dict(zip(WRITE_COLUMNS, write_row(write), strict=True))
