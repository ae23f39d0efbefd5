"""The ground under a history: the product's own processor, on time, threads and luck that are simulated."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.exc import DBAPIError

from deliveries import Backoff, Deliveries, scheduling
from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.processor.executor import Executor
from deliveries.processor.heartbeat import Heartbeat
from deliveries.processor.processor import Processor
from deliveries.processor.settings import Settings
from deliveries.store.backend import Backend
from deliveries.store.schema import contents, deliveries, events, evidence, notes, workers
from deliveries.store.store import Store
from simulation.driver import Faulty, Peace
from simulation.scheduler import Process, Scheduler, Signal

if TYPE_CHECKING:
    from simulation.world import World

_log = logging.getLogger("deliveries")

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
QUEUES = {"main": 2}
LEASE, TIMEOUT, BACKOFF = 12.0, 6.0, 2.0
SETTINGS = Settings(queues=QUEUES, lease=LEASE, poll=15.0, sweep_every=11.0, grace=3.0, linger=0.0)


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
        with self.engine.begin() as connection:  # evidence is forgotten with its history
            connection.exec_driver_sql("DROP TRIGGER delivery_evidence_no_delete")
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
        try:
            with self._on_call():
                yield
        finally:
            self._over = True
