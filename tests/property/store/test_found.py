"""What the machine has found, each as small as it can be told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from deliveries import NotDone
from deliveries.processor.call import Call
from deliveries.processor.ledger import Ledger
from deliveries.processor.processor import Processor
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import sweep
from deliveries.processor.wakeup import Wakeup
from deliveries.store.schema import deliveries
from property.store.workers import LEASE, TIMEOUT, UnreliableStore, Worker, World, enter, says


@pytest.fixture
def world(database_url: str, engines: Callable[..., Engine]) -> Iterator[World]:
    made = World.on(engines(database_url))
    yield made
    made.app.close()  # before its engine, or a hint on its way leaves a connection behind


@pytest.fixture
def store(world: World) -> UnreliableStore:
    return world.store()


def owe(world: World, channel: str) -> UUID:
    with world.engine.begin() as connection:
        return world.app.schedule(connection, channel).id


def kinds(world: World, id: UUID) -> list[str]:
    return [one.type for one in world.app.history(id)]


def facts(store: UnreliableStore, id: UUID) -> list[str]:
    with store.reading() as connection:
        return [kind for kind, _, _ in store.evidence(connection, id)]


def lookup_at(store: UnreliableStore, id: UUID) -> Any:
    with store.reading() as connection:
        return connection.scalar(select(deliveries.c.lookup_at).where(deliveries.c.id == id))


def comes_back(worker: Worker, call: Call, said: str) -> None:
    worker.begun.clear()
    enter(call)
    says(call, said)
    worker.take_back(call)


def overtaken(world: World, store: UnreliableStore) -> None:
    """Every lease runs out and is swept; every retry is due."""
    world.clock.pass_by(LEASE + 1)
    sweep(store)
    world.clock.pass_by(60.0)


def test_a_late_report_is_kept_though_its_worker_claims_the_same_delivery_again(
    world: World, store: UnreliableStore
) -> None:
    """N3: one batch holds the report of attempt 1 and the start of attempt 2 of one delivery.

    `append` answers with ids, so the report seems to be written because the start was. Here the pump
    itself runs: its one slot is free again in the very turn in which the late report is written.
    """
    entered, go_on = threading.Event(), threading.Event()

    def adapter(delivery: Any, attempt: Any) -> None:
        if attempt.number == 1:
            entered.set()
            assert go_on.wait(30)

    world.app.adapter("slow", queue="one", backoff=lambda endings, error: 1.0)(adapter)
    id = owe(world, "slow")
    settings = Settings(queues={"one": 1}, sweep_every=3_600.0, poll=0.001, listen=False)
    processor = Processor(store, world.app.channels, Wakeup(world.engine), settings)
    processor.start()
    assert entered.wait(30)
    world.clock.pass_by(31.0)
    sweep(store)  # somebody else's
    world.clock.pass_by(60.0)
    go_on.set()
    for _ in range(3_000):
        if world.app.get(id).is_terminal:
            break
        processor.join(0.01)
    processor.stop()
    processor.join(30)
    assert kinds(world, id) == ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]
    assert facts(store, id) == ["late_report"]
    assert (processor.summary.succeeded, processor.summary.late) == (1, 1)


def test_two_reports_of_one_delivery_go_into_one_batch(world: World, store: UnreliableStore) -> None:
    """The same with two reports: the late one must neither pass for written nor refuse the batch."""
    id = owe(world, "unsafe")
    worker = Worker(store, world)
    worker.turn()
    (first,) = worker.begun
    overtaken(world, store)
    with world.engine.begin() as connection:
        world.app.resolve(connection, id, NotDone())
    second = Worker(store, world)
    second.turn()
    (newer,) = second.begun
    ledger = Ledger(store, world.clock.now, worker.summary)  # one process had both calls
    for call in (first, newer):
        enter(call)
        says(call, "delivered")
        call.returned = True
        ledger.add(call)
    batch = ledger.batch()
    with store.transaction() as connection:
        written = store.backend.append(connection, [write for _, write in batch], store.deciding_now)
    ledger.written(batch, written)
    ledger.settle()
    assert kinds(world, id)[-1] == "Succeeded"
    assert facts(store, id) == ["late_report"]
    assert worker.summary.succeeded == 1


@pytest.mark.parametrize("answer", ["unknown", "error", "snooze"])
def test_the_answer_to_an_older_question_moves_no_newer_one(
    world: World, store: UnreliableStore, answer: str
) -> None:
    """N3: who asked first and comes back late would hand the question out a second time."""
    id, old, new = _asked_twice(world, store)
    until = lookup_at(store, id)
    comes_back(old[0], old[1], answer)
    old[0].turn()
    assert lookup_at(store, id) == until
    assert new[1].lookups == 2


def test_the_answer_about_an_older_attempt_moves_no_newer_question(
    world: World, store: UnreliableStore
) -> None:
    """N3: where that was its last question, the newer attempt would never be asked about."""
    id, old, new = _asked_twice(world, store)
    comes_back(new[0], new[1], "retry after")
    new[0].turn()
    world.clock.pass_by(6.0)
    new[0].turn()
    assert kinds(world, id)[-1] == "Attempted"
    overtaken(world, store)
    until = lookup_at(store, id)
    assert until is not None
    comes_back(old[0], old[1], "not done")
    old[0].turn()
    assert lookup_at(store, id) == until


def _asked_twice(
    world: World, store: UnreliableStore
) -> tuple[UUID, tuple[Worker, Call], tuple[Worker, Call]]:
    """A held delivery, and two workers who ask about it: the first fell silent."""
    id = owe(world, "asked")
    silent, other = Worker(store, world), Worker(store, world)
    silent.turn()
    comes_back(silent, silent.begun[0], "unknown")
    silent.turn()
    world.clock.pass_by(11.0)
    silent.ask()
    (old,) = silent.begun
    world.clock.pass_by(TIMEOUT + LEASE + 1)
    other.ask()
    (new,) = other.begun
    return id, (silent, old), (other, new)


def test_questions_that_kill_come_to_an_end(world: World, store: UnreliableStore) -> None:
    """N6: a lookup that takes its process down counts on `max_lookups`, or it kills for ever."""
    id = owe(world, "asked")
    worker = Worker(store, world)
    worker.turn()
    comes_back(worker, worker.begun[0], "unknown")
    worker.turn()
    asked = 0
    for _ in range(5):
        world.clock.pass_by(TIMEOUT + LEASE + 1)
        doomed = Worker(store, world)
        doomed.ask()
        asked += len(doomed.begun)
    assert asked == world.app.channels["asked"].max_lookups
    assert lookup_at(store, id) is None


def test_a_report_that_is_in_the_stream_is_not_late(world: World, store: UnreliableStore) -> None:
    """T4: a cancel was asked, so the report was decided anew; then the answer of its commit was lost."""
    id = owe(world, "keyed")
    worker = Worker(store, world)
    worker.turn()
    comes_back(worker, worker.begun[0], "retry")
    with world.engine.begin() as connection:
        world.app.cancel(connection, id)
    worker.turn()  # the batch leaves it out: the stream has moved on
    store.watch(0, after_commit=True)
    worker.turn()
    store.watch()
    assert kinds(world, id) == ["Scheduled", "Attempted", "CancelRequested", "Cancelled"]
    worker.turn()
    assert facts(store, id) == []
    assert worker.summary.cancelled == 1
