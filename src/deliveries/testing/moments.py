"""When something will happen by itself, asked of the tables: where a drain travels to."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select, union_all

from deliveries.store.schema import deliveries
from deliveries.testing.performing import Stage

if TYPE_CHECKING:
    from deliveries.app import Deliveries

_STATUS = deliveries.c.status
_DUE = func.coalesce(deliveries.c.lease_until, deliveries.c.due_at)  # a lease: put aside, or policies think
_MOMENT = union_all(
    select(_DUE).where(_STATUS == "pending"),
    select(deliveries.c.expires_at).where(_STATUS == "pending"),
    select(deliveries.c.lease_until).where(_STATUS == "attempting"),
    select(deliveries.c.lookup_at).where(_STATUS == "held"),
).subquery()
"""Something is due or too late, a lease is over, a lookup is asked."""


def following(app: Deliveries, stage: Stage, *, ticks: bool = True) -> datetime | None:
    """The next moment after the present; None: never. `ticks`: those of what recurs for ever count too."""
    now, moment = stage.clock.now(), _MOMENT.c[0]
    with app._reading(None) as connection:
        found = [connection.scalar(select(func.min(moment)).where(moment > now)), stage.room_at]
    if ticks:
        found += [tick for entry in app.periodics.values() for tick in entry.next(now)]
    return min((one for one in found if one is not None and one > now), default=None)
