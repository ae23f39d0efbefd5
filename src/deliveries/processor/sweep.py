"""Closing what nobody reported: leases that ran out, deadlines that passed.

The decision is made from the stream alone, by whoever gets there first, so that a `kill -9` on
the last attempt still ends the delivery. A stream that makes no sense is put aside and logged; it
never stops the page.
"""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from deliveries.core import commands as c
from deliveries.core.delivery import Status
from deliveries.core.stream import Change, Recorded, advance, replay
from deliveries.errors import CorruptHistory
from deliveries.store.store import Store

PAGE = 200
"""Deliveries per transaction."""

ASIDE_SECONDS = 3_600.0
"""How long a stream that makes no sense is left alone."""

OUT_OF_STEP = "the row is out of step with its events"

_log = logging.getLogger("deliveries")


def sweep(store: Store, page: int = PAGE) -> list[Change]:
    """Close up to `page` abandoned attempts and passed deadlines; returns what was written."""
    with store.transaction() as connection:
        ids = store.backend.expired(connection, page, store.deciding_now)
        if not ids:
            return []
        now = store.now(connection)
        changes, aside = [], set()
        for id, history in store.histories(connection, ids).items():
            try:
                change = close(history, now)
            except CorruptHistory as error:
                put_aside(store, connection, [id], f"its history is corrupt: {error}")
                aside.add(id)
            else:
                changes += [change] if change is not None else []
        written = store.append(connection, [store.write_of(change) for change in changes])
        put_aside(store, connection, [id for id in ids if id not in written | aside], OUT_OF_STEP)
    return [change for change in changes if change.after.id in written]


def close(history: list[Recorded], now: datetime) -> Change | None:
    """What ends the open attempt of `history`, or the pending delivery past its deadline.

    Raises: CorruptHistory, also where nothing can be chained to its end.
    """
    stream = replay(history)
    delivery = stream.delivery
    if delivery is not None and delivery.status is Status.ATTEMPTING:
        return advance(stream, c.Interrupt(now=now, attempt=delivery.attempt))
    return advance(stream, c.Expire(now=now))


def put_aside(store: Store, connection: Connection, ids: list[UUID], why: str) -> None:
    """Leave rows alone for a while of which nothing can be made, so that a page moves on."""
    if ids:
        _log.error("put aside: %s: %s", ", ".join(map(str, ids)), why)
        store.put_aside(connection, ids, ASIDE_SECONDS)
