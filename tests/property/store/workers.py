"""Processors worked by hand, a store that loses answers, and a clock that is told.

The processor's own code claims, records, settles and sweeps; only its executor is replaced, by one
that runs nothing: the machine says what each call came to, and when.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from deliveries import Backoff, Deliveries
from deliveries.core import outcomes as o
from deliveries.processor.call import Call
from deliveries.processor.processor import Processor
from deliveries.processor.settings import Settings
from deliveries.processor.wakeup import Wakeup
from deliveries.store.rows import Backend
from deliveries.store.store import Store
from property.store.model import AFTER, CHANNELS, SNOOZE, STEP

LEASE = 10.0
TIMEOUT = 60.0
SLOTS = {"fast": 2, "slow": 1}
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
    "not done": lambda: o.NotDone(),
}


class Clock:
    """It decides on both databases, and moves when it is told to."""

    authoritative = True

    def __init__(self) -> None:
        self.instant = NOON

    def now(self) -> datetime:
        return self.instant

    def pass_by(self, seconds: float) -> None:
        self.instant += timedelta(seconds=seconds)


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


class Hands:
    """In the executor's place: it runs nothing, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Call] = []

    def submit(self, calls: Sequence[Call]) -> None:
        self.given += calls

    def take(self) -> list[Call]:
        given, self.given = self.given, []
        return given


class Worker(Processor):
    """A processor whose pump is turned by hand."""

    def __init__(self, store: Store, world: World) -> None:
        super().__init__(store, world.app.channels, world.wakeup, Settings(queues=SLOTS, lease=LEASE))
        self.hands = self._executor = Hands()  # type: ignore[assignment]
        self._next_sweep = math.inf  # the sweep is an act of its own here

    @property
    def in_doubt(self) -> bool:
        return self._doubt

    @property
    def ledger(self) -> Any:
        return self._ledger

    def known(self) -> set[Any]:
        """The deliveries that it has a call of."""
        calls = [*self._calls.values(), *self._ledger.alone, *self._ledger.finished]
        return {call.delivery.id for call in calls}

    def free(self) -> dict[str, int]:
        return self._free()

    def turn(self) -> None:
        self._hint()
        self._or_trouble(self._turn)

    def ask(self) -> None:
        self._or_trouble(self._ask_lookups)

    def attempt(self, id: Any) -> None:
        call = self._start_one(id)
        if call is not None:
            self._launch([call])

    def comes_back(self, call: Call) -> None:
        self._returned(call)
        self._take_back()

    def _or_trouble(self, act: Any) -> None:
        try:
            act()
            self._failures = 0
        except Lost as error:
            self._trouble(error, until_idle=False)


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
    wakeup: Wakeup
    backend: Backend | None = None

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
        return cls(engine, clock, app, Wakeup(engine), backend)

    def store(self) -> UnreliableStore:
        return UnreliableStore(self.engine, self.clock, self.backend)


def _never(delivery: Any, attempt: Any) -> None:
    raise AssertionError("the machine runs no adapter")
