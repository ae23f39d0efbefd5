"""T4, for every transaction there is: its connection breaks at COMMIT, before it or after it.

On PostgreSQL the backend is really terminated. Each event is in its stream exactly once, each attempt
is made at most once, and nothing stays open.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, func, select, text, update
from sqlalchemy.exc import OperationalError

from deliveries import (
    Backoff,
    Cancel,
    Delivered,
    Deliveries,
    Discard,
    Draft,
    NotDone,
    Retry,
    Snooze,
    Status,
    Suppress,
    Unknown,
)
from deliveries.core import events as e
from deliveries.store.schema import deliveries, workers
from deliveries.testing.examples import NOW
from support.apps import (
    Apps,
    Calls,
    Gate,
    RunningClock,
    assert_called_once_each,
    eventually,
    evidence,
    history,
    kinds,
    row,
    schedule,
    stopped,
)

LATER = Backoff.schedule([10_000])
HOUR = 3_600.0

STATEMENTS = {
    "evidence": "INSERT INTO delivery_evidence",
    "presence": "INSERT INTO delivery_workers",
    "leaving": "DELETE FROM delivery_workers WHERE delivery_workers.worker =",
    "asking": "lookups = lookups + 1",
    "asking again": "lookups = coalesce(",
}
"""What tells a transaction that appends no event."""
BEATS = ("lease_until = greatest(d.lease_until", "lease_until = max(lease_until")
EVENTS = {kind.__name__ for kind in e.EVENTS}


class Fault:
    """Breaks the first `times` commits of a transaction that does all of `wanted`, on one engine.

    `done`: it breaks after the commit, so that it happened and nobody is told. `then`: what is done at
    that moment.
    """

    def __init__(
        self,
        engine: Engine,
        *wanted: str,
        done: bool,
        times: int = 1,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        self.left = self.times = times
        self._wanted, self._done, self._then = set(wanted), done, then
        self._engine, self._lock = engine, threading.Lock()
        self._does: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
        event.listen(engine, "before_cursor_execute", self._note)
        event.listen(engine, "commit", self._commit)

    def _note(self, connection: Connection, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        transaction = connection.get_transaction()
        if transaction is None:  # it is the BEGIN
            return
        does = self._does.setdefault(transaction, set())
        if "INTO delivery_events" in statement:
            does |= EVENTS & set(flat(values))
        if any(beat in statement for beat in BEATS):
            does.add("heartbeat")
        does |= {name for name, part in STATEMENTS.items() if part in statement}

    def _commit(self, connection: Connection) -> None:
        with self._lock:
            if not self.left or not self._wanted <= self._does.get(connection.get_transaction(), set()):
                return
            self.left -= 1
        if self._done:
            connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]  # it is open
        self._then()
        if self._engine.dialect.name == "postgresql":
            terminate(self._engine, connection.connection.dbapi_connection.info.backend_pid)  # type: ignore[union-attr]
        if self._done or self._engine.dialect.name == "sqlite":
            raise OperationalError("COMMIT", {}, ConnectionError("the connection broke"))


def assert_broken(fault: Fault, done: bool) -> None:
    """It broke as often as it could: what was done the first time is not there to be broken again."""
    assert fault.left < fault.times, "there was no such commit"
    assert done or fault.left == 0, "it was not tried again"


def terminate(engine: Engine, pid: int) -> None:
    """Really: the server ends that connection, and has ended it when this returns."""
    admin = create_engine(engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def flat(values: Any) -> Iterable[str]:
    """The words in a statement's parameters; PostgreSQL gets many values as one text."""
    if isinstance(values, str):
        yield from re.findall(r"\w+", values)
    elif isinstance(values, dict):
        yield from flat(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from flat(value)


@pytest.fixture
def app(database_url: str, apps: Apps) -> Deliveries:
    """Its pool forgets dead connections when they are asked for: the faults here are those at COMMIT."""
    return apps(database_url, pool_pre_ping=True)


@pytest.fixture
def timed(database_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    """As `app`, on `clock`."""
    return apps(database_url, clock, pool_pre_ping=True)


@pytest.fixture(params=[False, True], ids=["before", "after"])
def done(request: pytest.FixtureRequest) -> bool:
    """Whether the commit happened."""
    return bool(request.param)


times = pytest.mark.parametrize("times", [1, 3], ids=["once", "three times"])


def drain_all(app: Deliveries, **settings: Any) -> None:
    """Drain until nothing is due; what was given back meanwhile is due again."""
    for _ in range(8):
        summary = app.drain(patience=10, **settings)
        if not any((summary.attempted, summary.interrupted, summary.rescheduled, summary.held)):
            return
    raise AssertionError("there is always more to do")


def without_given_back(events: Iterable[e.Event]) -> list[str]:
    """The names of events, but for attempts that were given back before their adapter was entered."""
    names: list[str] = []
    for one in events:
        if isinstance(one, e.Interrupted) and one.cause == "given_back":
            assert names.pop() == "Attempted"
        else:
            names.append(type(one).__name__)
    return names


# -- the claim, and each outcome -----------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    says: Any
    options: dict[str, Any] = field(default_factory=dict)


ENDINGS = {
    "Succeeded": Ending(Delivered("250 ok")),
    "Failed": Ending(Retry("503")),
    "Rescheduled": Ending(Snooze(10_000, reason="night")),
    "Held": Ending(Unknown("reset"), {"effect": "unsafe", "on_unknown": "hold"}),
    "Suppressed": Ending(Suppress("opted out")),
    "Exhausted": Ending(Discard("enough")),
    "Cancelled": Ending(Cancel("gone")),
}


def broken_attempts(
    app: Deliveries, calls: Calls, kind: str, wanted: list[str], done: bool, times: int
) -> None:
    """Each of a few deliveries is attempted once and ends as `kind`, whatever breaks."""
    ending = ENDINGS[kind]
    app.adapter("email", backoff=LATER, **ending.options)(calls(lambda delivery, attempt: ending.says))
    ids = [schedule(app).id for _ in range(times + 2)]
    fault = Fault(app.engine, *wanted, done=done, times=times)
    drain_all(app, queues={"email": 1})
    assert fault.left == 0, "there was no such commit"
    for id in ids:
        assert without_given_back(history(app, id)) == ["Scheduled", "Attempted", kind]
        assert len(calls.of(id)) == 1
        assert [one.note for one in app.history(id) if one.note] == [str(ending.says)]
        assert row(app, id).lease_until is None
        assert (app.get(id).interruptions, app.get(id).snoozes) == (0, kind == "Rescheduled")
    assert_called_once_each(app, calls)


@pytest.mark.parametrize(
    ("kind", "times"), [*((kind, 1) for kind in ENDINGS), ("Succeeded", 3), ("Failed", 3), ("Held", 3)]
)
def test_the_outcome(app: Deliveries, calls: Calls, kind: str, done: bool, times: int) -> None:
    broken_attempts(app, calls, kind, [kind], done, times)


@times
@pytest.mark.parametrize("kind", ["Succeeded", "Held"])
def test_the_claim(app: Deliveries, calls: Calls, kind: str, done: bool, times: int) -> None:
    """Of an unsafe adapter too: it was never entered, so nothing is unknown."""
    broken_attempts(app, calls, kind, ["Attempted"], done, times)


@times
def test_an_outcome_and_the_next_claim_in_one(app: Deliveries, calls: Calls, done: bool, times: int) -> None:
    broken_attempts(app, calls, "Failed", ["Failed", "Attempted"], done, times)


@times
@pytest.mark.parametrize("kind", ["Attempted", "Succeeded"])
def test_performing_one(app: Deliveries, calls: Calls, kind: str, done: bool, times: int) -> None:
    """Whoever dispatches asks again: it is neither performed twice nor left to its lease."""
    app.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(app).id
    fault = Fault(app.engine, kind, done=done, times=times)
    for _ in range(2 * times + 2):
        with contextlib.suppress(OperationalError):
            app.perform(id)
    assert_broken(fault, done)
    assert app.perform(id).result == "done"
    assert without_given_back(history(app, id)) == ["Scheduled", "Attempted", "Succeeded"]
    assert len(calls.of(id)) == 1
    assert_called_once_each(app, calls)


# -- what nobody reported ------------------------------------------------------------------------------


SWEPT: dict[str, tuple[dict[str, Any], str]] = {
    "retried": ({}, "Interrupted"),
    "the last attempt": ({"max_attempts": 1}, "Exhausted"),
    "held": ({"effect": "unsafe", "on_unknown": "hold"}, "Held"),
    "cancelled meanwhile": ({}, "Cancelled"),
}


@times
@pytest.mark.parametrize("case", SWEPT)
def test_the_sweep(
    timed: Deliveries, clock: RunningClock, calls: Calls, case: str, done: bool, times: int
) -> None:
    options, kind = SWEPT[case]
    timed.adapter("email", backoff=LATER, **options)(calls(lambda delivery, attempt: None))
    ids = [schedule(timed).id for _ in range(3)]
    dead = timed.processor()
    for id in ids:
        assert dead._claims.start(id) is not None
        if kind == "Cancelled":
            with timed.engine.begin() as connection:
                timed.cancel(connection, id)
    clock.advance(31)
    fault = Fault(timed.engine, kind, done=done, times=times)
    drain_all(timed)
    assert_broken(fault, done)
    asked = ["CancelRequested"] if kind == "Cancelled" else []
    for id in ids:
        assert kinds(timed, id) == ["Scheduled", "Attempted", *asked, kind]
        assert row(timed, id).lease_until is None
    assert not calls.made


@times
def test_the_sweep_of_deadlines(
    timed: Deliveries, clock: RunningClock, calls: Calls, done: bool, times: int
) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(timed, delay=100, expires_at=NOW.replace(year=NOW.year + 1)).id
    clock.advance(366 * 86_400)
    fault = Fault(timed.engine, "Exhausted", done=done, times=times)
    drain_all(timed)
    assert_broken(fault, done)
    assert kinds(timed, id) == ["Scheduled", "Exhausted"]
    assert not calls.made


# -- lookups -------------------------------------------------------------------------------------------


LOOKED_UP: dict[str, tuple[Any, str, list[str]]] = {
    "it happened": (Delivered("ch_1"), "Succeeded", ["Succeeded"]),
    "it did not": (NotDone(), "Rescheduled", ["Rescheduled"]),
    "it never can": (Cancel("refused"), "Cancelled", ["Cancelled"]),
    "not worth it": (Discard(), "Exhausted", ["Exhausted"]),
    "who knows": (Unknown(), "asking again", []),
    "the question": (Delivered(), "asking", ["Succeeded"]),
}


@times
@pytest.mark.parametrize("case", LOOKED_UP)
def test_a_lookup(
    timed: Deliveries, clock: RunningClock, calls: Calls, case: str, done: bool, times: int
) -> None:
    answer, broken, resolved = LOOKED_UP[case]
    asked: list[int] = []

    def lookup(delivery: Any, attempt: Any) -> Any:
        asked.append(attempt.number)
        return answer

    @timed.adapter("charge", effect="unsafe", lookup=lookup, backoff=LATER, max_lookups=6)
    @calls
    def charge(delivery: Any, attempt: Any) -> None:
        raise ValueError("reset")

    id = schedule(timed, "charge").id
    timed.drain()
    clock.advance(10_001)
    fault = Fault(timed.engine, broken, done=done, times=times)
    for _ in range(6):
        timed.drain(patience=10)
        if fault.left < times and row(timed, id).lookup_at is None:
            break
        if broken in ("asking", "asking again"):
            clock.advance(HOUR)  # its lease
    assert_broken(fault, done)
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Held", *resolved]
    assert calls.of(id) == [1]
    # a question is asked once for each time that it was leased, and an answer is not asked for again
    assert set(asked) == {1}
    assert len(asked) == 1 or broken == "asking again"
    assert row(timed, id).lookups <= (1 if not broken.startswith("asking") else 1 + times)


def test_a_lookup_whose_provider_ends_all_connections(postgresql_url: str, apps: Apps, calls: Calls) -> None:
    """The first thing that this processor does, so that nobody has told it the time yet."""
    app = apps(postgresql_url)

    def lookup(delivery: Any, attempt: Any) -> Any:
        cut_off(app.engine)
        return Delivered()

    @app.adapter("charge", effect="unsafe", lookup=lookup, backoff=Backoff.schedule([0]))
    @calls
    def charge(delivery: Any, attempt: Any) -> None:
        raise ValueError("reset")

    id = schedule(app, "charge").id
    app.drain()
    assert kinds(app, id)[-1] == "Held"
    with app.running(listen=False) as processor:
        eventually(lambda: ended(app, id))
        assert processor.is_alive
    assert kinds(app, id) == ["Scheduled", "Attempted", "Held", "Succeeded"]


def cut_off(engine: Engine) -> None:
    admin = create_engine(engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def ended(app: Deliveries, id: Any) -> bool:
    """Whether it has, asked on a connection that may have been ended too."""
    try:
        return app.get(id).is_terminal
    except OperationalError:
        return False


# -- stopping ------------------------------------------------------------------------------------------


@times
def test_giving_back_at_shutdown(app: Deliveries, calls: Calls, done: bool, times: int) -> None:
    entered, gate = threading.Event(), threading.Event()

    @app.adapter("email", effect="unsafe", on_unknown="hold")
    @calls
    async def email(delivery: Any, attempt: Any) -> None:
        entered.set()
        gate.wait(20)

    ids = [schedule(app).id for _ in range(4)]
    processor = app.processor(grace=20)
    processor.start()
    assert entered.wait(10)
    eventually(lambda: {app.get(id).status for id in ids} == {Status.ATTEMPTING})
    fault = Fault(app.engine, "Interrupted", done=done, times=times)
    processor.stop()
    (running,) = [id for id, _ in calls.made]
    waiting = [id for id in ids if id != running]
    eventually(lambda: {app.get(id).status for id in waiting} == {Status.PENDING})
    gate.set()
    stopped(processor)
    assert_broken(fault, done)
    for id in waiting:
        assert kinds(app, id) == ["Scheduled", "Attempted", "Interrupted"]
        assert (app.get(id).endings, app.get(id).interruptions) == (0, 0)
    drain_all(app)
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert_called_once_each(app, calls)


@pytest.mark.parametrize("grace", [0, 20])
def test_stopping_while_a_claim_is_in_doubt(app: Deliveries, calls: Calls, done: bool, grace: float) -> None:
    """What was claimed in our name and never entered is given back, not left to be held as a crash."""
    app.adapter("charge", effect="unsafe", on_unknown="hold")(calls(lambda delivery, attempt: None))
    id = schedule(app, "charge").id
    processor = app.processor()
    fault = Fault(app.engine, "Attempted", done=done, then=lambda: processor.stop(grace))
    processor.start()
    stopped(processor)
    assert_broken(fault, done)
    assert app.get(id).status is Status.PENDING
    drain_all(app)
    assert without_given_back(history(app, id)) == ["Scheduled", "Attempted", "Succeeded"]
    assert_called_once_each(app, calls)


# -- what is written beside the streams ----------------------------------------------------------------


@times
def test_late_evidence(app: Deliveries, calls: Calls, done: bool, times: int) -> None:
    """A call that timed out, and comes back when nobody waits for it any more."""
    gate = Gate()

    @app.adapter("email", timeout=0.1, backoff=LATER)
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        if delivery.payload == "slow":
            gate()

    slow = schedule(app, "email", "slow").id
    fault = Fault(app.engine, "evidence", done=done, times=times)
    with app.running(queues={"email": 1}) as processor:
        eventually(lambda: "Failed" in kinds(app, slow))
        gate.open()
        eventually(lambda: fault.left < times and evidence(app, slow))
        other = schedule(app).id
        eventually(lambda: app.get(other).is_terminal)
        assert processor.is_alive
    assert evidence(app, slow) == [("late_report", {"attempt": 1, "said": "Delivered"})]
    assert processor.summary.late == 1
    assert kinds(app, slow) == ["Scheduled", "Attempted", "Failed"]
    assert_called_once_each(app, calls)


@times
def test_late_evidence_of_an_attempt_that_was_taken_over(
    timed: Deliveries, clock: RunningClock, calls: Calls, done: bool, times: int
) -> None:
    gate = Gate()

    @timed.adapter("email", backoff=LATER, timeout=HOUR)
    @calls
    def email(delivery: Any, attempt: Any) -> Any:
        gate()

    id = schedule(timed).id
    processor = timed.processor(poll=0.1)
    processor.start()
    gate.wait_for()
    clock.advance(31)
    other = timed.processor()
    eventually(lambda: other.run(until_idle=True) and "Interrupted" in kinds(timed, id))
    fault = Fault(timed.engine, "evidence", done=done, times=times)
    gate.open()
    eventually(lambda: fault.left < times and processor.summary.late)
    processor.stop()
    stopped(processor)
    assert evidence(timed, id) == [("late_report", {"attempt": 1, "said": "Delivered"})]
    assert processor.summary.late == 1
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Interrupted"]


@times
def test_the_row_of_the_worker(app: Deliveries, calls: Calls, done: bool, times: int) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    fault = Fault(app.engine, "presence", done=done, times=times)
    id = schedule(app).id
    with app.running() as processor:
        eventually(lambda: app.get(id).is_terminal)
        assert rows_of_workers(app) == 1
        assert processor.is_alive
    assert_broken(fault, done)
    assert rows_of_workers(app) == 0
    assert_called_once_each(app, calls)


def test_the_row_of_a_worker_that_leaves(app: Deliveries, done: bool) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    fault = Fault(app.engine, "leaving", done=done)
    processor = app.processor()
    processor.start()
    eventually(lambda: rows_of_workers(app) == 1)
    processor.stop()
    stopped(processor)  # without an error
    assert_broken(fault, done)


def rows_of_workers(app: Deliveries) -> int:
    with app.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(workers)) or 0


def test_the_heartbeat(app: Deliveries, calls: Calls, done: bool) -> None:
    """One beat is lost: the next ones keep the lease."""
    gate = Gate()
    app.adapter("email")(calls(lambda delivery, attempt: gate()))
    id = schedule(app).id
    fault = Fault(app.engine, "heartbeat", done=done)
    with app.running(lease=3, sweep_every=0.05) as processor:
        gate.wait_for()
        first = row(app, id).lease_until
        eventually(lambda: fault.left == 0)
        eventually(lambda: (row(app, id).lease_until - first).total_seconds() > 1.5)
        gate.open()
        eventually(lambda: app.get(id).is_terminal)
        assert processor.is_alive
    assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"]
    assert_called_once_each(app, calls)


# -- doubt, and what cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["the stream", "the row"])
def test_doubt_about_what_makes_no_sense_stops_nobody_else(
    apps: Apps, fresh_url: str, calls: Calls, damage: str
) -> None:
    """A claim whose answer was lost, of a delivery that cannot be given back."""
    app = apps(fresh_url, pool_pre_ping=True)
    apps.damaged = True
    app.adapter("email")(calls(lambda delivery, attempt: None))
    bad = schedule(app, priority=0).id
    fault = Fault(app.engine, "Attempted", done=True, then=lambda: _damage(app, bad, damage))
    with app.running(queues={"email": 1}, poll=0.1) as processor:
        eventually(lambda: fault.left == 0)
        healthy = schedule(app).id
        eventually(lambda: app.get(healthy).is_terminal)
        assert processor.is_alive
    assert calls.of(healthy) == [1]
    assert calls.of(bad) == []


def _damage(app: Deliveries, id: Any, damage: str) -> None:
    engine = create_engine(app.engine.url, poolclass=NullPool)
    with engine.begin() as connection:
        if damage == "the row":
            connection.execute(update(deliveries).where(deliveries.c.id == id).values(version=9))
            return
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
        else:
            triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            for name in list(triggers.scalars()):
                connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
        connection.execute(
            text("UPDATE delivery_events SET type = 'Nonsense' WHERE version = 2 AND type = 'Attempted'")
        )


# -- the caller's side ---------------------------------------------------------------------------------


def again(app: Deliveries, act: Callable[[Connection], Any], times: int) -> Any:
    """What a careful caller does: after an error at commit, the whole transaction once more."""
    for attempt in itertools.count(1):
        try:
            with app.engine.begin() as connection:
                answer = act(connection)
        except OperationalError:
            assert attempt <= times * 2 + 1, "it fails for ever"
        else:
            return answer
    raise AssertionError


@times
def test_scheduling_again_with_the_same_key(app: Deliveries, calls: Calls, done: bool, times: int) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    fault = Fault(app.engine, "Scheduled", done=done, times=times)
    delivery = again(app, lambda connection: app.schedule(connection, "email", {"a": 1}, key="k"), times)
    assert_broken(fault, done)
    assert delivery.created is not done
    assert [found.id for found in app.find(key="k")] == [delivery.id]
    drain_all(app)
    assert kinds(app, delivery.id) == ["Scheduled", "Attempted", "Succeeded"]
    assert calls.made == [(delivery.id, 1)]


@times
def test_scheduling_many_again(app: Deliveries, calls: Calls, done: bool, times: int) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    Fault(app.engine, "Scheduled", done=done, times=times)
    drafts = [Draft(n, key=f"k{n}") for n in range(5)]
    made = again(app, lambda connection: app.schedule_many(connection, "email", drafts), times)
    assert {found.id for found in app.find()} == {delivery.id for delivery in made}
    assert len(made) == 5
    drain_all(app)
    assert len(calls) == 5
    assert_called_once_each(app, calls)


ACTS: dict[str, tuple[str, Callable[[Deliveries, Connection, Any], Any]]] = {
    "cancel": ("Cancelled", lambda app, connection, id: app.cancel(connection, id, reason="no")),
    "suppress": ("Suppressed", lambda app, connection, id: app.suppress(connection, id, reason="no")),
    "reschedule": ("Rescheduled", lambda app, connection, id: app.reschedule(connection, id, delay=HOUR)),
    "resolve": ("Succeeded", lambda app, connection, id: app.resolve(connection, id, Delivered("seen"))),
}


@times
@pytest.mark.parametrize("name", ACTS)
def test_an_operators_act_again(app: Deliveries, calls: Calls, name: str, done: bool, times: int) -> None:
    kind, act = ACTS[name]
    app.adapter("charge", effect="unsafe", on_unknown="hold")(calls(lambda delivery, attempt: Unknown()))
    id = schedule(app, "charge", delay=None if name == "resolve" else HOUR).id
    app.drain()
    before = kinds(app, id)
    fault = Fault(app.engine, kind, done=done, times=times)
    delivery = again(app, lambda connection: act(app, connection, id), times)
    if name == "reschedule" and done:
        # a pending delivery may be moved as often as one likes: each time is an event, at most
        assert set(kinds(app, id)) == {"Scheduled", kind}
    else:
        assert fault.left == (times - 1 if done else 0)
        assert kinds(app, id) == [*before, kind]
    assert delivery.version == app.get(id).version
    drain_all(app)
    assert len(calls) == (name == "resolve")
