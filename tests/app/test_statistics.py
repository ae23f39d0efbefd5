"""Statistics: the projection is the sum over all events, however the log was cut up on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import Connection, delete

from deliveries import Deliveries, Discard, Draft, Entry, InvalidProjection, Projection, Snooze, Status
from deliveries.audit.statistics import BOUNDS, Hour, Latency, keep
from deliveries.core import events as e
from deliveries.core.machine import evolve
from deliveries.core.stream import START, Change, Recorded, advance
from deliveries.errors import CallerError
from deliveries.store.rows import Birth, Contents, Write
from deliveries.store.schema import deliveries
from deliveries.testing.examples import NOW
from deliveries.testing.lives import Life
from deliveries.testing.strategies import lives
from support.apps import Apps, RunningClock, schedule
from support.drawing import FIXTURE_IS_SHARED

ATTEMPTING = Status.ATTEMPTING
HOUR = timedelta(hours=1)


# -- the same, told another way ----------------------------------------------------------------


def directly(streams: Sequence[Sequence[Recorded]]) -> dict[tuple[str, datetime], Hour]:
    """By folding whole streams: what was due, and what was open, is asked of the delivery."""
    hours: dict[tuple[str, datetime], Hour] = {}
    for stream in streams:
        delivery, started = None, NOW
        for one in stream:
            before, delivery = delivery, evolve(delivery, one.event)
            at = one.recorded_at.replace(minute=0, second=0, microsecond=0)
            hour = hours.setdefault((delivery.channel, at), Hour(channel=delivery.channel, hour=at))
            name = one.type.lower()
            if name != "cancelrequested":
                setattr(hour, name, getattr(hour, name) + 1)
            if isinstance(one.event, e.Attempted):
                assert before is not None
                assert before.due_at is not None
                hour.wait.add(max(0, round((one.recorded_at - before.due_at).total_seconds() * 1e6)))
                started = one.recorded_at
            elif before is not None and before.status is ATTEMPTING and delivery.status is not ATTEMPTING:
                hour.run.add(round((one.recorded_at - started).total_seconds() * 1e6))
    return hours


class Interrupted(BaseException):
    """As Ctrl-C: it undoes the transaction, and nothing is tried again."""


_numbers = count()


def changes(told: Life, channel: str) -> list[Change]:
    """What a life amounts to, in a channel of its own."""
    stream, found = START, []
    born = structs.replace(told.scheduled, delivery_id=uuid4(), channel=channel, queue=channel, key=None)
    schedule, *rest = told.commands
    for command in (structs.replace(schedule, scheduled=born), *rest):
        change = advance(stream, command)
        if change is not None:
            found.append(change)
            stream = change.stream
    return found


def written(app: Deliveries, streams: Sequence[list[Change]], turns: Iterator[int]) -> None:
    """All of them, one event after the other, whose turn it is."""
    left = [list(stream) for stream in streams]
    with app.engine.begin() as connection:
        while left := [stream for stream in left if stream]:
            change = left[next(turns) % len(left)].pop(0)
            if isinstance(change.event, e.Scheduled):
                contents = Contents(recipient=None, payload="null", salt=b"salt")
                assert app._store.schedule(connection, [Birth(change, contents)])
            else:
                write = Write(change, lease_owner="w", lease_seconds=3_600.0)
                assert app._store.append(connection, [write])


@given(
    told=st.lists(lives(), min_size=1, max_size=5),
    turns=st.randoms(use_true_random=False),
    batches=st.lists(st.integers(1, 20), max_size=4),
    crashes=st.lists(st.booleans(), max_size=5),
)
@settings(max_examples=20, suppress_health_check=FIXTURE_IS_SHARED)
def test_it_is_the_sum_over_all_events(
    timed: Deliveries,
    apps: Apps,
    told: list[Life],
    turns: Any,
    batches: list[int],
    crashes: list[bool],
) -> None:
    """Whatever the lives, how they are mixed, how many events at a time, and what is undone on the way."""
    apps.damaged = True  # their contents are none
    prefix = f"c{next(_numbers)}-"
    streams = [changes(life, f"{prefix}{i % 3}") for i, life in enumerate(told)]
    written(timed, streams, iter(lambda: turns.randrange(100), None))
    crash = iter(crashes)

    def handle(entries: Sequence[Entry], connection: Connection) -> None:
        keep(entries, connection)
        if next(crash, False):
            raise Interrupted

    for batch in (*batches, 1_000):
        follower = timed.follower(Projection("statistics", handle), batch=batch)
        try:
            follower._turn()
        except Interrupted:
            continue
    for _ in range(len(crashes) + 1):
        try:
            timed.follow(Projection("statistics", handle), until_caught_up=True)
        except Interrupted:
            continue
    expected = directly([[change.recorded for change in stream] for stream in streams])
    found = timed.statistics(channel=[f"{prefix}{i}" for i in range(3)])
    assert {(hour.channel, hour.hour): hour for hour in found} == expected


# -- by an application -------------------------------------------------------------------------


@pytest.fixture
def told(timed: Deliveries, clock: RunningClock) -> Deliveries:
    """`email`: two at 12, attempted 30 minutes later; one fails, one succeeds. `sms`: one at 13."""
    timed.adapter("email", max_attempts=2)(
        lambda delivery, attempt: 1 / delivery.payload if not delivery.payload else None
    )
    timed.adapter("sms")(lambda delivery, attempt: Discard("no"))
    with timed.engine.begin() as connection:
        timed.schedule_many(connection, "email", [Draft(0), Draft(1)])
    clock.advance(1_800)
    timed.drain({"email": 1})
    clock.advance(3_600)
    schedule(timed, "sms")
    timed.drain({"sms": 1})
    return timed


def test_what_happened_in_each_hour(told: Deliveries) -> None:
    assert told.statistics() == [], "nobody has counted yet"
    first, *rest = told.statistics(catch_up=True)
    assert (first.channel, first.hour) == ("email", NOW)
    assert (first.scheduled, first.attempted, first.failed, first.succeeded) == (2, 2, 1, 1)
    assert first.wait.count == 2
    assert first.wait.mean == pytest.approx(1_800, abs=1)
    assert first.wait.quantile(0.5) == first.wait.max == pytest.approx(1_800, abs=1)
    assert first.run.count == 2
    assert [(one.channel, one.hour, one.exhausted, one.scheduled) for one in rest] == [
        ("sms", NOW + HOUR, 1, 1)
    ]


def test_which_hours(told: Deliveries) -> None:
    told.follow("statistics", until_caught_up=True)

    def found(**which: Any) -> list[str]:
        return [hour.channel for hour in told.statistics(**which)]

    assert found() == ["email", "sms"]
    assert found(channel="sms") == found(since=NOW + HOUR) == found(since=NOW + HOUR / 2) == ["sms"]
    assert found(channel=["sms", "email"], until=NOW + HOUR) == ["email"]
    assert found(until=NOW) == found(channel=[]) == []


def test_a_snooze_closes_a_run_and_moves_what_is_waited_for(timed: Deliveries, clock: RunningClock) -> None:
    answers = iter([Snooze(60), None])
    timed.adapter("email")(lambda delivery, attempt: next(answers))
    schedule(timed)
    timed.drain()
    clock.advance(61)
    timed.drain()
    (hour,) = timed.statistics(catch_up=True)
    assert (hour.attempted, hour.rescheduled, hour.succeeded) == (2, 1, 1)
    assert (hour.wait.count, hour.run.count) == (2, 2)
    assert hour.wait.max == pytest.approx(1, abs=0.1), "not from when it was scheduled"


@pytest.mark.parametrize("batch", [1, 2, 1_000])
def test_a_run_that_was_to_be_cancelled_is_as_long_as_it_was(
    timed: Deliveries, clock: RunningClock, batch: int
) -> None:
    """Its start is two events back, in whichever page."""

    @timed.adapter("email")
    def email(delivery: Any, attempt: Any) -> None:
        clock.advance(10)
        with timed.engine.begin() as connection:
            timed.cancel(connection, delivery.id)
        clock.advance(10)

    schedule(timed)
    timed.drain()
    timed.follow("statistics", until_caught_up=True, batch=batch)
    (hour,) = timed.statistics()
    assert (hour.succeeded, hour.cancelled, hour.run.count) == (1, 0, 1)
    assert hour.run.max == pytest.approx(20, abs=1)


def test_nobody_waits_before_it_is_due(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    schedule(timed, delay=600)
    clock.advance(603)
    timed.drain()
    (hour,) = timed.statistics(catch_up=True)
    assert hour.wait.max == pytest.approx(3, abs=0.1)


def test_it_is_counted_anew_from_the_events(told: Deliveries) -> None:
    before = told.statistics(catch_up=True)
    with told.engine.begin() as connection:
        told.reset_statistics(connection)
    assert told.statistics() == []
    assert told.statistics(catch_up=True) == before
    with told.engine.connect() as connection:
        told.reset_statistics(connection)
        connection.rollback()
    assert told.statistics() == before


def test_a_row_that_is_gone_takes_only_the_channels_name_along(told: Deliveries, apps: Apps) -> None:
    apps.damaged = True
    with told.engine.begin() as connection:
        connection.execute(delete(deliveries).where(deliveries.c.channel == "sms"))
    assert [hour.channel for hour in told.statistics(catch_up=True)] == ["email", ""]


def test_the_asynchronous_twins(told: Deliveries) -> None:
    assert asyncio.run(told.astatistics(catch_up=True)) == told.statistics()


def test_what_cannot_be_is_refused(nowhere: Deliveries) -> None:
    for which in ({"since": NOW.replace(tzinfo=None)}, {"until": "now"}):
        with pytest.raises(CallerError, match="aware"):
            nowhere.statistics(**which)
    with pytest.raises(InvalidProjection, match="already"):
        nowhere.projection("statistics")(lambda entries, connection: None)


# -- latencies ---------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**11), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_never_below_the_true_one_and_close_above(micros: list[int], share: float) -> None:
    latency = Latency()
    for one in micros:
        latency.add(one)
    rank = max(1, -(-share * len(micros) // 1))
    true = sorted(micros)[int(rank) - 1] / 1e6
    told = latency.quantile(share)
    assert told is not None
    assert (
        true <= told <= max(2.5 * true, BOUNDS[0] / 1e6, max(micros) / 1e6 if true > BOUNDS[-1] / 1e6 else 0)
    )
    assert told <= max(micros) / 1e6


@given(st.lists(st.integers(0, 10**11)), st.lists(st.integers(0, 10**11)))
def test_adding_up_is_the_same_in_any_order(first: list[int], second: list[int]) -> None:
    def counted(micros: list[int]) -> Latency:
        latency = Latency()
        for one in micros:
            latency.add(one)
        return latency

    one, other = counted(first), counted(second)
    one.absorb(other)
    assert one == counted(second + first)
    assert one.max == (max(first + second) / 1e6 if first + second else None)


@pytest.mark.parametrize(("micros", "bucket"), [(0, 0), (1_000, 0), (1_001, 1), (10**11, 24)])
def test_a_bound_belongs_to_its_bucket(micros: int, bucket: int) -> None:
    latency = Latency()
    latency.add(micros)
    assert latency.histogram.index(1) == bucket


def test_the_bounds_are_for_ever() -> None:
    """Histograms in tables were counted by them: other ones need another table."""
    assert BOUNDS[:6] == (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
    assert (len(BOUNDS), BOUNDS[-1]) == (24, 50_000_000_000)
    empty = Latency()
    assert (empty.mean, empty.max, empty.quantile(0.5)) == (None, None, None)
