"""One database, three workers, callers and operators, beside a model: every act in any order.

Workers are slow, stalled, killed and told nothing of a commit; clocks pass leases and deadlines;
answers come late, twice, and from two workers on one lease. After every act the streams, the rows
and the model must agree, and the invariants of the store must hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, Row, delete, func, select

from deliveries import IdempotencyConflict
from deliveries.audit.invariants import Finding, record_findings, row_findings
from deliveries.core.stream import Recorded
from deliveries.processor.call import Call
from deliveries.processor.sweep import sweep
from deliveries.store.schema import contents, deliveries, events, evidence
from property.store.model import ANSWERED, CHANNELS, RESOLVED, SAID, Channel, Debt
from property.store.workers import LEASE, NOON, OUTCOMES, TIMEOUT, Lost, Worker, World, enter, says

STEPS = 50
"""Acts in one example."""
TICK = 0.001
"""Seconds that every act takes, so that no two reports are equal by chance."""
WORKERS = st.integers(0, 2)
ANY = st.integers(0, 40)
FAULTS = st.none() | st.none() | st.tuples(st.integers(0, 2), st.booleans())
"""Which transaction of an act breaks, and whether after its commit."""
PASSES = st.sampled_from((0.5, 4.0, 4.0, LEASE + 1, 35.0))
MOSTLY_NOT = st.sampled_from((False, False, True))
HORIZONS = st.sampled_from((None, None, None, 3.0, 30.0))


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


def must(holds: object, invariant: str, text: object) -> None:
    if not holds:
        raise Broken(invariant, str(text))


@dataclass(eq=False)
class Taken:
    """A call in somebody's hands. `written`: its own outcome is in the stream."""

    worker: Worker
    call: Call
    said: str = ""
    told_at: datetime = NOON
    written: bool = False
    kept: bool = False
    """What it said too late is evidence already: it is once, however often it is written."""

    @property
    def attempt(self) -> int:
        return self.call.delivery.attempt


class StoreMachine(RuleBasedStateMachine):
    """Run it with `run_state_machine_as_test(lambda: StoreMachine(world))`."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.clock, self.app = world, world.clock, world.app
        self.store = world.store()
        self.debts: dict[UUID, Debt] = {}
        self.undone: set[UUID] = set()
        self.keys: dict[str, UUID] = {}
        self.streams: dict[UUID, list[Recorded]] = {}
        self.taken: dict[int, Taken] = {}
        self.position = 0
        self.seen = 0

    @initialize(debts=st.lists(st.sampled_from(CHANNELS), min_size=2, max_size=5))
    def begin(self, debts: list[Channel]) -> None:
        """The log keeps the events of other examples for ever; without a row nobody looks at them.

        Every rule below may be left out of an example, so there is something to do from the start.
        """
        with self.world.engine.begin() as connection:
            connection.execute(delete(deliveries))
            self.position = connection.scalar(select(func.max(events.c.position))) or 0
        self.workers = [Worker(self.store, self.world) for _ in range(3)]
        for channel in debts:
            self._schedule(channel)

    # -- callers -------------------------------------------------------------------------------

    @rule(
        channel=st.sampled_from(CHANNELS),
        priority=st.integers(4, 5),
        delay=st.sampled_from((None, None, 0.0, 5.0)),
        expires_in=HORIZONS,
        max_attempts=st.sampled_from((None, None, 1, 2)),
        key=st.sampled_from((None, None, "a", "b")),
        how=st.sampled_from(("commit", "commit", "commit", "savepoint", "rollback", "inner rollback")),
    )
    def schedule(self, channel: Channel, **fields: Any) -> None:
        """A caller's transaction, which may come to nothing."""
        self._schedule(channel, **fields)

    def _schedule(
        self,
        channel: Channel,
        priority: int = 5,
        delay: float | None = None,
        expires_in: float | None = None,
        max_attempts: int | None = None,
        key: str | None = None,
        how: str = "commit",
    ) -> None:
        now = self._tick()
        expires_at = None if expires_in is None else now + timedelta(seconds=expires_in)
        fields = {
            "priority": priority,
            "delay": delay,
            "expires_at": expires_at,
            "max_attempts": max_attempts,
        }
        owner = self.keys.get(key or "")
        conflict = owner is not None and self.debts[owner].channel is not channel
        with self.world.engine.connect() as connection, connection.begin() as outer:
            try:
                if how in ("savepoint", "inner rollback"):
                    with connection.begin_nested() as inner:
                        made = self.app.schedule(connection, channel.name, {"for": key}, key=key, **fields)
                        if how == "inner rollback":
                            inner.rollback()
                else:
                    made = self.app.schedule(connection, channel.name, {"for": key}, key=key, **fields)
            except IdempotencyConflict as error:
                must(conflict and error.delivery_id == owner, "T2", f"conflict over {key!r}")
                return
            if how == "rollback":
                outer.rollback()
        must(not conflict, "T2", f"{key!r} was taken by another channel")
        must(made.created == (owner is None), "T2", f"created is {made.created} for key {key!r}")
        if owner is not None:
            must(made.id == owner, "T2", f"{key!r} belongs to {owner}, not {made.id}")
        elif how in ("rollback", "inner rollback"):
            self.undone.add(made.id)
        else:
            due_at = now + timedelta(seconds=delay or 0.0)
            self.debts[made.id] = Debt(made.id, channel, due_at, priority, expires_at, max_attempts)
            if key is not None:
                self.keys[key] = made.id

    # -- processors ----------------------------------------------------------------------------

    @rule(worker=WORKERS, fault=FAULTS)
    def turn(self, worker: int, fault: tuple[int, bool] | None) -> None:
        """One turn of a pump: doubts, reports left alone, then a batch of outcomes and claims."""
        self._turn(self.workers[worker], fault)

    @rule(worker=WORKERS)
    def turn_again(self, worker: int) -> None:
        self._turn(self.workers[worker], None)

    def _turn(self, worker: Worker, fault: tuple[int, bool] | None) -> None:
        now = self._tick()
        steps: list[Callable[[], None]] = []
        if worker.doubt:
            known = set(worker.known())
            orphans = self._all(lambda debt: debt.lease_owner == worker.name and debt.id not in known)
            orphans.sort(key=lambda debt: debt.id)
            steps += [lambda debt=debt: debt.give_back(debt.attempt, self.clock.now()) for debt in orphans]
        steps += [lambda call=call: self._settled(self._taken(call)) for call in worker.ledger.alone]
        batch = [self._taken(call) for call in worker.ledger.finished]
        free = worker.claims.free()
        due = {
            queue: sorted(self._all(lambda debt: debt.due(now), queue), key=_urgency) for queue in free
        }  # what is due before the batch is written: that is what the claim sees
        committed = self._watched(worker.turn, fault)
        for step, done in zip(steps, committed, strict=False):
            if done:
                step()
        if committed[len(steps) :] == [True]:
            self._exchanged(worker, free, due)
        else:
            must(not any(committed[len(steps) :]), "turn", "more transactions than expected")
        for taken in batch:
            kept = taken.written or taken.call in worker.ledger.alone
            must(kept, "N3", f"the report of attempt {taken.attempt} was dropped: {taken.said}")
        self._handed_out(worker)
        self.all_agree()

    def _exchanged(self, worker: Worker, free: dict[str, int], due: dict[str, list[Debt]]) -> None:
        now = self.clock.now()
        fresh = self._fresh()
        claimed = {id for id, kind, by in fresh if kind == "Attempted" and by == worker.name}
        claimed |= {id for id, kind, _ in fresh if kind == "Exhausted" and self.debts[id].due(now)}
        for queue, slots in free.items():
            found = [debt for debt in due[queue] if debt.id in claimed]
            urgent = [_urgency(debt) for debt in due[queue]][:slots]
            must(sorted(map(_urgency, found)) == urgent, "N5", f"{queue}: {len(found)} of {len(urgent)}")
        for taken in map(self._taken, worker.batch):
            if self.debts[taken.call.delivery.id].version == taken.call.delivery.version:
                self._applied(taken)
        for id in claimed:
            must(self.debts[id].due(now), "N5", f"{id} was claimed before it was due")
            self.debts[id].start(now, worker.name, LEASE)

    @rule(worker=WORKERS, pick=ANY)
    @precondition(lambda self: self.debts)
    def perform_one(self, worker: int, pick: int) -> None:
        now, hand, debt = self._tick(), self.workers[worker], self._pick(self.debts.values(), pick)
        hand.attempt(debt.id)
        if debt.due(now):
            debt.start(now, hand.name, LEASE)
        self._handed_out(hand)

    @rule(pick=ANY, said=st.sampled_from(SAID), worker=WORKERS)
    @precondition(lambda self: self._running())
    def finish(self, pick: int, said: str, worker: int) -> None:
        """A call comes back, in time or late; what it says is written at its worker's next turn.

        One time in three it is a call whose attempt is over, since somebody's sweep was there first.
        """
        late = self._overtaken() if pick % 3 == 0 else []
        taken = self._pick(late or self._running(), pick)
        self._finish(taken, said)
        if worker:
            self._turn(taken.worker, None)

    @rule(worker=WORKERS, said=st.sampled_from(SAID))
    def work(self, worker: int, said: str) -> None:
        """A worker as it should be: it claims, calls and records."""
        hand = self.workers[worker]
        self._turn(hand, None)
        for taken in [taken for taken in self._running() if taken.worker is hand][-2:]:
            self._finish(taken, said)
        self._turn(hand, None)

    @rule(pick=ANY, answer=st.sampled_from(ANSWERED))
    @precondition(lambda self: self._asking())
    def answer(self, pick: int, answer: str) -> None:
        """A lookup answers."""
        taken = self._pick(self._asking(), pick)
        self._finish(taken, answer)
        self._turn(taken.worker, None)

    def _finish(self, taken: Taken, said: str) -> None:
        now, call = self._tick(), taken.call
        enter(call)
        if call.reported:  # it had timed out: whatever it says now decides nothing
            self.debts[call.delivery.id].evidence += 1
        else:
            taken.said, taken.told_at = said, now
        says(call, said)
        taken.worker.take_back(call)

    @rule(pick=ANY, trouble=st.sampled_from(("time out", "give back", "enter", "again", "kill")))
    @precondition(lambda self: self.taken)
    def trouble(self, pick: int, trouble: str) -> None:
        now = self._tick()
        reported = [taken for taken in self._calls() if taken.call.reported]
        if trouble == "kill":
            self._kill(pick % 3)
        elif trouble == "again" and reported:
            self._report_again(self._pick(reported, pick))
        elif self._running():
            taken = self._pick(self._running(), pick)
            if trouble == "enter":
                enter(taken.call)
            elif trouble == "time out" and not taken.call.reported:
                self._time_out(taken, now)
            elif not taken.call.reported:
                self._shut_down(taken, now)

    def _time_out(self, taken: Taken, now: datetime) -> None:
        """The call takes too long, and keeps on running."""
        enter(taken.call)
        taken.call.time_out()
        taken.said, taken.told_at = "timeout", now
        taken.worker.ledger.add(taken.call)

    def _shut_down(self, taken: Taken, now: datetime) -> None:
        """What was not entered is given back, what runs is abandoned."""
        call = taken.call
        call.withdrawn = not call.entered
        call.gave_up = call.entered
        taken.said, taken.told_at = "abandoned" if call.entered else "given back", now
        if call.withdrawn:
            taken.worker.ledger.add(call)
        taken.worker.take_back(call)

    def _report_again(self, taken: Taken) -> None:
        """The very same report once more: nobody was told that it had been written."""
        ledger = taken.worker.ledger
        if taken.call not in ledger.finished and taken.call not in ledger.alone:
            ledger.add(taken.call)

    def _kill(self, number: int) -> None:
        """A processor dies, and everything it knew; another one takes its place."""
        dead = self.workers[number]
        self.taken = {key: taken for key, taken in self.taken.items() if taken.worker is not dead}
        self.workers[number] = Worker(self.store, self.world)

    @rule(pick=ANY, worker=WORKERS, said=st.sampled_from(SAID))
    @precondition(lambda self: self._attempts())
    def two_on_one_lease(self, pick: int, worker: int, said: str) -> None:
        """Somebody else reports the same attempt: a copy of the process, a bug, a ghost."""
        now, original = self._tick(), self._pick(self._attempts(), pick)
        call, ghost = original.call, self.workers[worker]
        if any(one.worker is ghost and one.call.stream == call.stream for one in self._attempts()):
            return  # a worker has one call of an attempt
        twin = Call(call.stream, call.registration, call.started_at, lease_until=0.0, returned=True)
        enter(twin)
        says(twin, said)
        self.taken[id(twin)] = Taken(ghost, twin, said, now)
        ghost.ledger.add(twin)

    @rule(worker=WORKERS, seconds=st.sampled_from((1.0, LEASE, 20.0)))
    def renew(self, worker: int, seconds: float) -> None:
        """A heartbeat, for whatever its worker believes to hold."""
        now, hand = self._tick(), self.workers[worker]
        ids = sorted({taken.call.delivery.id for taken in self._attempts() if taken.worker is hand})
        if not ids:
            return
        with self.store.transaction() as connection:
            held = self.store.backend.renew(
                connection, hand.name, ids, [seconds] * len(ids), self.store.deciding_now
            )
        until = now + timedelta(seconds=seconds)
        expected = {id for id in ids if self.debts[id].renew(hand.name, until)}
        must(held == expected, "N2", f"renewed {held}, not {expected}")

    @rule(page=st.sampled_from((1, 200)), fault=FAULTS)
    def sweep(self, page: int, fault: tuple[int, bool] | None) -> None:
        now = self._tick()
        open_ = self._all(lambda debt: debt.abandoned(now))
        late = self._all(lambda debt: debt.status == "pending" and debt.expired(now))
        if len({debt.lease_until for debt in open_}) < len(open_):
            page = 200  # which of two equal leases a page would leave out is nobody's promise
        if self._watched(lambda: sweep(self.store, page), fault) != [True]:
            return
        swept = {id for id, _, _ in self._fresh()}
        for debts in (open_, late):
            found = [debt for debt in debts if debt.id in swept]
            must(len(found) == min(page, len(debts)), "N4", f"swept {len(found)} of {len(debts)}")
            for debt in found:
                swept.remove(debt.id)
                if debt.status == "attempting":
                    debt.interrupt(debt.attempt, now, now)
                else:
                    debt.expire()
        must(not swept, "N2", f"swept without reason: {swept}")
        self.all_agree()

    @rule(worker=WORKERS, fault=FAULTS)
    def look_up(self, worker: int, fault: tuple[int, bool] | None) -> None:
        now, hand = self._tick(), self.workers[worker]
        room = sum(hand.claims.free().values())
        waiting = self._all(lambda debt: debt.wants_lookup(now))
        waiting.sort(key=lambda debt: debt.lookup_at)
        if self._watched(hand.ask, fault) == [True]:
            with self.store.reading() as connection:
                asked = {row.id for row in self._rows(connection) if row.lookups > self.debts[row.id].lookups}
            times = [debt.lookup_at for debt in waiting if debt.id in asked]
            must(times == [debt.lookup_at for debt in waiting][:room], "N5", f"{len(asked)} lookups")
            for id in asked:
                self.debts[id].ask(now, TIMEOUT + LEASE)
        self._handed_out(hand)

    @rule(seconds=PASSES)
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_by(seconds)

    @rule(worker=WORKERS, other=WORKERS, said=st.none() | st.sampled_from(SAID))
    def overtake(self, worker: int, other: int, said: str | None) -> None:
        """A worker begins and falls silent; it is swept, somebody begins anew, and then it speaks."""
        silent = self.workers[worker]
        self._turn(silent, None)
        self.clock.pass_by(LEASE + 1)
        self.sweep(200, None)
        self.clock.pass_by(35.0)
        self._turn(self.workers[other], None)
        late = [taken for taken in self._overtaken() if taken.worker is silent]
        if said is not None and late:
            self._finish(late[-1], said)
            self._turn(silent, None)

    @rule(worker=WORKERS, said=st.sampled_from(("unknown", "error", "timeout")))
    @precondition(lambda self: self._running())
    def hold_and_ask(self, worker: int, said: str) -> None:
        """Somebody comes back without an answer, and where that can be asked, it is."""
        taken = self._running()[-1]
        self._finish(taken, said)
        self._turn(taken.worker, None)
        self.clock.pass_by(35.0)
        self.look_up(worker, None)

    @rule(worker=WORKERS)
    @precondition(lambda self: self._asking())
    def questions_run_out(self, worker: int) -> None:
        """Whoever asked is taken for dead, and somebody else asks."""
        self.clock.pass_by(TIMEOUT + LEASE + 1)
        self.look_up(worker, None)

    # -- operators -----------------------------------------------------------------------------

    @rule(
        pick=ANY,
        act=st.sampled_from(("cancel", "suppress", "reschedule")),
        undone=st.sampled_from((False, False, True)),
    )
    @precondition(lambda self: self.debts)
    def operate(self, pick: int, act: str, undone: bool) -> None:
        now, open_ = self._tick(), self._all(lambda debt: debt.status == "attempting")
        debt = self._pick(open_ if open_ and pick % 3 else self.debts.values(), pick)
        with self.world.engine.connect() as connection, connection.begin() as transaction:
            if act == "reschedule":
                self.app.reschedule(connection, debt.id, delay=3.0, reason="later")
            else:
                getattr(self.app, act)(connection, debt.id, actor="ann")
            if undone:
                transaction.rollback()
                return
        if act == "reschedule":
            debt.reschedule(now + timedelta(seconds=3.0))
        else:
            getattr(debt, act)()

    @rule(pick=ANY, said=st.sampled_from(RESOLVED))
    @precondition(lambda self: self._all(lambda debt: debt.status == "held"))
    def resolve(self, pick: int, said: str) -> None:
        now, held = self._tick(), self._all(lambda debt: debt.status == "held")
        debt = self._pick(held, pick) if pick % 5 else self._pick(self.debts.values(), pick)
        with self.world.engine.begin() as connection:
            self.app.resolve(connection, debt.id, OUTCOMES[said](), actor="ann")
        debt.resolve(said, now)

    # -- what must hold ------------------------------------------------------------------------

    @invariant()
    def all_agree(self) -> None:
        """The streams keep the invariants, the rows are their folds, and both are as expected."""
        if self.world.transactions == self.seen:
            return
        self.seen = self.world.transactions
        with self.store.reading() as connection:
            grown = self._read_on(connection)
            rows = {row.id: row for row in self._rows(connection)}
            noted = self._count_evidence(connection)
            left = self._left_behind(connection)
        must(not left, "T1", f"rolled back, yet there: {left}")
        must(rows.keys() == self.debts.keys(), "T1", f"{len(rows)} rows for {len(self.debts)} deliveries")
        for id in grown:
            keeps(record_findings(self.streams[id]))
        for id, debt in self.debts.items():
            keeps(row_findings(self.streams[id], rows[id]))
            check_debt(debt, rows[id], self.streams[id])
            must(noted[id] == debt.evidence, "N3", f"{noted[id]} pieces of evidence, not {debt.evidence}")

    def teardown(self) -> None:
        """Events are only ever added: what was read step by step is what is there in the end."""
        with self.store.reading() as connection:
            kept = self.store.histories(connection, list(self.streams))
        for id, stream in self.streams.items():
            known = kept[id][: len(stream)]
            must([one.digest for one in known] == [one.digest for one in stream], "I10", id)
            must([one.body for one in known] == [one.body for one in stream], "I10", id)

    def _read_on(self, connection: Connection) -> set[UUID]:
        """Take in the events that came since the last look, whosever they are."""
        grown = set()
        for row in connection.execute(_events_after(self.position)):
            must(row.delivery_id in self.debts, "T1", f"{row.type} of {row.delivery_id}, which is not")
            self.streams.setdefault(row.delivery_id, []).append(Recorded(**row._mapping))
            self.position = row.position
            grown.add(row.delivery_id)
        return grown

    def _fresh(self) -> list[tuple[UUID, str, str | None]]:
        """(delivery, type, worker) of the events that the last act wrote."""
        with self.store.reading() as connection:
            found = [Recorded(**row._mapping) for row in connection.execute(_events_after(self.position))]
        return [(one.delivery_id, one.type, getattr(one.event, "worker", None)) for one in found]

    def _count_evidence(self, connection: Connection) -> Counter[UUID]:
        statement = select(evidence.c.delivery_id).where(evidence.c.delivery_id.in_(list(self.debts)))
        return Counter(connection.scalars(statement))

    def _left_behind(self, connection: Connection) -> list[UUID]:
        if not self.undone:
            return []
        return list(
            connection.scalars(
                select(contents.c.delivery_id).where(contents.c.delivery_id.in_(list(self.undone)))
            )
        )

    @staticmethod
    def _rows(connection: Connection) -> list[Row[Any]]:
        return list(connection.execute(select(deliveries)))

    # -- what the model makes of it ------------------------------------------------------------

    def _settled(self, taken: Taken) -> None:
        """A report by itself: applied, there already, or too late."""
        call, debt = taken.call, self.debts[taken.call.delivery.id]
        if not taken.written and not self._applied(taken):
            late = call.entered and not call.gave_up and not call.is_lookup
            debt.evidence += late and not taken.kept
            taken.kept = late

    def _applied(self, taken: Taken) -> bool:
        call, debt, now = taken.call, self.debts[taken.call.delivery.id], self.clock.now()
        if call.is_lookup:
            taken.written = debt.answer(taken.attempt, call.lookups, taken.said, taken.told_at, now)
        elif taken.said == "given back":
            taken.written = debt.give_back(taken.attempt, taken.told_at)
        elif taken.said == "abandoned":
            taken.written = debt.interrupt(taken.attempt, taken.told_at, now)
        else:
            taken.written = debt.report(taken.attempt, taken.said, taken.told_at, now)
        return taken.written

    def _handed_out(self, worker: Worker) -> None:
        """N1 and N2: what a worker is about to call is an open attempt of its own, and nobody else's."""
        now = self.clock.now()
        ranks = {id: rank for rank, id in enumerate(self.debts)}
        begun, worker.begun = sorted(worker.begun, key=lambda call: ranks[call.delivery.id]), []
        for call in begun:
            debt = self.debts[call.delivery.id]
            self.taken[id(call)] = Taken(worker, call)
            if call.is_lookup:
                must(debt.status == "held" and debt.lookups == call.lookups, "N1", f"asked while {debt}")
                continue
            mine = debt.lease_owner == worker.name and debt.lease_until == now + timedelta(seconds=LEASE)
            must(debt.status == "attempting" and debt.attempt == call.delivery.attempt, "N1", debt)
            must(mine, "N2", f"{worker.name} calls under the lease of {debt.lease_owner}")

    # -- picking -------------------------------------------------------------------------------

    def _tick(self) -> datetime:
        self.clock.pass_by(TICK)
        return self.clock.now()

    def _watched(self, act: Callable[[], object], fault: tuple[int, bool] | None) -> list[bool]:
        """Do `act`, which may break at `fault`; for each of its transactions, whether it was committed."""
        number, after = fault or (None, False)
        self.store.watch(number, after_commit=after)
        _survive(act)
        committed = self.store.committed
        self.store.watch()
        return committed

    def _all(self, wanted: Callable[[Debt], bool], queue: str | None = None) -> list[Debt]:
        return [debt for debt in self.debts.values() if wanted(debt) and queue in (None, debt.channel.queue)]

    def _taken(self, call: Call) -> Taken:
        return self.taken[id(call)]

    def _calls(self) -> list[Taken]:
        return list(self.taken.values())

    def _attempts(self) -> list[Taken]:
        return [taken for taken in self._calls() if not taken.call.is_lookup]

    def _running(self) -> list[Taken]:
        return [taken for taken in self._attempts() if not taken.call.returned]

    def _asking(self) -> list[Taken]:
        return [taken for taken in self._calls() if taken.call.is_lookup and not taken.call.returned]

    def _overtaken(self) -> list[Taken]:
        return [
            taken
            for taken in self._running()
            if self.debts[taken.call.delivery.id].attempt != taken.attempt
            or self.debts[taken.call.delivery.id].status != "attempting"
        ]

    @staticmethod
    def _pick(among: Iterable[Any], pick: int) -> Any:
        found = list(among)
        return found[pick % len(found)]


def keeps(found: list[Finding]) -> None:
    must(not found, found[0].rule if found else "", found)


def check_debt(debt: Debt, row: Row[Any], stream: list[Recorded]) -> None:
    """The stream and the row, lease and lookup included, are as the model has them."""
    happened = [(one.type, getattr(one.event, "cause", None)) for one in stream]
    must(happened == debt.happened, "model", f"{happened} happened, not {debt.happened}")
    for name in _COLUMNS:
        found, expected = getattr(row, name), getattr(debt, name)
        must(found == expected, "model", f"{name} is {found}, not {expected}: {debt}")


_COLUMNS = (
    "status",
    "version",
    "attempt",
    "endings",
    "interruptions",
    "snoozes",
    "cancel_requested",
    "due_at",
    "expires_at",
    "priority",
    "lease_owner",
    "lease_until",
    "lookup_at",
    "lookups",
)


def _events_after(position: int) -> Any:
    return select(events).where(events.c.position > position).order_by(events.c.position)


def _urgency(debt: Debt) -> Any:
    return debt.priority, debt.due_at


def _survive(act: Callable[[], object]) -> None:
    try:
        act()
    except Lost:
        return
