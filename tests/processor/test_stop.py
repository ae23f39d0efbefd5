"""Stopping: what was not entered is given back, what runs is waited for, a second time ends at once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from deliveries import Deliveries, Status
from deliveries.core import events as e
from deliveries.processor import processor as processing
from support.apps import (
    Apps,
    Calls,
    Gate,
    RunningClock,
    assert_called_once_each,
    eventually,
    kinds,
    last,
    schedule,
    stopped,
)


def test_what_was_not_entered_is_given_back(app: Deliveries, calls: Calls) -> None:
    entered, gate = threading.Event(), threading.Event()

    @app.adapter("email")
    @calls
    async def email(delivery: Any, attempt: Any) -> None:
        entered.set()
        gate.wait(20)

    ids = [schedule(app).id for _ in range(4)]
    processor = app.processor(grace=1)
    processor.start()
    assert entered.wait(10)
    eventually(lambda: {app.get(id).status for id in ids} == {Status.ATTEMPTING})
    processor.stop()
    (running,) = [id for id, _ in calls.made]
    waiting = [id for id in ids if id != running]
    eventually(lambda: {app.get(id).status for id in waiting} == {Status.PENDING})
    for id in waiting:
        assert last(app, id) == e.Interrupted(attempt=1, due_at=last(app, id).due_at, cause="given_back")
        assert app.get(id).endings == 0
    gate.set()
    stopped(processor)
    assert app.drain().succeeded == 3
    assert_called_once_each(app, calls)


def test_what_runs_is_waited_for(app: Deliveries, calls: Calls) -> None:
    gate = Gate()
    app.adapter("email")(calls(lambda delivery, attempt: gate()))
    first, second = schedule(app).id, schedule(app).id
    processor = app.processor(queues={"email": 1})
    processor.start()
    gate.wait_for()
    processor.stop()
    processor.join(0.1)
    assert processor.is_alive
    gate.open()
    stopped(processor)
    assert {app.get(first).status, app.get(second).status} == {Status.SUCCEEDED, Status.PENDING}
    assert_called_once_each(app, calls)


def test_a_second_stop_ends_at_once(timed: Deliveries, clock: RunningClock) -> None:
    gate = Gate()
    timed.adapter("email")(lambda delivery, attempt: gate())
    id = schedule(timed).id
    processor = timed.processor(grace=60)
    processor.start()
    gate.wait_for()
    processor.stop()
    processor.stop(0)
    begun = time.monotonic()
    stopped(processor)
    assert time.monotonic() - begun < 5
    assert timed.get(id).status is Status.ATTEMPTING
    gate.open()
    # nobody reports it any more: a sweep does the rest once its lease is over
    clock.advance(31)
    assert timed.drain().interrupted == 1
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Interrupted"]
    assert timed.get(id).interruptions == 1


def test_what_is_known_at_the_end_is_written_though_others_hold_the_rows(
    postgresql_url: str, apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a claim does that found them taken. Nobody would know again that the effects happened."""
    monkeypatch.setattr(processing, "LAST_SECONDS", 15.0)
    app, gate = apps(postgresql_url), Gate()
    app.adapter("email", effect="unsafe", on_unknown="hold")(lambda delivery, attempt: gate())
    ids = [schedule(app).id for _ in range(20)]
    processor = app.processor(queues={"email": 20})
    processor.start()
    gate.wait_for(20)
    with app.engine.connect() as holder:
        app._store.backend.lock(holder, ids, skip_locked=False)
        gate.open()
        eventually(lambda: len(processor._ledger) == 20)
        processor.stop(0)
        processor.join(0.3)
        assert processor.is_alive
        holder.rollback()
        stopped(processor)
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert processor.summary.succeeded == 20


def test_an_async_call_is_cancelled_at_the_end_of_the_grace(app: Deliveries, calls: Calls) -> None:
    entered = threading.Event()

    @app.adapter("email")
    @calls
    async def email(delivery: Any, attempt: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    id = schedule(app).id
    processor = app.processor(grace=0.1)
    processor.start()
    assert entered.wait(10)
    processor.stop()
    stopped(processor)
    assert kinds(app, id) == ["Scheduled", "Attempted", "Interrupted"]
    assert last(app, id).cause == "crashed"
    assert_called_once_each(app, calls)


def test_after_many_crashes_it_ends(timed: Deliveries, clock: RunningClock, calls: Calls) -> None:
    """N6 and N7: the sweep ends it, although no attempt ever reports."""
    gate = Gate()
    timed.adapter("email", max_interruptions=2)(calls(lambda delivery, attempt: gate()))
    id = schedule(timed).id
    for n in (1, 2):
        processor = timed.processor()
        processor.start()
        gate.wait_for()
        processor.stop(0)
        stopped(processor)
        clock.advance(100)
        timed.drain()
        assert kinds(timed, id)[-1] == ["Interrupted", "Exhausted"][n - 1]
        clock.advance(100_000)
    gate.open()
    assert (last(timed, id).cause, timed.get(id).status) == ("interruptions", Status.EXHAUSTED)
    assert timed.drain().attempted == 0
    assert calls.of(id) == [1, 2]


def test_a_crash_of_an_unsafe_attempt_is_held(timed: Deliveries, clock: RunningClock) -> None:
    gate = Gate()
    timed.adapter("charge", effect="unsafe", on_unknown="hold")(lambda delivery, attempt: gate())
    id = schedule(timed, "charge").id
    processor = timed.processor()
    processor.start()
    gate.wait_for()
    processor.stop(0)
    stopped(processor)
    gate.open()
    clock.advance(31)
    assert timed.drain().held == 1
    assert last(timed, id).cause == "crashed"
    clock.advance(1_000_000)
    assert timed.drain().attempted == 0


def test_whoever_sweeps_needs_no_adapter_of_that_channel(
    database_url: str, apps: Apps, clock: RunningClock
) -> None:
    """An attempt froze its rules, so that anybody can close it."""
    one, other = apps(database_url, clock), apps(database_url, clock)
    gate = Gate()
    one.adapter("email", max_attempts=1)(lambda delivery, attempt: gate())
    other.adapter("sms")(lambda delivery, attempt: None)
    id = schedule(one).id
    processor = one.processor()
    processor.start()
    gate.wait_for()
    processor.stop(0)
    stopped(processor)
    gate.open()
    clock.advance(31)
    other.drain()
    assert (one.get(id).status, last(one, id).cause) == (Status.EXHAUSTED, "attempts")


def test_a_processor_that_was_stopped_before_it_ran(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app).id
    processor = app.processor()
    processor.stop()
    processor.start()
    stopped(processor)
    assert app.get(id).status is Status.PENDING
