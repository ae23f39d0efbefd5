"""What was: deliveries as they stood at a version or at a moment, from their events alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct, structs

from deliveries.core import codec
from deliveries.core.delivery import Delivery
from deliveries.core.machine import evolve
from deliveries.core.stream import Recorded, replay
from deliveries.errors import CorruptHistory, InvalidMoment, NotThen, shown
from deliveries.store.scan import EventRow, Snapshot


def moment(value: object, name: str = "at") -> datetime:
    """An aware datetime. Raises: InvalidMoment."""
    if not isinstance(value, datetime):
        raise InvalidMoment(f"{name}: a datetime is needed, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidMoment(f"{name}: the datetime is naive: give it a time zone, such as UTC")
    return value


def state_at(
    history: Sequence[Recorded], *, at: datetime | None = None, version: int | None = None
) -> Delivery:
    """The delivery of `history`, its whole stream, as it was at that moment or version.

    An event counts from the moment at which it was recorded on. Raises: InvalidMoment, NotThen,
    CorruptHistory.
    """
    if (at is None) == (version is None):
        raise InvalidMoment("give exactly one of at and version")
    id = history[0].delivery_id
    if at is not None:
        until = moment(at)
        known = [one for one in history if one.recorded_at <= until]
        if not known:
            raise NotThen(id, f"was not there before {history[0].recorded_at.isoformat()}")
    else:
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise InvalidMoment(f"version must be a whole number from 1 on, not {shown(version)}")
        known = list(history[:version])
        if len(known) < version:
            raise NotThen(id, f"has {len(history)} events, no version {version}")
    delivery = replay(known).delivery
    assert delivery is not None, "a stream has at least one event"
    return delivery


class Unreadable(Struct, frozen=True):
    """A stream that cannot be folded."""

    id: UUID
    text: str


def states(snapshot: Snapshot, at: datetime | None = None) -> Iterator[Delivery | Unreadable]:
    """All deliveries as they were at that moment, by id; None: as they are. Flat memory."""
    until = None if at is None else codec.micros(moment(at)) - snapshot.epoch
    for id, rows in snapshot.streams():
        known = rows if until is None else [row for row in rows if row[4] <= until]
        if known:
            yield folded(id, known)


def folded(id: bytes, rows: Sequence[EventRow], delivery: Delivery | None = None) -> Delivery | Unreadable:
    """The state after these rows of one stream, going on from `delivery`."""
    try:
        for row in rows:
            delivery = evolve(delivery, codec.decode(row[2], row[3], row[5]))
            if delivery.version != row[1]:
                raise CorruptHistory(f"version {row[1]} where {delivery.version} was expected")
        assert delivery is not None
        if delivery.id.bytes != id:
            raise CorruptHistory(f"it belongs to delivery {delivery.id}")
    except CorruptHistory as error:
        return Unreadable(UUID(bytes=id), str(error))
    return delivery


class Difference(Struct, frozen=True):
    """A delivery that was not at the second moment what it was at the first."""

    id: UUID
    before: Delivery | None
    """None: it was not there."""
    after: Delivery

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Field -> (before, after), of those that changed; of one that is new, all that it has."""
        before, after = self.before, structs.asdict(self.after)
        old = dict.fromkeys(after) if before is None else structs.asdict(before)
        return {name: (old[name], value) for name, value in after.items() if old[name] != value}


def differences(snapshot: Snapshot, a: datetime, b: datetime) -> Iterator[Difference | Unreadable]:
    """What happened after `a` and up to `b`, delivery by delivery. Raises: InvalidMoment."""
    since, until = (codec.micros(moment(one, name)) - snapshot.epoch for one, name in ((a, "a"), (b, "b")))
    if until < since:
        raise InvalidMoment("the second moment is before the first")
    for id, rows in snapshot.streams():
        later = [row for row in rows if since < row[4] <= until]
        if not later:
            continue
        earlier = [row for row in rows if row[4] <= since]
        before = folded(id, earlier) if earlier else None
        after = before if isinstance(before, Unreadable) else folded(id, later, before)
        if isinstance(after, Unreadable) or isinstance(before, Unreadable) or after is None:
            assert isinstance(after, Unreadable)
            yield after
        else:
            yield Difference(after.id, before, after)
