"""The sweep, act by act: what it ends, and what it puts aside so that a page moves on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, update

from deliveries.clock import SystemClock
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.processor.sweep import ASIDE_SECONDS, close, put_aside, sweep
from deliveries.store.schema import deliveries, events
from deliveries.store.store import Store
from deliveries.testing.examples import NOW, at, report
from deliveries.testing.lives import DEADLINE
from store.acts import Acts, StoppedClock, event_row
from support.apps import statements

SKEW = timedelta(minutes=1)


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def acts(database_url: str, engines: Callable[..., Engine], clock: StoppedClock) -> Acts:
    return Acts(Store(engines(database_url), clock))


def test_where_nothing_is_over_nothing_is_done(acts: Acts) -> None:
    acts.attempt(acts.schedule())
    acts.schedule()
    assert sweep(acts.store) == []


def test_what_nobody_reported_and_what_passed_its_deadline(acts: Acts, clock: StoppedClock) -> None:
    open_attempt, late, running = acts.schedule(), acts.schedule(expires_at=at(50)), acts.schedule()
    acts.attempt(open_attempt, seconds=60)
    acts.attempt(running, seconds=1e6)
    clock.pass_by(61)
    changes = sweep(acts.store)
    assert {change.after.id: change.event for change in changes} == {
        open_attempt: e.Interrupted(attempt=1, due_at=at(61 + 60)),
        late: e.Exhausted(cause="deadline"),
    }
    assert {recorded.recorded_at for recorded in (change.recorded for change in changes)} == {at(61)}
    assert sweep(acts.store) == []
    assert acts.row(running).status == "attempting"


def test_it_is_closed_at_the_present_of_who_decides(acts: Acts) -> None:
    """On PostgreSQL that is the database, where no clock was given."""
    id = acts.schedule()
    acts.attempt(id, seconds=60)
    real = Store(acts.store.engine, SystemClock())
    before = datetime.now(UTC)
    (change,) = sweep(real)
    assert before - SKEW < change.recorded.recorded_at < datetime.now(UTC) + SKEW


def test_an_unknown_outcome_is_looked_up_after_its_wait(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    acts.attempt(id, on_unknown="lookup", seconds=60)
    clock.pass_by(60)
    (change,) = sweep(acts.store)
    assert isinstance(change.event, e.Held)
    assert acts.row(id).lookup_at == at(60 + 60)


def test_a_page_and_no_more(acts: Acts, clock: StoppedClock) -> None:
    ids = [acts.schedule() for _ in range(3)]
    for place, id in enumerate(ids):
        acts.attempt(id, seconds=10 + place)
    clock.pass_by(60)
    assert [[change.after.id for change in sweep(acts.store, page=2)] for _ in range(3)] == [
        ids[:2],
        ids[2:],
        [],
    ]


def test_what_makes_no_sense_is_put_aside_once(
    acts: Acts, clock: StoppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt, ahead, good = (acts.schedule() for _ in range(3))
    for id in (corrupt, ahead, good):
        acts.attempt(id, seconds=60)
    with acts.store.transaction() as connection:
        connection.execute(insert(events), event_row(corrupt, version=3))
        connection.execute(update(deliveries).where(deliveries.c.id == ahead).values(version=7))
    clock.pass_by(60)
    assert [change.after.id for change in sweep(acts.store)] == [good]
    assert caplog.messages == [
        f"put aside: {corrupt}: its history is corrupt: version 3: 'Noise' version 1 is an unknown type",
        f"put aside: {ahead}: the row is out of step with its events",
    ]
    for id in (corrupt, ahead):
        assert acts.row(id).lease_until == at(60 + ASIDE_SECONDS)
    assert sweep(acts.store) == []


def test_a_row_alone_that_says_it_is_over_is_put_aside(
    acts: Acts, clock: StoppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its stream has no deadline: nothing can be written of it."""
    id = acts.schedule()
    with acts.store.transaction() as connection:
        connection.execute(update(deliveries).values(expires_at=at(5)))
    clock.pass_by(60)
    assert sweep(acts.store) == []
    assert caplog.messages == [f"put aside: {id}: the row is out of step with its events"]
    assert acts.row(id).lease_until == at(60 + ASIDE_SECONDS)


@pytest.mark.parametrize("seconds", [-1e-6, 0.0])
def test_a_deadline_ends_what_is_pending_and_nothing_else(acts: Acts, seconds: float) -> None:
    now = DEADLINE.fromtimestamp(DEADLINE.timestamp() + seconds, DEADLINE.tzinfo)
    pending, held = (acts.schedule(expires_at=DEADLINE) for _ in range(2))
    acts.attempt(held, on_unknown="hold")
    acts.do(held, report(1, o.Unknown()))
    change = close(acts.history(pending), now)
    assert (change is not None) is (seconds == 0)
    assert close(acts.history(held), now) is None


def test_the_open_attempt_is_interrupted_whichever_it_is(acts: Acts) -> None:
    id = acts.schedule()
    for number in (1, 2):
        acts.attempt(id)
        change = close(acts.history(id), NOW)
        assert change is not None
        assert change.event == e.Interrupted(attempt=number, due_at=at(60))
        acts.do(id, c.GiveBack(now=NOW, attempt=number))


def test_putting_aside_names_everyone_and_why(acts: Acts, caplog: pytest.LogCaptureFixture) -> None:
    first, second, other = (acts.schedule() for _ in range(3))
    with acts.store.transaction() as connection:
        put_aside(acts.store, connection, [first, second], "because")
    assert caplog.messages == [f"put aside: {first}, {second}: because"]
    assert [acts.row(id).lease_until for id in (first, second, other)] == [at(ASIDE_SECONDS)] * 2 + [None]


def test_putting_nobody_aside_is_nothing(acts: Acts, caplog: pytest.LogCaptureFixture) -> None:
    acts.schedule()
    with acts.store.transaction() as connection, statements(acts.store.engine) as seen:
        put_aside(acts.store, connection, [], "because")
    assert (caplog.messages, seen) == ([], [])
