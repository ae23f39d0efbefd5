"""Slots, priorities, and several processors on one database."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from deliveries import Deliveries, Draft, Status
from deliveries.processor.processor import Processor
from deliveries.testing.examples import at
from support.apps import (
    Apps,
    Calls,
    Gate,
    assert_called_once_each,
    eventually,
    schedule,
    stopped,
)

NEVER = 3_600.0


class Meter:
    """How many are inside at once, per channel, and the most there ever were."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, channel: str) -> None:
        with self._lock:
            self._now[channel] += 1
            self.most[channel] = max(self.most[channel], self._now[channel])

    def leave(self, channel: str) -> None:
        with self._lock:
            self._now[channel] -= 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_never_more_calls_at_once_than_the_queue_allows(app: Deliveries, calls: Calls, way: str) -> None:
    meter, full = Meter(), threading.Barrier(3)

    @calls
    def sync(delivery: Any, attempt: Any) -> None:
        meter.enter(delivery.channel)
        full.wait(15)  # three come together, or never
        meter.leave(delivery.channel)

    together = asyncio.Barrier(3)

    @calls
    async def asynchronous(delivery: Any, attempt: Any) -> None:
        meter.enter(delivery.channel)
        await together.wait()
        meter.leave(delivery.channel)

    app.adapter("email", queue="web")(sync if way == "sync" else asynchronous)
    with app.engine.begin() as connection:
        ids = [
            delivery.id for delivery in app.schedule_many(connection, "email", [Draft(n) for n in range(12)])
        ]
    assert app.drain(queues={"web": 3}).succeeded == 12
    assert meter.most == {"email": 3}
    assert sorted(id for id, _ in calls.made) == sorted(ids)
    assert_called_once_each(app, calls)


def test_channels_of_one_queue_share_its_slots_and_queues_do_not(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("email", queue="web")(gate)
    app.adapter("sms", queue="web")(gate)
    app.adapter("charge")(gate)
    for channel in ("email", "sms", "charge", "email"):
        schedule(app, channel)
    with app.running(queues={"web": 2, "charge": 1}):
        gate.wait_for(3)
        statuses = Counter((one.queue, one.status.value) for one in app.find())
        assert statuses == {("web", "attempting"): 2, ("web", "pending"): 1, ("charge", "attempting"): 1}
        gate.open()
        eventually(lambda: {one.status for one in app.find()} == {Status.SUCCEEDED})


def test_the_most_urgent_first_then_the_longest_due(timed: Deliveries, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    ids = {
        (priority, due): schedule(timed, priority=priority, due_at=at(due)).id
        for priority in (9, 0, 5)
        for due in (-1, -20, -10)
    }
    timed.drain(queues={"email": 1})
    assert [id for id, _ in calls.made] == [ids[key] for key in sorted(ids)]


def test_what_is_not_due_holds_nothing_up(timed: Deliveries, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: None))
    with timed.engine.begin() as connection:
        timed.schedule_many(connection, "email", [Draft(priority=0, delay=999) for _ in range(50)])
        due = timed.schedule(connection, "email", priority=9)
    assert timed.drain(queues={"email": 1}).succeeded == 1
    assert calls.of(due.id) == [1]


@pytest.mark.parametrize("processors", [2, 4])
def test_processors_on_one_database_never_both_attempt(
    database_url: str, apps: Apps, calls: Calls, processors: int
) -> None:
    made = [apps(database_url) for _ in range(processors)]
    barrier = threading.Barrier(processors)
    shares: Counter[int] = Counter()
    for n, app in enumerate(made):

        @app.adapter("email")
        @calls
        def email(delivery: Any, attempt: Any, n: int = n) -> None:
            shares[n] += 1

    with made[0].engine.begin() as connection:
        made[0].schedule_many(connection, "email", [Draft(n) for n in range(300)])
    summaries: list[Any] = []

    def work(app: Deliveries) -> None:
        barrier.wait(10)
        summaries.append(app.drain(queues={"email": 7}))

    threads = [threading.Thread(target=work, args=(app,)) for app in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    made[0].drain()  # SQLite's writers wait for each other: one may have given up looking
    assert len(calls) == 300
    assert {one.status for one in made[0].find(limit=1_000)} == {Status.SUCCEEDED}
    assert_called_once_each(made[0], calls)


def test_while_a_lease_holds_nobody_else_starts(database_url: str, apps: Apps, calls: Calls) -> None:
    one, other = apps(database_url), apps(database_url)
    gate = Gate()
    one.adapter("email")(calls(lambda delivery, attempt: gate()))
    other.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(one).id
    with one.running(lease=60):
        gate.wait_for()
        assert other.drain().attempted == 0
        assert other.perform(id).result == "busy"
        assert calls.of(id) == [1]
        gate.open()
        eventually(lambda: one.get(id).is_terminal)
    assert_called_once_each(one, calls)


def test_who_outlives_his_lease_changes_nothing(
    database_url: str, apps: Apps, calls: Calls, clock: Any
) -> None:
    """N3 and N4: a worker that went away is swept, and what it reports later is evidence."""
    one, other = apps(database_url, clock), apps(database_url, clock)
    gate = Gate()
    one.adapter("email", timeout=3_000)(calls(lambda delivery, attempt: gate()))
    other.adapter("email", timeout=3_000)(calls(lambda delivery, attempt: None))
    id = schedule(one).id
    processor = one.processor(lease=3_000, sweep_every=3_000)
    processor.start()
    gate.wait_for()
    clock.advance(3_001)  # as if it had been stopped for that long
    assert other.drain().interrupted == 1
    clock.advance(30_000)
    assert other.drain().succeeded == 1
    before = [recorded.digest for recorded in other.history(id)]
    gate.open()
    processor.stop()
    stopped(processor)
    assert [recorded.digest for recorded in other.history(id)] == before
    assert processor.summary.late == 1
    assert [type(event.event).__name__ for event in other.history(id)] == [
        *("Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded")
    ]
    assert "late_report" in str(other.explain(id))
    assert_called_once_each(one, calls)


# -- who is called -----------------------------------------------------------------------------------


@pytest.fixture
def idle_pair(app: Deliveries) -> Iterator[tuple[Processor, Processor, list[str]]]:
    """Two processors of one process, asleep until they are called, with two slots each; and who claimed."""
    claimed: list[str] = []
    gate = Gate()
    app.adapter("email")(gate)
    with (
        app.running({"email": 2}, poll=NEVER, sweep_every=NEVER, listen=False) as one,
        app.running({"email": 2}, poll=NEVER, sweep_every=NEVER, listen=False) as other,
    ):
        eventually(lambda: one.is_idle and other.is_idle)
        for each in (one, other):
            each._exchange = noted(each, claimed)  # type: ignore[method-assign]
        yield one, other, claimed
        gate.open()


def noted(one: Processor, claimed: list[str]) -> Any:
    exchange = one._exchange

    def act(free: Any) -> bool:
        if free:
            claimed.append(one.worker)
        return exchange(free)

    return act


def test_a_hint_wakes_one_of_those_who_are_idle(app: Deliveries, idle_pair: Any) -> None:
    one, other, claimed = idle_pair
    schedule(app)
    eventually(lambda: one.summary.attempted + other.summary.attempted == 1)
    assert len(set(claimed)) == 1


def test_who_gets_all_it_can_take_calls_the_next(app: Deliveries, idle_pair: Any) -> None:
    one, other, _ = idle_pair
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(n) for n in range(4)])
    eventually(lambda: one.summary.attempted == other.summary.attempted == 2)


def test_who_has_no_free_slot_is_not_relied_on(app: Deliveries, idle_pair: Any) -> None:
    one, other, _ = idle_pair
    for number in range(1, 5):
        schedule(app)
        eventually(lambda number=number: one.summary.attempted + other.summary.attempted == number)
    assert one.summary.attempted == other.summary.attempted == 2


def test_who_stops_leaves_its_calling_to_the_others(app: Deliveries, idle_pair: Any) -> None:
    one, other, _ = idle_pair
    one.stop()
    eventually(lambda: not one.is_alive)
    schedule(app)
    eventually(lambda: other.summary.attempted == 1)


def test_who_drains_what_was_due_is_not_relied_on(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("email")(gate)
    schedule(app)
    draining = threading.Thread(target=app.drain, args=({"email": 2},))
    draining.start()
    gate.wait_for()
    with app.running({"email": 2}, poll=NEVER, sweep_every=NEVER, listen=False) as one:
        eventually(lambda: one.is_idle)
        schedule(app)
        eventually(lambda: one.summary.attempted == 1)
        gate.open()
    draining.join(15)
    assert not draining.is_alive()


def test_who_is_free_for_other_queues_only_is_not_relied_on(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("email", queue="mail")(gate)
    app.adapter("fax")(lambda delivery, attempt: None)
    slots = {"mail": 1, "fax": 1}
    with (
        app.running(slots, poll=NEVER, sweep_every=NEVER, listen=False) as one,
        app.running(slots, poll=NEVER, sweep_every=NEVER, listen=False) as other,
    ):
        eventually(lambda: one.is_idle and other.is_idle)
        for number in (1, 2):
            schedule(app)
            eventually(lambda number=number: one.summary.attempted + other.summary.attempted == number)
        gate.open()
