"""Rows that a policy is asked about: leased, and still pending.

No event says so: asking decides nothing until it answers. `lease_owner` and `lease_until` of a pending
row keep others away meanwhile, and let somebody ask again if this worker dies. Whose lease it is
is looked up under the row's lock before an answer is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, or_, select, update

from deliveries.store.schema import deliveries

_PENDING = deliveries.c.status == "pending"


def lease(
    connection: Connection, worker: str, ids: Sequence[UUID], now: datetime, until: datetime
) -> set[UUID]:
    """Keep these rows, which this transaction has locked, for `worker`; returns those that were free."""
    free = or_(deliveries.c.lease_owner.is_(None), deliveries.c.lease_until <= now)
    statement = (
        update(deliveries)
        .where(deliveries.c.id.in_(ids), _PENDING, free)
        .values(lease_owner=worker, lease_until=until)
        .returning(deliveries.c.id)
    )
    return set(connection.scalars(statement))


def held(connection: Connection, worker: str, ids: Sequence[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Lock what still is `worker`'s. Returns those rows, and those that somebody has locked."""
    ours = select(deliveries.c.id).where(
        deliveries.c.id.in_(ids), _PENDING, deliveries.c.lease_owner == worker
    )
    locked = set(connection.scalars(ours.with_for_update(skip_locked=True)))
    missing = [id for id in ids if id not in locked]
    busy = set(connection.scalars(ours.where(deliveries.c.id.in_(missing)))) if missing else set()
    return locked, busy


def release(connection: Connection, worker: str, but: Collection[UUID] = ()) -> None:
    """Give back what `worker` holds pending, `but` some; not what somebody has locked."""
    ours = select(deliveries.c.id).where(
        _PENDING, deliveries.c.lease_owner == worker, deliveries.c.lease_owner.is_not(None)
    )
    ids = set(connection.scalars(ours.with_for_update(skip_locked=True))) - set(but)
    if ids:
        free = {"lease_owner": None, "lease_until": None}
        connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(free))


def disown(connection: Connection, id: UUID) -> None:
    """Nobody's any more, though still put aside."""
    connection.execute(update(deliveries).where(deliveries.c.id == id).values(lease_owner=None))
