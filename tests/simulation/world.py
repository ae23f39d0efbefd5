"""One history: processors, callers, operators, a reader and fate, on a real store that fails.

The processors are the product's, pump, claims, ledger, sweep and heartbeat, line for line; what is
simulated is what lies under them: time, threads, the driver's luck, and the world outside.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.exc import DBAPIError

from deliveries import Backoff, Deliveries, IdempotencyConflict, scheduling
from deliveries.audit.invariants import Called, Finding, Leased
from deliveries.core import outcomes as o
from deliveries.core.stream import Recorded
from deliveries.errors import CorruptHistory
from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.processor.executor import Executor
from deliveries.processor.heartbeat import Heartbeat
from deliveries.processor.processor import Processor
from deliveries.processor.settings import Settings
from deliveries.store.backend import Backend
from deliveries.store.rows import recorded_of
from deliveries.store.schema import contents, deliveries, events, evidence, notes, workers
from deliveries.store.store import Store
from simulation.driver import Faulty, Peace
from simulation.scheduler import Process, Scheduler, Signal

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
QUEUES = {"main": 2}
LEASE, TIMEOUT, BACKOFF = 12.0, 6.0, 2.0
SETTINGS = Settings(queues=QUEUES, lease=LEASE, poll=15.0, sweep_every=11.0, grace=3.0, linger=0.0)
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


class Clock:
    """The scheduler's time, as everybody's."""

    authoritative = True

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.scheduler.now if self.scheduler else 0.0)

    def monotonic(self) -> float:
        return self.scheduler.now if self.scheduler else 0.0


class Ground:
    """What histories share, since making it takes time: a database, and an application on it."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.clock, self.driver = Clock(), Faulty()
        self.engine = self.driver.engine()
        self.app = Deliveries(self.engine, clock=self.clock)
        self.app.create_schema()
        self.app.find()  # what is done once only is done now, so that all histories begin alike
        self.backend = backend
        self.world: World | None = None
        options: dict[str, Any] = {
            "queue": "main",
            "timeout": TIMEOUT,
            "max_attempts": 3,
            "max_interruptions": 2,
            "max_snoozes": 1,
            "backoff": Backoff.linear(BACKOFF),
        }
        self.app.adapter("keyed", **options)(self._perform)
        self.app.adapter("held", effect="unsafe", on_unknown="hold", **options)(self._perform)
        self.app.adapter("asked", effect="unsafe", lookup=self._look_up, max_lookups=3, **options)(
            self._perform
        )
        self.histories = 0

    def _perform(self, delivery: Any, attempt: Any) -> Any:
        assert self.world is not None
        return self.world.perform(delivery, attempt)

    def _look_up(self, delivery: Any, attempt: Any) -> Any:
        assert self.world is not None
        return self.world.look_up(delivery)

    def reading(self) -> contextlib.AbstractContextManager[Connection]:
        return self.engine.connect()

    def clear(self) -> int:
        """Forget all deliveries; the log keeps their events for ever. Returns where it ends."""
        self.histories += 1
        with self.engine.begin() as connection:
            for table in (deliveries, contents, notes, evidence, workers):
                connection.execute(delete(table))
            return connection.scalar(select(func.max(events.c.position))) or 0

    @contextlib.contextmanager
    def under(self, world: World) -> Iterator[None]:
        """Time, ids and the driver's luck belong to `world`."""
        was = ticks.monotonic, ticks.sleep, scheduling.uuid7
        level = _log.level
        _log.setLevel(logging.CRITICAL)  # what goes wrong here is wanted
        world.position = self.clear()
        self.world, self.clock.scheduler, self.driver.saboteur = world, world.scheduler, world
        ticks.monotonic, ticks.sleep = self.clock.monotonic, world.scheduler.sleep
        scheduling.uuid7 = world.new_id
        try:
            yield
        finally:
            world.scheduler.end()
            _log.setLevel(level)
            ticks.monotonic, ticks.sleep, scheduling.uuid7 = was
            self.world, self.clock.scheduler, self.driver.saboteur = None, None, Peace()

    def close(self) -> None:
        self.app.close()
        sqlite3.Connection.close(self.driver.connection)


class SimulatedStore(Store):
    """The store; others may have a turn before each of its transactions and after it."""

    def __init__(self, world: World) -> None:
        super().__init__(world.ground.engine, world.ground.clock)
        self.backend = world.ground.backend or self.backend
        self._world = world
        self._verified = True

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        self._world.hesitate()
        with super().transaction() as connection:
            yield connection
        self._world.hesitate()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        self._world.hesitate()
        with super().reading() as connection:
            yield connection
        self._world.hesitate()


class SimulatedExecutor(Executor):
    """Calls are tasks instead of threads."""

    def __init__(self, done: Callable[[Call], None], world: World, process: Process) -> None:
        super().__init__(done)
        self._world, self._process = world, process

    def submit(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._world.begun.append((self._process.name, call))
            self._world.scheduler.spawn(lambda call=call: self._perform(call), self._process)

    def _perform(self, call: Call) -> None:
        self._world.hesitate()
        self._run(call)
        self._world.scheduler.alive()
        self._over(call)


class SimulatedProcessor(Processor):
    """The product's, without its threads."""

    def __init__(self, world: World, process: Process) -> None:
        app, scheduler = world.ground.app, world.scheduler
        store = SimulatedStore(world)
        super().__init__(store, app.channels, app._wakeup, SETTINGS)
        self._scheduler, self._process = scheduler, process
        self._executor = SimulatedExecutor(self._returned, world, process)
        self._awake = Signal(scheduler)  # type: ignore[assignment]

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        heartbeat = Heartbeat(self._store, self.worker, self._settings.lease, self._calls.values)
        self._over = False

        def beat() -> None:
            while not self._over:
                self._scheduler.sleep(self._settings.lease / 3)
                with contextlib.suppress(DBAPIError):
                    heartbeat.beat()

        self._scheduler.spawn(beat, self._process)
        self._wakeup.subscribe(self._hint)
        try:
            yield
        finally:
            self._over = True
            self._wakeup.unsubscribe(self._hint)


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
        self.doubtful: set[UUID] = set()
        """Their caller was not told, and did not ask again."""
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

_log = logging.getLogger("deliveries")
