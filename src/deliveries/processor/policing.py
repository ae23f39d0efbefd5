"""Asking policies before an attempt: after the lease, before `Attempted`, outside the transaction.

Theory of operation
-------------------
A claim that meets a channel with policies leases the row, which stays pending, and starts nothing.
After the commit the policies are asked where adapters run, in threads or on a loop, never in the
pump: they are user code. Their answer becomes `Attempted`, `Suppressed` or `Rescheduled` with the
next batch, under the row's lock, if the lease still is ours and the stream where it was: who
cancelled meanwhile has won.

What gives no answer does not send: a policy that raises, takes too long or says something else defers
the delivery, each time in a row for longer. If this worker dies, the lease runs out and the next one
asks again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from deliveries.core.stream import Change, Recorded, advance
from deliveries.errors import CorruptHistory
from deliveries.policies.registered import Policy
from deliveries.processor import ticks
from deliveries.processor.ask import Ask, Background
from deliveries.processor.call import Call
from deliveries.processor.deadlines import Deadlines
from deliveries.processor.executor import Executor
from deliveries.processor.now import Now
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import put_aside
from deliveries.processor.verdict import command
from deliveries.registration import Registration
from deliveries.store import asking
from deliveries.store.failures import cause
from deliveries.store.rows import Claimed, Write
from deliveries.store.store import Store

LOCKED_SECONDS = 0.1
"""An answer about a row that somebody holds is tried again so much later."""

DOORS = {"postgresql": 4, "sqlite": 1}
"""Ready-made policies that use the database at the same time: pool and file are not theirs alone."""

_REFUSED = (IntegrityError, DataError, OverflowError)

_log = logging.getLogger("deliveries")


class Policing:
    """What one worker asks, and the answers on their way into the streams."""

    def __init__(
        self,
        store: Store,
        policies: Mapping[str, tuple[Policy, ...]],
        registrations: Mapping[str, Registration],
        worker: str,
        settings: Settings,
        now: Now,
        wake: Callable[[], None],
    ) -> None:
        self._store, self._policies, self._registrations = store, policies, registrations
        self._worker, self._settings, self._now, self._wake = worker, settings, now, wake
        self.occupied: Counter[str] = Counter()
        """Queue -> slots taken by asking; the attempt that follows takes over its slot."""
        self._executor: Executor | None = None
        self._doors = threading.BoundedSemaphore(DOORS[store.engine.dialect.name])
        self._deadlines = Deadlines()
        self._back: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._wanted: list[tuple[Claimed, tuple[Policy, ...]]] = []
        self._leased: list[Ask] = []
        self._asks: set[Ask] = set()
        self._answered: list[Ask] = []
        self._retry_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._asks)

    # -- leasing, in the claim's transaction -----------------------------------------------------

    def takes(self, one: Claimed) -> bool:
        """Whether policies are asked before this delivery is attempted; `lease` follows."""
        policies = self._policies.get(one.delivery.channel)
        expires_at = one.delivery.expires_at
        if policies is None or (expires_at is not None and expires_at <= one.now):
            return False
        self._wanted.append((one, policies))
        return True

    def lease(self, connection: Connection, asked_at: float) -> None:
        """Lease what was taken, for as long as its policies may think; `begin` follows the commit."""
        wanted, self._wanted = self._wanted, []
        groups: defaultdict[float, list[tuple[Claimed, tuple[Policy, ...]]]] = defaultdict(list)
        for one, policies in wanted:
            groups[self._settings.lease + sum(policy.seconds for policy in policies)].append((one, policies))
        for seconds, group in groups.items():
            now = max(one.now for one, _ in group)
            ids = [one.id for one, _ in group]
            until = now + timedelta(seconds=seconds)
            leased = asking.lease(connection, self._worker, ids, now, until)
            self._leased += [
                Ask(
                    stream=one.stream,
                    registration=self._registrations[one.delivery.channel],
                    started_at=one.now,
                    lease_until=asked_at + seconds,
                    margin=self._settings.lease_margin,
                    policies=policies,
                )
                for one, policies in group
                if one.id in leased
            ]

    def forget(self) -> None:
        """The claim's transaction came to nothing, or nobody knows."""
        self._wanted, self._leased = [], []

    # -- asking ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The leases are committed: ask."""
        leased, self._leased = self._leased, []
        for ask in leased:
            ask.asked = Background(self._store, self._now(), self._doors)
            self.occupied[ask.delivery.queue] += 1
            self._asks.add(ask)
        self._submit(leased)

    def _submit(self, asks: Sequence[Ask]) -> None:
        if asks and self._executor is None:
            self._executor = Executor(self._returned)
        self._deadlines.add(asks)
        if self._executor is not None:
            self._executor.submit(asks)

    def _returned(self, call: Call) -> None:
        assert isinstance(call, Ask)
        self._back.put(call)
        self._wake()

    def take_back(self) -> None:
        """Collect answers, and decide without those that are overdue."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._back.get_nowait())
        for call in self._deadlines.passed():
            if isinstance(call, Ask) and not call.reported:
                call.time_out()
                call.read()
                self._answer(call)

    def _take(self, ask: Ask) -> None:
        ask.returned = True
        if ask.settled:
            self._free(ask)  # it had timed out
        elif ask.reported:
            return
        elif not ask.entered:
            self._end(ask)  # too late: the lease is over
        elif ask.goes_on():
            self._submit([ask])
        else:
            self._answer(ask)

    def _answer(self, ask: Ask) -> None:
        ask.reported = True
        self._answered.append(ask)
        self._retry_at = 0.0

    def _end(self, ask: Ask) -> None:
        ask.settled = ask.reported = True
        self._asks.discard(ask)
        if ask.returned:
            self._free(ask)

    def _free(self, ask: Ask) -> None:
        self.occupied[ask.delivery.queue] -= 1

    # -- writing the answers -------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether there are answers to write."""
        return bool(self._answered) and ticks.monotonic() >= self._retry_at

    def wake_at(self) -> float:
        """When to look again, monotonic seconds."""
        return min(self._deadlines.next(), self._retry_at if self._answered else float("inf"))

    def answers(self, connection: Connection) -> list[tuple[Ask, Change | None]]:
        """What follows from the answers, in this transaction; None: nothing, the lease was lost.

        An answer about a row that somebody has locked waits, unless its lease is over.
        """
        return self._decided(connection, self._answered) if self.is_ready else []

    def settled(self, decided: Sequence[tuple[Ask, Change | None]], written: set[UUID]) -> list[Change]:
        """The transaction is committed; returns what was written of it."""
        for ask, _ in decided:
            self._end(ask)
        if decided:
            self._answered = [ask for ask in self._answered if not ask.settled]
        if self._answered:
            self._retry_at = ticks.monotonic() + LOCKED_SECONDS
        return [change for _, change in decided if change is not None and change.after.id in written]

    def alone(self, write: Callable[[Change], Write]) -> list[Change]:
        """A guard refused a batch: write the answers one by one, and put aside the one that is refused."""
        changes: list[Change] = []
        for ask in list(self._answered):
            written: set[UUID] = set()
            try:
                with self._store.transaction() as connection:
                    decided = self._decided(connection, [ask])
                    writes = [write(change) for _, change in decided if change is not None]
                    written = self._store.append(connection, writes)
            except _REFUSED:
                decided = [(ask, None)]
                with self._store.transaction() as connection:
                    put_aside(self._store, connection, [ask.delivery.id], "the database refuses its policy")
                    asking.disown(connection, ask.delivery.id)
            changes += self.settled(decided, written)
        return changes

    def _decided(self, connection: Connection, asks: Sequence[Ask]) -> list[tuple[Ask, Change | None]]:
        ids = [ask.delivery.id for ask in asks]
        ours, busy = asking.held(connection, self._worker, ids)
        mute = [ask.delivery.id for ask in asks if ask.delivery.id in ours and ask.is_mute]
        histories = self._store.histories(connection, mute)
        decided: list[tuple[Ask, Change | None]] = []
        for ask in asks:
            id = ask.delivery.id
            if id in ours:
                decided.append((ask, self._decide(connection, ask, histories.get(id, []))))
            elif id not in busy or ticks.monotonic() >= ask.lease_until:
                decided.append((ask, None))
        return decided

    def _decide(self, connection: Connection, ask: Ask, history: Sequence[Recorded]) -> Change | None:
        try:
            return advance(ask.stream, command(ask, self._now(), self._worker, history))
        except CorruptHistory as error:
            put_aside(self._store, connection, [ask.delivery.id], str(error))
            asking.disown(connection, ask.delivery.id)
            return None

    # -- trouble and the end ---------------------------------------------------------------------------

    def release_orphans(self) -> None:
        """Give back what a commit leased whose answer was lost: nobody asks about it."""
        if self._policies:
            with self._store.transaction() as connection:
                asking.release(connection, self._worker, {ask.delivery.id for ask in self._asks})

    def abandon(self) -> None:
        """Ask no more: give the leases back. Whoever comes next asks again, and nothing was done yet."""
        if not self._asks:
            return
        for ask in list(self._asks):
            if self._executor is not None:
                self._executor.withdraw(ask)
            self._end(ask)
        self._answered.clear()
        try:
            with self._store.transaction() as connection:
                asking.release(connection, self._worker)
        except Exception as error:
            _log.warning("leases for policies wait for their end: %s", cause(error))

    def close(self) -> None:
        """End the threads that asked."""
        if self._executor is not None:
            self._executor.abandon()
            self._executor.close()
