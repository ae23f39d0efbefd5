"""Group commit, and a memory that does not grow with the backlog."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event

from deliveries import Deliveries, Draft, Status
from deliveries.processor import ledger
from support.apps import Apps, Calls, Gate, assert_called_once_each, eventually, kinds, row, schedule, stopped


def test_ten_thousand_deliveries_in_a_few_commits(postgresql_url: str, apps: Apps, calls: Calls) -> None:
    app, commits = apps(postgresql_url), [0]

    @app.adapter("email")
    @calls
    async def email(delivery: Any, attempt: Any) -> None: ...

    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(n) for n in range(10_000)])

    @event.listens_for(app.engine, "commit")
    def count(connection: Any) -> None:
        commits[0] += 1

    assert app.drain(queues={"email": 500}).succeeded == 10_000
    assert commits[0] < 200
    assert len(calls) == 10_000
    assert_called_once_each(app, calls)


def test_one_delivery_without_load_is_written_at_once(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    with app.running(poll=30):
        for _ in range(3):
            id = schedule(app).id
            eventually(lambda id=id: app.get(id).is_terminal, seconds=5)


def peak(app: Deliveries, backlog: int) -> int:
    """Bytes at the highest while the first 300 of a backlog are performed, and not many more."""
    queue = f"sms{uuid4()}"
    called, allowed = threading.Semaphore(0), threading.Semaphore(300)

    @app.adapter(queue)
    def sms(delivery: Any, attempt: Any) -> None:
        allowed.acquire()
        called.release()

    processor = app.processor(queues={queue: 50}, linger=0.0)
    drafts = [Draft("x" * 500) for _ in range(1_000)]
    for _ in range(backlog // 1_000):
        with app.engine.begin() as connection:
            app.schedule_many(connection, queue, drafts)
    tracemalloc.start()
    try:
        processor.start()
        for _ in range(300):
            assert called.acquire(timeout=30)
        processor.stop()
        allowed.release(backlog)
        stopped(processor)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_backlog(sqlite_url: str, apps: Apps) -> None:
    app = apps(sqlite_url)
    app.adapter("email")(lambda delivery, attempt: None)
    peak(app, 1_000)  # what is made once: compiled statements, caches
    small = peak(app, 2_000)
    # other threads, and garbage that is not collected yet, can only add to a peak
    assert any(peak(app, 10_000) < small * 1.5 + 500_000 for _ in range(3))


def test_an_operators_open_transaction_stalls_nobody_else(
    postgresql_url: str, apps: Apps, calls: Calls
) -> None:
    app = apps(postgresql_url)
    gate = threading.Event()

    @app.adapter("email")
    @calls
    async def email(delivery: Any, attempt: Any) -> None:
        import asyncio

        await asyncio.to_thread(gate.wait, 20)

    ids = [schedule(app).id for _ in range(10)]
    with app.running(lease=3) as processor:
        eventually(lambda: len(calls) == 10)
        with app.engine.connect() as connection:
            app.cancel(connection, ids[4], actor="ann")  # and goes for a coffee
            gate.set()
            eventually(lambda: sum(app.get(id).status is Status.SUCCEEDED for id in ids) == 9)
            later = schedule(app).id
            eventually(lambda: app.get(later).status is Status.SUCCEEDED)
            assert processor.is_alive
            connection.commit()
        eventually(lambda: app.get(ids[4]).is_terminal)
    assert kinds(app, ids[4]) == ["Scheduled", "Attempted", "CancelRequested", "Succeeded"]
    assert row(app, ids[4]).cancel_requested == "operator"
    assert_called_once_each(app, calls)


def test_outcomes_that_were_held_up_together_are_written_together(
    postgresql_url: str, apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a claim does that found them taken: it keeps their rows locked until it ends."""
    monkeypatch.setattr(ledger, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(ledger, "FEW", 0)  # however many come back together
    app, gate, commits = apps(postgresql_url), Gate(), list[Any]()
    app.adapter("email")(gate)
    ids = [schedule(app).id for _ in range(60)]
    with app.running(queues={"email": 60}, lease=60) as processor:
        gate.wait_for(60)
        with app.engine.connect() as holder:
            app._store.backend.lock(holder, ids, skip_locked=False)
            gate.open()
            eventually(lambda: len(processor._ledger.held_up) == 60)
            event.listen(app.engine, "commit", commits.append)
            holder.rollback()
        eventually(lambda: all(app.get(id).is_terminal for id in ids))
    assert len(commits) < 30


def test_an_operators_open_transaction_hides_no_other_due_delivery(
    postgresql_url: str, apps: Apps, calls: Calls
) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    ids = [schedule(app).id for _ in range(5)]
    with app.engine.connect() as connection:
        app.cancel(connection, ids[0])
        assert app.drain().succeeded == 4
        connection.rollback()
    assert app.drain().succeeded == 1
    assert_called_once_each(app, calls)


def test_a_cancel_that_was_rolled_back_never_happened(app: Deliveries, calls: Calls) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(app).id
    with app.engine.connect() as connection:
        assert app.cancel(connection, id).status is Status.CANCELLED
        connection.rollback()
    app.drain()
    assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"]
