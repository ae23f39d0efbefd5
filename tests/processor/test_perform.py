"""`perform`: one delivery, now, for whoever dispatches by id."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from deliveries import (
    Deliveries,
    DeliveryNotFound,
    InvalidSchedule,
    Performed,
    Retry,
    Snooze,
    Status,
    Unknown,
    UnknownChannel,
)
from deliveries.testing.examples import at
from support.apps import Apps, Calls, RunningClock, assert_called_once_each, kinds, schedule


def test_done(timed: Deliveries, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    one, other = schedule(timed).id, schedule(timed).id
    answer = timed.perform(one)
    assert (answer.result, answer.until, answer.attempted) == ("done", None, True)
    assert answer.delivery.status is Status.SUCCEEDED
    assert timed.get(other).status is Status.PENDING
    assert_called_once_each(timed, calls)


def test_the_id_as_text(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    assert timed.perform(str(schedule(timed).id)).result == "done"


def test_what_has_ended_is_left_alone(timed: Deliveries, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(timed).id
    timed.perform(id)
    before = kinds(timed, id)
    for _ in range(3):
        answer = timed.perform(id)
        assert (answer.result, answer.attempted) == ("done", False)
    assert kinds(timed, id) == before
    assert calls.of(id) == [1]


def test_not_due(timed: Deliveries, clock: RunningClock, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(timed, due_at=at(60)).id
    answer = timed.perform(id)
    assert (answer.result, answer.until, answer.attempted) == ("not_due", at(60), False)
    assert len(calls) == 0
    clock.advance(60)
    assert timed.perform(id).result == "done"


@pytest.mark.parametrize(("said", "kind"), [(Retry(after=60), "Failed"), (Snooze(60), "Rescheduled")])
def test_to_be_attempted_again(timed: Deliveries, said: Any, kind: str) -> None:
    timed.adapter("email")(lambda delivery, attempt: said)
    id = schedule(timed).id
    answer = timed.perform(id)
    assert (answer.result, answer.attempted) == ("not_due", True)
    assert answer.until == timed.history(id)[-1].event.due_at
    assert kinds(timed, id) == ["Scheduled", "Attempted", kind]
    again = timed.perform(id)
    assert (again.result, again.attempted, again.until) == ("not_due", False, answer.until)


def test_held_is_done_for_who_dispatches(timed: Deliveries) -> None:
    timed.adapter("email", on_unknown="hold")(lambda delivery, attempt: Unknown())
    id = schedule(timed).id
    assert timed.perform(id).result == "done"
    answer = timed.perform(id)
    assert (answer.result, answer.attempted, answer.delivery.status) == ("done", False, Status.HELD)


def test_a_deadline_that_has_passed(timed: Deliveries, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(timed, expires_at=at(-1)).id
    answer = timed.perform(id)
    assert (answer.result, answer.attempted, answer.delivery.status) == ("done", False, Status.EXHAUSTED)
    assert len(calls) == 0


def test_busy_while_somebody_else_attempts_it(app: Deliveries, calls: Calls) -> None:
    answers: list[Performed] = []

    @app.adapter("email")
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        answers.append(app.perform(delivery.id))

    id = schedule(app).id
    app.drain(lease=77)
    (answer,) = answers
    assert (answer.result, answer.attempted) == ("busy", False)
    started = app.history(id)[1].recorded_at
    assert answer.until is not None
    assert 70 < (answer.until - started).total_seconds() < 90
    assert app.get(id).status is Status.SUCCEEDED
    assert_called_once_each(app, calls)


def test_busy_while_an_operator_holds_it(postgresql_url: str, apps: Apps, calls: Calls) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(app).id
    with app.engine.connect() as connection:
        app.reschedule(connection, id, delay=0)
        assert app.perform(id).result == "busy"
        assert len(calls) == 0
        connection.rollback()
    assert app.perform(id).result == "done"


def test_whatever_queue_it_is_in(timed: Deliveries) -> None:
    timed.adapter("email", queue="never-run")(lambda delivery, attempt: None)
    assert timed.perform(schedule(timed).id).delivery.status is Status.SUCCEEDED


def test_what_is_refused(database_url: str, apps: Apps) -> None:
    app, other = apps(database_url), apps(database_url)
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app).id
    with pytest.raises(DeliveryNotFound):
        app.perform(UUID(int=7))
    with pytest.raises(InvalidSchedule, match="id"):
        app.perform("no-uuid")
    with pytest.raises(UnknownChannel, match="email"):
        other.perform(id)
    assert kinds(app, id) == ["Scheduled"]
    app.perform(id)
    assert other.perform(id).result == "done"  # nothing is to be called any more
