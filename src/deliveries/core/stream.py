"""A stream and its next event: decide, evolve and chain, in one pure step.

`Recorded` is an event with its envelope, as a row holds it. `Stream` is what must be known of a
stream to append to it. `advance` is the only way from a command to an event to be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from deliveries.core import codec, commands
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery
from deliveries.core.events import Event
from deliveries.core.machine import evolve
from deliveries.core.notes import Note
from deliveries.errors import CorruptHistory


class Recorded(Struct, frozen=True, kw_only=True, gc=False):
    """One event of one stream, as stored."""

    delivery_id: UUID
    version: int
    """Place in the stream; starts at 1."""
    type: str
    schema_version: int
    recorded_at: datetime
    """UTC; never before the predecessor's."""
    body: bytes
    """JSON, exactly as stored; the digest is over these bytes."""
    digest: bytes
    """SHA-256, 32 bytes, over the predecessor's digest and this event."""
    position: int | None = None
    """Place in the log of all events; None until stored. May have gaps."""
    note: str | None = None
    """The text beside the event, if it has one that was not erased."""

    @property
    def event(self) -> Event:
        """The event itself. Raises: UnreadableEvent."""
        return self.read()

    def read(self) -> Event:
        """Decode the body. Raises: UnreadableEvent."""
        return codec.decode(self.type, self.schema_version, self.body)


class Stream(Struct, frozen=True, gc=False):
    """The end of a stream: the state there, and what the next event is chained to."""

    delivery: Delivery | None
    digest: bytes
    recorded_at: datetime


class Change(Struct, frozen=True, gc=False):
    """One event to append, and the state it leads to."""

    event: Event
    recorded: Recorded
    after: Delivery
    note: Note | None = None

    @property
    def stream(self) -> Stream:
        """The stream once this change is stored."""
        return Stream(self.after, self.recorded.digest, self.recorded.recorded_at)


START = Stream(None, codec.GENESIS, codec.instant(0))
"""A stream without events."""


def advance(stream: Stream, command: commands.Command) -> Change | None:
    """What `command` adds to `stream`; None where it comes too late."""
    events = decide(command, stream.delivery)
    if not events:
        return None
    (event,) = events
    after = evolve(stream.delivery, event)
    body = codec.encode(event)
    name, schema_version = type(event).__name__, event.schema_version
    recorded_at = max(command.now, stream.recorded_at)
    digest = codec.digest(stream.digest, after.id, after.version, name, schema_version, recorded_at, body)
    recorded = Recorded(
        delivery_id=after.id,
        version=after.version,
        type=name,
        schema_version=schema_version,
        recorded_at=recorded_at,
        body=body,
        digest=digest,
    )
    noted = getattr(event, "note", None) is not None  # a text whose digest no event holds is not kept
    return Change(event, recorded, after, command.note if noted else None)


def replay(history: Iterable[Recorded]) -> Stream:
    """The stream that `history`, oldest first, amounts to.

    Raises: CorruptHistory where an event is unreadable, out of place, or forbidden by the table.
    """
    stream = START
    for one in history:
        delivery = step(stream.delivery, one.delivery_id, one.version, one.read)
        stream = Stream(delivery, one.digest, one.recorded_at)
    return stream


def step(delivery: Delivery | None, delivery_id: UUID, version: int, read: Callable[[], Event]) -> Delivery:
    """`delivery` after the event that a row says is its number `version`.

    Raises: CorruptHistory, naming the version, where it is unreadable, out of place, or forbidden.
    """
    expected = 1 if delivery is None else delivery.version + 1
    if version != expected:
        raise CorruptHistory(f"version {version} where {expected} was expected")
    try:
        after = evolve(delivery, read())
    except CorruptHistory as error:
        raise type(error)(f"version {version}: {error}") from None
    if after.id != delivery_id:
        raise CorruptHistory(f"version {version} belongs to delivery {after.id}")
    return after
