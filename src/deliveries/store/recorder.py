"""Our recorder for the `eventsourcing` library: its contract, kept on our tables.

It is there to be read: by notification logs, subscriptions and projections. What it writes are
events of other people's types, and the positions of projections; deliveries are written through
`Deliveries` only, where row, fence and guards go with the event.

Reading all events in one order is the delicate part. Positions are drawn before a transaction
commits, so a reader that goes by the highest position it sees walks past an event that commits
later with a lower one, for ever. Nothing here is returned above the safe position, which on
PostgreSQL is found and used in three statements that each need a snapshot of their own. The store's
transactions give them one, being READ COMMITTED whatever the engine's default is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing import persistence as es
from sqlalchemy import ColumnElement, Connection, exc, func, insert, select, text

from deliveries.core import codec
from deliveries.store.bell import Bell
from deliveries.store.schema import events, positions
from deliveries.store.store import Store
from deliveries.store.subscription import POLL_SECONDS, LogSubscription

FOREIGN = 0
"""Schema version of events that are none of ours."""

_STREAM_LOCKS = 0x64656C6900  # a range of its own beside the lock of `create_schema`
_BUCKETS = 64

_LOCK_STREAMS = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS u(key)")

# One row per application. The condition makes the position strictly increasing under any
# interleaving: who comes second waits for the row, then looks at what the first has written.
_TRACK = text("""
INSERT INTO delivery_positions (application, position) VALUES (:application, :position)
ON CONFLICT (application) DO UPDATE SET position = excluded.position
WHERE delivery_positions.position < excluded.position
""")

_ERRORS: dict[type[Exception], type[es.PersistenceError]] = {
    exc.IntegrityError: es.IntegrityError,
    exc.OperationalError: es.OperationalError,
    exc.ProgrammingError: es.ProgrammingError,
    exc.DataError: es.DataError,
    exc.InternalError: es.InternalError,
    exc.NotSupportedError: es.NotSupportedError,
    exc.InterfaceError: es.InterfaceError,
}


@dataclass(frozen=True)
class ChainedEvent(es.StoredEvent):
    """A stored event with the rest of its row."""

    recorded_at: datetime
    schema_version: int
    digest: bytes


@dataclass(frozen=True)
class ChainedNotification(es.Notification):
    """A notification with the rest of its row; `id` is the position in the log."""

    recorded_at: datetime
    schema_version: int
    digest: bytes


@dataclass(frozen=True)
class _Head:
    """The end of a stream: what the next event is chained to."""

    version: int
    type: str
    digest: bytes
    recorded_at: datetime


_START = _Head(-1, "", codec.GENESIS, codec.instant(0))


class DeliveryRecorder(es.ProcessRecorder):
    """`eventsourcing`'s `ProcessRecorder` on a `Store`.

    Positions, which the library calls notification ids, start at 1, grow, and may have gaps.
    Database errors arrive as the library's own; `StandbyReader` and the errors of a missing or
    newer schema as ours.
    """

    def __init__(self, store: Store, poll_seconds: float = POLL_SECONDS) -> None:
        self.store = store
        self.poll_seconds = poll_seconds
        self.bell = Bell()

    def wake(self) -> None:
        """Let subscriptions look for new events now. Call it after a commit."""
        self.bell.ring()

    # -- writing -------------------------------------------------------------------------------

    def insert_events(self, stored_events: Sequence[es.StoredEvent], **kwargs: Any) -> Sequence[int]:
        """Append events of foreign types, and the `tracking` in `kwargs`, in one transaction.

        Returns their positions. Refuses, with `eventsourcing`'s IntegrityError: a version that its
        stream has reached already; a tracking that does not move on; and our own types and streams.
        A delivery's event without its projection row and its fence would be a forgery: deliveries
        are written through `Deliveries`.
        """
        tracking: es.Tracking | None = kwargs.get("tracking")
        written: Sequence[int] = []
        with _translated(), self.store.transaction() as connection:
            if tracking is not None:  # first, so that nothing is announced while waiting for the row
                _track(connection, tracking)
            if stored_events:
                rows = self._chained(connection, stored_events)
                statement = insert(events).returning(events.c.position, sort_by_parameter_order=True)
                written = connection.scalars(statement, rows).all()
        if written:
            self.wake()
        return written

    def insert_tracking(self, tracking: es.Tracking) -> None:
        with _translated(), self.store.transaction() as connection:
            _track(connection, tracking)

    def _chained(self, connection: Connection, stored: Sequence[es.StoredEvent]) -> list[dict[str, Any]]:
        """The rows of `stored`, each chained to its predecessor."""
        heads = _heads(connection, {_stream_id(event.originator_id) for event in stored})
        now = self.store.clock.now()
        rows = []
        for event in stored:
            id, version, topic = _stream_id(event.originator_id), event.originator_version, event.topic
            head = heads.get(id, _START)
            if topic in codec.REGISTERED or head.type in codec.REGISTERED:
                raise es.IntegrityError(f"{topic!r} of {id}: deliveries are written through Deliveries")
            if version <= head.version:
                raise es.IntegrityError(f"stream {id} is at version {head.version}, {version} is taken")
            recorded_at = max(now, head.recorded_at)
            digest = codec.digest(head.digest, id, version, topic, FOREIGN, recorded_at, event.state)
            heads[id] = _Head(version, topic, digest, recorded_at)
            rows.append(
                {
                    "delivery_id": id,
                    "version": version,
                    "type": topic,
                    "schema_version": FOREIGN,
                    "recorded_at": recorded_at,
                    "body": event.state,
                    "digest": digest,
                }
            )
        return rows

    # -- reading -------------------------------------------------------------------------------

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[ChainedEvent]:
        version = events.c.version
        wanted = [events.c.delivery_id == _stream_id(originator_id)]
        wanted += [] if gt is None else [version > gt]
        wanted += [] if lte is None else [version <= lte]
        order = version.desc() if desc else version.asc()
        with _translated(), self.store.reading() as connection:
            rows = connection.execute(select(events).where(*wanted).order_by(order).limit(limit))
            return [ChainedEvent(**_fields(row)) for row in rows]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[ChainedNotification]:
        """Up to `limit` events in the order of the log, from `start` to `stop`, of types `topics`.

        Only what is complete: an event above a position that an open transaction may still write
        comes later, once that transaction has ended. Raises: StandbyReader.
        """
        after = 0 if start is None else start - inclusive_of_start
        return self.page(after, limit, stop, topics)[0]

    def page(
        self, after: int, limit: int, stop: int | None = None, topics: Sequence[str] = ()
    ) -> tuple[list[ChainedNotification], int]:
        """The events above position `after`, and the position after which to look next.

        That is the last event seen, of any type, and never a position at which there is no event: a
        sequence that an uncommitted transaction has moved on goes back in a crash, and the position
        is drawn again.
        """
        position = events.c.position
        with _translated(), self.store.reading() as connection:
            safe = self.store.backend.safe_position(connection)
            last = safe if stop is None else min(safe, stop)
            if last <= after:
                return [], after
            wanted: list[ColumnElement[bool]] = [position > after, position <= last]
            wanted += [events.c.type.in_(topics)] if topics else []
            rows = connection.execute(select(events).where(*wanted).order_by(position).limit(limit))
            found = [ChainedNotification(id=row.position, **_fields(row)) for row in rows]
            seen = found[-1].id if found else after
            if topics and len(found) < limit:  # other types have been passed
                others = select(func.max(position)).where(position > seen, position <= last)
                seen = connection.scalar(others) or seen
            return found, seen

    def max_notification_id(self) -> int | None:
        """The highest position up to which the log is complete; None without events.

        Bounded like `select_notifications`, so that a subscription which starts here misses nothing:
        an event that commits later with a lower position cannot be below the bound.
        """
        with _translated(), self.store.reading() as connection:
            safe = self.store.backend.safe_position(connection)
            highest = select(func.max(events.c.position)).where(events.c.position <= safe)
            return connection.scalar(highest) or None

    def max_tracking_id(self, application_name: str) -> int | None:
        wanted = select(positions.c.position).where(positions.c.application == application_name)
        with _translated(), self.store.reading() as connection:
            return connection.scalar(wanted)

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> LogSubscription:
        """All events above position `gt`, those of the past and then those to come."""
        return LogSubscription(self, gt, topics)


def _heads(connection: Connection, ids: set[UUID]) -> dict[UUID, _Head]:
    """The ends of these streams; on PostgreSQL nobody else appends to them through here meanwhile."""
    if connection.dialect.name == "postgresql":
        keys = sorted({_STREAM_LOCKS + id.int % _BUCKETS for id in ids})
        connection.execute(_LOCK_STREAMS, {"keys": keys})
    last = (
        select(events.c.delivery_id, func.max(events.c.version).label("version"))
        .where(events.c.delivery_id.in_(ids))
        .group_by(events.c.delivery_id)
        .subquery()
    )
    on = (events.c.delivery_id == last.c.delivery_id) & (events.c.version == last.c.version)
    rows = connection.execute(select(events).join(last, on))
    return {row.delivery_id: _Head(row.version, row.type, row.digest, row.recorded_at) for row in rows}


def _track(connection: Connection, tracking: es.Tracking) -> None:
    application, position = tracking.application_name, tracking.notification_id
    if not connection.execute(_TRACK, {"application": application, "position": position}).rowcount:
        raise es.IntegrityError(f"{application!r} has been at position {position} or beyond already")


def _fields(row: Any) -> dict[str, Any]:
    return {
        "originator_id": row.delivery_id,
        "originator_version": row.version,
        "topic": row.type,
        "state": row.body,
        "recorded_at": row.recorded_at,
        "schema_version": row.schema_version,
        "digest": row.digest,
    }


def _stream_id(originator_id: UUID | str) -> UUID:
    try:
        return originator_id if isinstance(originator_id, UUID) else UUID(originator_id)
    except ValueError:
        raise es.ProgrammingError(f"the id of a stream is a UUID, not {originator_id!r:.80}") from None


@contextmanager
def _translated() -> Iterator[None]:
    """Database errors as `eventsourcing` names them."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _ERRORS.get(type(error), es.DatabaseError)(str(error.orig)) from error
