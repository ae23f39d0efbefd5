"""Processors worked by hand, a store that loses answers, and a clock that is told.

The processor's own parts claim, record, settle and sweep; no adapter runs: the machine says what each
call came to, and when.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, event

from deliveries import Backoff, Deliveries, sqlite
from deliveries.core import outcomes as o
from deliveries.core.events import Attempted
from deliveries.core.stream import Change
from deliveries.processor.call import Call
from deliveries.processor.claims import Claims
from deliveries.processor.ledger import Ledger, Summary
from deliveries.processor.now import Now
from deliveries.processor.settings import Settings
from deliveries.store.backend import Backend
from deliveries.store.store import Store
from deliveries.testing.clock import VirtualClock
from property.store.model import AFTER, CHANNELS, SNOOZE, STEP

LEASE = 10.0
TIMEOUT = 60.0
SLOTS = {"fast": 50, "slow": 1}
"""In the fast queue retries are due at the same instant; which of them a limit would leave out is no
store's promise. In the slow queue no two are."""
_NUMBERS = itertools.count()
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)

OUTCOMES: dict[str, Any] = {
    "delivered": lambda: o.Delivered({"id": 7}),
    "retry": lambda: o.Retry("503"),
    "retry after": lambda: o.Retry("429", after=AFTER),
    "cancel": lambda: o.Cancel("no such list"),
    "bounced": lambda: o.Bounced("no such user"),
    "discard": lambda: o.Discard("stale"),
    "snooze": lambda: o.Snooze(SNOOZE),
    "suppress": lambda: o.Suppress("opted out"),
    "unknown": lambda: o.Unknown("reset"),
    "not done": o.NotDone,
}


class Clock(VirtualClock):
    """Starts at noon."""

    def __init__(self) -> None:
        super().__init__(NOON)

    pass_by = VirtualClock.advance


class Lost(Exception):
    """The connection broke; nobody was told whether the commit happened."""


class UnreliableStore(Store):
    """A store whose transaction number `fail_at` from now on breaks, before or after its commit."""

    fail_at: int | None = None
    fail_after_commit = False

    def __init__(self, engine: Engine, clock: Clock, backend: Backend | None = None) -> None:
        super().__init__(engine, clock)
        self.backend = backend or self.backend
        self.committed: list[bool] = []
        """For each transaction since `watch`: whether it was committed."""

    def watch(self, fail_at: int | None = None, *, after_commit: bool = False) -> None:
        self.committed = []
        self.fail_at, self.fail_after_commit = fail_at, after_commit

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        number = len(self.committed)
        self.committed.append(False)
        with super().transaction() as connection:
            yield connection
            if number == self.fail_at and not self.fail_after_commit:
                raise Lost
        self.committed[number] = True
        if number == self.fail_at:
            raise Lost


class Worker:
    """A processor worked by hand: its claims and its ledger, and a pump that is turned by the machine."""

    def __init__(self, store: Store, world: World) -> None:
        self.name = f"worker-{next(_NUMBERS)}"
        self.store, self.doubt = store, False
        settings, now = Settings(queues=SLOTS, lease=LEASE), Now(store)
        self.claims = Claims(store, world.app.channels, self.name, settings, now)
        self.summary = Summary()
        self.ledger = Ledger(store, now, self.summary)
        self.calls: dict[int, Call] = {}
        """What it runs."""
        self.begun: list[Call] = []
        """What it was given by the last act."""
        self.batch: list[Call] = []
        """What it last wrote together."""

    def known(self) -> list[UUID]:
        calls = (*self.calls.values(), *self.ledger.alone, *self.ledger.finished)
        return [call.delivery.id for call in calls]

    def turn(self) -> None:
        """As the pump does it: doubts, reports left alone, then outcomes and claims in one."""
        with self._doubting():
            if self.doubt:
                _, complete = self.claims.orphans(self.known())
                self.doubt = not complete
            self.ledger.settle()
            free = self.claims.free()
            if free or self.ledger.finished:
                self._exchange(free)

    def _exchange(self, free: Mapping[str, int]) -> None:
        with self.store.transaction() as connection:
            starts, _ = self.claims.claim(connection, free)
            batch = self.ledger.batch(apart=[one.id for one, _ in starts])
            self.batch = [call for call, _ in batch]
            writes = [write for _, write in batch] + [self.claims.write(change) for _, change in starts]
            now = self.store.deciding_now
            written = self.store.backend.append(connection, writes, now) if writes else set()
        self.ledger.written(batch, written)
        self._begin([change for _, change in starts if change.after.id in written])

    def attempt(self, id: UUID) -> None:
        change = self.claims.start(id)
        if change is not None:
            self._begin([change])

    def ask(self) -> None:
        with self._doubting():
            self._run(self.claims.lookups())

    def take_back(self, call: Call) -> None:
        """The call is over."""
        call.returned = True
        self.claims.release(call)
        del self.calls[id(call)]
        if not call.reported:
            self.ledger.add(call)
        elif call.entered:
            self.ledger.late(call)

    def _begin(self, changes: Sequence[Change]) -> None:
        self._run([self.claims.call(change) for change in changes if isinstance(change.event, Attempted)])

    def _run(self, calls: list[Call]) -> None:
        self.claims.occupy(calls)
        self.begun += calls
        for call in calls:
            self.calls[id(call)] = call

    @contextlib.contextmanager
    def _doubting(self) -> Iterator[None]:
        try:
            yield
        except Lost:
            self.doubt = True
            self.ledger.doubt()


def enter(call: Call) -> None:
    """The adapter is entered, however late: a stopped process does not look at its clock."""
    if not call.entered:
        call.lease_until = math.inf
        assert call.enter()
        call.lease_until = 0.0


def says(call: Call, said: str) -> None:
    if said == "error":
        call.error = ConnectionError("reset by peer")
    elif said == "timeout":
        call.time_out()
    else:
        call.value = OUTCOMES[said]()


@dataclass
class World:
    """What all examples of a test share: a database, and an application on it."""

    engine: Engine
    clock: Clock
    app: Deliveries
    backend: Backend | None = None
    transactions: int = 0
    """How many began that may have written."""

    @classmethod
    def on(cls, engine: Engine, backend: Backend | None = None) -> World:
        clock = Clock()
        app = Deliveries(engine, clock=clock)
        for channel in CHANNELS:
            app.adapter(
                channel.name,
                queue=channel.queue,
                max_attempts=channel.max_attempts,
                max_interruptions=channel.max_interruptions,
                max_snoozes=channel.max_snoozes,
                timeout=TIMEOUT,
                backoff=Backoff.linear(STEP),
                effect="unsafe" if channel.unsafe else "keyed",
                on_unknown=("lookup" if channel.asks else "hold") if channel.unsafe else "retry",
                lookup=_never if channel.asks else None,
                max_lookups=channel.max_lookups,
            )(_never)
        world = cls(engine, clock, app, backend)
        event.listen(engine, "begin", world._began)
        return world

    def _began(self, connection: Connection) -> None:
        self.transactions += not connection.get_execution_options().get(sqlite.READ_ONLY, False)

    def store(self) -> UnreliableStore:
        return UnreliableStore(self.engine, self.clock, self.backend)


def _never(delivery: Any, attempt: Any) -> None:
    raise AssertionError("the machine runs no adapter")
