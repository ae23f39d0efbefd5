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
that nobody reports, and doubt after every error of a transaction, when streams are re-read before
anything is decided (`Ledger`).
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from deliveries.core.events import Attempted
from deliveries.core.stream import Change
from deliveries.policies.registered import Policies
from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.processor.claims import Claims
from deliveries.processor.deadlines import Deadlines
from deliveries.processor.executor import Executor
from deliveries.processor.heartbeat import Heartbeat, Presence
from deliveries.processor.ledger import Ledger, Summary
from deliveries.processor.now import Now
from deliveries.processor.policing import Policing
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import PAGE, sweep
from deliveries.processor.wakeup import Wakeup
from deliveries.processor.watchdog import Watchdog
from deliveries.registration import Registration
from deliveries.store.failures import cause
from deliveries.store.store import Store

SOON_SECONDS = 60.0
"""Retries that we recorded and that are due within this are claimed to the millisecond."""

LINGER_SECONDS = 0.001
"""With a backlog: a moment in which no call comes back is the last that those that did are kept waiting."""

LAST_SECONDS = 0.5
"""At the end of the grace: for cancelled calls to come back, and for who holds the rows of outcomes."""

MAX_SOON = 10_000
"""So many moments are remembered at most; the poll is good enough for others."""

_log = logging.getLogger("deliveries")


class Processor:
    """Performs deliveries of the registered channels. One use: `run` once, or `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        registrations: Mapping[str, Registration],
        wakeup: Wakeup,
        settings: Settings,
        policies: Policies | None = None,
        beside: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.summary = Summary()
        self.error: BaseException | None = None
        self.is_idle = False
        """Asleep, with free slots for whatever comes."""
        self._store, self._wakeup, self._settings = store, wakeup, settings
        self._beside = beside or contextlib.nullcontext()  # runs while we stay
        self._now = Now(store)
        self._claims = Claims(store, dict(registrations), self.worker, settings, self._now)
        self._ledger = Ledger(store, self._now, self.summary)
        self._executor = Executor(self._returned)
        self._deadlines = Deadlines()
        self._presence = Presence(store, self.worker, settings.lease, list(settings.queues))
        self._calls: dict[int, Call] = {}
        self._back: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._awake = threading.Event()
        asked = (policies or Policies()).by_channel(registrations, "attempt")
        self._policing = Policing(
            store, asked, dict(registrations), self.worker, settings, self._now, self._wake
        )
        self._claims.policing = self._policing if asked else None
        self._thread: threading.Thread | None = None
        self._cutoff: datetime | None = None
        self._stop_at: float | None = None
        self._hinted = True
        self._seen = -1  # changes of what is wanted of queues
        self._loaded = False  # the last claim gave all it was asked for
        self._doubt = False  # nobody knows what the last transaction did
        self._failures = 0
        self._soon: list[float] = []  # a heap of moments at which what we recorded is due again
        self._next_poll = self._next_sweep = self._next_presence = 0.0

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Run in a thread of its own until `stop`."""
        target = self._run_in_thread
        self._thread = threading.Thread(target=target, name="deliveries-processor", daemon=True)
        self._thread.start()

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more, wait `grace` seconds for running calls, record them, end.

        Attempts whose adapter was not entered are given back. Called again with 0, it stops at once;
        the sweep of another processor does the rest when the leases end.
        """
        until = ticks.monotonic() + (self._settings.grace if grace is None else grace)
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
        with self._serving():
            if until_idle:
                self._cutoff = self._now.ask()
                self._pump(until_idle=True)
            else:
                with self._present():
                    self._pump(until_idle=False)
        return self.summary

    def perform(self, id: UUID) -> bool:
        """Attempt one delivery now, if it is due and free; True where it was attempted."""
        with self._serving():
            started = False
            try:
                started = self._launch_started(self._claims.isolate([id]))
                self._policing.begin()
            except DBAPIError as error:  # it may have started: read before anything is said of it
                self._trouble(error)
            self._pump(until_idle=True)
        return started or self.summary.attempted > 0

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        """The heartbeat and the hints beside the pump."""
        watchdog = Watchdog(self._store.engine, self._settings.lease)
        heartbeat = Heartbeat(
            self._store, self.worker, self._settings.lease, self._calls.values, watchdog.watching
        )
        watchdog.start()
        heartbeat.start()
        try:
            with self._on_call(), watchdog.watching():
                yield
        finally:
            heartbeat.stop()
            watchdog.stop()
            self._executor.close()
            self._policing.close()

    def _on_call(self) -> contextlib.AbstractContextManager[None]:
        return self._wakeup.on_call(self, self._settings.queues)

    @contextlib.contextmanager
    def _present(self) -> Iterator[None]:
        """A processor that stays: it listens, and has a row in the table of workers."""
        settings = self._settings
        hearing = self._wakeup.listening(settings.listen_url) if settings.listen else contextlib.nullcontext()
        try:
            with hearing, self._beside:
                yield
        finally:
            with contextlib.suppress(SQLAlchemyError):
                self._presence.leave()

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self.error = error
            _log.error("the processor ended: %s", cause(error))

    # -- the pump ------------------------------------------------------------------------------

    def _pump(self, *, until_idle: bool) -> None:
        while True:
            busy = False
            self._take_back()
            try:
                busy = self._turn(stays=not until_idle)
                self._failures = 0
            except Exception as error:
                self._trouble(error)
                if until_idle and self._failures > self._settings.patience:
                    raise
            if self._stop_at is not None and self._stopped(self._stop_at):
                return
            barred = self._claims.limits.is_barred
            ours = self._calls or self._ledger or self._policing
            if until_idle and not (busy or ours or self._failures or barred):
                return
            if not (busy or self._ledger.finished):
                self._wait()

    def _turn(self, *, stays: bool) -> bool:
        """One transaction's worth of work, and what is due beside it; True for more at once."""
        monotonic, limits = ticks.monotonic(), self._claims.limits
        if self._doubt:
            self._resolve_doubt()
        if self._ledger.alone:
            self._recorded(self._ledger.settle())
        if self._ledger.belated:
            self._ledger.keep()
        if stays and monotonic >= self._next_presence:
            self._presence.announce()
            self._next_presence = monotonic + self._settings.lease / 3
        if self._is_claiming and (monotonic >= limits.next_look or self._seen != self._wakeup.changes):
            self._seen = self._wakeup.changes
            limits.look()
        swept = self._sweep() if self._is_claiming and monotonic >= self._next_sweep else False
        free = self._claims.free()
        # what has to be written anyway looks for more on the same trip: who is busy needs no hints
        wanted = self._wants_claim(monotonic) or (bool(self._ledger.finished) and self._is_claiming)
        if free and not (wanted and self._is_worth_claiming(free)):
            free = {}
        if free or self._ledger.finished or self._policing.is_ready:
            full = self._exchange(free)
            if free:
                self._loaded = full
                if full:  # there may be more than we can take
                    self._wakeup.pass_on(self._settings.queues)
        return swept or (self._loaded and self._is_claiming and bool(self._claims.free()))

    def _exchange(self, free: Mapping[str, int]) -> bool:
        """Record what is ready and claim what is due, in one transaction; then call.

        True where some queue gave all it was asked for.
        """
        ids: list[UUID] = []
        try:
            with self._store.transaction() as connection:
                starts, full = self._claims.claim(connection, free, self._cutoff)
                ids = [one.id for one, _ in starts]
                answers = self._policing.answers(connection)
                decided = [change for _, change in (*starts, *answers) if change is not None]
                batch = self._ledger.batch(apart=[change.after.id for change in decided])
                writes = [write for _, write in batch] + [self._claims.write(change) for change in decided]
                written = self._store.append(connection, writes)
                self._ledger.refer(connection, (write for _, write in batch), written)
        except (IntegrityError, DataError, OverflowError):  # a guard, or a value beyond its column
            self._ledger.doubt()
            self._policing.forget()
            self._launch_started(self._claims.isolate(ids))
            self._launch_answered(self._policing.alone(self._claims.write))
            return True
        freed = self._recorded(self._ledger.written(batch, written))
        self._launch_started([change for _, change in starts if change.after.id in written])
        self._launch_answered(self._policing.settled(answers, written))
        return full or freed

    def _launch_answered(self, changes: list[Change]) -> None:
        """Call what policies let through, and ask them about what was claimed."""
        self._launch_started(changes)
        self._recorded(changes)
        self._policing.begin()

    def _sweep(self) -> bool:
        """Close what nobody reported, and ask lookups that are due; True where a page was full."""
        changes = sweep(self._store)
        for change in changes:
            self.summary.count(change)
        self._recorded(changes)
        self._launch(self._claims.lookups())
        if len(changes) >= PAGE:
            return True
        self._next_sweep = ticks.monotonic() + self._settings.sweep_every
        return False

    def _recorded(self, changes: list[Change]) -> bool:
        """Come back in time for what is due again soon; True where others may start instead, anywhere."""
        for change in changes:
            if change.after.due_at is not None and len(self._soon) < MAX_SOON:
                wait = max(0.0, (change.after.due_at - self._now()).total_seconds())
                if wait < SOON_SECONDS:
                    heapq.heappush(self._soon, ticks.monotonic() + wait)
        if freed := self._claims.limits.frees(changes):
            self._wakeup.hint()
        return freed

    # -- calls ---------------------------------------------------------------------------------

    def _launch_started(self, changes: list[Change]) -> bool:
        """Call what a committed `Attempted` started; True where there was one."""
        for change in changes:
            self.summary.count(change)
        calls = [self._claims.call(change) for change in changes if isinstance(change.event, Attempted)]
        self._launch(calls)
        return bool(calls)

    def _launch(self, calls: list[Call]) -> None:
        self._claims.occupy(calls)
        self._calls |= {id(call): call for call in calls}
        self._deadlines.add(calls)
        self._executor.submit(calls)

    def _returned(self, call: Call) -> None:
        """From an executor's thread: the call is over."""
        self._back.put(call)
        if not self._awake.is_set():
            self._awake.set()

    def _take_back(self) -> None:
        """Free the slots of calls that are over; take their outcomes, and those of the overdue."""
        now = self._now() if self._back.qsize() else None
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._back.get_nowait()
                call.returned = True
                if self._claims.release(call):
                    self._hinted = True
                del self._calls[id(call)]
                if not call.reported:
                    self._ledger.add(call, now)
                elif call.entered:
                    self._ledger.late(call)
        for call in self._deadlines.passed():
            call.time_out()
            self._ledger.add(call)
        self._ledger.try_again()
        self._policing.take_back()

    # -- waiting -------------------------------------------------------------------------------

    @property
    def _is_claiming(self) -> bool:
        return self._stop_at is None and bool(self._settings.queues)

    def _wants_claim(self, monotonic: float) -> bool:
        if not self._is_claiming:
            return False
        while self._soon and self._soon[0] <= monotonic:
            heapq.heappop(self._soon)
            self._hinted = True
        if self._claims.limits.has_room(monotonic):
            self._hinted = True
        if self._hinted or self._loaded or self._cutoff is not None or monotonic >= self._next_poll:
            self._hinted = False
            self._next_poll = monotonic + self._settings.poll
            return True
        return False

    def _is_worth_claiming(self, free: Mapping[str, int]) -> bool:
        """On SQLite a claim takes the write lock of the whole file: look first."""
        if self._loaded or self._ledger.finished or self._store.engine.dialect.name != "sqlite":
            return True
        with self._store.reading() as connection:
            return self._store.anything_due(connection, list(free))

    def _wake(self) -> None:
        self._awake.set()

    def hint(self) -> None:
        """From any thread: something may be due."""
        self._hinted = True
        self._awake.set()

    def _wait(self) -> None:
        """Sleep until a call is over, a hint comes, or a clock says so. Linger under load.

        With a backlog, outcomes that come in the next moments share the transaction of the first;
        without one the first is written at once.
        """
        monotonic = ticks.monotonic()
        wake = min(self._deadlines.next(), self._policing.wake_at(), self._ledger.again_at)
        free = self._claims.free() if self._is_claiming else {}
        if self._is_claiming:
            wake = min(wake, self._next_sweep, self._claims.limits.next_look)
            if free:  # without a free slot nothing is claimed, whatever is due
                wake = min(wake, self._next_poll, self._claims.limits.wake_at, *self._soon[:1])
        if self._ledger.alone or self._ledger.belated or self._failures:
            wake = monotonic + self._settings.retry_after(self._failures)
        if self._stop_at is not None:
            wake = min(wake, max(self._stop_at, monotonic + 0.01))
        all_free = bool(free) and len(free) == len(self._settings.queues)
        self.is_idle = all_free and self._cutoff is None and not self._failures
        self._awake.wait(max(0.0, min(wake - monotonic, 60.0)))
        self.is_idle = False
        self._awake.clear()
        if self._loaded:
            self._linger()

    def _linger(self) -> None:
        """Wait while calls come back, moment by moment, but not for ever and not for those that take long."""
        until, back = ticks.monotonic() + self._settings.linger, 0
        while back < self._back.qsize() < len(self._calls) and ticks.monotonic() < until:
            back = self._back.qsize()
            ticks.sleep(LINGER_SECONDS)

    # -- trouble and the end -------------------------------------------------------------------

    def _trouble(self, error: Exception) -> None:
        """A turn failed: nobody knows what was committed, so doubt everything and try later."""
        self._failures += 1
        self._doubt = self._hinted = True
        self._ledger.doubt()
        self._policing.forget()
        _log.warning("a transaction of the processor failed; trying again: %s", cause(error))

    def _resolve_doubt(self) -> None:
        ours = (*self._calls.values(), *self._ledger.finished, *self._ledger.held_up, *self._ledger.alone)
        known = [call.delivery.id for call in ours]
        changes, complete = self._claims.orphans(known)
        for change in changes:
            self.summary.count(change)
        self._policing.release_orphans()
        self._doubt = not complete

    def _stopped(self, stop_at: float) -> bool:
        """Stopping: give back what was not entered; at the end of the grace, abandon the rest."""
        self._policing.abandon()
        for call in list(self._calls.values()):
            if not call.reported and self._executor.withdraw(call):
                self._ledger.add(call)
        if not (self._calls or self._ledger or self._doubt):
            return True
        if ticks.monotonic() < stop_at:
            return False
        self._executor.abandon()
        deadline = ticks.monotonic() + LAST_SECONDS
        while any(call.is_async for call in self._calls.values()) and ticks.monotonic() < deadline:
            ticks.sleep(0.005)
            self._take_back()
        with contextlib.suppress(Exception):  # the sweep of another processor does the rest
            if self._doubt:
                self._resolve_doubt()
            self._exchange({})
            self._ledger.doubt()  # no batch follows in which to try again
            self._ledger.settle()
            while self._ledger.alone and ticks.monotonic() < deadline:  # somebody holds their rows
                ticks.sleep(0.005)
                self._ledger.settle()
            self._ledger.keep()
        return True
