"""Taking deliveries: which are ours, under which lease, and what their attempt is bound to.

A claim locks rows and decides `Attempted` for each; it becomes true with the commit of the caller's
transaction. What cannot be read or cannot start is put aside and stops nobody else.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from deliveries.core import commands as c
from deliveries.core.delivery import Status
from deliveries.core.events import Attempted
from deliveries.core.stream import Change, advance
from deliveries.errors import ConcurrentChange, CorruptHistory
from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.processor.limits import Limits
from deliveries.processor.now import Now
from deliveries.processor.policing import Policing
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import put_aside
from deliveries.registration import Registration
from deliveries.store.failures import cause
from deliveries.store.rows import Claimed, Write
from deliveries.store.store import Store

_log = logging.getLogger("deliveries")


class Claims:
    """What one worker takes from the store, for the slots that it has."""

    def __init__(
        self,
        store: Store,
        registrations: Mapping[str, Registration],
        worker: str,
        settings: Settings,
        now: Now,
    ) -> None:
        self._store, self._registrations, self._worker = store, registrations, worker
        self._settings, self._now = settings, now
        self._asked_at = 0.0
        """Before the statement that grants leases: the database's end no earlier than we believe."""
        self._used: Counter[str] = Counter()
        self.policing: Policing | None = None
        """Who asks policies before an attempt; None where there are none."""
        # A delivery works in the queue it was scheduled for, wherever its channel works by now.
        self.limits = Limits(store, list(registrations), settings)
        self._asking = [
            one.channel for one in registrations.values() if one.lookup and one.queue in settings.queues
        ]

    # -- slots ---------------------------------------------------------------------------------

    def occupy(self, calls: Iterable[Call]) -> None:
        """These calls run: each takes a slot of its queue."""
        self._used.update(call.delivery.queue for call in calls)

    def release(self, call: Call) -> bool:
        """This call runs no more. True where its queue had no slot free, so that something may wait."""
        name = call.delivery.queue
        self._used[name] -= 1
        return self._used[name] + 1 >= self.limits.slots(name, self._settings.queues.get(name, 0))

    def free(self) -> dict[str, int]:
        """Queue -> slots that are free; queues without any left out."""
        used = self._used if self.policing is None else self._used + self.policing.occupied
        limits = {name: self.limits.slots(name, own) for name, own in self._settings.queues.items()}
        return {name: limit - used[name] for name, limit in limits.items() if limit > used[name]}

    # -- attempts ------------------------------------------------------------------------------

    def claim(
        self, connection: Connection, free: Mapping[str, int], cutoff: datetime | None = None
    ) -> tuple[list[tuple[Claimed, Change]], bool]:
        """Lock due deliveries for the `free` slots and decide their start.

        Returns them, and whether some queue gave all it was asked for, so that there may be more.
        """
        self._asked_at = ticks.monotonic()
        starts: list[tuple[Claimed, Change]] = []
        full = self.limits.is_barred = False
        for name, slots in free.items():
            claimed, more = self.limits.claim(connection, name, slots, cutoff)
            full = full or more
            if claimed:
                self._now.told(claimed[0].now)
            for one in claimed:
                change = self._decide(connection, one)
                if change is not None:
                    starts.append((one, change))
        if self.policing is not None:
            self.policing.lease(connection, self._asked_at)
        return starts, full

    def write(self, change: Change) -> Write:
        """`change` under our lease, if it starts an attempt."""
        seconds = self._settings.lease if isinstance(change.event, Attempted) else None
        return self._store.write_of(change, lease_owner=self._worker, lease_seconds=seconds)

    def call(self, change: Change) -> Call:
        """The attempt that `change` started, once it is committed."""
        return Call(
            stream=change.stream,
            registration=self._registrations[change.after.channel],
            started_at=change.recorded.recorded_at,
            lease_until=self._asked_at + self._settings.lease,
            margin=self._settings.lease_margin,
        )

    def start(self, id: UUID) -> Change | None:
        """Start one delivery in a transaction of its own; None where it is not due, or not free."""
        self._asked_at = ticks.monotonic()
        with self._store.transaction() as connection:
            one = self._store.claimed(connection, id)
            if one is None or (one.problem is None and not _is_due(one)):
                return None
            self._now.told(one.now)
            if not self.limits.admits(connection, one):
                return None
            change = self._decide(connection, one)
            if self.policing is not None:
                self.policing.lease(connection, self._asked_at)
            if change is None:
                return None
            ids = self._store.append(connection, [self.write(change)])
        return change if id in ids else None

    def isolate(self, ids: Iterable[UUID]) -> list[Change]:
        """A guard refused a batch: start these one by one, and put aside the one that is refused."""
        started, began = [], ticks.monotonic()
        for id in ids:
            try:
                change = self.start(id)
            except (IntegrityError, DataError, OverflowError):
                with self._store.transaction() as connection:
                    put_aside(self._store, connection, [id], "the database refuses its attempt")
            else:
                started += [change] if change is not None else []
        self._asked_at = began
        return started

    def _decide(self, connection: Connection, one: Claimed) -> Change | None:
        problem = one.problem
        registration = None if problem else self._registrations.get(one.delivery.channel)
        if problem is None and registration is None:
            problem = f"no adapter is registered for channel {one.delivery.channel!r:.80}"
        elif registration is not None:
            if self.policing is not None and self.policing.takes(one):
                return None
            rules = registration.rules(one.delivery)
            try:
                change = advance(one.stream, c.Start(now=one.now, worker=self._worker, rules=rules))
            except CorruptHistory as error:
                problem = str(error)
            else:
                if change is not None:
                    return change
                problem = f"it is {one.delivery.status}"
        put_aside(self._store, connection, [one.id], f"it cannot start: {problem}")
        return None

    # -- lookups -------------------------------------------------------------------------------

    def lookups(self) -> list[Call]:
        """Held deliveries whose provider is to be asked now, for the slots that are free."""
        room = sum(self.free().values())
        asking = [name for name in self._asking if self.limits.slots(self._registrations[name].queue, 1)]
        if not asking or room <= 0:
            return []
        asked_at = ticks.monotonic()
        with self._store.transaction() as connection:
            due: list[Claimed] = []
            for channel in asking:
                if len(due) < room:
                    lease = self._lookup_lease(channel)
                    due += self._store.backend.claim_lookups(
                        connection, [channel], room - len(due), lease, self._store.deciding_now
                    )
            for one in due:
                self._now.told(one.now)
            asked = [one for one in due if one.problem is None and self._may_ask(connection, one)]
            streams = self._store.streams(connection, asked)
        return [
            Call(
                stream=stream,
                registration=self._registrations[one.delivery.channel],
                started_at=started_at,
                lease_until=asked_at + self._lookup_lease(one.delivery.channel),
                lookups=one.lookups,
            )
            for one, stream, started_at in streams
        ]

    def _lookup_lease(self, channel: str) -> float:
        """Seconds. Nobody renews it: after a crash the next question waits so long."""
        return self._registrations[channel].timeout_seconds + self._settings.lease

    def _may_ask(self, connection: Connection, one: Claimed) -> bool:
        """Whether a question is left. One whose answer never came, as from a crash, was a question too."""
        if one.lookups <= self._registrations[one.delivery.channel].max_lookups:
            return True
        self._store.backend.next_lookup(connection, one.id, None, self._store.deciding_now)
        return False

    def orphans(self, known: Sequence[UUID]) -> tuple[list[Change], bool]:
        """Give back attempts that were started in our name by a commit whose answer was lost.

        Returns what was written, and whether that is all: a row that somebody holds waits for the next
        time. What cannot be given back waits for the end of its lease, and stops nobody else.
        """
        with self._store.reading() as connection:
            ids = [id for id in self._store.owned(connection, self._worker) if id not in known]
        changes, complete = [], True
        for id in ids:
            try:
                with self._store.transaction() as connection:
                    if not self._store.backend.lock(connection, [id], skip_locked=True):
                        complete = False
                        continue
                    change = self._store.command(connection, id, lambda now: c.GiveBack(now=now))
            except (CorruptHistory, ConcurrentChange, IntegrityError) as error:
                _log.error("delivery %s cannot be given back: %s", id, cause(error))
            else:
                changes += [change] if change is not None else []
        return changes, complete


def _is_due(one: Claimed) -> bool:
    delivery = one.delivery
    return delivery.status is Status.PENDING and (delivery.due_at is None or delivery.due_at <= one.now)
