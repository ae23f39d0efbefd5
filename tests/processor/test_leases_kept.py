"""The heartbeat: a call that may still answer keeps its lease, one that may not loses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from deliveries import Deliveries
from deliveries.processor.call import Call
from deliveries.processor.heartbeat import Heartbeat
from support.apps import Gate, eventually, kinds, row, schedule

LEASE = 2.4
"""A machine that stands still for a third of it has lost the lease, and rightly."""


def slow(gate: Gate) -> Callable[..., Any]:
    return lambda delivery, attempt: gate()


def blocking(gate: Gate) -> Callable[..., Any]:
    async def adapter(delivery: Any, attempt: Any) -> None:
        gate()  # blocks the loop that all async adapters share

    return adapter


@pytest.mark.parametrize("make", [slow, blocking], ids=["in a thread", "blocking the loop"])
def test_a_call_longer_than_its_lease_is_taken_over_by_nobody(
    app: Deliveries, make: Callable[[Gate], Callable[..., Any]]
) -> None:
    gate = Gate()
    app.adapter("email", timeout=60)(make(gate))
    id = schedule(app).id
    with app.running(lease=LEASE, sweep_every=0.05):
        gate.wait_for()
        first = row(app, id).lease_until
        eventually(lambda: (row(app, id).lease_until - first).total_seconds() > LEASE)  # it is past `first`
        gate.open()
        eventually(lambda: app.get(id).is_terminal)
    assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"]


def beat(app: Deliveries, call: Call) -> None:
    Heartbeat(app._store, row(app, call.delivery.id).lease_owner, 30.0, lambda: [call]).beat()


@pytest.fixture
def call(app: Deliveries) -> Call:
    """An attempt of this very moment, whose adapter was entered, with a lease near its end."""
    app.adapter("email", timeout=10)(lambda delivery, attempt: None)
    id = schedule(app).id
    processor = app.processor(lease=1.0)
    change = processor._claims.start(id)
    assert change is not None
    call = processor._claims.call(change)
    assert call.enter()
    return call


def test_a_beat_renews_what_may_still_answer(app: Deliveries, call: Call) -> None:
    before = row(app, call.delivery.id).lease_until
    beat(app, call)
    assert (row(app, call.delivery.id).lease_until - before).total_seconds() > 20
    assert call.lease_until > time.monotonic() + 20


def test_a_beat_renews_no_further_than_the_timeout_and_a_lease(app: Deliveries, call: Call) -> None:
    before = row(app, call.delivery.id).lease_until
    call.entered_at -= 10 + 30 - 5  # five seconds are left of timeout and margin
    beat(app, call)
    assert 0 < (row(app, call.delivery.id).lease_until - before).total_seconds() < 6


@pytest.mark.parametrize("done", ["overdue", "reported", "never entered"])
def test_a_beat_leaves_alone_what_will_not_answer(app: Deliveries, call: Call, done: str) -> None:
    before = row(app, call.delivery.id).lease_until
    if done == "overdue":
        call.entered_at -= 10 + 30
    elif done == "reported":
        call.reported = True
    else:
        call.entered = False
    beat(app, call)
    assert row(app, call.delivery.id).lease_until == before


def test_a_call_whose_lease_is_nearly_over_is_not_entered(call: Call) -> None:
    call.entered, call.margin = False, 0.1
    call.lease_until = time.monotonic() + 0.05
    assert not call.enter()
    assert not call.entered


def test_a_beat_that_fails_is_not_the_last(app: Deliveries, call: Call) -> None:
    tried: list[int] = []
    twice = threading.Event()

    def calls() -> list[Call]:
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError("once")
        twice.set()
        return []

    heartbeat = Heartbeat(app._store, "w", 0.03, calls)
    heartbeat.start()
    try:
        assert twice.wait(10)
    finally:
        heartbeat.stop()


def test_without_a_free_slot_it_sleeps(app: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, turns = Gate(), []
    app.adapter("email", timeout=60)(slow(gate))
    for _ in range(3):
        schedule(app)
    processor = app.processor({"email": 1}, poll=0.001, sweep_every=30)
    wait = processor._wait
    monkeypatch.setattr(processor, "_wait", lambda: (turns.append(1), wait()))
    processor.start()
    gate.wait_for()
    turns.clear()
    assert not threading.Event().wait(0.5)  # nothing happens, for a while
    asleep = len(turns)
    gate.open()
    processor.stop()
    processor.join(20)
    assert asleep < 20
