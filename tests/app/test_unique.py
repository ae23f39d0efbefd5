"""`Unique` as a user meets it: windows, kinds, states, batches, replacing, and what it costs unused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from deliveries import (
    ConcurrentChange,
    Deliveries,
    Delivery,
    Draft,
    IdempotencyConflict,
    InvalidAdapter,
    InvalidSchedule,
    Snooze,
    Unique,
)
from deliveries.store.schema import contents, deliveries, uniques
from support.apps import Apps, Calls, RunningClock, everything, kinds, last, schedule, statements, texts

USER = Unique(keys=("user_id",))
EVER = Unique(period=None, keys=("user_id",))
EVER_ALL = Unique(period=None)
PENDING = {"period": None, "keys": ("user_id",), "states": ("pending",)}


@pytest.fixture
def app(timed: Deliveries) -> Deliveries:
    timed.adapter("email")(lambda delivery, attempt: None)
    return timed


def user(id: int, **more: Any) -> dict[str, Any]:
    return {"user_id": id, **more}


def many(app: Deliveries, *drafts: Draft) -> list[Delivery]:
    with app.engine.begin() as connection:
        return app.schedule_many(connection, "email", drafts)


# -- the window --------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_one_that_is_there(app: Deliveries) -> None:
    first = schedule(app, "email", user(1, n=1), unique=USER)
    again = schedule(app, "email", user(1, n=2), unique=USER)
    assert (first.created, again.created) == (True, False)
    assert (again.id, again.payload) == (first.id, user(1, n=1))
    assert schedule(app, "email", user(2), unique=USER).created
    assert kinds(app, first.id) == ["Scheduled"]


@pytest.mark.parametrize("period", [60, 0.5, timedelta(days=1)])
def test_the_window_ends_to_the_moment(app: Deliveries, clock: RunningClock, period: Any) -> None:
    unique = Unique(period=period)
    assert unique.seconds is not None
    first = schedule(app, unique=unique)
    clock.advance(unique.seconds - 0.01)
    assert schedule(app, unique=unique).id == first.id
    clock.advance(0.01)
    second = schedule(app, unique=unique)
    assert second.created
    assert schedule(app, unique=unique).id == second.id


def test_a_duplicate_does_not_prolong_the_window(app: Deliveries, clock: RunningClock) -> None:
    schedule(app, unique=Unique(period=60))
    clock.advance(59)
    assert not schedule(app, unique=Unique(period=60)).created
    clock.advance(2)
    assert schedule(app, unique=Unique(period=60)).created


def test_the_window_counts_from_scheduling_not_from_the_due_time(
    app: Deliveries, clock: RunningClock
) -> None:
    schedule(app, unique=Unique(period=60), delay=3600)
    clock.advance(61)
    assert schedule(app, unique=Unique(period=60), delay=3600).created


def test_without_a_period_it_is_for_ever(app: Deliveries, clock: RunningClock) -> None:
    first = schedule(app, "email", user(1), unique=EVER)
    app.drain()
    clock.advance(9 * 366 * 86_400)
    again = schedule(app, "email", user(1), unique=EVER)
    assert (again.id, again.created, again.status) == (first.id, False, "succeeded")


def test_on_real_clocks(database_url: str, apps: Any) -> None:
    app = apps(database_url)
    app.adapter("email")(lambda delivery, attempt: None)
    unique = Unique(period=0.2)
    first = schedule(app, unique=unique)
    found: list[Delivery] = []
    while not (found and found[-1].created):
        found.append(schedule(app, unique=unique))
    assert {one.id for one in found[:-1]} <= {first.id}
    assert (found[-1].scheduled_at - first.scheduled_at) >= timedelta(seconds=0.19)


# -- states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancel", "suppress"])
def test_what_was_given_up_does_not_count(app: Deliveries, end: str) -> None:
    first = schedule(app, unique=EVER_ALL)
    with app.engine.begin() as connection:
        getattr(app, end)(connection, first.id)
    assert schedule(app, unique=EVER_ALL).created


def test_states_that_were_said(app: Deliveries) -> None:
    unique = Unique(period=None, states=("pending", "exhausted"))
    first = schedule(app, unique=unique)
    app.drain()
    second = schedule(app, unique=unique)
    assert second.created
    assert app.get(first.id).status == "succeeded"


def test_one_that_is_being_attempted_counts(app: Deliveries) -> None:
    found: list[Delivery] = []

    @app.adapter("sms")
    def sms(delivery: Delivery, attempt: Any) -> None:
        found.append(schedule(app, "sms", delivery.payload, unique=EVER))

    first = schedule(app, "sms", user(1), unique=EVER)
    app.drain()
    assert [(one.id, one.created, one.status) for one in found] == [(first.id, False, "attempting")]


def test_another_call_may_see_another_window_on_the_same_kind(app: Deliveries, clock: RunningClock) -> None:
    first = schedule(app, unique=Unique(period=60))
    clock.advance(30)
    assert schedule(app, unique=Unique(period=60)).id == first.id
    assert schedule(app, unique=Unique(period=10)).created


# -- where it is said ----------------------------------------------------------------------------------


def test_an_adapter_says_it_for_all_its_calls(app: Deliveries) -> None:
    app.adapter("sms", unique=USER)(lambda delivery, attempt: None)
    first = schedule(app, "sms", user(1))
    assert schedule(app, "sms", user(1)).id == first.id
    assert schedule(app, "sms", user(1), unique=False).created
    assert not schedule(app, "sms", user(1), unique=Unique(keys=("user_id",), period=5)).created


@pytest.mark.parametrize("unique", [True, 60, "payload", {"period": 60}, Unique])
def test_what_is_no_unique_is_refused(app: Deliveries, unique: Any) -> None:
    with (
        app.engine.begin() as connection,
        statements(app.engine) as seen,
        pytest.raises(InvalidSchedule) as caught,
    ):
        app.schedule(connection, "email", unique=unique)
    assert caught.value.field == "unique"
    assert seen == []
    with pytest.raises(InvalidAdapter, match="unique"):
        app.adapter("sms", unique=unique)(lambda delivery, attempt: None)


def test_a_missing_key_refuses_all_before_any_sql(app: Deliveries) -> None:
    with app.engine.begin() as connection, statements(app.engine) as seen:
        with pytest.raises(InvalidSchedule, match="user_id"):
            app.schedule_many(connection, "email", [Draft(user(1)), Draft({"userid": 2}, unique=USER)])
        assert seen == []
    assert app.find() == []


def test_tenants_have_windows_of_their_own(app: Deliveries) -> None:
    schedule(app, "email", user(1), tenant="a", unique=EVER)
    other = schedule(app, "email", user(1), tenant="b", unique=EVER)
    assert (other.created, other.tenant) == (True, "b")


def test_recipients_count_unless_they_are_left_out(app: Deliveries) -> None:
    """Two people that are owed the same are two debts."""
    schedule(app, "email", user(1), recipient="ann@example.org", unique=USER)
    assert schedule(app, "email", user(1), recipient="bob@example.org", unique=USER).created
    loose = Unique(fields=("channel", "payload"), keys=("user_id",))
    schedule(app, "email", user(1), recipient="ann@example.org", unique=loose)
    assert not schedule(app, "email", user(1), recipient="bob@example.org", unique=loose).created


# -- keys beside it ------------------------------------------------------------------------------------


def test_a_key_comes_first(app: Deliveries, clock: RunningClock) -> None:
    first = schedule(app, "email", user(1), key="k", unique=USER)
    clock.advance(100)
    second = schedule(app, "email", user(1), unique=USER)
    assert second.created
    again = schedule(app, "email", user(1), key="k", unique=USER)
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(IdempotencyConflict):
        schedule(app, "email", user(2), key="k", unique=USER)
    assert {found.id for found in app.find()} == {first.id, second.id}


def test_a_new_key_is_still_a_duplicate(app: Deliveries) -> None:
    first = schedule(app, "email", user(1), key="k1", unique=USER)
    again = schedule(app, "email", user(1), key="k2", unique=USER)
    assert (again.id, again.created, again.key) == (first.id, False, "k1")


# -- batches -------------------------------------------------------------------------------------------


def test_duplicates_inside_a_batch_and_before_it(app: Deliveries) -> None:
    old = schedule(app, "email", user(1), unique=USER)
    made = many(
        app,
        Draft(user(2, n=0), unique=USER),
        Draft(user(1), unique=USER),
        Draft(user(2, n=1), unique=USER),
        Draft(user(2), unique=False),
        Draft(user(3), unique=USER),
    )
    assert [one.created for one in made] == [True, False, False, True, True]
    assert made[1].id == old.id
    assert made[2].id == made[0].id
    assert made[2].payload == user(2, n=0)
    assert len(app.find()) == 4


def test_a_batch_of_thousands_takes_a_few_statements(app: Deliveries) -> None:
    drafts = [Draft(user(n % 1_000), unique=USER) for n in range(3_000)]
    with app.engine.begin() as connection, statements(app.engine) as seen:
        made = app.schedule_many(connection, "email", drafts)
    assert len(seen) <= 20
    assert [one.payload["user_id"] for one in made] == [n % 1_000 for n in range(3_000)]
    assert sum(one.created for one in made) == len(app.find(limit=10_000)) == 1_000


def test_states_without_pending_make_no_duplicates_in_a_batch(app: Deliveries) -> None:
    unique = Unique(states=("succeeded",))
    made = many(app, Draft(1, unique=unique), Draft(1, unique=unique))
    assert [one.created for one in made] == [True, True]


# -- nothing of it is left, nothing is lost --------------------------------------------------------------


def test_a_rollback_leaves_no_window(app: Deliveries) -> None:
    before = everything(app, "delivery_schema")
    with app.engine.connect() as connection:
        app.schedule(connection, "email", user(1), unique=USER)
        assert not app.schedule(connection, "email", user(1), unique=USER).created
        connection.rollback()
    assert everything(app, "delivery_schema") == before
    assert schedule(app, "email", user(1), unique=USER).created


def test_a_savepoint_s_rollback_leaves_no_window(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        savepoint = connection.begin_nested()
        app.schedule(connection, "email", user(1), unique=USER)
        savepoint.rollback()
        assert app.schedule(connection, "email", user(1), unique=USER).created


def test_erasing_frees_the_kind_and_leaves_no_digest(app: Deliveries) -> None:
    first = schedule(app, "email", user(1), unique=EVER)
    other = schedule(app, "email", user(2), unique=EVER)
    app.erase(where={"id": first.id})
    with app.engine.begin() as connection:
        assert list(connection.scalars(select(uniques.c.delivery_id))) == [other.id]
    assert schedule(app, "email", user(1), unique=EVER).created
    assert not schedule(app, "email", user(2), unique=EVER).created


def test_a_window_whose_delivery_is_gone_is_free(app: Deliveries, apps: Apps) -> None:
    apps.damaged = True
    first = schedule(app, "email", user(1), unique=EVER)
    with app.engine.begin() as connection:
        connection.execute(contents.update().values(recipient=None, payload=None, salt=None))
    assert schedule(app, "email", user(1), unique=EVER).id == first.id
    with app.engine.begin() as connection:
        connection.execute(uniques.update().values(delivery_id=UUID(int=1)))
    assert schedule(app, "email", user(1), unique=EVER).created


# -- what it costs --------------------------------------------------------------------------------------


def test_unused_it_costs_no_statement(app: Deliveries) -> None:
    app.adapter("sms", unique=EVER)(lambda delivery, attempt: None)
    schedule(app)
    plain: list[str] = []
    for options in ({}, {"unique": None}, {"unique": False}):
        with app.engine.begin() as connection, statements(app.engine) as seen:
            app.schedule(connection, "email", user(1), **options)
        plain = plain or list(seen)
        assert seen == plain
        assert not any("uniques" in statement for statement in seen)
    with app.engine.begin() as connection, statements(app.engine) as seen:
        app.schedule(connection, "sms", user(1), unique=False)
    assert seen == plain


def test_used_it_costs_a_few(app: Deliveries) -> None:
    schedule(app)
    with app.engine.begin() as connection, statements(app.engine) as plain:
        app.schedule(connection, "email", user(1))
    with app.engine.begin() as connection, statements(app.engine) as new:
        app.schedule(connection, "email", user(1), unique=USER)
    with app.engine.begin() as connection, statements(app.engine) as duplicate:
        app.schedule(connection, "email", user(1), unique=USER)
    assert len(new) == len(plain) + 2
    assert len(duplicate) == 1


# -- replacing ------------------------------------------------------------------------------------------


def test_a_due_time_moves_the_one_that_is_there(app: Deliveries, clock: RunningClock) -> None:
    unique = Unique(**PENDING, replace=("due_at",))
    first = schedule(app, "email", user(1, n=1), delay=60, unique=unique)
    clock.advance(50)
    again = schedule(app, "email", user(1, n=2), delay=60, unique=unique)
    assert (again.id, again.created, again.payload) == (first.id, False, user(1, n=1))
    assert again.due_at is not None
    assert first.due_at is not None
    assert again.due_at - first.due_at > timedelta(seconds=50)
    assert kinds(app, first.id) == ["Scheduled", "Rescheduled"]
    assert app.get(first.id).due_at == again.due_at
    assert app.drain().succeeded == 0
    clock.advance(61)
    assert app.drain().succeeded == 1


def test_no_due_time_means_at_once(app: Deliveries) -> None:
    unique = Unique(**PENDING, replace=("due_at",))
    schedule(app, "email", user(1), delay=3600, unique=unique)
    schedule(app, "email", user(1), unique=unique)
    assert app.drain().succeeded == 1


def test_anything_else_supersedes_it(app: Deliveries) -> None:
    unique = Unique(**PENDING, replace=("payload", "priority"))
    first = schedule(
        app,
        "email",
        user(1, n=1),
        recipient="ann@example.org",
        delay=60,
        priority=3,
        tags=["a"],
        max_attempts=2,
        unique=unique,
    )
    second = schedule(
        app, "email", user(1, n=2), recipient="ann@example.org", priority=0, tags=["b"], unique=unique
    )
    assert second.created
    assert second.id != first.id
    assert (second.payload, second.priority) == (user(1, n=2), 0), "what was named is the call's"
    assert (second.due_at, second.tags, second.max_attempts) == (first.due_at, ("a",), 2), "the rest is kept"
    assert second.recipient == "ann@example.org"
    assert second.causation_id == str(first.id)
    assert second.idempotency_key != first.idempotency_key
    gone = app.get(first.id)
    assert (gone.status, last(app, first.id).cause) == ("cancelled", "superseded")
    assert texts(app, first.id)[-1] == f"by delivery {second.id}"
    assert app.get(second.id) == second
    assert schedule(
        app, "email", user(1, n=3), recipient="ann@example.org", unique=unique
    ).causation_id == str(second.id)


def test_everything_can_be_replaced(app: Deliveries, clock: RunningClock) -> None:
    """Debouncing: the last call's word counts, so long after it."""
    unique = Unique(
        **PENDING,
        fields=("channel", "payload"),
        replace=("payload", "recipient", "due_at", "priority", "expires_at", "max_attempts", "tags"),
    )
    schedule(app, "email", user(1, n=1), recipient="ann", delay=60, priority=1, tags=["x"], unique=unique)
    at = clock.now() + timedelta(hours=1)
    new = schedule(
        app, "email", user(1, n=2), recipient="bob", due_at=at, expires_at=at, max_attempts=9, unique=unique
    )
    assert (new.payload, new.recipient, new.due_at, new.priority) == (user(1, n=2), "bob", at, 5)
    assert (new.expires_at, new.max_attempts, new.tags) == (at, 9, ())
    assert app.get(new.id) == new


@pytest.mark.parametrize("replace", [("due_at",), ("payload",)])
def test_only_a_pending_one_is_replaced(app: Deliveries, replace: tuple[str, ...]) -> None:
    unique = Unique(period=None, keys=("user_id",), replace=replace)
    first = schedule(app, "email", user(1, n=1), unique=unique)
    app.drain()
    again = schedule(app, "email", user(1, n=2), delay=60, unique=unique)
    assert (again.id, again.created, again.status) == (first.id, False, "succeeded")
    assert kinds(app, first.id) == ["Scheduled", "Attempted", "Succeeded"]


def test_one_that_waits_for_its_retry_is_pending(app: Deliveries, clock: RunningClock) -> None:
    app.adapter("sms")(lambda delivery, attempt: Snooze(60))
    unique = Unique(**PENDING, replace=("payload",))
    first = schedule(app, "sms", user(1, n=1), unique=unique)
    app.drain()
    second = schedule(app, "sms", user(1, n=2), unique=unique)
    assert kinds(app, first.id) == ["Scheduled", "Attempted", "Rescheduled", "Cancelled"]
    assert second.due_at == last_due(app, first)


def last_due(app: Deliveries, delivery: Delivery) -> Any:
    return next(one.event.due_at for one in app.history(delivery.id) if one.type == "Rescheduled")


@pytest.mark.parametrize("replace", [("payload",), ("payload", "due_at"), ("due_at",)])
def test_replacing_inside_a_batch(app: Deliveries, replace: tuple[str, ...]) -> None:
    """The last one of a kind counts, and there is one."""
    unique = Unique(**PENDING, replace=replace)
    old = schedule(app, "email", user(1, n=0), delay=5, unique=unique)
    made = many(
        app,
        Draft(user(1, n=1), delay=10, unique=unique),
        Draft(user(2, n=2), delay=10, unique=unique),
        Draft(user(1, n=3), delay=20, unique=unique),
        Draft(user(2, n=4), delay=30, unique=unique),
    )
    moves, supersedes = "due_at" in replace, "payload" in replace
    assert [one.created for one in made] == [supersedes, True, False, False]
    assert made[0].id == made[2].id
    assert (made[0].id == old.id) is not supersedes
    assert made[1].id == made[3].id
    assert [app.get(made[n].id).payload["n"] for n in (2, 3)] == ([3, 4] if supersedes else [0, 2])
    first, second = (app.get(made[n].id).due_at for n in (2, 3))
    assert first is not None
    assert second is not None
    assert (second - first > timedelta(seconds=9)) is moves
    assert len(app.find(status="pending")) == 2
    assert len(app.find(status="cancelled")) == supersedes


def test_mixed_words_on_one_kind_in_a_batch(app: Deliveries) -> None:
    old = schedule(app, "email", user(1, n=0), delay=5, unique=EVER)
    made = many(
        app,
        Draft(user(1, n=1), unique=EVER),
        Draft(user(1, n=2), delay=500, unique=Unique(**PENDING, replace=("due_at",))),
        Draft(user(1, n=3), unique=Unique(**PENDING, replace=("payload",))),
    )
    assert [one.created for one in made] == [False, False, True]
    assert {one.id for one in made} == {made[2].id}
    found = app.get(made[2].id)
    assert found.payload == user(1, n=3)
    assert found.due_at is not None
    assert old.due_at is not None
    assert found.due_at - old.due_at > timedelta(seconds=400)
    assert app.get(old.id).status == "cancelled"


def test_a_replacement_whose_old_one_cannot_be_read_leaves_nothing(
    app: Deliveries, apps: Any, fresh_url: str
) -> None:
    apps.damaged = True
    app = apps(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    unique = Unique(**PENDING, replace=("payload",))
    first = schedule(app, "email", user(1), unique=unique)
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().values(version=7))
    before = everything(app)
    with app.engine.begin() as connection, pytest.raises(ConcurrentChange, match=str(first.id)):
        app.schedule(connection, "email", user(1, n=1), unique=unique)
    assert everything(app) == before


def test_a_rollback_brings_the_old_one_back(app: Deliveries, calls: Calls) -> None:
    unique = Unique(**PENDING, replace=("payload",))
    first = schedule(app, "email", user(1, n=1), unique=unique)
    before = everything(app)
    with app.engine.connect() as connection:
        app.schedule(connection, "email", user(1, n=2), unique=unique)
        connection.rollback()
    assert everything(app) == before
    assert app.drain().succeeded == 1
    assert app.get(first.id).status == "succeeded"
