"""Calls that take too long: async ones are cancelled, sync ones keep their slot until they return."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import timedelta
from typing import Any

import pytest

from deliveries import Backoff, Cancel, Deliveries, Status
from deliveries.core import events as e
from support.apps import (
    Calls,
    Gate,
    assert_called_once_each,
    eventually,
    evidence,
    kinds,
    last,
    row,
    schedule,
    texts,
)

NEVER = Backoff.schedule([1_000])


def test_an_async_adapter_is_cancelled(app: Deliveries, calls: Calls) -> None:
    cancelled: list[bool] = []

    @app.adapter("email", timeout=0.1, backoff=NEVER)
    @calls
    async def email(delivery: Any, attempt: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    id = schedule(app).id
    summary = app.drain()
    assert (summary.attempted, summary.retrying, summary.late) == (1, 1, 0)
    event = last(app, id)
    assert (type(event), event.cause, event.error_type) == (e.Failed, "timeout", "TimeoutError")
    assert "0.1 s" in (texts(app, id)[-1] or "")
    assert cancelled == [True]
    assert_called_once_each(app, calls)


def test_its_retry_waits_for_the_backoff_and_no_lease(app: Deliveries) -> None:
    @app.adapter("email", timeout=0.1, backoff=Backoff.schedule([2]))
    async def email(delivery: Any, attempt: Any) -> None:
        await asyncio.Event().wait()

    id = schedule(app).id
    app.drain()
    recorded = app.history(id)[-1]
    assert recorded.event.due_at - recorded.recorded_at == timedelta(seconds=2)


def test_an_answer_that_came_in_time_counts_although_cleaning_up_takes_long(app: Deliveries) -> None:
    @app.adapter("email", timeout=0.1, backoff=NEVER)
    async def email(delivery: Any, attempt: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return Cancel("swallowed the timeout")

    id = schedule(app).id
    app.drain()
    assert app.get(id).status in (Status.CANCELLED, Status.PENDING)
    assert kinds(app, id)[:2] == ["Scheduled", "Attempted"]


def test_timeouts_count_on_the_attempts(app: Deliveries) -> None:
    @app.adapter("email", timeout=0.05, max_attempts=2, backoff=Backoff.schedule([0]))
    async def email(delivery: Any, attempt: Any) -> None:
        await asyncio.Event().wait()

    id = schedule(app).id
    app.drain()
    app.drain()
    event = last(app, id)
    assert (type(event), event.cause, event.error_type) == (e.Exhausted, "attempts", "TimeoutError")


def test_a_sync_call_keeps_its_slot_and_its_late_word_is_evidence(app: Deliveries, calls: Calls) -> None:
    gate = Gate()

    @app.adapter("email", timeout=0.2, backoff=Backoff.schedule([0]))
    @calls
    def email(delivery: Any, attempt: Any) -> Any:
        if delivery.payload == "slow":
            gate()
        return Cancel("too late") if delivery.payload == "slow" else None

    slow, quick = schedule(app, "email", "slow").id, schedule(app, "email", "quick").id
    with app.running(queues={"email": 1}, lease=60) as processor:
        gate.wait_for()
        eventually(lambda: "Failed" in kinds(app, slow))
        event, recorded = last(app, slow), app.history(slow)[-1]
        assert (event.cause, event.error_type) == ("timeout", "TimeoutError")
        # its slot is taken, and its retry not due before the lease ends
        assert app.get(quick).status is Status.PENDING
        assert event.due_at - recorded.recorded_at > timedelta(seconds=50)
        assert calls.made == [(slow, 1)]
        gate.open()
        eventually(lambda: app.get(quick).is_terminal)
        eventually(lambda: evidence(app, slow))
        assert [(kind, fact["attempt"]) for kind, fact in evidence(app, slow)] == [("late_report", 1)]
        assert processor.summary.late == 1
    assert kinds(app, slow) == ["Scheduled", "Attempted", "Failed"]
    assert row(app, slow).lease_until is None
    assert_called_once_each(app, calls)


def test_a_drain_waits_for_a_call_that_timed_out(app: Deliveries) -> None:
    gate = Gate()

    @app.adapter("email", timeout=0.1, max_attempts=1)
    def email(delivery: Any, attempt: Any) -> None:
        gate()

    id = schedule(app).id
    processor = app.processor()
    thread = threading.Thread(target=processor.run, kwargs={"until_idle": True})
    thread.start()
    eventually(lambda: app.get(id).is_terminal)
    assert thread.is_alive()
    gate.open()
    thread.join(10)
    assert not thread.is_alive()
    assert processor.summary.exhausted == processor.summary.late == 1
    assert [(kind, fact["attempt"]) for kind, fact in evidence(app, id)] == [("late_report", 1)]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 86_401, "5", True, None])
def test_timeouts_that_are_refused(app: Deliveries, timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout"):
        app.adapter("email", timeout=timeout)(lambda delivery, attempt: None)
