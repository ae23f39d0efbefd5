"""The processor: claim, call, record, in batches, with IO only at the ends.

Theory of operation
-------------------
One thread, the pump, does all the database work and takes every decision. Each turn of the pump is
one transaction: it writes the outcomes that are ready, claims due deliveries for the slots that are
free, and writes their `Attempted`. Only after the commit are those handed to the executor, whose
threads and event loop run user code and give calls back through a queue. Leases are renewed by the
heartbeat's thread. So a slow, blocked or hostile adapter stalls nothing but its own slot.

What keeps it safe is not here but in the store: an outcome is appended only to the stream it was
decided from. What is here keeps it live: deadlines for calls that never return, a sweep for attempts
that nobody reports, and doubt after every connection error, when streams are re-read before anything
is decided (`Ledger`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from deliveries.core import commands as c
from deliveries.core.events import Attempted
from deliveries.core.stream import Change, advance
from deliveries.processor.call import Call
from deliveries.processor.deadlines import Deadlines
from deliveries.processor.executor import Executor
from deliveries.processor.heartbeat import Heartbeat, Presence
from deliveries.processor.ledger import Ledger, Summary
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import PAGE, put_aside, sweep
from deliveries.processor.wakeup import Listener, Wakeup
from deliveries.registration import Registration
from deliveries.store.rows import Claimed, Write
from deliveries.store.store import Store

_log = logging.getLogger("deliveries")


class Processor:
    """Performs deliveries of the registered channels. One use: `run` once, or `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        registrations: Mapping[str, Registration],
        wakeup: Wakeup,
        settings: Settings,
    ) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.summary = Summary()
        self._store, self._wakeup, self._settings = store, wakeup, settings
        self._registrations = dict(registrations)
        self._channels: dict[str, list[str]] = {name: [] for name in settings.queues}
        for registration in registrations.values():
            if registration.queue in self._channels:
                self._channels[registration.queue].append(registration.channel)
        self._lookups = [r.channel for r in registrations.values() if r.lookup and r.queue in self._channels]
        self._calls: dict[int, Call] = {}
        self._used: Counter[str] = Counter()
        self._back: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._awake = threading.Event()
        self._hinted = True
        self._loaded = False
        self._doubt = False
        self._failures = 0
        self._stop_at: float | None = None
        self._next_poll = self._next_sweep = self._next_beat = 0.0
        self._now_base: tuple[datetime, float] | None = None
        self._cutoff: datetime | None = None
        self._ledger = Ledger(store, self.now, self.summary)
        self._executor = Executor(self._returned)
        self._deadlines = Deadlines()
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Run in a thread of its own until `stop`."""
        self._thread = threading.Thread(target=self._run_in_thread, name="deliveries-processor", daemon=True)
        self._thread.start()

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more, wait `grace` seconds for running calls, record them, end.

        Attempts whose adapter was not entered are given back. Called a second time with 0, it stops
        at once; the sweep of another processor does the rest when the leases end.
        """
        seconds = self._settings.grace if grace is None else grace
        until = time.monotonic() + seconds
        self._stop_at = until if self._stop_at is None else min(self._stop_at, until)
        self._awake.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """True while the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def run(self, *, until_idle: bool = False) -> Summary:
        """Perform deliveries in this thread: for ever, or until all that was due at the start is done."""
        with self._serving(present=not until_idle):
            if until_idle:
                self._cutoff = self._synchronise()
            self._pump(until_idle)
        return self.summary

    def perform(self, id: UUID) -> bool:
        """Attempt one delivery now, if it is due and free; True where it was attempted."""
        with self._serving(present=False):
            started = self._start_one(id)
            if started is not None:
                self._launch([started])
                self._settings = self._settings.without_claims()
                self._pump(until_idle=True)
        return started is not None

    def now(self) -> datetime:
        """The deciding clock's present: the database's at the last claim, and what elapsed since."""
        deciding = self._store.deciding_now
        if deciding is not None:
            return deciding
        base, at = self._now_base or (self._store.clock.now(), time.monotonic())
        return base + timedelta(seconds=time.monotonic() - at)

    def _synchronise(self) -> datetime:
        """Ask the deciding clock for the present."""
        with self._store.reading() as connection:
            self._now_base = (self._store.now(connection), time.monotonic())
        return self._now_base[0]

    @contextlib.contextmanager
    def _serving(self, *, present: bool) -> Iterator[None]:
        """What runs beside the pump: heartbeat, listener, hints, and this worker's row."""
        heartbeat = Heartbeat(self._store, self.worker, self._settings.lease, self._calls.values)
        presence = Presence(self._store, self.worker, self._settings.lease, list(self._channels))
        self._presence = presence if present else None
        listener = None
        if present and self._store.engine.dialect.name == "postgresql" and self._settings.listen:
            listener = Listener(self._store.engine, self._hint, self._settings.listen_url)
            listener.start()
        self._wakeup.subscribe(self._hint)
        heartbeat.start()
        try:
            yield
        finally:
            self._wakeup.unsubscribe(self._hint)
            heartbeat.stop()
            self._executor.close()
            if listener is not None:
                listener.stop()
            if present:
                with contextlib.suppress(DBAPIError):
                    presence.leave()

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self.error = error
            _log.exception("the processor ended")

    # -- the pump ------------------------------------------------------------------------------

    def _pump(self, until_idle: bool) -> None:
        while True:
            self._take_back()
            try:
                busy = self._turn()
                self._failures = 0
            except Exception as error:
                self._trouble(error, until_idle)
                busy = False
            if self._stop_at is not None and self._stopped(self._stop_at):
                return
            idle = not self._calls and not self._ledger
            if until_idle and idle and not busy and not self._failures:
                return
            if not busy:
                self._wait()

    def _turn(self) -> bool:
        """One transaction's worth of work; True where there is more to do at once."""
        monotonic = time.monotonic()
        if self._doubt:
            self._resolve_doubt()
        if self._ledger.alone:
            self._recorded(self._ledger.settle())
        swept = False
        if monotonic >= self._next_sweep and self._stop_at is None and self._settings.claims:
            swept = self._sweep()
        if self._presence is not None and monotonic >= self._next_beat:
            self._presence.announce()
            self._next_beat = monotonic + self._settings.lease / 3
        free = self._free() if self._wants_claim(monotonic) else {}
        if not free and not self._ledger.finished:
            return swept
        if not self._ledger.finished and not self._worth_claiming(list(free)):
            self._loaded = False
            return swept
        started, full = self._exchange(free)
        self._loaded = full
        self._launch(started)
        return swept or (full and bool(self._free()))

    def _exchange(self, free: dict[str, int]) -> tuple[list[Call], bool]:
        """Record what is ready and claim what is due, in one transaction.

        Returns the calls to launch, and whether some queue gave all it was asked for.
        """
        batch = self._ledger.batch()
        starts: list[tuple[Claimed, Change]] = []
        full = False
        try:
            with self._store.transaction() as connection:
                for name, slots in free.items():
                    claimed = self._store.backend.claim(
                        connection,
                        name,
                        self._channels[name],
                        slots,
                        self._store.deciding_now,
                        self._cutoff,
                    )
                    full = full or len(claimed) == slots
                    starts += self._decide_starts(connection, claimed)
                writes = [write for _, write in batch] + [self._lease(change) for _, change in starts]
                deciding = self._store.deciding_now
                ids = self._store.backend.append(connection, writes, deciding) if writes else set()
        except IntegrityError:
            self._isolate([claimed.id for claimed, _ in starts])
            return [], True
        self._recorded(self._ledger.written(batch, set(ids)))
        return [self._call(one, change) for one, change in starts if self._counted(change, ids)], full

    def _decide_starts(self, connection: Connection, claimed: list[Claimed]) -> list[tuple[Claimed, Change]]:
        starts = []
        for one in claimed:
            self._now_base = (one.now, time.monotonic())
            change = None if one.problem else self._decide_start(one)
            if change is None:
                _log.error("delivery %s is put aside: %s", one.id, one.problem or "it cannot start")
                put_aside(self._store, connection, [one.id])
            else:
                starts.append((one, change))
        return starts

    def _decide_start(self, one: Claimed) -> Change | None:
        rules = self._registrations[one.delivery.channel].rules(one.delivery)
        return advance(one.stream, c.Start(now=one.now, worker=self.worker, rules=rules))

    def _lease(self, change: Change) -> Write:
        seconds = self._settings.lease if isinstance(change.event, Attempted) else None
        return self._store.write_of(change, lease_owner=self.worker, lease_seconds=seconds)

    def _call(self, one: Claimed, change: Change, lookups: int = 0) -> Call:
        return Call(
            stream=change.stream,
            registration=self._registrations[change.after.channel],
            started_at=change.recorded.recorded_at,
            lease_until=time.monotonic() + self._settings.lease - self._settings.lease_margin,
        )

    def _counted(self, change: Change, ids: set[UUID]) -> bool:
        if change.after.id not in ids:
            return False
        self.summary.count(change)
        return isinstance(change.event, Attempted)

    def _start_one(self, id: UUID) -> Call | None:
        with self._store.transaction() as connection:
            one = self._store.claimed(connection, id)
            if one is None or one.problem or one.delivery.status != "pending":
                return None
            if one.delivery.due_at is not None and one.delivery.due_at > one.now:
                return None
            change = self._decide_start(one)
            assert change is not None, "a pending delivery can start or expires"
            ids = self._store.backend.append(connection, [self._lease(change)], self._store.deciding_now)
        return self._call(one, change) if self._counted(change, ids) else None

    # -- calls ---------------------------------------------------------------------------------

    def _launch(self, calls: list[Call]) -> None:
        if not calls:
            return
        for call in calls:
            self._calls[id(call)] = call
            self._used[call.registration.queue] += 1
            self._deadlines.add(call)
        self._executor.submit(calls)

    def _returned(self, call: Call) -> None:
        """From an executor's thread: the call is over."""
        self._back.put(call)
        self._awake.set()

    def _take_back(self) -> None:
        """Free the slots of calls that are over, and take the outcomes of those that are due."""
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._back.get_nowait()
                call.returned = True
                self._used[call.registration.queue] -= 1
                self._calls.pop(id(call), None)
                if not call.reported:
                    self._ledger.add(call)
                elif call.entered and not call.is_lookup:
                    self._late(call)
        for call in self._deadlines.passed():
            call.time_out()
            self._ledger.add(call)

    def _late(self, call: Call) -> None:
        """A call that had timed out came back: its word is evidence."""
        try:
            with self._store.transaction() as connection:
                self._ledger.evidence(connection, call)
        except DBAPIError:
            _log.warning("a late report of delivery %s was not kept", call.delivery.id, exc_info=True)

    def _sweep(self) -> bool:
        """Close what nobody reported, and ask lookups that are due; True where a page was full."""
        changes = sweep(self._store)
        self._recorded(changes)
        for change in changes:
            self.summary.count(change)
        if self._lookups:
            self._ask_lookups()
        if len(changes) < PAGE:
            self._next_sweep = time.monotonic() + self._settings.sweep_every
        return len(changes) >= PAGE

    def _ask_lookups(self) -> None:
        room = sum(self._free().values())
        if room <= 0:
            return
        lease = max(r.timeout_seconds for r in self._registrations.values()) + self._settings.lease
        with self._store.transaction() as connection:
            due = self._store.backend.claim_lookups(
                connection, self._lookups, room, lease, self._store.deciding_now
            )
            histories = self._store.streams(connection, [one for one in due if not one.problem])
        self._launch(
            [
                Call(
                    stream=stream,
                    registration=self._registrations[one.delivery.channel],
                    started_at=one.now,
                    lease_until=time.monotonic() + lease,
                    lookups=one.lookups,
                )
                for one, stream in histories
            ]
        )

    def _recorded(self, changes: list[Change]) -> None:
        """Come back in time for retries that are due before the next poll."""
        now = self.now()
        for change in changes:
            if change.after.due_at is not None:
                wait = max(0.0, (change.after.due_at - now).total_seconds())
                self._next_poll = min(self._next_poll, time.monotonic() + wait)

    # -- waiting and slots ---------------------------------------------------------------------

    def _free(self) -> dict[str, int]:
        limits = self._settings.queues
        return {
            name: limits[name] - self._used[name]
            for name, channels in self._channels.items()
            if channels and limits[name] > self._used[name]
        }

    def _wants_claim(self, monotonic: float) -> bool:
        if self._stop_at is not None or not self._settings.claims:
            return False
        if self._hinted or self._loaded or monotonic >= self._next_poll or self._cutoff is not None:
            self._hinted = False
            self._next_poll = monotonic + self._settings.poll
            return True
        return False

    def _worth_claiming(self, queues: list[str]) -> bool:
        """On SQLite a claim takes the write lock of the whole file: look first."""
        if not queues or self._store.engine.dialect.name != "sqlite" or self._loaded:
            return bool(queues)
        with self._store.reading() as connection:
            return self._store.anything_due(connection, queues)

    def _hint(self) -> None:
        self._hinted = True
        self._awake.set()

    def _wait(self) -> None:
        """Sleep until a call is over, a hint comes, or a clock says so. Linger under load.

        With a backlog, outcomes that come in the next moments share the transaction of the first;
        without one the first is written at once.
        """
        monotonic = time.monotonic()
        wake = self._deadlines.next()
        if self._settings.claims and self._stop_at is None:
            wake = min(wake, self._next_poll, self._next_sweep)
        if self._ledger.alone or self._failures:
            wake = min(wake, monotonic + self._settings.retry_after(self._failures))
        if self._stop_at is not None:
            wake = min(wake, max(self._stop_at, monotonic + 0.01))
        self._awake.wait(max(0.0, min(wake - monotonic, 60.0)))
        if self._loaded:
            until = time.monotonic() + self._settings.linger
            while len(self._calls) > self._back.qsize() and time.monotonic() < until:
                time.sleep(self._settings.linger / 8)
        self._awake.clear()

    # -- trouble -------------------------------------------------------------------------------

    def _trouble(self, error: Exception, until_idle: bool) -> None:
        """Any error of a turn: nobody knows what was committed, so doubt everything and try later."""
        self._failures += 1
        self._doubt = True
        self._hinted = True
        self._ledger.doubt()
        if until_idle and self._failures > self._settings.patience:
            raise error
        _log.warning("the processor's transaction failed (%s); trying again", error, exc_info=error)

    def _resolve_doubt(self) -> None:
        """Give back attempts that a lost commit answer started in our name, and nobody runs."""
        known = {call.delivery.id for call in self._calls.values()}
        known |= {call.delivery.id for call in self._ledger.alone}
        with self._store.transaction() as connection:
            orphans = [id for id in self._store.owned(connection, self.worker) if id not in known]
            for id in orphans:
                self._store.command(connection, id, lambda now: c.GiveBack(now=now))
        self._doubt = False

    def _isolate(self, ids: list[UUID]) -> None:
        """A guard refused a batch: outcomes go one by one, and so do these starts, once."""
        self._ledger.doubt()
        for id in ids:
            try:
                call = self._start_one(id)
            except IntegrityError:
                _log.exception("delivery %s refuses its attempt; put aside", id)
                with self._store.transaction() as connection:
                    put_aside(self._store, connection, [id])
            else:
                if call is not None:
                    self._launch([call])

    def _stopped(self, stop_at: float) -> bool:
        """Stopping: give back what was not entered; at the end of the grace, abandon the rest."""
        for call in list(self._calls.values()):
            if not call.reported and not call.returned and self._executor.withdraw(call):
                self._ledger.add(call)
        if not self._calls and not self._ledger:
            return True
        if time.monotonic() < stop_at:
            return False
        self._executor.abandon()
        deadline = time.monotonic() + 0.5
        while any(call.is_async for call in self._calls.values()) and time.monotonic() < deadline:
            time.sleep(0.005)
            self._take_back()
        with contextlib.suppress(Exception):
            self._exchange({})
            self._ledger.settle()
        return True
