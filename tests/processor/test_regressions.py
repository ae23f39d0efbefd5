"""What the product once got wrong, each by a test that failed then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text, update
from sqlalchemy.exc import OperationalError

from deliveries import (
    Attempt,
    Backoff,
    Cancel,
    Delivered,
    Deliveries,
    Delivery,
    NotDone,
    Retry,
    Snooze,
    Status,
    Unknown,
)
from deliveries.clock import SystemClock
from deliveries.core import events as e
from deliveries.processor.processor import Processor
from deliveries.store.schema import contents, deliveries
from support.apps import (
    Apps,
    Calls,
    Gate,
    RunningClock,
    eventually,
    evidence,
    kinds,
    last,
    row,
    schedule,
    stopped,
)

ATTEMPTING = text("SELECT count(*) FROM deliveries WHERE status = 'attempting'")


class NoSuchUser(Cancel):
    """An outcome of the user's own, whose constructor forgot `super().__init__()`."""

    def __init__(self, user: str) -> None:
        self.user = user


def spoilt(outcome: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(outcome, name, value)
    return outcome


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoSuchUser("ann"),
        lambda: spoilt(Retry(), after="soon"),
        lambda: spoilt(Snooze(5), for_="a while"),
        lambda: spoilt(Snooze(5), for_=None, until=datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
    ],
    ids=["no super().__init__()", "Retry(after='soon')", "Snooze of text", "naive Snooze"],
)
def test_an_outcome_that_was_not_made_right_stops_nobody_else(
    app: Deliveries, calls: Calls, make: Callable[[], Any]
) -> None:
    app.adapter("email", backoff=Backoff.schedule([1_000]))(
        calls(lambda delivery, attempt: None if delivery.payload == "healthy" else make())
    )
    bad, healthy = schedule(app, priority=0).id, schedule(app, "email", "healthy").id
    app.drain(queues={"email": 1}, patience=1)
    assert app.get(healthy).status is Status.SUCCEEDED
    assert last(app, bad).attempt == 1
    assert not isinstance(last(app, bad), e.Attempted)


def test_returned_or_raised_a_retry_means_the_same(timed: Deliveries) -> None:
    """Its returned twin is in `test_outcomes`: the error behind it is named, and a backoff sees it."""

    @timed.adapter("email", backoff=lambda endings, error: 13 if isinstance(error, ValueError) else 1)
    def email(delivery: Any, attempt: Any) -> Any:
        raise Retry(ValueError("no"))

    id = schedule(timed).id
    timed.drain()
    recorded = timed.history(id)[-1]
    assert recorded.event.error_type == "ValueError"
    assert round((recorded.event.due_at - recorded.recorded_at).total_seconds()) == 13


@pytest.mark.parametrize("said", [None, Cancel("no such card")], ids=repr)
def test_the_late_word_of_a_call_that_timed_out_is_what_it_said(app: Deliveries, said: Any) -> None:
    gate = Gate()

    @app.adapter("email", timeout=0.1, backoff=Backoff.schedule([1_000]))
    def email(delivery: Any, attempt: Any) -> Any:
        gate()
        return said

    id = schedule(app).id
    with app.running():
        eventually(lambda: "Failed" in kinds(app, id))
        gate.open()
        eventually(lambda: evidence(app, id))
    expected = "Delivered" if said is None else type(said).__name__
    assert evidence(app, id) == [("late_report", {"attempt": 1, "said": expected})]


def test_what_was_not_entered_is_given_back_before_the_grace_is_over(app: Deliveries) -> None:
    entered, gate = threading.Event(), threading.Event()

    @app.adapter("email")
    async def email(delivery: Any, attempt: Any) -> None:
        entered.set()
        gate.wait(30)

    ids = [schedule(app).id for _ in range(3)]
    processor = app.processor(grace=20)
    processor.start()
    assert entered.wait(10)
    eventually(lambda: {app.get(id).status for id in ids} == {Status.ATTEMPTING})
    processor.stop()
    try:
        eventually(lambda: [app.get(id).status for id in ids].count(Status.PENDING) == 2, seconds=3)
    finally:
        gate.set()
        stopped(processor, 40)


def test_a_payload_too_deep_to_be_read_stops_nobody_else(
    fresh_url: str, apps: Apps, clock: RunningClock, calls: Calls
) -> None:
    apps.damaged = True
    app = apps(fresh_url, clock)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    bad, healthy = schedule(app, priority=0).id, schedule(app).id
    with app.engine.begin() as connection:
        connection.execute(
            update(contents).where(contents.c.delivery_id == bad).values(payload="[" * 100_000)
        )
    app.drain(queues={"email": 1}, patience=1)
    app.drain(queues={"email": 1}, patience=1)
    assert row(app, healthy).status == "succeeded"


def test_no_error_text_in_the_log_when_the_database_fails(
    database_url: str, apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    app = apps(database_url)
    app.adapter("email")(lambda delivery, attempt: Retry("no such user ann@example.org", after=100))
    id = schedule(app).id
    broken: list[int] = []

    @event.listens_for(app.engine, "before_cursor_execute")
    def fail(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if not broken and "ann@example.org" in repr(parameters):
            broken.append(1)
            raise OperationalError(statement, parameters, ConnectionError("the connection broke"))

    with caplog.at_level(logging.DEBUG):
        app.drain()
    assert broken
    assert "Failed" in kinds(app, id)
    assert "ann@example.org" not in caplog.text


def test_nothing_of_it_runs_after_close(postgresql_url: str, apps: Apps) -> None:
    """The thread that sends notifications would open a connection that nobody closes."""
    before = set(threading.enumerate())
    app = Deliveries(apps(postgresql_url).engine, clock=SystemClock())
    app.adapter("email")(lambda delivery, attempt: None)
    schedule(app)
    app.close()
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("deliveries-")] == []


def test_a_processor_that_waits_for_its_last_call_does_not_spin(
    app: Deliveries, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full claim before the stop and a free slot during it: each turn asked for the next at once."""
    turns: list[bool] = []
    turn = Processor._turn

    def counted(processor: Processor, *, stays: bool) -> bool:
        turns.append(processor._stop_at is not None)
        return turn(processor, stays=stays)

    monkeypatch.setattr(Processor, "_turn", counted)
    last, first = Gate(), Gate()
    app.adapter("last", queue="mail")(calls(last))
    app.adapter("first", queue="mail")(calls(first))
    with app.engine.begin() as connection:
        app.schedule(connection, "last")
        app.schedule(connection, "first")
    processor = app.processor({"mail": 2}, poll=30, sweep_every=30)
    processor.start()
    last.wait_for()
    first.wait_for()
    processor.stop(grace=0.5)
    first.open()
    processor.join(10)
    last.open()
    assert not processor.is_alive
    assert turns.count(True) <= 60  # near the end of its grace it looks every 10 ms


def test_a_lease_is_counted_from_before_it_was_asked_for(app: Deliveries, calls: Calls) -> None:
    """The commit took longer than the lease: by then the attempt is somebody else's."""
    app.adapter("email", backoff=Backoff.linear(0.1))(calls(lambda delivery, attempt: None))
    id = schedule(app, "email", 1).id
    slow = []

    def commit(connection: Connection) -> None:
        if not slow and connection.scalar(ATTEMPTING):
            slow.append(True)
            time.sleep(1.6)

    event.listen(app.engine, "commit", commit)
    with app.running(lease=1.5, sweep_every=0.1, poll=0.1):
        eventually(lambda: app.get(id).is_terminal)
    assert slow
    assert calls.made == [(id, app.get(id).attempt)]


def test_an_orphan_that_cannot_be_read_stops_nobody_else(apps: Apps, fresh_url: str) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    bad = schedule(app, "email", "bad").id
    lost: list[bool] = []

    def lose(connection: Connection) -> None:
        if not lost and connection.scalar(ATTEMPTING):
            lost.append(True)
            connection.execute(update(deliveries).where(deliveries.c.id == bad).values(version=7))
            connection.connection.dbapi_connection.commit()
            raise OperationalError("COMMIT", {}, ConnectionError("broke"))

    event.listen(app.engine, "commit", lose)
    with app.running(poll=0.05, sweep_every=0.1, lease=1.0):
        eventually(lambda: lost)
        ids = [schedule(app, "email", number).id for number in range(3)]
        eventually(lambda: all(app.get(id).is_terminal for id in ids))
    assert lost


def test_a_lookup_waits_for_a_call_that_still_runs(app: Deliveries) -> None:
    """It had timed out, and its thread goes on: asked too early, the provider would say no."""
    charged: list[int] = []

    def charge(delivery: Delivery, attempt: Attempt) -> None:
        time.sleep(0.6)
        charged.append(attempt.number)

    def look(delivery: Delivery, attempt: Attempt) -> Any:
        return Delivered() if charged else NotDone()

    app.adapter("charge", effect="unsafe", lookup=look, timeout=0.1, backoff=Backoff.linear(0.02))(charge)
    id = schedule(app, "charge").id
    with app.running(lease=2.0, poll=0.05, sweep_every=0.05):
        eventually(lambda: app.get(id).is_terminal)
    assert charged == [1]
    assert kinds(app, id) == ["Scheduled", "Attempted", "Held", "Succeeded"]


def test_a_lookup_is_told_when_its_attempt_started(app: Deliveries) -> None:
    told: list[datetime] = []

    def look(delivery: Delivery, attempt: Attempt) -> Any:
        told.append(attempt.started_at)
        return Delivered() if len(told) == 2 else Unknown()

    app.adapter("charge", effect="unsafe", lookup=look, backoff=Backoff.linear(0.05))(lambda *_: Unknown())
    id = schedule(app, "charge").id
    with app.running(poll=0.05, sweep_every=0.05):
        eventually(lambda: app.get(id).is_terminal)
    started = app.history(id)[1].recorded_at
    assert told == [started, started]


def test_a_lookup_cut_off_waits_for_no_other_channels_timeout(app: Deliveries) -> None:
    """Whoever asked died; the next question is put after its own channel's timeout and the lease."""
    asked = Gate()
    app.adapter("slow", effect="unsafe", lookup=lambda *_: Unknown(), timeout=3_600)(lambda *_: Unknown())
    app.adapter("quick", effect="unsafe", lookup=asked, timeout=2, backoff=Backoff.linear(0.05))(
        lambda *_: Unknown()
    )
    id = schedule(app, "quick").id
    with app.running(poll=0.05, sweep_every=0.05, lease=1.0, grace=0.0):
        asked.wait_for()
        with app.engine.connect() as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == id)).one()
            left = row.lookup_at - app._store.now(connection)
        asked.open()
    assert left.total_seconds() <= 3.0
