"""Appending: the fence, and that row, event and note are one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.codec import GENESIS, digest
from deliveries.core.stream import advance
from deliveries.store.rows import Write
from deliveries.store.schema import events, notes
from deliveries.testing.examples import NOTE, NOW, at, report, resolve, rules, start
from store.acts import Acts, StoppedClock, birth


def as_it_is(acts: Acts, id: UUID) -> tuple[Any, ...]:
    """Everything that an append could change."""
    with acts.store.reading() as connection:
        beside = connection.execute(select(notes).where(notes.c.delivery_id == id)).all()
    return acts.row(id), acts.history(id), beside


# -- the fence ---------------------------------------------------------------------------------


def test_a_stale_event_appends_nothing(acts: Acts) -> None:
    """N3: two decided from the same state; the second finds the stream moved on."""
    id = acts.schedule()
    first, second = acts.next(id, start()), acts.next(id, c.Cancel(now=NOW, note=NOTE))
    assert acts.append(Write(first, lease_owner="w1", lease_seconds=60)) == {id}
    before = as_it_is(acts, id)
    assert acts.append(Write(second)) == set()
    assert as_it_is(acts, id) == before


def test_an_outcome_of_a_closed_attempt_appends_nothing(acts: Acts) -> None:
    """The former holder reports after the sweep has closed its attempt and another one runs."""
    id = acts.schedule()
    acts.attempt(id)
    late = acts.next(id, report(1, o.Delivered()))
    acts.do(id, c.Interrupt(now=NOW, attempt=1))
    acts.attempt(id, owner="w2")
    before = as_it_is(acts, id)
    assert acts.append(Write(late)) == set()
    assert as_it_is(acts, id) == before


def test_the_same_append_again_gives_one_copy(acts: Acts) -> None:
    """T4: the commit's answer was lost, and the writer tries again."""
    id = acts.schedule()
    write = Write(acts.next(id, start()), lease_owner="w1", lease_seconds=60)
    assert acts.append(write) == {id}
    before = as_it_is(acts, id)
    assert acts.append(write) == set()
    assert as_it_is(acts, id) == before


def test_an_event_ahead_of_its_stream_appends_nothing(acts: Acts) -> None:
    id = acts.schedule()
    first = acts.next(id, start())
    second = advance(first.stream, report(1, o.Delivered()))
    assert second is not None
    assert acts.append(Write(second)) == set()
    assert acts.append(Write(first, lease_owner="w1", lease_seconds=60)) == {id}
    assert acts.append(Write(second)) == {id}


def test_an_unknown_delivery_appends_nothing(acts: Acts) -> None:
    stranger = advance(birth(delivery_id=uuid4()).change.stream, start())
    assert stranger is not None
    assert acts.append(Write(stranger)) == set()
    with acts.store.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(events)) == 0


def test_one_stale_event_stops_no_other(acts: Acts) -> None:
    ids = [acts.schedule() for _ in range(5)]
    writes = [Write(acts.next(id, start()), lease_owner="w1", lease_seconds=60) for id in ids]
    acts.do(ids[2], c.Cancel(now=NOW))
    assert acts.append(*writes) == set(ids) - {ids[2]}
    assert [len(acts.history(id)) for id in ids] == [2] * 5


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_batchs_events_for_one_delivery_the_next_is_written(acts: Acts, turned: bool) -> None:
    """The other one was decided from a state that is not there yet."""
    id, other = acts.schedule(), acts.schedule()
    first = acts.next(id, start())
    second = advance(first.stream, report(1, o.Delivered()))
    assert second is not None
    leased = Write(first, lease_owner="w1", lease_seconds=60)
    writes = [leased, Write(second), Write(acts.next(other, c.Cancel(now=NOW)))]
    assert acts.append(*(reversed(writes) if turned else writes)) == {id, other}
    assert [recorded.version for recorded in acts.history(id)] == [1, 2]
    assert acts.row(id).version == 2


def test_of_a_batchs_rival_events_for_one_delivery_one_is_written(acts: Acts) -> None:
    id, other = acts.schedule(), acts.schedule()
    attempt = Write(acts.next(id, start()), lease_owner="w1", lease_seconds=60)
    rivals = [attempt, Write(acts.next(id, c.Cancel(now=NOW)))]
    assert acts.append(*rivals, Write(acts.next(other, c.Cancel(now=NOW)))) == {id, other}
    assert len(acts.history(id)) == acts.row(id).version == 2
    assert acts.projected(id).status == acts.stream(id).delivery.status


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_row_that_somebody_holds_is_left_out(acts: Acts) -> None:
    """An operator's open cancel of one delivery must not stall a batch of 500."""
    ids = [acts.schedule() for _ in range(5)]
    writes = [Write(acts.next(id, start()), lease_owner="w1", lease_seconds=60) for id in ids]
    with acts.store.transaction() as operator:
        acts.store.command(operator, ids[3], lambda now: c.Cancel(now=now))
        with acts.store.transaction() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # a wait is an error
            appended = acts.store.backend.append(connection, writes, acts.store.deciding_now)
        assert appended == set(ids) - {ids[3]}
    assert acts.append(writes[3]) == set()
    assert acts.projected(ids[3]).status == "cancelled"


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_rolled_back_holder_leaves_the_way_free(acts: Acts) -> None:
    id = acts.schedule()
    write = Write(acts.next(id, start()), lease_owner="w1", lease_seconds=60)
    with acts.store.engine.connect() as operator:
        acts.store.backend.lock(operator, [id], skip_locked=False)
        assert acts.append(write) == set()
        operator.rollback()
    assert acts.append(write) == {id}


# -- one thing ---------------------------------------------------------------------------------


def test_event_and_row_are_written_together(acts: Acts) -> None:
    id = acts.schedule()
    change = acts.attempt(id)
    stored, row = acts.history(id)[-1], acts.row(id)
    assert (stored.version, stored.type, stored.body) == (2, "Attempted", change.recorded.body)
    assert (row.version, row.digest, row.recorded_at) == (2, stored.digest, stored.recorded_at)


def test_a_note_stands_beside_its_event(acts: Acts) -> None:
    id = acts.schedule()
    acts.do(id, c.Cancel(now=NOW, note=NOTE))
    with acts.store.reading() as connection:
        assert connection.execute(select(notes)).all() == [(id, 2, NOTE.text, NOTE.salt)]
    recorded = acts.history(id)[-1]
    assert recorded.note == NOTE.text
    assert NOTE.digest.encode() in recorded.body
    assert NOTE.text.encode() not in recorded.body


def test_without_a_text_there_is_no_note(acts: Acts) -> None:
    id = acts.schedule()
    acts.do(id, c.Cancel(now=NOW))
    with acts.store.reading() as connection:
        assert connection.execute(select(notes)).all() == []


def test_a_rollback_takes_row_event_and_note(acts: Acts) -> None:
    id = acts.schedule()
    before = as_it_is(acts, id)
    write = Write(acts.next(id, c.Cancel(now=NOW, note=NOTE)))
    with acts.store.engine.connect() as connection:
        assert acts.store.backend.append(connection, [write], acts.store.deciding_now) == {id}
        connection.rollback()
    assert as_it_is(acts, id) == before


def test_the_stored_digests_are_a_chain(acts: Acts) -> None:
    """Over the bytes that came back from the database, so time and body survived it exactly."""
    id = acts.schedule()
    acts.attempt(id)
    acts.do(id, c.Report(now=at(1.000001), attempt=1, outcome=o.Retry("503"), note=NOTE))
    previous = GENESIS
    for stored in acts.history(id):
        previous = digest(
            previous,
            id,
            stored.version,
            stored.type,
            stored.schema_version,
            stored.recorded_at,
            stored.body,
        )
        assert stored.digest == previous


# -- the lease ---------------------------------------------------------------------------------


def lease(acts: Acts, id: UUID) -> tuple[str | None, float | None]:
    """Owner, and seconds after `NOW`."""
    row = acts.row(id)
    return row.lease_owner, None if row.lease_until is None else (row.lease_until - NOW).total_seconds()


def test_an_attempt_starts_under_a_lease(acts: Acts) -> None:
    id = acts.schedule()
    assert lease(acts, id) == (None, None)
    acts.attempt(id, owner="w1", seconds=45.5)
    assert lease(acts, id) == ("w1", 45.5)


def test_a_requested_cancel_keeps_the_lease(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    acts.attempt(id, owner="w1", seconds=60)
    clock.pass_by(10)
    acts.do(id, c.Cancel(now=clock.now()))
    assert acts.row(id).cancel_requested == "operator"
    assert lease(acts, id) == ("w1", 60)


@pytest.mark.parametrize(
    "outcome",
    [o.Delivered(), o.Retry(), o.Cancel(), o.Discard(), o.Snooze(5), o.Suppress(), o.Unknown()],
    ids=repr,
)
@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
def test_whatever_closes_an_attempt_ends_its_lease(acts: Acts, outcome: o.Outcome, on_unknown: str) -> None:
    id = acts.schedule()
    acts.attempt(id, on_unknown=on_unknown)
    acts.do(id, report(1, outcome))
    assert lease(acts, id) == (None, None)


def test_a_new_attempt_has_a_new_lease(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    acts.attempt(id, owner="w1", seconds=60)
    clock.pass_by(60)
    acts.do(id, c.Interrupt(now=clock.now(), attempt=1))
    acts.attempt(id, owner="w2", seconds=30)
    assert lease(acts, id) == ("w2", 90)


def test_leases_are_counted_from_the_databases_present(store: Any) -> None:
    acts = Acts(store)
    id = acts.schedule()
    acts.attempt(id, seconds=3600)
    with store.reading() as connection:
        left = acts.row(id).lease_until - store.now(connection)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


# -- held --------------------------------------------------------------------------------------


def test_a_held_delivery_is_looked_up_after_its_wait(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    acts.attempt(id, on_unknown="lookup")
    clock.pass_by(10)
    acts.do(id, c.Report(now=clock.now(), attempt=1, outcome=o.Unknown()), lookup_seconds=20)
    row = acts.row(id)
    assert (row.status, row.lookup_at, row.lookups) == ("held", at(30), 0)


def test_a_resolved_delivery_is_looked_up_no_more(acts: Acts) -> None:
    id = acts.schedule()
    acts.attempt(id, on_unknown="lookup")
    acts.do(id, report(1, o.Unknown()), lookup_seconds=20)
    acts.do(id, resolve(o.NotDone(), "operator"))
    assert acts.row(id).lookup_at is None


def test_rules_are_frozen_in_the_stream(acts: Acts) -> None:
    id = acts.schedule()
    acts.attempt(id, max_attempts=7)
    delivery = acts.stream(id).delivery
    assert delivery is not None
    assert delivery.rules == rules(max_attempts=7)
