"""What became of calls is written once: together where it can be, alone where somebody is in the way.

A processor that fails tries again, which hides most mistakes of its ledger: here nobody tries again.
"""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import insert, select, update

from deliveries import Cancel, Deliveries, Retry
from deliveries.core import commands as c
from deliveries.core.stream import advance
from deliveries.processor.call import Call
from deliveries.processor.processor import Processor
from deliveries.processor.sweep import ASIDE_SECONDS
from deliveries.store.schema import deliveries, events, notes
from store.acts import event_row
from support.apps import Apps, RunningClock, evidence, row, schedule


@pytest.fixture
def app(fresh_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    a_wait_is_an_error = {"connect_args": {"options": "-c lock_timeout=5s"}}
    app = apps(fresh_url, clock, **(a_wait_is_an_error if fresh_url.startswith("postgresql") else {}))
    app.adapter("email", timeout=10)(lambda delivery, attempt: None)
    return app


@pytest.fixture
def processor(app: Deliveries) -> Processor:
    return app.processor()


def over(processor: Processor, id: UUID, value: object = None) -> Call:
    """A call of this very moment that is over; its adapter said `value`."""
    change = processor._claims.start(id)
    assert change is not None
    call = processor._claims.call(change)
    assert call.enter()
    call.value, call.returned = value, True
    return call


def added(app: Deliveries, processor: Processor, *values: object) -> list[Call]:
    """Calls whose outcomes the ledger has taken."""
    calls = [over(processor, schedule(app).id, value) for value in values]
    for call in calls:
        processor._ledger.add(call)
    return calls


def test_what_is_not_written_yet_is_counted(app: Deliveries, processor: Processor) -> None:
    ledger = processor._ledger
    calls = added(app, processor, *[None] * 6)
    ledger.finished, ledger.alone, ledger.belated = calls[:1], calls[1:3], calls[3:]
    assert len(ledger) == 6


def test_what_is_taken_is_reported(app: Deliveries, processor: Processor) -> None:
    (call,) = added(app, processor, None)
    assert call.reported
    assert processor._ledger.finished == [call]


def test_outcomes_are_written_together(app: Deliveries, processor: Processor, clock: RunningClock) -> None:
    calls = added(app, processor, None, Cancel("no"))
    batch = processor._ledger.batch()
    assert [call for call, _ in batch] == processor._ledger.finished == calls
    with processor._store.transaction() as connection:
        ids = processor._store.backend.append(connection, [write for _, write in batch], clock.now())
    changes = processor._ledger.written(batch, ids)
    assert [change.recorded.type for change in changes] == ["Succeeded", "Cancelled"]
    assert (processor.summary.succeeded, processor.summary.cancelled) == (1, 1)
    assert len(processor._ledger) == 0


def test_of_two_outcomes_for_one_delivery_one_is_written_together(
    app: Deliveries, processor: Processor
) -> None:
    (call,) = added(app, processor, None)
    twin = Call(call.stream, call.registration, call.started_at, call.lease_until)
    processor._ledger.add(twin)
    assert [call for call, _ in processor._ledger.batch()] == [call]
    assert processor._ledger.alone == [twin]


def test_who_was_claimed_anew_is_written_alone(app: Deliveries, processor: Processor) -> None:
    calls = added(app, processor, None, None)
    batch = processor._ledger.batch(apart=[calls[0].delivery.id])
    assert [call for call, _ in batch] == processor._ledger.finished == calls[1:]
    assert processor._ledger.alone == calls[:1]


def test_what_leads_to_nothing_is_no_part_of_a_batch(
    app: Deliveries, processor: Processor, clock: RunningClock
) -> None:
    (call,) = added(app, processor, None)
    closed = advance(call.stream, c.GiveBack(now=clock.now(), attempt=1))
    assert closed is not None
    call.stream = closed.stream
    assert processor._ledger.batch() == []
    assert processor._ledger.alone == [call]


def test_who_is_left_out_of_a_batch_is_written_alone(app: Deliveries, processor: Processor) -> None:
    first, second = added(app, processor, None, None)
    batch = processor._ledger.batch()
    changes = processor._ledger.written(batch, {second.delivery.id})
    assert [change.after.id for change in changes] == [second.delivery.id]
    assert (processor._ledger.finished, processor._ledger.alone) == ([], [first])
    assert processor.summary.succeeded == 1


def test_after_a_doubt_each_is_written_alone(app: Deliveries, processor: Processor) -> None:
    calls = added(app, processor, None, Retry("later"))
    processor._ledger.doubt()
    assert (processor._ledger.finished, processor._ledger.alone) == ([], calls)
    changes = processor._ledger.settle()
    assert [change.recorded.type for change in changes] == ["Succeeded", "Failed"]
    assert (processor.summary.succeeded, processor.summary.retrying) == (1, 1)
    assert len(processor._ledger) == 0
    assert processor._ledger.settle() == []
    assert [row(app, call.delivery.id).status for call in calls] == ["succeeded", "pending"]


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_who_is_held_by_somebody_else_waits_and_no_other_does(app: Deliveries, processor: Processor) -> None:
    held, free = added(app, processor, None, None)
    processor._ledger.doubt()
    with app.engine.begin() as operator:
        operator.execute(select(deliveries.c.id).where(deliveries.c.id == held.delivery.id).with_for_update())
        changes = processor._ledger.settle()
        assert [change.after.id for change in changes] == [free.delivery.id]
        assert processor._ledger.alone == [held]
    assert [change.after.id for change in processor._ledger.settle()] == [held.delivery.id]


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_who_is_held_keeps_its_late_word_and_no_other_does(app: Deliveries, processor: Processor) -> None:
    held, free = (over(processor, schedule(app).id, "word") for _ in range(2))
    processor._ledger.belated = [held, free]
    with app.engine.begin() as operator:
        operator.execute(select(deliveries.c.id).where(deliveries.c.id == held.delivery.id).with_for_update())
        processor._ledger.keep()
        assert processor._ledger.belated == [held]
    assert (len(evidence(app, free.delivery.id)), evidence(app, held.delivery.id)) == (1, [])


def test_who_is_refused_is_put_aside_and_no_other_is(
    app: Deliveries, apps: Apps, processor: Processor, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The place of the outcome's note is taken."""
    refused, good = added(app, processor, Retry("later"), None)
    with app.engine.begin() as connection:
        taken = {"delivery_id": refused.delivery.id, "version": 3, "text": "mine", "salt": b"salt"}
        connection.execute(insert(notes), taken)
    processor._ledger.doubt()
    changes = processor._ledger.settle()
    assert [change.after.id for change in changes] == [good.delivery.id]
    assert len(processor._ledger) == 0
    assert (processor.summary.succeeded, processor.summary.retrying) == (1, 0)
    aside = row(app, refused.delivery.id)
    assert aside.status == "attempting"
    assert ASIDE_SECONDS - 1 < (aside.lease_until - clock.now()).total_seconds() <= ASIDE_SECONDS
    assert f"put aside: {refused.delivery.id}: the database refuses its outcome" in caplog.text


def test_who_cannot_be_read_is_put_aside_and_no_other_is(
    app: Deliveries, apps: Apps, processor: Processor, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    apps.damaged = True
    corrupt, good = added(app, processor, None, None)
    with app.engine.begin() as connection:
        connection.execute(insert(events), event_row(corrupt.delivery.id, version=3))
    processor._ledger.doubt()
    changes = processor._ledger.settle()
    assert [change.after.id for change in changes] == [good.delivery.id]
    assert len(processor._ledger) == 0
    assert (row(app, corrupt.delivery.id).lease_until - clock.now()).total_seconds() > ASIDE_SECONDS - 1
    assert f"put aside: {corrupt.delivery.id}: its history is corrupt: version 3: 'Noise'" in caplog.text


def test_whose_row_is_out_of_step_is_put_aside(
    app: Deliveries, apps: Apps, processor: Processor, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    apps.damaged = True
    (call,) = added(app, processor, None)
    with app.engine.begin() as connection:
        connection.execute(update(deliveries).values(version=7))
    processor._ledger.doubt()
    assert processor._ledger.settle() == []
    assert len(processor._ledger) == 0
    assert (row(app, call.delivery.id).lease_until - clock.now()).total_seconds() > ASIDE_SECONDS - 1
    assert f"put aside: {call.delivery.id}: the row is out of step with its events" in caplog.text
