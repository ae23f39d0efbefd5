"""Callers who take the same keys in crossing orders: one of them is told to run again, and nobody hangs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from deliveries import ConcurrentChange, ConcurrentSchedule, Deliveries, Draft
from support.apps import Apps, Calls, eventually, kinds
from transactions.debts import owed
from transactions.watch import PATIENCE, pid_of, watching

QUICK = {"options": "-c deadlock_timeout=20 -c statement_timeout=60000"}
"""Milliseconds until PostgreSQL looks for a deadlock (a second unless told), and until nobody waits more."""


@pytest.fixture
def on_postgresql(postgresql_url: str, apps: Apps, calls: Calls) -> Deliveries:
    app = apps(postgresql_url, connect_args=QUICK, pool_size=16)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    return app


def cross(app: Deliveries, first: Session, second: Session) -> tuple[Any, Any]:
    """Each has one key and asks for the other's: what the two get, in this order."""
    app.schedule(first, "email", "a", key="a")
    app.schedule(second, "email", "b", key="b")

    def ask(session: Session, key: str) -> Any:
        try:
            return app.schedule(session, "email", key, key=key)
        except ConcurrentSchedule as error:
            session.rollback()
            return error

    with ThreadPoolExecutor(2) as pool, watching(app.engine) as watch:
        waiting = pool.submit(ask, first, "b")
        watch.until_waiting(pid_of(second), 1)
        crossing = pool.submit(ask, second, "a")
        return waiting.result(PATIENCE), crossing.result(PATIENCE)


def test_one_of_two_is_told_to_run_again(on_postgresql: Deliveries, calls: Calls) -> None:
    app = on_postgresql
    with Session(app.engine) as first, Session(app.engine) as second:
        answers = dict(zip((first, second), cross(app, first, second), strict=True))
        (loser,) = (session for session, answer in answers.items() if isinstance(answer, ConcurrentSchedule))
        (winner,) = set(answers) - {loser}
        assert answers[loser].retryable
        assert answers[winner].created, "the loser's keys are free again"
        winner.commit()
        again = [app.schedule(loser, "email", key, key=key) for key in "ab"]
        loser.commit()
    assert [delivery.created for delivery in again] == [False, False]
    assert sorted(owed(app)) == ["a", "b"]
    assert app.drain().succeeded == len(calls) == 2


def test_the_loser_may_keep_what_came_before_his_savepoint(on_postgresql: Deliveries) -> None:
    """He gives up the key he asked for; the other still waits for the one he has."""
    app, lost = on_postgresql, []
    with Session(app.engine) as patient, app.engine.connect() as connection:
        connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        patient.execute(text("SET LOCAL deadlock_timeout = '1h'"))  # so that the other is the one to lose
        app.schedule(patient, "email", "a", key="a")
        app.schedule(connection, "email", "b", key="b")
        with ThreadPoolExecutor(1) as pool, watching(app.engine) as watch:
            waiting = pool.submit(app.schedule, patient, "email", "b", key="b")
            watch.until_waiting(pid_of(connection), 1)
            savepoint = connection.begin_nested()
            try:
                app.schedule(connection, "email", "a", key="a")
            except ConcurrentSchedule as error:
                lost.append(error)
                savepoint.rollback()
            app.schedule(connection, "email", "kept")
            connection.commit()
            assert not waiting.result(PATIENCE).created
        patient.commit()
    assert lost
    assert sorted(owed(app)) == ["a", "b", "kept"]


BATCH = [f"k{n:03}" for n in range(60)]


@pytest.mark.parametrize("singly", [False, True], ids=["schedule_many", "one by one"])
def test_crossing_orders_of_many_keys_end(wide: Deliveries, singly: bool) -> None:
    """Whatever each has to run again: in the end every key is one delivery, and all know which."""
    callers, batch = (2, BATCH[:6]) if singly else (8, BATCH)
    retries = Counter[int]()
    barrier = threading.Barrier(callers)

    def caller(n: int) -> dict[str, Any]:
        keys = batch[::-1] if n % 2 else batch
        barrier.wait(PATIENCE)
        while True:
            try:
                with wide.engine.begin() as connection:
                    if connection.dialect.name == "postgresql":
                        connection.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
                    made = (
                        [wide.schedule(connection, "email", key, key=key) for key in keys]
                        if singly
                        else wide.schedule_many(connection, "email", [Draft(key, key=key) for key in keys])
                    )
                return {key: delivery.id for key, delivery in zip(keys, made, strict=True)}
            except ConcurrentSchedule:
                retries[n] += 1
                assert retries[n] < 100

    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(caller, n) for n in range(callers)]
        assert not wait(futures, PATIENCE).not_done, "somebody hangs"
        answers = [future.result() for future in futures]
    assert all(answer == answers[0] for answer in answers)
    assert sorted(owed(wide)) == batch
    assert {tuple(kinds(wide, id)) for id in answers[0].values()} == {("Scheduled",)}
    if wide.engine.dialect.name == "sqlite":
        assert not retries, "writers are serial there: nobody can cross anybody"


def test_two_batches_that_cross(on_postgresql: Deliveries) -> None:
    """Each has what the other wants next, since a third caller had stopped both half-way."""
    app, refused = on_postgresql, []
    batches = [["a", "stop 1", "b"], ["b", "stop 2", "a"]]

    def caller(keys: list[str]) -> list[Any]:
        while True:
            try:
                with app.engine.begin() as connection:
                    made = app.schedule_many(connection, "email", [Draft(key, key=key) for key in keys])
                return [delivery.id for delivery in made]
            except ConcurrentSchedule as error:
                refused.append(error)

    with app.engine.connect() as third, ThreadPoolExecutor(2) as pool, watching(app.engine) as watch:
        for stop in ("stop 1", "stop 2"):
            app.schedule(third, "email", stop, key=stop)
        futures = [pool.submit(caller, keys) for keys in batches]
        eventually(lambda: len(watch.waiting_for(None)) == 2, PATIENCE)
        third.rollback()
        first, second = (future.result(PATIENCE) for future in futures)
    assert (first[0], first[2]) == (second[2], second[0])
    assert sorted(owed(app)) == ["a", "b", "stop 1", "stop 2"]
    assert len(refused) <= 1


def test_after_a_lost_crossing_nothing_of_the_batch_is_left(on_postgresql: Deliveries) -> None:
    """`schedule_many` takes its savepoint back, and the caller's transaction may go on."""
    app = on_postgresql
    with Session(app.engine) as patient, app.engine.connect() as connection:
        patient.execute(text("SET LOCAL deadlock_timeout = '1h'"))
        app.schedule(patient, "email", "a", key="a")
        app.schedule(connection, "email", "b", key="b")
        with ThreadPoolExecutor(1) as pool, watching(app.engine) as watch:
            waiting = pool.submit(app.schedule, patient, "email", "b", key="b")
            watch.until_waiting(pid_of(connection), 1)
            with pytest.raises(ConcurrentSchedule):
                app.schedule_many(connection, "email", [Draft("lost", key="c"), Draft("a", key="a")])
            assert app.schedule(connection, "email", "mine", key="c").created
            connection.commit()
            assert not waiting.result(PATIENCE).created
        patient.commit()
    assert sorted(owed(app)) == ["a", "b", "mine"]


def test_commands_in_crossing_orders(on_postgresql: Deliveries) -> None:
    """As with keys: two who cancel each other's delivery; one runs again, until the other is through."""
    app = on_postgresql
    with app.engine.begin() as connection:
        ids = [app.schedule(connection, "email", n, delay=60).id for n in range(2)]
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def caller(order: Callable[[list[Any]], Any]) -> None:
        first, second = order(ids)
        together = True
        while True:
            try:
                with app.engine.begin() as connection:
                    app.cancel(connection, first)
                    if together:
                        together = False
                        barrier.wait(PATIENCE)
                    app.cancel(connection, second)
                outcomes.append("done")
                return
            except ConcurrentChange:
                outcomes.append("again")

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(caller, order) for order in (list, lambda ids: ids[::-1])]
        assert not wait(futures, PATIENCE).not_done, "somebody hangs"
        for future in futures:
            future.result()
    assert Counter(outcomes)["done"] == 2
    assert Counter(outcomes)["again"] >= 1
    assert [kinds(app, id) for id in ids] == [["Scheduled", "Cancelled"]] * 2
