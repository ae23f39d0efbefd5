"""T3: on PostgreSQL a caller's open transaction keeps nobody waiting, however long it stays open.

Everybody else works under a lock timeout, so that who would wait fails instead, and a watch looks
all the while for sessions that wait for the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from deliveries import Cancel, Delivered, Deliveries, Draft, Status, Unknown
from support.apps import Apps, Calls, Gate, eventually, kinds, schedule
from transactions.callers import CALLERS
from transactions.debts import owed
from transactions.watch import PATIENCE, nobody_waiting_for, pid_of, watching

HARMLESS = {"AccessShareLock", "RowShareLock", "RowExclusiveLock", "SIReadLock"}
"""What an INSERT takes, and less: two of these never wait for each other. The last is no lock but a
note that a serializable transaction has read something; nobody ever waits for it."""

NO_WAITING = {"options": "-c lock_timeout=5000"}
SETTINGS: dict[str, Any] = {"poll": 0.05, "sweep_every": 0.05, "lease": 1.0}


@pytest.fixture
def app(postgresql_url: str, apps: Apps, calls: Calls) -> Deliveries:
    made = apps(postgresql_url, connect_args=NO_WAITING, pool_size=CALLERS, max_overflow=8)
    made.adapter("email")(calls(lambda delivery, attempt: None))
    return made


# -- what the caller does before he falls asleep -----------------------------------------------------


def one(app: Deliveries, bind: Connection) -> None:
    app.schedule(bind, "email", "sleeping", key="sleeping")


def without_a_key(app: Deliveries, bind: Connection) -> None:
    app.schedule(bind, "email", "sleeping")


def in_a_savepoint(app: Deliveries, bind: Connection) -> None:
    bind.begin_nested()
    app.schedule(bind, "email", "sleeping", key="sleeping")


def after_a_savepoint(app: Deliveries, bind: Connection) -> None:
    app.schedule(bind, "email", "sleeping", key="sleeping")
    savepoint = bind.begin_nested()
    app.schedule(bind, "email", "lost", key="lost")
    savepoint.rollback()


def ten_thousand(app: Deliveries, bind: Connection) -> None:
    app.schedule_many(bind, "email", [Draft("sleeping", key=f"sleeping {n}") for n in range(10_000)])


def a_known_key(app: Deliveries, bind: Connection) -> None:
    app.schedule(bind, "email", "known", key="known")


def a_snapshot(app: Deliveries, bind: Connection) -> None:
    bind.execution_options(isolation_level="REPEATABLE READ")
    app.schedule(bind, "email", "sleeping", key="sleeping")


def serializable(app: Deliveries, bind: Connection) -> None:
    bind.execution_options(isolation_level="SERIALIZABLE")
    app.schedule(bind, "email", "sleeping", key="sleeping")
    assert app.find(session=bind)


def a_reader(app: Deliveries, bind: Connection) -> None:
    bind.execution_options(isolation_level="REPEATABLE READ")
    assert app.find(session=bind)


SLEEPERS = [
    one,
    without_a_key,
    in_a_savepoint,
    after_a_savepoint,
    ten_thousand,
    a_known_key,
    a_snapshot,
    serializable,
    a_reader,
]


@contextmanager
def asleep(app: Deliveries, act: Callable[[Deliveries, Connection], None]) -> Iterator[int]:
    """A caller's transaction that stays open, and is rolled back in the end; gives its session."""
    with app.engine.connect() as connection:
        act(app, connection)
        yield pid_of(connection)
        connection.rollback()


@pytest.mark.parametrize("act", SLEEPERS, ids=lambda act: act.__name__)
def test_an_open_transaction_keeps_nobody_waiting(
    app: Deliveries, postgresql_url: str, apps: Apps, act: Any, calls: Calls
) -> None:
    schedule(app, "email", "known", key="known", delay=3_600)
    others = CALLERS - 1
    starting = apps(postgresql_url, connect_args=NO_WAITING)
    with asleep(app, act) as pid, nobody_waiting_for(app.engine, pid):
        with app.running(queues={"email": 8}, **SETTINGS) as processor, ThreadPoolExecutor(others) as pool:
            futures = [pool.submit(schedule, app, "email", n, key=f"k{n}") for n in range(others)]
            assert not wait(futures, PATIENCE).not_done, "callers with other keys wait"
            ids = [future.result().id for future in futures]
            eventually(lambda: {app.get(id).status for id in ids} == {Status.SUCCEEDED}, PATIENCE)
            assert processor.error is None
        starting.create_schema()  # another program starts
        late = schedule(app, "email", "late")
        assert app.perform(late.id).result == "done"
        doomed = schedule(app, "email", "doomed", delay=60)
        with app.engine.begin() as connection:
            app.reschedule(connection, doomed.id, delay=90)
            app.cancel(connection, doomed.id, reason="no longer")
        assert "no longer" in str(app.explain(doomed.id))
        assert len(app.find(limit=1_000)) == others + 3
        app.event_log.notification_log.select(1, 1_000)  # what there is of it, and at once
        assert app.drain().attempted == 0, "nothing that is not committed is performed"
    assert len(calls) == others + 1
    assert len(owed(app)) == others + 3
    assert len(app.event_log.notification_log.select(1, 1_000)) == 3 * (others + 1) + 1 + 3


@pytest.mark.parametrize("act", SLEEPERS, ids=lambda act: act.__name__)
def test_no_lock_stronger_than_an_inserts(app: Deliveries, act: Any) -> None:
    schedule(app, "email", "known", key="known", delay=3_600)
    with asleep(app, act) as pid, watching(app.engine) as watch:
        locks = watch.locks_of(pid)
    stored = {mode for kind, mode, _ in locks if kind in ("relation", "page", "tuple")}
    assert "AccessShareLock" in stored
    assert stored <= HARMLESS
    assert act is a_reader or ("relation", "RowExclusiveLock", "delivery_events") in locks
    assert {mode for kind, mode, _ in locks if kind == "advisory"} <= {"ShareLock"}
    kinds_of_lock = {"relation", "page", "tuple", "advisory", "virtualxid", "transactionid"}
    assert {kind for kind, _, _ in locks} <= kinds_of_lock
    assert len(locks) < 60, "the server's lock table is everybody's"


def test_the_watch_would_see_who_waits(app: Deliveries) -> None:
    """Known bad: what other event stores do in a caller's transaction."""
    with app.engine.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(text("LOCK TABLE delivery_events IN EXCLUSIVE MODE"))
        pid = pid_of(connection)

        def look() -> None:
            with nobody_waiting_for(app.engine, pid) as look_again, watching(app.engine) as watch:
                other = pool.submit(schedule, app, "email")
                watch.until_waiting(pid, 1)
                look_again()
                assert ("relation", "ExclusiveLock", "delivery_events") in watch.locks_of(pid)
                connection.rollback()
                other.result(PATIENCE)

        with pytest.raises(AssertionError, match="INSERT"):
            look()


def test_readers_of_the_log_go_on_up_to_the_open_transaction(app: Deliveries) -> None:
    """They are held back, never kept waiting, and miss nothing afterwards."""
    before = [schedule(app, "email", n, delay=60).id for n in range(3)]
    log = app.event_log

    def read() -> list[Any]:
        return [entry.originator_id for entry in log.notification_log.select(1, 100)]

    assert read() == before
    with app.engine.connect() as connection:
        late = app.schedule(connection, "email", "late", delay=60)
        with nobody_waiting_for(app.engine, pid_of(connection)):
            after = [schedule(app, "email", n, delay=60).id for n in range(3)]
            seen = read()
        assert late.id not in seen
        assert not set(after) & set(seen), "they come after one that may still be committed"
        connection.commit()
    assert read() == [*before, late.id, *after]


# -- commands: one row, and nobody else's --------------------------------------------------------------


def cancelling(app: Deliveries, bind: Connection, id: Any) -> None:
    app.cancel(bind, id, reason="asleep")


def suppressing(app: Deliveries, bind: Connection, id: Any) -> None:
    app.suppress(bind, id, reason="asleep")


def rescheduling(app: Deliveries, bind: Connection, id: Any) -> None:
    app.reschedule(bind, id, delay=3_600)


COMMANDS = {cancelling: Status.CANCELLED, suppressing: Status.SUPPRESSED, rescheduling: Status.PENDING}


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_holds_one_row_and_all_others_pass_by(
    app: Deliveries, command: Any, commits: bool, calls: Calls
) -> None:
    with app.engine.begin() as connection:
        ids = [made.id for made in app.schedule_many(connection, "email", [Draft(n) for n in range(40)])]
    held, others = ids[0], ids[1:]
    with app.engine.connect() as connection:
        command(app, connection, held)
        with nobody_waiting_for(app.engine, pid_of(connection)):
            with app.running(queues={"email": 4}, **SETTINGS):
                eventually(lambda: {app.get(id).status for id in others} == {Status.SUCCEEDED}, PATIENCE)
            assert app.drain().attempted == 0
            assert app.perform(held).result == "busy"
            assert app.get(held).status is Status.PENDING
            assert "pending" in str(app.explain(held))
            schedule(app, "email", "another", delay=60)
        assert calls.of(held) == []
        connection.commit() if commits else connection.rollback()
    app.drain()
    assert app.get(held).status is (COMMANDS[command] if commits else Status.SUCCEEDED)
    assert calls.of(held) == ([] if commits else [1])


def test_a_sweep_passes_by_what_a_caller_holds(app: Deliveries, apps: Apps, postgresql_url: str) -> None:
    """A worker left ten attempts open; a caller cancels one of them and falls asleep."""
    leaving, gate = apps(postgresql_url), Gate()
    leaving.adapter("email")(gate)
    ids = [schedule(app, "email", n).id for n in range(10)]
    processor = leaving.processor({"email": 10}, lease=0.5)
    processor.start()
    try:
        gate.wait_for(10)
        processor.stop(0)
        processor.join(PATIENCE)
        with app.engine.connect() as connection:
            assert app.cancel(connection, ids[0]).status is Status.ATTEMPTING
            with (
                nobody_waiting_for(app.engine, pid_of(connection)),
                app.running(queues={"email": 10}, **SETTINGS),
            ):
                eventually(lambda: all(kinds(app, id)[2:3] == ["Interrupted"] for id in ids[1:]), PATIENCE)
                assert kinds(app, ids[0]) == ["Scheduled", "Attempted"]
            connection.commit()
        with app.running(queues={"email": 10}, **SETTINGS):
            eventually(lambda: app.get(ids[0]).is_terminal, PATIENCE)
    finally:
        gate.open()
    assert kinds(app, ids[0]) == ["Scheduled", "Attempted", "CancelRequested", "Cancelled"]


def test_lookups_pass_by_what_a_caller_holds(app: Deliveries) -> None:
    """A person resolves one held delivery while its provider is being asked, and falls asleep."""
    gate, answers = Gate(), dict[Any, Delivered]()

    def lookup(delivery: Any, attempt: Any) -> Any:
        gate()
        return answers.get(delivery.id, Unknown("not yet"))

    @app.adapter("charge", effect="unsafe", on_unknown="lookup", lookup=lookup, timeout=30.0)
    def charge(delivery: Any, attempt: Any) -> Any:
        return Unknown("no answer")

    ids = [schedule(app, "charge", n).id for n in range(5)]
    held, others = ids[0], ids[1:]
    answers.update(dict.fromkeys(others, Delivered()))
    try:
        with app.running(queues={"charge": 10}, **SETTINGS):
            eventually(lambda: {app.get(id).status for id in ids} == {Status.HELD})
            with app.engine.begin() as connection:  # nobody has to wait for the backoff
                connection.execute(text("UPDATE deliveries SET lookup_at = now()"))
            gate.wait_for(5)
            with app.engine.connect() as connection:
                app.resolve(connection, held, Cancel("a person knows"))
                with nobody_waiting_for(app.engine, pid_of(connection)):
                    gate.open()
                    eventually(lambda: {app.get(id).status for id in others} == {Status.SUCCEEDED}, PATIENCE)
                    another = schedule(app, "charge").id
                    eventually(lambda: app.get(another).status is Status.HELD, PATIENCE)
                connection.commit()
            eventually(lambda: app.get(held).is_terminal)
    finally:
        gate.open()
    assert kinds(app, held) == ["Scheduled", "Attempted", "Held", "Cancelled"]


def test_a_processor_in_doubt_passes_by_what_a_caller_holds(app: Deliveries, apps: Apps) -> None:
    """Its claim was committed and it was not told. Before it looks again a caller has the row."""
    held = schedule(app, "email", "held").id
    lost: list[Connection] = []

    claimed = text("SELECT count(*) FROM deliveries WHERE status = 'attempting'")

    def lose_the_claims_answer(connection: Connection) -> None:
        if not lost and connection.scalar(claimed):
            driver: Any = connection.connection.dbapi_connection
            driver.commit()
            lost.append(caller)
            app.cancel(caller, held)
            raise OperationalError("COMMIT", {}, ConnectionError("the connection broke"))

    with app.engine.connect() as caller:
        event.listen(app.engine, "commit", lose_the_claims_answer)
        with app.running(queues={"email": 4}, **SETTINGS):
            eventually(lambda: lost)
            with nobody_waiting_for(app.engine, pid_of(caller)):
                others = [schedule(app, "email", n).id for n in range(5)]
                eventually(lambda: {app.get(id).status for id in others} == {Status.SUCCEEDED})
            caller.commit()
            eventually(lambda: app.get(held).is_terminal)
        event.remove(app.engine, "commit", lose_the_claims_answer)
    assert kinds(app, held)[:3] == ["Scheduled", "Attempted", "CancelRequested"]
