"""T2: one key is one debt, whoever asks, and however many at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from deliveries import (
    ConcurrentSchedule,
    Deliveries,
    DeliveriesError,
    IdempotencyConflict,
    InvalidSchedule,
    Status,
)
from deliveries.errors import CallerError, StoreError
from support.apps import Apps, eventually, kinds, last, schedule

CALLERS = 16


def register(app: Deliveries) -> Deliveries:
    @app.adapter("email")
    def email(delivery: object, attempt: object) -> None: ...

    @app.adapter("sms")
    def sms(delivery: object, attempt: object) -> None: ...

    return app


@pytest.fixture
def app(app: Deliveries) -> Deliveries:
    return register(app)


# -- the same debt -----------------------------------------------------------------------------------


def test_the_same_debt_is_one_delivery(app: Deliveries) -> None:
    first = schedule(app, "email", {"a": 1, "b": 2}, recipient="ann", key="k")
    second = schedule(app, "email", {"b": 2, "a": 1}, recipient="ann", key="k")
    assert (first.created, second.created) == (True, False)
    assert second.id == first.id
    assert kinds(app, first.id) == ["Scheduled"]


def test_what_comes_back_is_the_delivery_as_it_stands(app: Deliveries) -> None:
    first = schedule(app, "email", {"a": 1}, recipient="ann", key="k", tags=["x"])
    app.drain()
    second = schedule(app, "email", {"a": 1}, recipient="ann", key="k", priority=0)
    assert second.status is Status.SUCCEEDED
    assert (second.tags, second.priority, second.payload, second.recipient) == (("x",), 5, {"a": 1}, "ann")
    assert second.version == len(kinds(app, first.id))


def test_within_one_transaction(app: Deliveries) -> None:
    with Session(app.engine) as session, session.begin():
        first = app.schedule(session, "email", 1, key="k")
        second = app.schedule(session, "email", 1, key="k")
    assert (second.id, second.created) == (first.id, False)


def test_no_key_is_never_the_same_debt(app: Deliveries) -> None:
    assert schedule(app, "email", 1).id != schedule(app, "email", 1).id


def test_keys_are_per_tenant(app: Deliveries) -> None:
    ids = {schedule(app, "email", n, key="k", tenant=t).id for n, t in enumerate(["", "a", "b"])}
    assert len(ids) == 3
    assert not schedule(app, "email", 1, key="k", tenant="a").created


def test_a_key_is_only_text(app: Deliveries) -> None:
    for key in ("'; DROP TABLE deliveries; --", "a" * 255, "é" * 255, "%s :key {} \\", " "):
        first = schedule(app, "email", key=key)
        assert schedule(app, "email", key=key).id == first.id
        assert app.get(first.id).key == key
        assert [found.id for found in app.find(key=key)] == [first.id]


@pytest.mark.parametrize("key", ["", "a" * 256, "a\nb", "a\x00b", "\ud800", 7, b"k"])
def test_keys_that_are_refused(nowhere: Deliveries, key: Any) -> None:
    with Session(nowhere.engine) as session, pytest.raises(InvalidSchedule) as caught:
        nowhere.schedule(session, "email", key=key)
    assert caught.value.field == "key"


# -- another debt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differs", "other"),
    [
        ("channel", {"channel": "sms"}),
        ("recipient", {"recipient": "bob"}),
        ("recipient", {"recipient": None}),
        ("payload", {"payload": {"a": 2}}),
        ("payload", {"payload": None}),
        ("payload", {"payload": {"a": "1"}}),
    ],
)
def test_another_debt_under_the_same_key_is_a_conflict(
    app: Deliveries, differs: str, other: dict[str, Any]
) -> None:
    debt = {"channel": "email", "payload": {"a": 1}, "recipient": "ann@example.org"}
    first = schedule(app, **debt, key="k")
    with pytest.raises(IdempotencyConflict) as caught:
        schedule(app, **(debt | other), key="k")
    assert (caught.value.differs, caught.value.key, caught.value.delivery_id) == (differs, "k", first.id)
    assert isinstance(caught.value, CallerError)
    assert not caught.value.retryable
    assert "ann@" not in str(caught.value)


def test_a_conflict_leaves_the_callers_transaction_usable(app: Deliveries) -> None:
    schedule(app, "email", 1, key="k")
    with Session(app.engine) as session, session.begin():
        before = app.schedule(session, "email", "before")
        with pytest.raises(IdempotencyConflict):
            app.schedule(session, "email", 2, key="k")
        after = app.schedule(session, "email", "after")
    assert {found.id for found in app.find()} >= {before.id, after.id}


# -- many callers at once ------------------------------------------------------------------------------


@pytest.fixture
def wide(database_url: str, apps: Apps) -> Deliveries:
    """An application with a connection for every caller."""
    return register(apps(database_url, pool_size=CALLERS, max_overflow=0))


def test_many_callers_at_once_make_one_delivery(wide: Deliveries) -> None:
    barrier = threading.Barrier(CALLERS)

    def caller(_: int) -> tuple[Any, bool]:
        barrier.wait(10)
        delivery = schedule(wide, "email", {"a": 1}, key="k")
        return delivery.id, delivery.created

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(caller, range(CALLERS)))
    assert len({id for id, _ in answers}) == 1
    assert Counter(created for _, created in answers) == {True: 1, False: CALLERS - 1}
    assert kinds(wide, answers[0][0]) == ["Scheduled"]
    assert len(wide.find()) == 1


def test_many_callers_at_once_with_different_debts(wide: Deliveries) -> None:
    barrier = threading.Barrier(CALLERS)

    def caller(n: int) -> Any:
        barrier.wait(10)
        try:
            return schedule(wide, "email", {"a": n}, key="k")
        except IdempotencyConflict as conflict:
            return conflict

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(caller, range(CALLERS)))
    winners = [answer for answer in answers if not isinstance(answer, Exception)]
    assert len(winners) == 1
    assert {answer.delivery_id for answer in answers if isinstance(answer, Exception)} == {winners[0].id}


WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
               " AND wait_event_type = 'Lock'")  # fmt: skip


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_who_comes_second_waits_for_the_first_ones_end(wide: Deliveries, end: str) -> None:
    second: list[Any] = []
    thread = threading.Thread(target=lambda: second.append(schedule(wide, "email", 1, key="k")))
    with wide.engine.connect() as connection:
        first = wide.schedule(connection, "email", 1, key="k")
        thread.start()
        if wide.engine.dialect.name == "postgresql":
            with wide.engine.connect() as other:  # within one transaction the list of sessions stands still
                watch = other.execution_options(isolation_level="AUTOCOMMIT")
                eventually(lambda: watch.scalar(WAITING) == 1)
        getattr(connection, end)()
    thread.join(15)
    assert second[0].created is (end == "rollback")
    assert (second[0].id == first.id) is (end == "commit")
    assert [found.id for found in wide.find()] == [second[0].id]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_where_the_answer_is_unknowable_the_caller_is_told_to_retry(
    postgresql_url: str, apps: Apps, level: str
) -> None:
    app = register(apps(postgresql_url))
    with app.engine.connect() as plain:
        connection = plain.execution_options(isolation_level=level)
        connection.execute(text("SELECT 1"))  # the snapshot is taken here
        winner = schedule(app, "email", 1, key="k")
        with pytest.raises(ConcurrentSchedule) as caught:
            app.schedule(connection, "email", 1, key="k")
        assert caught.value.retryable
        assert isinstance(caught.value, StoreError)
        connection.rollback()
        again = app.schedule(connection, "email", 1, key="k")
        connection.commit()
    assert (again.id, again.created) == (winner.id, False)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_what_the_snapshot_shows_is_found_at_every_level(postgresql_url: str, apps: Apps, level: str) -> None:
    app = register(apps(postgresql_url, isolation_level=level))
    first = schedule(app, "email", 1, key="k")
    assert schedule(app, "email", 1, key="k").id == first.id
    app.drain()
    assert app.get(first.id).status is Status.SUCCEEDED


# -- a commit whose answer was lost (T4) -----------------------------------------------------------


@pytest.mark.parametrize("done", [True, False])
def test_after_an_unknown_commit_the_caller_just_asks_again(
    database_url: str, apps: Apps, engines: Callable[..., Engine], done: bool
) -> None:
    app = register(apps(database_url))
    broken = engines(database_url)

    @event.listens_for(broken, "commit")
    def lose_the_answer(connection: Any) -> None:
        if done:
            connection.connection.dbapi_connection.commit()
        raise OperationalError("COMMIT", {}, ConnectionError("the answer was lost"))

    with pytest.raises(OperationalError), broken.begin() as connection:
        app.schedule(connection, "email", 1, key="k")
    again = schedule(app, "email", 1, key="k")
    assert again.created is not done
    assert kinds(app, again.id) == ["Scheduled"]
    assert len(app.find()) == 1


def test_conflicts_are_of_our_tree(app: Deliveries) -> None:
    assert issubclass(IdempotencyConflict, DeliveriesError)
    delivery = schedule(app, "email", 1, key="k")
    assert last(app, delivery.id).key == "k"
