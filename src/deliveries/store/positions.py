"""How far each projection has come, and what of the log comes next.

A position moves in the transaction that does what the events up to it lead to, and by a condition: from
where the events were read, or not at all. So of several followers one moves it, and the others find it
moved. What is read is complete, up to the bound that open transactions announce (`safe_position`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from functools import cache
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, bindparam, func, literal_column, select, text, true

from deliveries.core import codec
from deliveries.core.stream import Recorded
from deliveries.errors import InvalidProjection, UnreadableEvent
from deliveries.store.schema import deliveries, events, positions
from deliveries.store.store import Store


class Entry(Recorded, frozen=True, kw_only=True, gc=False):
    """One event of the log, and whose it is. `event` decodes it; `position` is its place in the log."""

    channel: str | None = None
    """The delivery's; None where its row is missing."""
    tenant: str | None = None
    problem: str | None = None
    """Why the event cannot be read; None where it can."""


_BEGIN = text("""
INSERT INTO delivery_positions (application, position) VALUES (:name, 0) ON CONFLICT DO NOTHING
""")

# Nobody waits for a follower that is at work, or has been stopped at it: who finds the row locked looks
# again later. The condition is asked once more of a row that changed before it could be locked.
_MOVE = {
    "postgresql": text("""
UPDATE delivery_positions SET position = :to WHERE application = (
  SELECT application FROM delivery_positions WHERE application = :name AND position = :after
  FOR UPDATE SKIP LOCKED)
RETURNING CAST(pg_current_xact_id() AS text)
"""),
    "sqlite": text("""
UPDATE delivery_positions SET position = :to WHERE application = :name AND position = :after
RETURNING ''
"""),
}

_PLACE = text("""
INSERT INTO delivery_positions (application, position) VALUES (:name, :to)
ON CONFLICT (application) DO UPDATE SET position = excluded.position
""")

_TRANSACTION = text("SELECT CAST(pg_current_xact_id() AS text)")

_POSITION = select(positions.c.position).where(positions.c.application == bindparam("name"))


def position_of(connection: Connection, name: str) -> int | None:
    """The position of the last event that `name` has seen; None where it has not begun."""
    found: int | None = connection.scalar(_POSITION, {"name": name})
    return found


def begin(connection: Connection, name: str) -> None:
    """Give `name` a position, before the first event, if it has none."""
    connection.execute(_BEGIN, {"name": name})


def move(connection: Connection, name: str, after: int, to: int) -> str | None:
    """Move the position on from `after`, and hold it until the transaction ends.

    None where it is not there, or somebody else holds it; else what PostgreSQL calls the transaction.
    """
    moved = connection.execute(_MOVE[connection.dialect.name], {"name": name, "after": after, "to": to})
    found: str | None = moved.scalar()
    return found


def still(connection: Connection, mark: str) -> None:
    """Check that the transaction in which `move` gave this mark is open, and whole.

    Raises: InvalidProjection where it was ended behind our back; the database's error where one that
    was swallowed has aborted it, and a commit would say nothing of it.
    """
    driver = connection.connection.driver_connection if connection.in_transaction() else None
    if connection.dialect.name == "sqlite":
        there = driver is not None and driver.in_transaction
    else:
        there = driver is not None and connection.scalar(_TRANSACTION) == mark
    if not there or connection.in_nested_transaction():
        raise InvalidProjection("its handler ended the transaction, or left a savepoint open")


def place(connection: Connection, name: str, to: int) -> None:
    """Set the position, wherever it is; waits for a follower that is at work."""
    connection.execute(_PLACE, {"name": name, "to": to})


def page(store: Store, connection: Connection, after: int, limit: int) -> list[Any]:
    """The next events of the log above position `after`, at most `limit`, as rows of `entry_of`.

    Fewer than `limit` only where the log is complete up to there. Raises: StandbyReader.
    """
    safe = store.backend.safe_position(connection)
    if safe <= after:
        return []
    statement = _page(connection.dialect.name, limit)
    return list(connection.execute(statement, {"after": after, "safe": safe}).all())


@cache
def _page(dialect: str, limit: int) -> Any:
    """The rows, and whose they are.

    PostgreSQL is shown no way to read the whole projection for the channels of one page, as it does while it
    has no statistics: the limit is no parameter, and each delivery is asked for by itself (measured on
    50,000 deliveries: 43 ms for a page of 1,000 with a join, 16 with this).
    """
    position = events.c.position
    within = (position > bindparam("after")) & (position <= bindparam("safe"))
    some = select(events).where(within).order_by(position).limit(literal_column(str(int(limit))))
    found = some.subquery("e")
    whose = select(deliveries.c.channel, deliveries.c.tenant).where(deliveries.c.id == found.c.delivery_id)
    if dialect == "postgresql":
        row: Any = whose.limit(literal_column("1")).lateral("d")
        joined = found.outerjoin(row, true())
    else:
        row = deliveries
        joined = found.outerjoin(row, row.c.id == found.c.delivery_id)
    return select(*found.c, row.c.channel, row.c.tenant).select_from(joined).order_by(found.c.position)


def entry_of(row: Any) -> Entry:
    """The event in a row of `page`, decoded once to see whether it can be read."""
    position, id, version, name, schema_version, recorded_at, body, digest, channel, tenant = row
    problem = None
    try:
        codec.decode(name, schema_version, body)
    except UnreadableEvent as error:
        problem = str(error)
    return Entry(
        delivery_id=id,
        version=version,
        type=name,
        schema_version=schema_version,
        recorded_at=recorded_at,
        body=body,
        digest=digest,
        position=position,
        channel=channel,
        tenant=tenant,
        problem=problem,
    )


class Wanted(Struct, frozen=True):
    """Which events of the log; a field that is None fits all."""

    types: Collection[str] | None = None
    channels: Collection[str] | None = None
    tenants: Collection[str] | None = None
    since: datetime | None = None
    """Recorded then or later."""

    def fits(self, row: Any) -> bool:
        """Whether a row of `page` is one of them."""
        return (
            (self.types is None or row.type in self.types)
            and (self.channels is None or row.channel in self.channels)
            and (self.tenants is None or row.tenant in self.tenants)
            and (self.since is None or row.recorded_at >= self.since)
        )

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """The same in SQL, on events and deliveries."""
        for column, values in (
            (events.c.type, self.types),
            (deliveries.c.channel, self.channels),
            (deliveries.c.tenant, self.tenants),
        ):
            if values is not None:
                yield column.in_(values)
        if self.since is not None:
            yield events.c.recorded_at >= self.since


def before_the_last(store: Store, connection: Connection, count: int, wanted: Wanted) -> int:
    """The position after which there are `count` events that are wanted, or all of them."""
    position = events.c.position
    within = position <= store.backend.safe_position(connection)
    if not count:
        return connection.scalar(select(func.max(position)).where(within)) or 0
    joined = events.outerjoin(deliveries, deliveries.c.id == events.c.delivery_id)
    some = select(position).select_from(joined).where(within, *wanted.conditions())
    last = connection.scalars(some.order_by(position.desc()).limit(count)).all()
    return last[-1] - 1 if len(last) == count else 0


def before(connection: Connection, since: datetime) -> int:
    """The position after which all is that was recorded at `since` or later.

    Positions and times need not go together, and times have no index: this reads the log once.
    """
    first = connection.scalar(select(func.min(events.c.position)).where(events.c.recorded_at >= since))
    return (connection.scalar(select(func.max(events.c.position))) or 0) if first is None else first - 1


def behind(store: Store, connection: Connection, name: str) -> int:
    """How many events of the log `name` has not seen yet."""
    after = position_of(connection, name) or 0
    within = (events.c.position > after) & (events.c.position <= store.backend.safe_position(connection))
    return connection.scalar(select(func.count()).select_from(events).where(within)) or 0
