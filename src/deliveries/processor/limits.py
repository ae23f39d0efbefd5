"""What a worker may claim of each queue, by what operators want of it.

The rows of queues are read at every poll and whenever a hint says that one has changed. A queue that
has no row is claimed from by the plain claim and nothing else, so limits that nobody set cost nothing.
Of a queue that has one, the claim's transaction reads the row again: a pause holds for every claim
that begins after its commit. Where it is limited the row is locked first, so that what is counted
stays true until the claim has committed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from deliveries.core.delivery import Status
from deliveries.core.stream import Change
from deliveries.core.window import Window
from deliveries.processor import ticks
from deliveries.processor.settings import Settings
from deliveries.processor.turns import Turns
from deliveries.processor.walk import Walk
from deliveries.store import queues
from deliveries.store.queues import Wanted
from deliveries.store.rows import Claimed
from deliveries.store.store import Store

PAGE = 200
"""Deliveries that are looked at in one claim where each recipient has a rate."""

LOOK_SECONDS = 0.1
"""Between two looks at what is wanted of queues, at least, unless a hint says that it changed."""

TAKEN_SECONDS = 0.02
"""When to look again at a queue whose row somebody else holds."""

MAX_MOMENTS = 1_000
"""So many moments are remembered at most at which there is room again."""

FORGET_SECONDS = 60.0
"""Between two removals of windows that say nothing any more."""

_WHOLE = ""
"""The share that is the whole queue."""


class Limits:
    """What one worker knows of queues, and how it claims from them."""

    def __init__(self, store: Store, channels: Sequence[str], settings: Settings) -> None:
        self._store, self._channels, self._settings = store, list(channels), settings
        self._walks: defaultdict[str, Walk] = defaultdict(Walk)
        self._wanted: dict[str, Wanted] = {}
        self._forgotten_at: dict[str, float] = {}
        self.next_look = 0.0
        """When to read the rows again at the latest."""
        self._moments: set[float] = set()
        self.is_barred = False
        """Whether the last claim found the row of some queue taken."""

    # -- knowing -------------------------------------------------------------------------------

    def look(self) -> None:
        """Read what is wanted of all queues."""
        self.next_look = ticks.monotonic() + max(self._settings.poll, LOOK_SECONDS)
        with self._store.reading() as connection:
            self._wanted = queues.read(connection)

    def slots(self, queue: str, own: int) -> int:
        """Calls at a time; `own`: where nobody said otherwise. None of a queue that is paused."""
        wanted = self._wanted.get(queue)
        if wanted is None:
            return own
        return 0 if wanted.paused_at else wanted.concurrency or own

    def frees(self, changes: Iterable[Change]) -> bool:
        """Whether these leave room in a queue whose attempts are counted, for us and for others."""
        return any(
            change.after.status is not Status.ATTEMPTING
            and (wanted := self._wanted.get(change.after.queue)) is not None
            and wanted.total is not None
            for change in changes
        )

    @property
    def wake_at(self) -> float:
        """The next moment at which something may start that had to wait."""
        return min(self._moments, default=math.inf)

    def has_room(self, monotonic: float) -> bool:
        """Whether such a moment has come; it is told once."""
        passed = {at for at in self._moments if at <= monotonic}
        self._moments -= passed
        return bool(passed)

    # -- claiming ------------------------------------------------------------------------------

    def claim(
        self, connection: Connection, queue: str, slots: int, cutoff: datetime | None
    ) -> tuple[list[Claimed], bool]:
        """Lock up to `slots` due deliveries that may start now; and whether there may be more."""
        known = self._wanted.get(queue)
        if known is not None:
            wanted = self._read(connection, known)
            if wanted is None or wanted.paused_at is not None:
                return [], False
            if wanted.is_limited:
                return self._limited(connection, wanted, slots, cutoff)
        claimed = self._plain(connection, queue, slots, cutoff)
        return claimed, len(claimed) == slots

    def admits(self, connection: Connection, one: Claimed) -> bool:
        """Whether `one`, which we hold and start alone, may start now."""
        known = None if one.problem else self._wanted.get(one.delivery.queue)
        if known is None:
            return True
        wanted = self._read(connection, known)
        if wanted is None or wanted.paused_at is not None or self._room(connection, wanted, 1) < 1:
            return False
        return bool(self._within_rate(connection, wanted, [one], 1))

    def _read(self, connection: Connection, known: Wanted) -> Wanted | None:
        """The row as it is now, locked if it limits; None where somebody else holds it."""
        if not known.is_limited:
            now = queues.read(connection, known.queue).get(known.queue)
            if now is None or not now.is_limited:
                return now or Wanted(queue=known.queue)
        locked = queues.lock(connection, known.queue)
        if locked is None and not queues.read(connection, known.queue):
            return Wanted(queue=known.queue)
        if locked is None:
            self.is_barred = True
            self._wake_in(TAKEN_SECONDS)
        return locked

    def _plain(
        self, connection: Connection, queue: str, slots: int, cutoff: datetime | None
    ) -> list[Claimed]:
        walk, claim = self._walks[queue], self._store.backend.claim
        now, floors, began = self._store.deciding_now, walk.floors(), ticks.monotonic()
        found = claim(connection, queue, self._channels, slots, now, cutoff, floors)
        full = len(found) == slots
        walk.walked(found, full, ticks.monotonic() - began, from_the_beginning=floors is None)
        if floors is not None and cutoff is not None and not full:  # who drains sees them all, these too
            found = claim(connection, queue, self._channels, slots, now, cutoff)
        return found

    def _limited(
        self, connection: Connection, wanted: Wanted, slots: int, cutoff: datetime | None
    ) -> tuple[list[Claimed], bool]:
        room = self._room(connection, wanted, slots)
        if room < 1:
            return [], False
        asked = max(room, PAGE) if wanted.rate_by == "recipient" else room
        if wanted.by_tenant:
            turns = Turns(self._store, connection, wanted, self._channels, cutoff)
            found, more = turns.take(asked, lambda names, most: self._rooms(connection, wanted, names, most))
            starting = self._within_rate(connection, wanted, found, room)
            turns.keep(starting[-1].id if len(starting) == room else None)
        else:
            found = self._plain(connection, wanted.queue, asked, cutoff)
            more = len(found) == asked
            starting = self._within_rate(connection, wanted, found, room)
        # where the limit was the bound, no room is left now; what was put off hides nobody any more
        return starting, more and (room == slots or len(starting) < room)

    def _room(self, connection: Connection, wanted: Wanted, slots: int) -> int:
        """How many of `slots` the limits of the whole queue leave."""
        if wanted.total is not None:
            slots = min(
                slots,
                wanted.total
                - queues.open_attempts(connection, wanted.queue, wanted.total, self._store.now(connection)),
            )
        if slots > 0 and wanted.rate is not None and wanted.rate_by is None:
            now = self._store.now(connection)
            window = queues.windows(connection, wanted.queue, [_WHOLE])[_WHOLE]
            slots = min(slots, self._room_in(wanted, window, now))
        return slots

    def _room_in(self, wanted: Wanted, window: Window, now: datetime) -> int:
        """Room in a window; where there is none, we wake up when there is."""
        rate = wanted.rate
        assert rate is not None
        room = rate.room(window, now)
        if not room:
            self._wake_in((rate.opens(window, now) - now).total_seconds())
        return room

    def _rooms(
        self, connection: Connection, wanted: Wanted, tenants: Sequence[str], most: int
    ) -> dict[str, int]:
        """Tenant -> how many it may start, at most `most`; tenants that may start none left out."""
        if wanted.rate is None or wanted.rate_by != "tenant":
            return dict.fromkeys(tenants, most)
        now = self._store.now(connection)
        kept = queues.windows(connection, wanted.queue, tenants)
        rooms = {name: min(most, self._room_in(wanted, kept[name], now)) for name in tenants}
        return {name: room for name, room in rooms.items() if room}

    # -- rates ---------------------------------------------------------------------------------

    def _within_rate(
        self, connection: Connection, wanted: Wanted, found: Sequence[Claimed], room: int
    ) -> list[Claimed]:
        """Those that start now, counted; those above their recipient's rate are put off."""
        rate = wanted.rate
        if rate is None or not found:
            return list(found[:room])
        now = found[-1].now
        of = {one.id: _share(wanted, one) for one in found}
        names = sorted({name for name in of.values() if name is not None})
        before = queues.windows(connection, wanted.queue, names)
        left = {name: rate.room(before[name], now) for name in names}
        begun, ahead, after = Counter[str](), Counter[str](), dict(before)
        starting: list[Claimed] = []
        moments: dict[UUID, datetime] = {}
        for one in found:
            name = of[one.id]
            if name is not None and left[name] <= begun[name]:
                if not ahead[name]:  # all that it may start has been counted
                    after[name] = rate.take(before[name], begun[name], now)
                after[name], at = rate.wait(after[name], now, ahead[name])
                ahead[name] += 1
                moments[one.id] = _before_its_end(one, at)
            elif len(starting) < room:
                starting.append(one)
                begun.update([name] if name is not None else [])
        for name, count in begun.items():
            if not ahead[name]:
                after[name] = rate.take(before[name], count, now)
        queues.put_off(connection, moments)
        changed = {name: window for name, window in after.items() if window != before[name]}
        queues.keep(connection, wanted.queue, rate, changed)
        self._tidy(connection, wanted.queue, now)
        for at in {*moments.values(), *(rate.opens(window, now) for window in after.values())} - {now}:
            self._wake_in((at - now).total_seconds())
        return starting

    def _tidy(self, connection: Connection, queue: str, now: datetime) -> None:
        at = ticks.monotonic()
        if at >= self._forgotten_at.get(queue, 0.0) + FORGET_SECONDS:
            self._forgotten_at[queue] = at
            queues.forget(connection, queue, now)

    def _wake_in(self, seconds: float) -> None:
        """Remember a moment, to the millisecond; beyond so many the poll is good enough."""
        if len(self._moments) < MAX_MOMENTS:
            self._moments.add(math.ceil((ticks.monotonic() + seconds) * 1_000) / 1_000)


def _share(wanted: Wanted, one: Claimed) -> str | None:
    """Which window counts it; None: no rate is meant for it, nor for one that cannot be read."""
    if wanted.rate_by is None or one.problem is not None:
        return _WHOLE if wanted.rate_by is None else None
    if wanted.rate_by == "tenant":
        return one.delivery.tenant
    recipient = one.delivery.recipient
    if recipient is None:
        return None
    # keyed by a secret of the queue's row, which goes with it: nobody can try addresses afterwards
    return hashlib.blake2b(recipient.encode(), key=wanted.salt, digest_size=16).hexdigest()


def _before_its_end(one: Claimed, at: datetime) -> datetime:
    """Not behind its deadline, at which a sweep must see it."""
    ends = one.delivery.expires_at
    return at if ends is None else max(min(at, ends), one.now + timedelta(microseconds=1))
