"""Tenants in turn: one delivery of each, then another one of each, however many wait behind them.

Where the last claim stopped is kept in the queue's row, so that claims for a single slot, and claims
of several processors, go on round the circle instead of beginning it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from deliveries.store import queues
from deliveries.store.queues import Wanted
from deliveries.store.rows import Claimed
from deliveries.store.store import Store

TENANTS = 200
"""Tenants that are looked at in one statement, at most."""

MAX_TENANTS = 2_000
"""Tenants that are visited by one claim; the next one goes on behind them."""


class Turns:
    """One claim of a queue whose tenants take turns; its row is locked."""

    def __init__(
        self,
        store: Store,
        connection: Connection,
        wanted: Wanted,
        channels: Sequence[str],
        cutoff: datetime | None,
    ) -> None:
        self._store, self._connection, self._wanted = store, connection, wanted
        self._channels, self._cutoff = channels, cutoff
        self._tenant_of: dict[UUID, str] = {}
        self._visited: list[str] = []

    def take(
        self, room: int, rooms: Callable[[Sequence[str], int], dict[str, int]]
    ) -> tuple[list[Claimed], bool]:
        """Lock up to `room` due deliveries, in turn; and whether there may be more.

        `rooms`: tenants, and the most of each -> tenant -> how many it may start, those with none left out.
        """
        lines: dict[str, list[UUID]] = {}
        may: dict[str, int] = {}
        asked: dict[str, int] = {}
        circled = True
        size = min(TENANTS, max(10, 2 * room))
        for page in queues.circle(self._connection, self._wanted.queue, self._wanted.turn, size):
            if len(lines) >= room or len(self._visited) >= MAX_TENANTS:
                circled = False
                break
            self._visited += page
            if here := rooms(page, room):
                may |= here
                even = -(-room // len(here))
                asked |= (given := {name: min(even, most) for name, most in here.items()})
                found = self._due(given)
                lines |= {name: ids for name, ids in found.items() if ids}
        self._lengthen(lines, asked, may, room)
        self._tenant_of = {
            ids[place]: name
            for place in range(max(map(len, lines.values()), default=0))
            for name, ids in lines.items()
            if place < len(ids)
        }
        picked = list(self._tenant_of)[:room]
        more = len(picked) == room or bool(picked and not circled)
        return queues.claimed(self._store, self._connection, picked), more

    def keep(self, last: UUID | None) -> None:
        """The next claim goes on behind the tenant of `last`; None: behind all that were visited."""
        turn = self._visited[-1] if self._visited else self._wanted.turn
        if last is not None:
            turn = self._tenant_of[last]
        if turn != self._wanted.turn:
            queues.take_turn(self._connection, self._wanted.queue, turn)

    def _lengthen(
        self, lines: dict[str, list[UUID]], asked: dict[str, int], may: dict[str, int], room: int
    ) -> None:
        """Where some have little, the others may have their share."""
        while (short := room - sum(map(len, lines.values()))) > 0:
            longer = {
                name: min(may[name], asked[name] + short)
                for name in lines
                if len(lines[name]) == asked[name] < may[name]
            }
            if not longer:
                return
            asked |= longer
            lines |= self._due(longer)

    def _due(self, rooms: dict[str, int]) -> dict[str, list[UUID]]:
        now = self._store.now(self._connection)
        return queues.due(
            self._store, self._connection, self._wanted.queue, rooms, self._channels, self._cutoff, now
        )
