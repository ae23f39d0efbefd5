"""A small world, explored whole: two processors, one delivery, and each misfortune once.

Every interleaving of the processors' steps with a crash, a cancel, a sweep, a lost answer to a commit
and the passing of leases, on the store's real code. A state is what can still matter: the stream,
the row, what each processor holds in memory, and the misfortunes left; the two processors may change
places. States that were seen before are not explored again, so the search ends, and what it has not
found is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import delete, func, select

from deliveries.audit.invariants import Called, Finding, n1_calls_belong_to_attempts
from deliveries.core.stream import Recorded
from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.processor.sweep import sweep
from deliveries.store.reading import Reading
from deliveries.store.schema import deliveries, evidence
from deliveries.testing.proof import verdict
from property.store.workers import LEASE, Worker, World, says

Step = tuple[str, int, int]
"""What happens, to which processor, and to which attempt's call (0 where to none)."""


class Luck(Struct, frozen=True):
    """How often each misfortune may still happen."""

    crash: int = 1
    cancel: int = 1
    sweep: int = 1
    time: int = 2
    """The clock moves on by more than a lease."""
    lost: int = 0
    """A commit whose answer is lost."""


@dataclass
class Explored:
    """What a search found."""

    states: int = 0
    steps: int = 0
    ends: int = 0
    """States in which nothing more can happen; from each a healthy processor finished the work."""
    longest: int = 0


class Broken(AssertionError):
    """A rule does not hold; says after which steps."""


class SmallWorld:
    """One delivery of `channel`, and two processors without a heartbeat."""

    def __init__(self, world: World, channel: str, luck: Luck) -> None:
        self.world, self.channel, self.start = world, channel, luck

    # -- one path ------------------------------------------------------------------------------

    def begin(self) -> None:
        with self.world.engine.begin() as connection:
            connection.execute(delete(deliveries))
            self.id = self.world.app.schedule(connection, self.channel, {}).id
        self.luck = self.start
        self.store = self.world.store()
        self.workers: list[Worker | None] = [Worker(self.store, self.world) for _ in range(2)]
        self.names = {worker.name: number for number, worker in enumerate(self.workers) if worker}
        self.calls: list[Called] = []
        self.path: list[Step] = []

    def possible(self) -> Iterator[Step]:
        """Every step that may change something."""
        for number, worker in enumerate(self.workers):
            if worker is None:
                continue
            if self._has_work(worker):
                yield "turn", number, 0
                if self.luck.lost:
                    yield "turn, answer lost", number, 0
            for call in worker.calls.values():
                if call.entered:
                    yield "says delivered", number, call.delivery.attempt
                    yield "says error", number, call.delivery.attempt
                else:
                    yield "enters", number, call.delivery.attempt
            if self.luck.crash:
                yield "crash", number, 0
        for name in ("cancel", "sweep", "time"):
            if getattr(self.luck, name):
                yield name, 0, 0

    def _has_work(self, worker: Worker) -> bool:
        """A turn without any changes nothing."""
        due = self.row.status == "pending" and self.row.due_at <= self.world.clock.now()
        return bool(worker.doubt or len(worker.ledger) or due)

    def do(self, step: Step) -> None:
        """One step; the clock moves on a little with each."""
        self.path.append(step)
        self.world.clock.pass_by(0.001)
        what, number, attempt = step
        worker = self.workers[number]
        if what in ("cancel", "sweep", "time", "crash"):
            self.luck = structs.replace(self.luck, **{what: getattr(self.luck, what) - 1})
        if what == "cancel":
            with self.world.engine.begin() as connection:
                self.world.app.cancel(connection, self.id)
        elif what == "sweep":
            sweep(self.store)
        elif what == "time":
            self.world.clock.pass_by(LEASE + 1)
        elif what == "crash":
            self.workers[number] = None
        elif worker is not None:
            self._work(worker, what, attempt)

    def _work(self, worker: Worker, what: str, attempt: int) -> None:
        if what == "turn":
            worker.turn()
        elif what == "turn, answer lost":
            self.luck = structs.replace(self.luck, lost=self.luck.lost - 1)
            self.store.watch(0, after_commit=True)
            worker.turn()
            self.store.watch()
        else:
            (call,) = [call for call in worker.calls.values() if call.delivery.attempt == attempt]
            if what == "enters":
                self._enter(worker, call)
            else:
                says(call, what.removeprefix("says "))
                worker.take_back(call)

    def _enter(self, worker: Worker, call: Call) -> None:
        if call.enter():
            self.calls.append(
                Called(
                    delivery_id=self.id,
                    attempt=call.delivery.attempt,
                    key=call.delivery.idempotency_key,
                    entered_at=self.world.clock.now(),
                )
            )
        else:
            worker.take_back(call)

    # -- what a state is -----------------------------------------------------------------------

    def look(self) -> tuple[Any, list[Recorded], Any]:
        """The state as a value, the stream, and the row."""
        with self.world.engine.connect() as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == self.id)).one()
            record = Reading().histories(connection, [self.id])[self.id]
            facts = connection.scalar(select(func.count()).where(evidence.c.delivery_id == self.id))
        self.row = row
        stream = tuple(
            (one.type, getattr(one.event, "attempt", None), getattr(one.event, "cause", None))
            for one in record
        )
        times = self._left(row.lease_until), self._left(row.due_at), self._left(row.lookup_at)
        # which of the two is which does not matter
        leased = self.names.get(row.lease_owner)
        workers = [(number == leased, self._memory(worker)) for number, worker in enumerate(self.workers)]
        return (stream, row.status, times, facts, *sorted(workers, key=repr), self.luck), record, row

    def _left(self, at: datetime | None) -> int | None:
        """Whole seconds until then; what is over is over."""
        return None if at is None else max(0, round((at - self.world.clock.now()).total_seconds()))

    def _memory(self, worker: Worker | None) -> Any:
        if worker is None:
            return None
        now = self.world.clock.now().timestamp()

        def seen(call: Call) -> Any:
            report = None if call.reporting is None else type(call.reporting).__name__
            left = max(0, round(call.lease_until - now))
            error = None if call.words is None else call.words.error_type
            return call.delivery.attempt, call.entered, report, error, left, call.tried is not None

        ledger = worker.ledger
        return worker.doubt, *(
            tuple(map(seen, calls)) for calls in (worker.calls.values(), ledger.finished, ledger.alone)
        )

    def judge(self, record: list[Recorded], row: Any) -> None:
        found: list[Finding] = verdict(record, row)
        found += n1_calls_belong_to_attempts({self.id: record}, self.calls)
        if found:
            raise Broken(f"{found} after {self.path}")

    def finish(self) -> None:
        """From wherever they have come, a healthy processor ends it, or it is held."""
        came, self.path = self.path, []
        worker = Worker(self.store, self.world)
        for _ in range(12):
            self.world.clock.pass_by(LEASE * 4)
            sweep(self.store)
            worker.turn()
            for call in list(worker.calls.values()):
                self._enter(worker, call)
                says(call, "delivered")
                worker.take_back(call)
            worker.turn()
            _, record, row = self.look()
            if row.status not in ("pending", "attempting"):
                self.judge(record, row)
                return
        raise Broken(f"never ended after {came}")


def explore(small: SmallWorld) -> Explored:
    """Visit every state that can be reached. Raises: Broken."""
    found, seen = Explored(), set[Any]()
    was, ticks.monotonic = ticks.monotonic, lambda: small.world.clock.now().timestamp()
    try:
        stack: list[list[Step]] = [[]]
        while stack:
            path = stack.pop()
            if not path or small.path != path[:-1]:  # else it goes on from where it stands
                small.begin()
                for step in path[:-1]:
                    small.do(step)
            for step in path[-1:]:
                small.do(step)
            found.steps += 1
            state, record, row = small.look()
            if state in seen:
                continue
            seen.add(state)
            small.judge(record, row)
            found.states, found.longest = len(seen), max(found.longest, len(path))
            steps = list(small.possible())
            stack += [[*path, step] for step in steps]
            if _is_end(small.luck):
                found.ends += 1
                small.finish()
    finally:
        ticks.monotonic = was
    return found


def _is_end(luck: Luck) -> bool:
    return not (luck.crash or luck.cancel or luck.sweep or luck.time or luck.lost)
