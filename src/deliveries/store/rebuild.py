"""The projection, made anew from the events where it is not what they amount to.

In place, a page at a time, each in a transaction of its own that has locked its rows: processors go on
beside it. Leases and lookups, which no event tells, stay as they are. Rows that somebody holds come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct, structs
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Recorded, Stream, replay
from deliveries.errors import CorruptHistory
from deliveries.store.rows import DELIVERY_COLUMNS, encode_tags
from deliveries.store.schema import deliveries, events
from deliveries.store.store import Store

OWNER = "rebuild"
"""Whose lease an open attempt has whose row was lost: over at once, so that a sweep closes it."""


class Page(Struct, frozen=True):
    """What became of some deliveries."""

    corrected: dict[UUID, tuple[str, ...]]
    """Delivery -> the columns that were wrong."""
    remade: tuple[UUID, ...] = ()
    """Their row was missing."""
    unreadable: dict[UUID, str] = {}
    """Their stream makes no sense, and nothing was done."""
    busy: tuple[UUID, ...] = ()
    """Somebody holds their row."""
    taken: tuple[UUID, ...] = ()
    """Their key stands in another row, perhaps one as wrong: nothing was done, but to free what they had."""


def streams_after(connection: Connection, after: UUID | None, limit: int) -> list[UUID]:
    """Deliveries that have events, by id."""
    statement = select(events.c.delivery_id).distinct().order_by(events.c.delivery_id).limit(limit)
    if after is not None:
        statement = statement.where(events.c.delivery_id > after)
    return list(connection.scalars(statement))


def rebuild(store: Store, connection: Connection, ids: Sequence[UUID], *, wait: bool, dry_run: bool) -> Page:
    """Make the rows of these deliveries what their streams amount to; `wait` for those that are held."""
    locked = store.backend.lock(connection, ids, skip_locked=not wait)
    there = set(connection.scalars(select(deliveries.c.id).where(deliveries.c.id.in_(ids))))
    mine = [id for id in ids if id in locked or id not in there]
    rows = {row.id: row for row in connection.execute(select(deliveries).where(deliveries.c.id.in_(mine)))}
    corrected: dict[UUID, tuple[str, ...]] = {}
    remade, unreadable, taken = [], {}, []
    for id, history in store.histories(connection, mine).items():
        if not history:
            continue
        try:
            stream = replay(history)
        except CorruptHistory as error:
            unreadable[id] = str(error)
            continue
        wrong = _wrong(stream, history, rows.get(id), store.now(connection))
        if wrong and not (dry_run or _write(connection, id, wrong, there=id in rows)):
            taken.append(id)
        elif wrong and id in rows:
            corrected[id] = tuple(sorted(wrong))
        elif wrong:
            remade.append(id)
    busy = tuple(id for id in ids if id in there and id not in locked)
    return Page(corrected, tuple(remade), unreadable, busy, tuple(taken))


def _wrong(stream: Stream, history: Sequence[Recorded], row: Any, now: Any) -> dict[str, Any]:
    """Column -> what it should be, of those that are not; all of them where there is no row."""
    delivery = stream.delivery
    assert delivery is not None
    at_once = delivery.version == 1 and getattr(history[0].event, "due_at", None) is None
    if row is not None and at_once and row.due_at is not None:
        # due by the database's clock, which no event told
        delivery = structs.replace(delivery, due_at=row.due_at)
    due = _columns(delivery) | {"recorded_at": stream.recorded_at, "digest": stream.digest}
    attempting = delivery.status is Status.ATTEMPTING
    if row is None:
        lease = {"lease_owner": OWNER, "lease_until": now} if attempting else {}
        return due | {"lookups": 0} | lease
    wrong = {name: value for name, value in due.items() if getattr(row, name) != value}
    if attempting and (row.lease_until is None or row.lease_owner is None):
        wrong |= {"lease_owner": row.lease_owner or OWNER, "lease_until": row.lease_until or now}
    if delivery.status is not Status.PENDING and not attempting and row.lease_owner is not None:
        wrong |= {"lease_owner": None, "lease_until": None}
    return wrong


def _columns(delivery: Delivery) -> dict[str, Any]:
    values = {column.name: getattr(delivery, column.name) for column in DELIVERY_COLUMNS}
    return values | {"status": delivery.status.value, "tags": encode_tags(delivery.tags)}


def _write(connection: Connection, id: UUID, values: dict[str, Any], *, there: bool) -> bool:
    """False where another row stands in the way, with the same key."""
    mine = deliveries.c.id == id
    try:
        with connection.begin_nested():
            if there:
                connection.execute(update(deliveries).where(mine).values(values))
            else:
                connection.execute(deliveries.insert().values(values))
    except IntegrityError:
        if "key" in values:  # who has ours may wait for that which we have
            connection.execute(update(deliveries).where(mine).values(key=None))
        return False
    return True
