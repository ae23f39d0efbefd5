"""One history: processors, callers, operators, a reader and fate, on a real store that fails.

The processors are the product's, pump, claims, ledger, sweep and heartbeat, line for line; what is
simulated is what lies under them (`ground`), and the world outside.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from deliveries import IdempotencyConflict
from deliveries.audit.invariants import Called, Finding, Leased
from deliveries.core import outcomes as o
from deliveries.core.stream import Recorded
from deliveries.errors import CorruptHistory
from deliveries.processor.call import Call
from deliveries.store.rows import recorded_of
from deliveries.store.schema import deliveries, events
from simulation.ground import LEASE, NOON, TIMEOUT, Ground, SimulatedProcessor
from simulation.scheduler import Process, Scheduler

CHANNELS = ("keyed", "held", "asked")
DISTURBED = 30.0
"""Seconds with trouble. Then all is calm, and everything must come to rest."""
CALM = 600.0


class Trouble(Struct, frozen=True):
    """How bad it gets, as probabilities."""

    driver: float
    """For each call of the driver: to fail, before or after."""
    death: float
    """For such a failure: that the whole process dies of it."""
    adapter: float
    """For each call of an adapter: that it does not simply work."""
    fates: int
    """Processes killed from outside, stopped for three leases, or told to end."""


def trouble(scheduler: Scheduler) -> Trouble:
    """What this seed has in store."""
    pick = scheduler.random.choice
    return Trouble(pick((0.0, 0.01, 0.03)), pick((0.1, 0.5)), pick((0.2, 0.6)), pick((0, 1, 2)))


class World:
    """The actors of one history and what they saw."""

    def __init__(self, seed: int | str, ground: Ground) -> None:
        self.ground = ground
        self.scheduler = Scheduler(seed)
        self.random = self.scheduler.random
        self.trouble = trouble(self.scheduler)
        self.calm = False
        self.ids = self.position = 0
        self.processes: dict[Process, SimulatedProcessor] = {}
        self.callers = Process("caller")
        self.calls: list[Called] = []
        self.effects: Counter[str] = Counter()
        """Idempotency key -> how often the receiver did it, honouring no key."""
        self.committed: set[UUID] = set()
        self.seen: list[Recorded] = []
        self.begun: list[tuple[str, Call]] = []
        """Who was given which call."""
        self.busy = 0
        """Actors that have something left to do."""
        self.broken: list[Finding] = []
        self.luck: Counter[str] = Counter()
        self.log: list[tuple[float, str, str]] = []

    def new_id(self) -> UUID:
        self.ids += 1
        return UUID(int=self.ground.histories << 16 | self.ids)

    def note(self, what: str) -> None:
        process = self.scheduler.process
        self.log.append((self.scheduler.now, process.name if process else "-", what))

    def act(self, actor: Callable[[], None]) -> None:
        """Begin an actor that will come to an end."""
        self.busy += 1

        def live() -> None:
            try:
                actor()
            except CorruptHistory as error:
                self.broken.append(Finding("I9", 0, f"refused by its own events: {error}"))
            self.busy -= 1

        self.scheduler.spawn(live, self.callers)

    @property
    def leases(self) -> list[Leased]:
        """What workers believed to hold of attempts that they never reported."""
        return [
            Leased(
                delivery_id=call.delivery.id,
                attempt=call.delivery.attempt,
                worker=worker,
                granted_at=call.started_at,
                until=NOON + timedelta(seconds=call.lease_until),
            )
            for worker, call in self.begun
            if not (call.reported or call.is_lookup)
        ]

    def hesitate(self) -> None:
        """Others have a turn; now and then the machine, the network or the disk takes very long."""
        slow = not self.calm and self.random.random() < self.trouble.driver
        self.luck["a pause beyond the lease"] += slow
        self.scheduler.sleep(1.5 * LEASE if slow else 0.0)

    # -- the driver's luck ---------------------------------------------------------------------

    def before(self, call: str) -> None:
        self.scheduler.alive()
        if not self.calm and self.random.random() < self.trouble.driver:
            self._strike("before", call)

    def after(self, call: str) -> None:
        if not self.calm and self.random.random() < self.trouble.driver:
            self._strike("after", call)

    def _strike(self, when: str, call: str) -> None:
        process = self.scheduler.process
        if process is None:
            return
        words = " ".join(call.split()[:3])
        if process is not self.callers and self.random.random() < self.trouble.death:
            self.luck["death at the driver"] += 1
            self.note(f"dies {when} {words}")
            self._kill(process)
            self.scheduler.alive()
        self.luck[f"failure {when} a call of the driver"] += 1
        self.note(f"fails {when} {words}")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    # -- processes -----------------------------------------------------------------------------

    def begin(self, delay: float = 0.0) -> None:
        """A new processor."""
        process = Process(f"worker {len(self.processes) + 1}")
        processor = SimulatedProcessor(self, process)
        processor.worker = process.name
        processor._claims._worker = processor._presence._worker = process.name
        self.processes[process] = processor

        def live() -> None:
            with contextlib.suppress(DBAPIError):
                processor.run()
            process.dead = True
            if not self.alive():
                self.begin()

        self.scheduler.spawn(live, process, delay)

    def alive(self) -> list[Process]:
        return [process for process in self.processes if not process.dead]

    def _kill(self, process: Process) -> None:
        self.scheduler.kill(process)
        self.begin(self.random.choice((0.0, 5.0)))

    def fate(self) -> None:
        """From outside: `kill -9`, SIGSTOP for three leases, SIGTERM."""
        for _ in range(self.trouble.fates):
            self.scheduler.sleep(self.random.uniform(0.0, 8.0))
            alive = self.alive()
            if not alive:
                continue
            process = self.random.choice(alive)
            what = self.random.choice(("kill", "stop", "stop", "term"))
            self.luck[what] += 1
            self.note(f"{what} {process.name}")
            if what == "kill":
                self._kill(process)
            elif what == "stop":
                process.stopped_until = self.scheduler.now + 3 * LEASE
            else:
                self.processes[process].stop()
                self.begin()

    # -- callers and operators -----------------------------------------------------------------

    def caller(self, number: int) -> None:
        """Owes something; after an error it asks again with the same key, as callers should."""
        random, scheduler, app = self.random, self.scheduler, self.ground.app
        scheduler.sleep(random.choice((0.0, 0.0, 5.0)))
        key = random.choice((f"key-{number}", f"key-{number}", "shared"))
        fields = {
            "delay": random.choice((None, None, None, 4.0)),
            "expires_at": random.choice((None,) * 5 + (self.ground.clock.now() + timedelta(seconds=9),)),
            "priority": random.choice((4, 5)),
        }
        channel = random.choice(CHANNELS)
        undone = random.random() < 0.1
        while True:
            try:
                with self.ground.engine.begin() as connection:
                    made = app.schedule(connection, channel, {"n": key}, key=key, **fields)
                    if undone:
                        connection.rollback()
                        return
                self.committed.add(made.id)
            except IdempotencyConflict as error:
                self.committed.add(error.delivery_id)
            except DBAPIError:
                scheduler.sleep(0.1)
                continue
            self.note(f"scheduled {made.id.int & 0xFFFF}" if "made" in locals() else "conflict")
            return

    def operator(self) -> None:
        """Cancels, suppresses, reschedules, and resolves what is held."""
        app, random = self.ground.app, self.random
        for _ in range(random.choice((0, 1, 3))):
            self.scheduler.sleep(random.uniform(0.0, 8.0))
            if not self.committed:
                continue
            id = random.choice(sorted(self.committed))
            act = random.choice((app.cancel, app.suppress, app.reschedule, self._resolve))
            arguments = {"delay": 1.0} if act == app.reschedule else {}
            with contextlib.suppress(DBAPIError), self.ground.engine.begin() as connection:
                act(connection, id, actor="ann", **arguments)
            self.luck[act.__name__.strip("_")] += 1
            self.note(f"{act.__name__} {id.int & 0xFFFF}")

    def resolve_all(self) -> None:
        """Somebody looks after everything that is held, once lookups had their time."""
        with self.ground.engine.begin() as connection:
            held = select(deliveries.c.id).where(
                deliveries.c.status == "held", deliveries.c.lookup_at.is_(None)
            )
            for id in list(connection.scalars(held)):
                self._resolve(connection, id, "ann")

    def _resolve(self, connection: Connection, id: UUID, actor: str) -> None:
        """As a person would: who looks at what the receiver has."""
        outcome = o.Delivered() if self.effects[str(id)] else o.NotDone()
        self.ground.app.resolve(connection, id, outcome, actor=actor)

    def reader(self) -> None:
        """Tails the log."""
        while True:
            self.scheduler.sleep(8.0)
            self.read_on()

    def read_on(self) -> None:
        last = self.seen[-1].position if self.seen else self.position
        with contextlib.suppress(DBAPIError), self.ground.engine.connect() as connection:
            rows = connection.execute(
                select(events).where(events.c.position > last).order_by(events.c.position)
            )
            self.seen += map(recorded_of, rows)

    # -- the world outside ---------------------------------------------------------------------

    def perform(self, delivery: Any, attempt: Any) -> Any:
        """What happens to a call: all that can."""
        random, key = self.random, delivery.idempotency_key
        self.calls.append(
            Called(
                delivery_id=delivery.id, attempt=attempt.number, key=key, entered_at=self.ground.clock.now()
            )
        )
        self.note(f"calls {delivery.id.int & 0xFFFF} attempt {attempt.number}")
        if self.calm or random.random() >= self.trouble.adapter:
            self.scheduler.sleep(random.uniform(0.0, 1.0))
            self.effects[key] += 1
            return None
        how = random.choice(_TROUBLES)
        self.luck[how] += 1
        self.note(f"{how} {delivery.id.int & 0xFFFF}")
        if how == "slow":
            self.scheduler.sleep(random.choice((TIMEOUT + 2, 3 * LEASE)))
        elif how in _OUTCOMES:
            self.scheduler.sleep(random.uniform(0.0, 2.0))
            return _OUTCOMES[how]()
        elif how == "dies before":
            self._die()
        elif how == "fails before":
            raise ConnectionError("refused")
        self.effects[key] += 1
        if how == "dies after":
            self._die()
        elif how == "fails after":
            raise ConnectionError("reset by peer")
        return None

    def _die(self) -> None:
        process = self.scheduler.process
        assert process is not None
        self._kill(process)
        self.scheduler.alive()

    def look_up(self, delivery: Any) -> Any:
        """The provider knows; it cannot always be reached."""
        self.scheduler.sleep(self.random.uniform(0.0, 1.0))
        if not self.calm and self.random.random() < self.trouble.adapter:
            raise ConnectionError("refused")
        return o.Delivered() if self.effects[delivery.idempotency_key] else o.NotDone()


_OUTCOMES: dict[str, Callable[[], Any]] = {
    "retry": lambda: o.Retry("503"),
    "cancel": lambda: o.Cancel("no such list"),
    "bounced": lambda: o.Bounced("no such user"),
    "snooze": lambda: o.Snooze(3.0),
    "suppress": lambda: o.Suppress("opted out"),
    "unknown": lambda: o.Unknown("reset"),
}
_TROUBLES = (
    *_OUTCOMES,
    "retry",
    "slow",
    "slow",
    "dies before",
    "dies after",
    "fails before",
    "fails after",
    "fails after",
)
