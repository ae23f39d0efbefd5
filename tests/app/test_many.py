"""`schedule_many`: thousands in a handful of statements, in order, all or nothing."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from deliveries import Deliveries, Draft, IdempotencyConflict, InvalidPayload, InvalidSchedule, UnknownChannel
from deliveries.store.schema import deliveries, events
from support.apps import schedule, statements


@pytest.fixture
def app(app: Deliveries) -> Deliveries:
    app.adapter("email")(lambda delivery, attempt: None)
    return app


def count(app: Deliveries) -> int:
    with app.engine.connect() as connection:
        rows = connection.scalar(select(func.count()).select_from(deliveries))
        assert rows == connection.scalar(select(func.count()).select_from(events))
        return rows or 0


def test_ten_thousand_without_ten_thousand_round_trips(app: Deliveries) -> None:
    drafts = [Draft({"n": n}, recipient=f"r{n}", key=f"k{n}") for n in range(10_000)]
    schedule(app, key="warm-up")
    with app.engine.begin() as connection, statements(app.engine) as seen:
        made = app.schedule_many(connection, "email", drafts)
    assert len(seen) <= 30  # nine batches, each of one statement or three
    assert [delivery.payload["n"] for delivery in made] == list(range(10_000))
    assert len({delivery.id for delivery in made}) == 10_000
    assert all(delivery.created for delivery in made)
    assert count(app) == 10_001
    assert app.get(made[777].id).recipient == "r777"

    with app.engine.begin() as connection, statements(app.engine) as seen:
        again = app.schedule_many(connection, "email", drafts)
    assert len(seen) <= 40
    assert [delivery.id for delivery in again] == [delivery.id for delivery in made]
    assert not any(delivery.created for delivery in again)
    assert count(app) == 10_001


def test_ids_sort_as_the_drafts_do(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        made = app.schedule_many(connection, "email", [Draft(n) for n in range(50)])
    assert [found.id for found in reversed(app.find())] == [delivery.id for delivery in made]


def test_old_and_new_keys_keep_their_order(app: Deliveries) -> None:
    old = schedule(app, "email", 1, key="b")
    with app.engine.begin() as connection:
        made = app.schedule_many(
            connection, "email", [Draft(0, key="a"), Draft(1, key="b"), Draft(2), Draft(3, key="c")]
        )
    assert [delivery.created for delivery in made] == [True, False, True, True]
    assert made[1].id == old.id
    assert [delivery.payload for delivery in made] == [0, 1, 2, 3]


def test_a_key_twice_in_one_batch_is_one_delivery(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        drafts = [Draft(1, key="a"), Draft(2), Draft(1, key="a"), Draft(1, key="a", tenant="t")]
        made = app.schedule_many(connection, "email", drafts)
    assert made[0].id == made[2].id
    assert [delivery.created for delivery in made] == [True, True, False, True]
    assert count(app) == 3


def test_two_debts_under_one_key_in_one_batch_are_a_conflict(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        kept = app.schedule(connection, "email", "kept")
        with pytest.raises(IdempotencyConflict):
            app.schedule_many(connection, "email", [Draft(0), Draft(1, key="a"), Draft(2, key="a")])
    assert [found.id for found in app.find()] == [kept.id]


def test_a_conflict_leaves_nothing_of_the_batch_and_all_of_the_rest(app: Deliveries) -> None:
    schedule(app, "email", "theirs", key="taken")
    with app.engine.begin() as connection:
        app.schedule(connection, "email", "before")
        with pytest.raises(IdempotencyConflict):
            app.schedule_many(connection, "email", [Draft(n, key=f"k{n}") for n in range(5)] + [
                Draft("mine", key="taken")
            ])  # fmt: skip
        app.schedule(connection, "email", "after", key="k1")
    assert count(app) == 3
    assert {app.get(found.id).payload for found in app.find()} == {"theirs", "before", "after"}


@pytest.mark.parametrize(
    ("draft", "error"),
    [(Draft(float("nan")), InvalidPayload), (Draft(1, priority=10), InvalidSchedule)],
)
def test_one_bad_draft_refuses_all_before_any_sql(
    app: Deliveries, draft: Draft, error: type[Exception]
) -> None:
    with app.engine.begin() as connection:
        with statements(app.engine) as seen, pytest.raises(error):
            app.schedule_many(connection, "email", [Draft(1), draft])
        assert seen == []
    assert count(app) == 0


def test_none_at_all(app: Deliveries) -> None:
    with app.engine.begin() as connection, statements(app.engine) as seen:
        assert app.schedule_many(connection, "email", []) == []
    assert seen == []
    with app.engine.begin() as connection, pytest.raises(UnknownChannel):
        app.schedule_many(connection, "fax", [])


def test_a_rollback_leaves_nothing_of_a_batch(app: Deliveries) -> None:
    with app.engine.connect() as connection:
        app.schedule_many(connection, "email", [Draft(n) for n in range(10)])
        connection.rollback()
    assert count(app) == 0
