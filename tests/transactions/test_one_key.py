"""T2 with 64 callers: one key is one delivery, whoever rolls back, is cut off or owes something else."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from deliveries import ConcurrentSchedule, Deliveries, Delivery, Draft, IdempotencyConflict
from support.apps import Calls, kinds, schedule
from transactions.callers import CALLERS, Caller, at_once
from transactions.debts import assert_nothing_left, owed
from transactions.watch import PATIENCE, pid_of, watching

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

WideOn = Callable[..., Deliveries]


# -- the same debt, and another one ------------------------------------------------------------------


def assert_one_of_the_same(app: Deliveries, answers: list[Delivery]) -> None:
    assert len({delivery.id for delivery in answers}) == 1
    assert Counter(delivery.created for delivery in answers) == {True: 1, False: CALLERS - 1}
    assert kinds(app, answers[0].id) == ["Scheduled"]
    assert owed(app) == ["the same"]


def test_all_at_once_make_one_delivery(wide: Deliveries) -> None:
    caller = Caller(wide)
    answers = at_once(lambda n: caller(lambda bind: wide.schedule(bind, "email", "the same", key="k")))
    assert_one_of_the_same(wide, answers)
    assert not caller.retries, "nothing is unknowable here"


@pytest.mark.parametrize("level", LEVELS[1:])
def test_all_at_once_at_every_isolation_level(postgresql_url: str, wide_on: WideOn, level: str) -> None:
    """Each is told to run again while the answer is unknowable, by our error and by no other."""
    app = wide_on(postgresql_url)
    caller = Caller(app, level)

    def act(bind: Connection) -> Delivery:
        bind.execute(text("SELECT 1"))  # the snapshot is taken before
        return app.schedule(bind, "email", "the same", key="k")

    assert_one_of_the_same(app, at_once(lambda n: caller(act)))


@pytest.mark.parametrize("level", LEVELS[1:])
def test_different_keys_are_nobody_elses_at_every_isolation_level(
    postgresql_url: str, wide_on: WideOn, level: str
) -> None:
    app = wide_on(postgresql_url)
    caller = Caller(app, level)
    answers = at_once(lambda n: caller(lambda bind: app.schedule(bind, "email", n, key=f"k{n}")))
    assert len({delivery.id for delivery in answers}) == CALLERS
    assert sorted(owed(app)) == list(range(CALLERS))


def test_another_debt_is_a_conflict_for_all_but_one(wide: Deliveries) -> None:
    caller = Caller(wide)

    def act(n: int) -> Delivery | IdempotencyConflict:
        try:
            return caller(lambda bind: wide.schedule(bind, "email", n, key="k"))
        except IdempotencyConflict as conflict:
            return conflict

    assert_one_winner(wide, at_once(act))


@pytest.mark.parametrize("level", LEVELS[1:])
def test_another_debt_is_a_conflict_at_every_isolation_level(
    postgresql_url: str, wide_on: WideOn, level: str
) -> None:
    app = wide_on(postgresql_url)
    caller = Caller(app, level)

    def act(n: int) -> Delivery | IdempotencyConflict:
        try:
            return caller(lambda bind: app.schedule(bind, "email", n, key="k"))
        except IdempotencyConflict as conflict:
            return conflict

    assert_one_winner(app, at_once(act))


def assert_one_winner(app: Deliveries, answers: list[Any]) -> None:
    winners = [answer for answer in answers if not isinstance(answer, Exception)]
    conflicts = [answer for answer in answers if isinstance(answer, IdempotencyConflict)]
    assert (len(winners), len(conflicts)) == (1, CALLERS - 1)
    assert {(one.key, one.differs, one.delivery_id) for one in conflicts} == {("k", "payload", winners[0].id)}
    assert owed(app) == [winners[0].payload]


def test_a_batch_of_many_is_all_or_nothing_among_many(wide: Deliveries) -> None:
    """Each brings one key of its own and one that all want: losers leave nothing of their own."""

    def act(n: int) -> bool:
        with wide.engine.begin() as connection:
            drafts = [Draft(n, key=f"own {n}"), Draft(n, key="wanted by all")]
            try:
                wide.schedule_many(connection, "email", drafts)
            except IdempotencyConflict:
                return False
            return True

    answers = at_once(act)
    assert answers.count(True) == 1
    assert owed(wide) == [answers.index(True)] * 2


# -- winners who go away -----------------------------------------------------------------------------


def rolling_back(app: Deliveries, rollbacks: int) -> Callable[[int], tuple[Any, bool]]:
    """Of those who get the key, so many roll back."""
    left = iter(range(rollbacks))
    lock = threading.Lock()

    def act(n: int) -> tuple[Any, bool]:
        with app.engine.connect() as connection:
            delivery = app.schedule(connection, "email", "the same", key="k")
            with lock:
                backs_out = delivery.created and next(left, None) is not None
            connection.rollback() if backs_out else connection.commit()
            return delivery.id, delivery.created

    return act


@pytest.mark.parametrize("rollbacks", [1, 40, CALLERS - 1])
def test_winners_roll_back_until_one_stays(wide: Deliveries, rollbacks: int) -> None:
    answers = at_once(rolling_back(wide, rollbacks))
    created = [id for id, new in answers if new]
    assert len(created) == len(set(created)) == rollbacks + 1
    assert len({id for id, new in answers if not new}) == (rollbacks < CALLERS - 1)
    assert [found.id in created for found in wide.find()] == [True]
    assert owed(wide) == ["the same"]


def test_all_roll_back_and_nothing_is_owed(wide: Deliveries, calls: Calls) -> None:
    answers = at_once(rolling_back(wide, CALLERS))
    assert all(new for _, new in answers)
    assert len({id for id, _ in answers}) == CALLERS
    assert_nothing_left(wide, calls)


def test_the_winners_connection_is_cut_and_another_one_wins(postgresql_url: str, wide_on: WideOn) -> None:
    app = wide_on(postgresql_url)
    caller = Caller(app)
    others = CALLERS - 1

    def other() -> Delivery:
        return caller(lambda bind: app.schedule(bind, "email", "the same", key="k"))

    with ThreadPoolExecutor(others) as pool, app.engine.connect() as connection:
        pid = pid_of(connection)
        cut_off = app.schedule(connection, "email", "the same", key="k")
        futures: list[Future[Delivery]] = [pool.submit(other) for _ in range(others)]
        with watching(app.engine) as watch:
            watch.until_waiting(pid, others)
            watch.terminate(pid)
        assert not wait(futures, PATIENCE).not_done
        with pytest.raises(OperationalError):
            connection.commit()
        connection.invalidate()
    answers = [future.result() for future in futures]
    assert Counter(answer.created for answer in answers) == {True: 1, False: others - 1}
    assert {answer.id for answer in answers} == {found.id for found in app.find()}
    assert cut_off.id not in {answer.id for answer in answers}
    assert owed(app) == ["the same"]


def test_a_winner_who_rolls_back_to_a_savepoint_gives_the_key_away(
    postgresql_url: str, wide_on: WideOn
) -> None:
    """His transaction stays open, and nobody waits for it any more."""
    app = wide_on(postgresql_url)
    caller = Caller(app)
    with ThreadPoolExecutor(1) as pool, app.engine.connect() as connection:
        app.schedule(connection, "email", "his")
        savepoint = connection.begin_nested()
        app.schedule(connection, "email", "the same", key="k")
        other = pool.submit(lambda: caller(lambda bind: app.schedule(bind, "email", "the same", key="k")))
        with watching(app.engine) as watch:
            watch.until_waiting(pid_of(connection), 1)
        savepoint.rollback()
        assert other.result(PATIENCE).created
        found = app.schedule(connection, "email", "the same", key="k")
        assert (found.id, found.created) == (other.result().id, False)
        connection.commit()
    assert sorted(owed(app)) == ["his", "the same"]


def test_who_will_not_wait_for_a_key_says_so(postgresql_url: str, wide_on: WideOn) -> None:
    """A caller's own lock timeout is respected, and its error tells no payload."""
    app = wide_on(postgresql_url)
    with app.engine.connect() as first, app.engine.connect() as second:
        app.schedule(first, "email", "the same", key="k")
        second.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(OperationalError) as caught:
            app.schedule(second, "email", "a secret", recipient="ann@example.org", key="k")
        assert "secret" not in str(caught.value)
        assert "ann@" not in str(caught.value)
        second.rollback()
        first.commit()
    assert owed(app) == ["the same"]


# -- one at a time, where the isolation level tells less than there is -----------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_known_key_whose_delivery_went_on_since_the_snapshot(
    postgresql_url: str, wide_on: WideOn, level: str
) -> None:
    app = wide_on(postgresql_url)
    known = schedule(app, "email", "the same", key="k")
    caller, looked = Caller(app, level), 0

    def act(bind: Connection) -> Delivery:
        nonlocal looked
        bind.execute(text("SELECT 1 FROM deliveries LIMIT 0"))  # the snapshot
        if not looked:
            app.drain()
        looked += 1
        return app.schedule(bind, "email", "the same", key="k")

    found = caller(act)
    assert (found.id, found.created, found.status) == (known.id, False, "succeeded")
    assert looked <= 2
    assert owed(app) == ["the same"]


def test_a_serializable_caller_is_told_by_our_error_also_of_what_he_read(
    postgresql_url: str, wide_on: WideOn
) -> None:
    """His key is known, and looking it up is what PostgreSQL refuses: he stands between two others."""
    app = wide_on(postgresql_url, isolation_level="SERIALIZABLE")
    known = schedule(app, "email", "known", key="known")
    with app.engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id int)"))
    with app.engine.connect() as before, app.engine.connect() as between, app.engine.connect() as after:
        before.execute(text("SELECT count(*) FROM orders"))
        between.execute(text("SELECT 1 FROM deliveries LIMIT 0"))  # the snapshot
        between.execute(text("SET LOCAL enable_indexscan = off"))  # what it looks at is a plan's choice
        between.execute(text("SET LOCAL enable_bitmapscan = off"))
        between.execute(text("INSERT INTO orders VALUES (1)"))
        app.schedule(after, "email", "another", key="another")
        after.commit()
        with pytest.raises(ConcurrentSchedule):
            app.schedule(between, "email", "known", key="known")
        between.rollback()
        before.rollback()
        assert app.schedule(between, "email", "known", key="known").id == known.id
        between.commit()
