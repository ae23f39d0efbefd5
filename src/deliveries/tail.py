"""Reading the log as it grows, without a projection."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from msgspec import Struct

from deliveries.processor.wakeup import Wakeup
from deliveries.store import positions
from deliveries.store.bell import Bell
from deliveries.store.positions import Entry, Wanted
from deliveries.store.store import Store

PAGE = 500
"""Events that are read at once."""


class Start(Struct, frozen=True, kw_only=True):
    """Where to begin; without anything, at the first event there is."""

    after: int | None = None
    """Above this position."""
    since: datetime | None = None
    """With what was recorded then or later."""
    last: int | None = None
    """With so many of the newest that are wanted."""


def entries(
    store: Store, wakeup: Wakeup, wanted: Wanted, start: Start, name: str | None, follow: bool, poll: float
) -> Iterator[Entry]:
    """The events that are wanted, in the order of the log.

    `name`: of the position that moves on once a page has been taken; the next one begins there.
    """
    bell = Bell()
    wakeup.subscribe(bell.ring)
    try:
        after = _begin(store, wanted, start, name)
        while True:
            rung = bell.rung  # before the look, so that no ring in between is lost
            with store.reading() as connection:
                rows = positions.page(store, connection, after, PAGE)
            yield from (positions.entry_of(row) for row in rows if wanted.fits(row))
            if rows:
                after = _moved(store, name, after, rows[-1].position)
            elif follow:
                bell.wait(rung, poll)
            else:
                return
    finally:
        wakeup.unsubscribe(bell.ring)


def _begin(store: Store, wanted: Wanted, start: Start, name: str | None) -> int:
    with store.reading() as connection:
        there = None if name is None else positions.position_of(connection, name)
        if there is not None:
            return there
        if start.after is not None:
            after = start.after
        elif start.since is not None:
            after = positions.before(connection, start.since)
        elif start.last is not None:
            after = positions.before_the_last(store, connection, start.last, wanted)
        else:
            after = 0
    if name is not None:
        with store.transaction() as connection:
            positions.place(connection, name, after)
    return after


def _moved(store: Store, name: str | None, after: int, to: int) -> int:
    """Where to go on: at `to`, or where another reader of that name has been meanwhile."""
    if name is None:
        return to
    with store.transaction() as connection:
        if positions.move(connection, name, after, to) is not None:
            return to
        return positions.position_of(connection, name) or 0
