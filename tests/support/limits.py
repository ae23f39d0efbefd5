"""Judges of limits: what started when, told by the streams alone."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine, select

from deliveries.store.schema import deliveries, events


def starts(engine: Engine, queue: str) -> list[datetime]:
    """When the attempts of a queue started, in order."""
    attempted = (
        select(events.c.recorded_at)
        .join(deliveries, deliveries.c.id == events.c.delivery_id)
        .where(deliveries.c.queue == queue, events.c.type == "Attempted")
        .order_by(events.c.recorded_at)
    )
    with engine.connect() as connection:
        return list(connection.scalars(attempted))


def most_within(moments: list[datetime], span: timedelta) -> int:
    """The most of these ordered moments that any half-open window of that length holds."""
    return max(
        (sum(1 for other in moments[i:] if other < first + span) for i, first in enumerate(moments)),
        default=0,
    )


def most_open(engine: Engine, queue: str) -> int:
    """The most attempts of a queue that were open at a time, in the order in which events were written.

    Who claims from a limited queue does it under a lock, so that what closed before has a lower position.
    """
    told = (
        select(events.c.delivery_id, events.c.type)
        .join(deliveries, deliveries.c.id == events.c.delivery_id)
        .where(deliveries.c.queue == queue)
        .order_by(events.c.position)
    )
    open_now, most = set(), 0
    with engine.connect() as connection:
        for id, kind in connection.execute(told):
            if kind == "Attempted":
                open_now.add(id)
            elif kind != "CancelRequested":
                open_now.discard(id)
            most = max(most, len(open_now))
    return most
