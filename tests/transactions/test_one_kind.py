"""`Unique` with 64 callers: one delivery of a kind, whoever rolls back, is cut off or comes in a batch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from deliveries import Deliveries, Delivery, Draft, Unique
from support.apps import kinds, schedule
from transactions.callers import CALLERS, Caller, at_once
from transactions.debts import assert_nothing_left, owed
from transactions.watch import PATIENCE, pid_of, watching

LEVELS = ["REPEATABLE READ", "SERIALIZABLE"]
ONE = Unique(keys=("user_id",))

WideOn = Callable[..., Deliveries]


def of(n: int) -> dict[str, int]:
    """The same kind for all, another payload for each."""
    return {"user_id": 7, "n": n}


def ask(app: Deliveries, bind: Connection, n: int) -> Delivery:
    return app.schedule(bind, "email", of(n), unique=ONE)


def assert_one(app: Deliveries, answers: list[Delivery]) -> None:
    assert len({delivery.id for delivery in answers}) == 1
    assert Counter(delivery.created for delivery in answers) == {True: 1, False: CALLERS - 1}
    (winner,) = (delivery for delivery in answers if delivery.created)
    assert owed(app) == [winner.payload] == [answers[0].payload]
    assert kinds(app, winner.id) == ["Scheduled"]


def test_all_at_once_make_one_delivery(wide: Deliveries) -> None:
    caller = Caller(wide)
    assert_one(wide, at_once(lambda n: caller(lambda bind: ask(wide, bind, n))))
    assert not caller.retries, "nothing is unknowable here"


def test_without_it_they_make_as_many_as_they_are(wide: Deliveries) -> None:
    """Known bad: the test above can fail."""
    caller = Caller(wide)
    at_once(lambda n: caller(lambda bind: wide.schedule(bind, "email", of(n))))
    assert len(owed(wide)) == CALLERS


@pytest.mark.parametrize("level", LEVELS)
def test_all_at_once_at_every_isolation_level(postgresql_url: str, wide_on: WideOn, level: str) -> None:
    app = wide_on(postgresql_url)
    caller = Caller(app, level)

    def act(bind: Connection, n: int) -> Delivery:
        bind.execute(text("SELECT 1"))  # the snapshot is taken before
        return ask(app, bind, n)

    assert_one(app, at_once(lambda n: caller(lambda bind: act(bind, n))))


def test_different_kinds_are_nobody_elses(wide: Deliveries) -> None:
    caller = Caller(wide)
    at_once(lambda n: caller(lambda bind: wide.schedule(bind, "email", {"user_id": n}, unique=ONE)))
    assert sorted(payload["user_id"] for payload in owed(wide)) == list(range(CALLERS))


def rolling_back(app: Deliveries, rollbacks: int) -> Callable[[int], tuple[Any, bool]]:
    """Of those whose delivery is new, so many roll back."""
    left = iter(range(rollbacks))
    guard = threading.Lock()

    def act(n: int) -> tuple[Any, bool]:
        with app.engine.connect() as connection:
            delivery = ask(app, connection, n)
            with guard:
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


def test_all_roll_back_and_nothing_is_owed(wide: Deliveries, calls: Any) -> None:
    answers = at_once(rolling_back(wide, CALLERS))
    assert all(new for _, new in answers)
    assert_nothing_left(wide, calls)
    assert schedule(wide, "email", of(0), unique=ONE).created


def test_batches_in_every_order_make_one_of_each_kind(wide: Deliveries) -> None:
    """Each brings all kinds, some twice, in an order of its own: nobody waits in a circle."""
    caller = Caller(wide)

    def act(n: int) -> list[Delivery]:
        users = [(n * 7 + step * (1 if n % 2 else -1)) % 13 for step in range(26)]
        found: list[Delivery] = []

        def batch(bind: Connection) -> Delivery:
            drafts = [Draft({"user_id": user, "n": n}, unique=ONE) for user in users]
            found[:] = wide.schedule_many(bind, "email", drafts)
            return found[0]

        caller(batch)
        assert [delivery.payload["user_id"] for delivery in found] == users
        return found

    answers = [delivery for batch in at_once(act) for delivery in batch]
    assert not caller.retries, "a deadlock was broken"
    assert Counter(delivery.created for delivery in answers)[True] == 13
    assert sorted(payload["user_id"] for payload in owed(wide)) == list(range(13))


def test_a_known_duplicate_waits_for_nobody(postgresql_url: str, wide_on: WideOn) -> None:
    """Many long transactions that all find the same delivery go on side by side."""
    app = wide_on(postgresql_url)
    known = schedule(app, "email", of(0), unique=ONE)
    with app.engine.connect() as first, app.engine.connect() as second:
        assert ask(app, first, 1).id == known.id
        second.execute(text("SET LOCAL lock_timeout = '50ms'"))
        assert ask(app, second, 2).id == known.id


def test_the_winners_connection_is_cut_and_another_one_wins(postgresql_url: str, wide_on: WideOn) -> None:
    app = wide_on(postgresql_url)
    caller = Caller(app)
    others = CALLERS - 1
    with ThreadPoolExecutor(others) as pool, app.engine.connect() as connection:
        pid = pid_of(connection)
        cut_off = ask(app, connection, 0)
        futures: list[Future[Delivery]] = [
            pool.submit(lambda n=n: caller(lambda bind: ask(app, bind, n))) for n in range(1, CALLERS)
        ]
        with watching(app.engine) as watch:
            watch.until_waiting(pid, others)
            watch.terminate(pid)
        assert not wait(futures, PATIENCE).not_done
        with pytest.raises(OperationalError):
            connection.commit()
        connection.invalidate()
    answers = [future.result() for future in futures]
    assert Counter(answer.created for answer in answers) == {True: 1, False: others - 1}
    assert cut_off.id not in {answer.id for answer in answers}
    assert len(owed(app)) == 1


def test_a_rollback_to_a_savepoint_gives_the_kind_away(postgresql_url: str, wide_on: WideOn) -> None:
    app = wide_on(postgresql_url)
    caller = Caller(app)
    with ThreadPoolExecutor(1) as pool, app.engine.connect() as connection:
        app.schedule(connection, "email", "his")
        savepoint = connection.begin_nested()
        ask(app, connection, 0)
        other = pool.submit(lambda: caller(lambda bind: ask(app, bind, 1)))
        with watching(app.engine) as watch:
            watch.until_waiting(pid_of(connection), 1)
        savepoint.rollback()
        assert other.result(PATIENCE).created
        found = ask(app, connection, 2)
        assert (found.id, found.created) == (other.result().id, False)
        connection.commit()
    assert owed(app) == ["his", of(1)]


LATEST = Unique(period=None, keys=("user_id",), states=("pending",), replace=("payload",))


def test_all_replace_at_once_and_the_last_one_is_owed(wide: Deliveries) -> None:
    """Every call is new and takes the place of the one before: none is pending twice, none is lost."""
    caller = Caller(wide)
    answers = at_once(lambda n: caller(lambda bind: wide.schedule(bind, "email", of(n), unique=LATEST)))
    assert len({delivery.id for delivery in answers}) == CALLERS
    pending = wide.find(status="pending")
    assert len(pending) == 1
    assert len(wide.find(status="cancelled")) == CALLERS - 1
    chain = [wide.get(pending[0].id)]
    while chain[-1].causation_id is not None:
        chain.append(wide.get(chain[-1].causation_id))
    assert len(chain) == CALLERS


def test_replacers_and_a_processor_at_once(wide: Deliveries, calls: Any) -> None:
    """Whatever the processor took before it was replaced is sent, and nothing is both."""
    caller = Caller(wide)
    with wide.running({"email": 4}):
        answers = at_once(lambda n: caller(lambda bind: wide.schedule(bind, "email", of(n), unique=LATEST)))
    wide.drain()
    ends = Counter(found.status.value for found in wide.find())
    assert set(ends) <= {"succeeded", "cancelled"}
    assert ends.total() == len({answer.id for answer in answers if answer.created})
    assert sorted({id for id, _ in calls.made}) == sorted(found.id for found in wide.find(status="succeeded"))
