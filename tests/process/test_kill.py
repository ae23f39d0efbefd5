"""Real processes on both databases, killed, stopped and told to end, at named points."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from deliveries import Delivered, Deliveries, Delivery, Status
from deliveries.audit.invariants import n3_a_late_word_changes_nothing
from deliveries.store.schema import deliveries, evidence
from deliveries.testing.proof import broken
from support.kill_app import LEASE, QUEUES, SETTINGS, application
from support.kill_process import WorkerProcess, until
from support.receiver import Receiver, Reply


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(lifetime=120.0) as running:
        running.on("/target", Reply())
        running.on("/other", Reply())
        yield running


@pytest.fixture
def app(database_url: str, receiver: Receiver) -> Iterator[Deliveries]:
    made = application(database_url, receiver.url)
    yield made
    made.close()


@pytest.fixture
def worker(database_url: str, receiver: Receiver) -> Any:
    """Starts worker processes."""

    def start(**arguments: Any) -> WorkerProcess:
        return WorkerProcess(url=database_url, receiver=receiver.url, **arguments)

    return start


def owe(app: Deliveries, channel: str = "keyed", others: int = 2) -> UUID:
    """The delivery that will be hit, and some that wait behind it."""
    with app.engine.begin() as connection:
        target = app.schedule(connection, channel, {"path": "/target"}, priority=0)
        for _ in range(others):
            app.schedule(connection, channel, {"path": "/other"})
    return target.id


def others(app: Deliveries, target: UUID) -> list[Delivery]:
    return [app.get(one.id) for one in app.find() if one.id != target]


def stands_still(app: Deliveries) -> bool:
    """Whether nothing is left to do for a processor."""
    return all(one.is_terminal or one.status is Status.HELD for one in app.find())


def finish(app: Deliveries) -> None:
    """A healthy processor does the rest."""
    with app.running(QUEUES, **SETTINGS):
        until(lambda: stands_still(app), "the work was not finished")


def check(app: Deliveries) -> None:
    """Every rule, over every delivery."""
    assert broken(app.engine) == []


def facts(app: Deliveries, id: UUID) -> list[str]:
    with app.engine.connect() as connection:
        return list(connection.scalars(select(evidence.c.kind).where(evidence.c.delivery_id == id)))


def kinds(app: Deliveries, id: UUID) -> list[str]:
    return [one.type for one in app.history(id)]


ONE_CALL = ["Scheduled", "Attempted", "Succeeded"]
INTERRUPTED = ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]


@pytest.mark.parametrize(
    ("point", "effects", "history"),
    [
        pytest.param("before Attempted", 1, ONE_CALL, id="before the claim's commit"),
        pytest.param("after Attempted", 1, INTERRUPTED, id="after the claim's commit"),
        pytest.param("entered", 1, INTERRUPTED, id="in the adapter, before the request"),
        pytest.param("called", 2, INTERRUPTED, id="after the call"),
        pytest.param("before Succeeded", 2, INTERRUPTED, id="before the outcome's commit"),
        pytest.param("after Succeeded", 1, ONE_CALL, id="after the outcome's commit"),
    ],
)
def test_a_kill_loses_nothing_and_doubles_only_what_had_been_called(
    app: Deliveries, receiver: Receiver, worker: Any, point: str, effects: int, history: list[str]
) -> None:
    target = owe(app)
    with worker(stop_at=point) as process:
        process.wait_for(point)
        process.kill()
    finish(app)
    assert kinds(app, target) == history
    assert app.get(target).status is Status.SUCCEEDED
    assert app.get(target).interruptions == history.count("Interrupted")
    assert receiver.calls[str(target)] == effects
    for other in others(app, target):
        assert other.status is Status.SUCCEEDED
        assert receiver.calls[other.idempotency_key] == 1
    assert sum(receiver.calls.values()) == effects + 2
    check(app)


def test_a_kill_during_the_call(app: Deliveries, receiver: Receiver, worker: Any) -> None:
    receiver.on("/target", Reply(delay=15.0), Reply())
    target = owe(app)
    with worker() as process:
        assert receiver.wait_for(1, timeout=30.0)
        process.kill()
    finish(app)
    assert kinds(app, target) == INTERRUPTED
    assert receiver.calls[str(target)] == 2
    assert [receiver.calls[other.idempotency_key] for other in others(app, target)] == [1, 1]
    check(app)


@pytest.mark.parametrize(("point", "effects"), [("after Attempted", 0), ("called", 1)])
def test_a_kill_on_the_last_attempt_ends_the_delivery(
    app: Deliveries, receiver: Receiver, worker: Any, point: str, effects: int
) -> None:
    target = owe(app)
    with worker(stop_at=point, max_attempts=1) as process:
        process.wait_for(point)
        process.kill()
    finish(app)
    assert kinds(app, target) == ["Scheduled", "Attempted", "Exhausted"]
    assert app.history(target)[-1].event.cause == "attempts"
    assert receiver.calls[str(target)] == effects
    check(app)


@pytest.mark.parametrize("point", ["after Attempted", "called"])
def test_an_unsafe_delivery_is_held_and_not_called_again(
    app: Deliveries, receiver: Receiver, worker: Any, point: str
) -> None:
    target = owe(app, "unsafe")
    with worker(stop_at=point) as process:
        process.wait_for(point)
        process.kill()
    finish(app)
    effects = receiver.calls[str(target)]
    assert effects == (point == "called")
    held = app.get(target)
    assert (held.status, held.attempt, held.interruptions) == (Status.HELD, 1, 1)
    with app.engine.begin() as connection:
        app.resolve(connection, target, Delivered(), actor="ann")
    finish(app)
    assert kinds(app, target) == ["Scheduled", "Attempted", "Held", "Succeeded"]
    assert receiver.calls[str(target)] == effects
    check(app)


def test_kills_end_a_delivery_that_kills(app: Deliveries, receiver: Receiver, worker: Any) -> None:
    """N6: each kill counts, and past the bound of crashes the delivery stops."""
    target = owe(app, others=0)
    for _ in range(5):
        with worker(stop_at="entered") as process:
            process.wait_for("entered")
            process.kill()
    finish(app)
    assert kinds(app, target) == ["Scheduled", *["Attempted", "Interrupted"] * 4, "Attempted", "Exhausted"]
    assert receiver.calls[str(target)] == 0
    check(app)


def test_a_graceful_stop_records_the_running_call_and_starts_no_other(
    app: Deliveries, receiver: Receiver, worker: Any
) -> None:
    target = owe(app)
    with worker(stop_at="called") as process:
        process.wait_for("called")
        process.signal(signal.SIGTERM)
        process.wait_for("stopping")
        process.let_go()
        assert process.wait() == 0
    assert kinds(app, target) == ONE_CALL
    assert [(other.status, other.attempt) for other in others(app, target)] == [(Status.PENDING, 0)] * 2
    assert receiver.calls == {str(target): 1}
    check(app)
    finish(app)
    assert receiver.calls[str(target)] == 1


def test_a_worker_that_slept_three_leases_changes_nothing(
    app: Deliveries, receiver: Receiver, worker: Any
) -> None:
    target = owe(app)
    with worker(stop_at="called") as process:
        process.wait_for("called")
        process.signal(signal.SIGSTOP)
        asleep = time.monotonic()
        finish(app)
        until(lambda: time.monotonic() > asleep + 3 * LEASE, "three leases")
        before = (app.history(target), row(app, target))
        process.signal(signal.SIGCONT)
        process.let_go()
        until(lambda: facts(app, target), "the late report was not kept")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    after = (app.history(target), row(app, target))
    assert list(n3_a_late_word_changes_nothing(before, after)) == []
    assert kinds(app, target) == INTERRUPTED
    assert facts(app, target) == ["late_report"]
    assert receiver.calls[str(target)] == 2
    assert [receiver.calls[other.idempotency_key] for other in others(app, target)] == [1, 1]
    check(app)


def row(app: Deliveries, id: UUID) -> Any:
    with app.engine.connect() as connection:
        return connection.execute(select(deliveries).where(deliveries.c.id == id)).one()
