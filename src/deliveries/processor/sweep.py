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

_log = logging.getLogger("deliveries")


def sweep(store: Store, page: int = PAGE) -> list[Change]:
    """Close up to `page` abandoned attempts and passed deadlines; returns what was written."""
    with store.transaction() as connection:
        ids = store.backend.expired(connection, page, store.deciding_now)
        if not ids:
            return []
        now = store.now(connection)
        changes = [
            change
            for id, history in store.histories(connection, ids).items()
            if (change := close(id, history, now)) is not None
        ]
        written: set[UUID] = set()
        if changes:
            writes = [store.write_of(change) for change in changes]
            written = store.backend.append(connection, writes, store.deciding_now)
        put_aside(store, connection, [id for id in ids if id not in written])
    return [change for change in changes if change.after.id in written]


def close(id: UUID, history: list[Recorded], now: datetime) -> Change | None:
    """What ends the open attempt of `history`, or the pending delivery past its deadline."""
    try:
        stream = replay(history)
        delivery = stream.delivery
        if delivery is None:
            return None
        if delivery.status is Status.ATTEMPTING:
            return advance(stream, c.Interrupt(now=now, attempt=delivery.attempt))
        return advance(stream, c.Expire(now=now))
    except CorruptHistory as error:  # also where nothing can be chained to its last digest
        _log.error("delivery %s is put aside: its history is corrupt: %s", id, error)
        return None


def put_aside(store: Store, connection: Connection, ids: list[UUID]) -> None:
    """Leave rows alone for a while whose stream could not be closed, so that a page moves on."""
    if ids:
        _log.error("rows out of step with their events: %s", ", ".join(map(str, ids)))
        store.put_aside(connection, ids, ASIDE_SECONDS)
