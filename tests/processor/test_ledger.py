"""What became of calls is written once: together where it can be, alone where somebody is in the way.

A processor that fails tries again, which hides most mistakes of its ledger: here nobody tries again.
"""

from __future__ import annotations

import math
import time
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from deliveries import Backoff, Cancel, Delivered, Deliveries, NotDone, Retry, Snooze, Unknown
from deliveries.core import commands as c
from deliveries.core.stream import advance
from deliveries.processor.call import Call
from deliveries.processor.ledger import AGAIN_SECONDS, FEW, PATIENCE_SECONDS
from deliveries.processor.processor import Processor
from deliveries.processor.sweep import ASIDE_SECONDS, sweep
from deliveries.store.schema import deliveries, events, notes
from store.acts import event_row
from support.apps import Apps, RunningClock, evidence, kinds, row, schedule
from support.ticking import Time


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
    calls = added(app, processor, *[None] * 10)
    ledger.finished, ledger.alone, ledger.belated, ledger.held_up = (
        calls[:1],
        calls[1:3],
        calls[3:6],
        calls[6:],
    )
    assert len(ledger) == 10


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
    ledger = processor._ledger
    first, second = added(app, processor, None, None)
    changes = ledger.written(ledger.batch(), {second.delivery.id})
    assert [change.after.id for change in changes] == [second.delivery.id]
    assert (ledger.finished, ledger.held_up, ledger.alone) == ([], [], [first])
    assert processor.summary.succeeded == 1


def test_few_that_are_left_out_are_written_alone_at_once(app: Deliveries, processor: Processor) -> None:
    ledger, calls = processor._ledger, added(app, processor, *[None] * FEW)
    assert ledger.written(ledger.batch(), set()) == []
    assert (ledger.finished, ledger.held_up, ledger.alone) == ([], [], calls)
    assert ledger.again_at == math.inf


def test_many_that_are_left_out_go_with_a_batch_soon(
    app: Deliveries, processor: Processor, time: Time
) -> None:
    ledger, calls = processor._ledger, added(app, processor, *[None] * (FEW + 1))
    assert ledger.written(ledger.batch(), set()) == []
    assert (ledger.finished, ledger.held_up, ledger.alone) == ([], calls, [])
    assert ledger.again_at == time.at + AGAIN_SECONDS
    time.at += AGAIN_SECONDS / 2
    ledger.try_again()
    assert (ledger.finished, ledger.held_up) == ([], calls)
    time.at += AGAIN_SECONDS
    ledger.try_again()
    assert (ledger.finished, ledger.held_up, ledger.again_at) == (calls, [], math.inf)
    assert len(ledger.written(ledger.batch(), {call.delivery.id for call in calls})) == FEW + 1
    assert len(ledger) == 0


def test_many_that_are_left_out_for_long_are_written_alone(
    app: Deliveries, processor: Processor, time: Time
) -> None:
    ledger, calls = processor._ledger, added(app, processor, *[None] * (FEW + 1))
    for _ in range(2):
        ledger.written(ledger.batch(), set())
        assert (ledger.finished, ledger.held_up, ledger.alone) == ([], calls, [])
        time.at += PATIENCE_SECONDS * 2 / 3
        ledger.try_again()
    ledger.written(ledger.batch(), set())
    assert (ledger.finished, ledger.held_up, ledger.alone) == ([], [], calls)
    assert ledger.again_at == math.inf


def test_in_doubt_those_that_were_held_up_are_written_alone_too(
    app: Deliveries, processor: Processor, time: Time
) -> None:
    ledger, calls = processor._ledger, added(app, processor, *[None] * (FEW + 1))
    ledger.written(ledger.batch(), set())
    ledger.doubt()
    assert (ledger.held_up, ledger.alone, ledger.again_at) == ([], calls, math.inf)


def test_who_is_held_up_is_no_orphan(app: Deliveries, processor: Processor) -> None:
    ledger, calls = processor._ledger, added(app, processor, *[None] * (FEW + 1))
    ledger.written(ledger.batch(), set())
    assert ledger.held_up == calls
    processor._resolve_doubt()
    assert {tuple(kinds(app, call.delivery.id)) for call in calls} == {("Scheduled", "Attempted")}


def test_the_pump_wakes_for_who_is_held_up(
    processor: Processor, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(processor._awake, "wait", slept.append)
    processor._claims.limits.next_look = processor._next_sweep = processor._next_poll = time.at + 10
    processor._wait()
    processor._ledger.again_at = time.at + 1
    processor._wait()
    assert slept == [10, 1]


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


def test_what_was_written_although_nobody_was_told_is_written_once(
    app: Deliveries, processor: Processor, clock: RunningClock
) -> None:
    """T4: the answer to a commit was lost, of a batch and then of one alone."""
    first, second = added(app, processor, None, Cancel("no"))
    batch = processor._ledger.batch()
    with processor._store.transaction() as connection:
        processor._store.backend.append(connection, [batch[0][1]], clock.now())
    processor._ledger.doubt()
    with processor._store.transaction() as connection:
        assert processor._ledger._settle(connection, second) is not None
    changes = processor._ledger.settle()
    assert [change.after.id for change in changes] == [first.delivery.id, second.delivery.id]
    assert (processor.summary.succeeded, processor.summary.cancelled) == (1, 1)
    for call in (first, second):
        assert len(kinds(app, call.delivery.id)) == 3
        assert evidence(app, call.delivery.id) == []


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


# -- what comes too late -------------------------------------------------------------------------


def test_the_word_of_who_was_taken_over_is_kept_once(
    app: Deliveries, processor: Processor, clock: RunningClock
) -> None:
    (call,) = added(app, processor, None)
    processor._ledger.doubt()
    clock.advance(31)
    sweep(processor._store)
    assert processor._ledger.settle() == []
    assert evidence(app, call.delivery.id) == [("late_report", {"attempt": 1, "said": "Delivered"})]
    assert (processor.summary.late, processor.summary.succeeded) == (1, 0)
    processor._ledger.belated = [call]
    processor._ledger.keep()
    assert len(evidence(app, call.delivery.id)) == processor.summary.late == 1
    assert len(processor._ledger) == 0


def test_the_word_of_who_timed_out_is_another_fact(
    app: Deliveries, processor: Processor, clock: RunningClock
) -> None:
    call = over(processor, schedule(app).id, Cancel("no"))
    call.time_out()
    processor._ledger.add(call)
    processor._ledger.doubt()
    clock.advance(31)
    sweep(processor._store)
    processor._ledger.settle()
    processor._ledger.late(call)
    said = [fact["said"] for _, fact in evidence(app, call.delivery.id)]
    assert said == ["TimeoutError", "Cancel"]
    assert processor.summary.late == 2


def test_a_reference_is_kept_of_a_success_only(app: Deliveries, processor: Processor) -> None:
    """Who timed out before may have named one too: then nobody knows what became of that effect."""
    good, slow = (over(processor, schedule(app).id, Delivered(reference=ref)) for ref in ("r-1", "r-2"))
    slow.time_out()
    for call in (good, slow):
        processor._ledger.add(call)
    written = [(write.change.recorded.type, write.reference) for _, write in processor._ledger.batch()]
    assert written == [("Succeeded", "r-1"), ("Failed", None)]


@pytest.mark.parametrize("way", ["never entered", "given up"])
def test_who_said_nothing_leaves_no_word(
    app: Deliveries, processor: Processor, clock: RunningClock, way: str
) -> None:
    call = over(processor, schedule(app).id)
    call.entered, call.gave_up = way == "given up", way == "given up"
    processor._ledger.add(call)
    processor._ledger.doubt()
    clock.advance(31)
    sweep(processor._store)
    assert processor._ledger.settle() == []
    assert evidence(app, call.delivery.id) == []
    assert processor.summary.late == 0


def test_a_word_that_cannot_be_kept_yet_is_kept_later(
    app: Deliveries, processor: Processor, caplog: pytest.LogCaptureFixture
) -> None:
    call = over(processor, schedule(app).id, "word")

    def broken(connection: Any) -> None:
        raise OperationalError("BEGIN", {}, ConnectionError("it broke"))

    event.listen(app.engine, "begin", broken)
    processor._ledger.late(call)
    event.remove(app.engine, "begin", broken)
    expected = f"a late report of delivery {call.delivery.id} is not kept yet: ConnectionError: it broke"
    assert caplog.messages == [expected]
    assert processor._ledger.belated == [call]
    processor._ledger.keep()
    assert len(evidence(app, call.delivery.id)) == 1
    assert len(processor._ledger) == 0


def test_a_word_that_is_refused_stops_no_other(
    app: Deliveries, processor: Processor, caplog: pytest.LogCaptureFixture
) -> None:
    refused, good = (over(processor, schedule(app).id, "word") for _ in range(2))

    def refuse(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if "INTO delivery_evidence" in statement and not caplog.messages:
            raise IntegrityError(statement, {}, ValueError("refused"))

    event.listen(app.engine, "before_cursor_execute", refuse)
    processor._ledger.belated = [refused, good]
    processor._ledger.keep()
    assert caplog.messages == [f"delivery {refused.delivery.id} refuses its late report; left out"]
    assert processor._ledger.belated == []
    assert (evidence(app, refused.delivery.id), len(evidence(app, good.delivery.id))) == ([], 1)


# -- questions -----------------------------------------------------------------------------------


@pytest.fixture
def charging(app: Deliveries) -> Deliveries:
    """With an adapter whose outcome is asked for, after 10, 20 and 30 seconds, three times."""
    app.adapter(
        "charge",
        effect="unsafe",
        timeout=10,
        lookup=lambda *_: None,
        max_lookups=3,
        backoff=Backoff.schedule([10, 20, 30]),
    )(lambda *_: Unknown())
    return app


def held(app: Deliveries, processor: Processor) -> UUID:
    """A delivery whose outcome is unknown."""
    call = over(processor, schedule(app, "charge").id, Unknown())
    processor._ledger.add(call)
    processor._ledger.doubt()
    (change,) = processor._ledger.settle()
    assert change.recorded.type == "Held"
    return call.delivery.id


def asked(processor: Processor, clock: RunningClock, answer: object) -> Call:
    """A question that is over, put as soon as one is due."""
    clock.advance(100)
    (call,) = processor._claims.lookups()
    assert call.enter()
    call.value, call.returned = answer, True
    return call


def seconds_left(app: Deliveries, clock: RunningClock, id: UUID) -> float | None:
    """Until the next question."""
    at = row(app, id).lookup_at
    return None if at is None else round((at - clock.now()).total_seconds(), 1)


def test_questions_are_put_after_the_backoff_up_to_the_last(
    charging: Deliveries, clock: RunningClock
) -> None:
    processor = charging.processor()
    id = held(charging, processor)
    waits = [seconds_left(charging, clock, id)]
    for number in (1, 2, 3):
        call = asked(processor, clock, Unknown())
        assert call.lookups == number
        processor._ledger.add(call)
        assert (processor._ledger.finished, processor._ledger.alone) == ([], [call])
        assert processor._ledger.settle() == []
        waits.append(seconds_left(charging, clock, id))
    assert waits == [10, 10, 20, None]
    assert evidence(charging, id) == []


def test_a_provider_that_says_when_is_asked_then(charging: Deliveries, clock: RunningClock) -> None:
    processor = charging.processor()
    id = held(charging, processor)
    processor._ledger.add(asked(processor, clock, Snooze(for_=50)))
    processor._ledger.settle()
    assert seconds_left(charging, clock, id) == 50


def test_a_question_that_was_not_put_is_put_later(charging: Deliveries, clock: RunningClock) -> None:
    processor = charging.processor()
    id = held(charging, processor)
    call = asked(processor, clock, None)
    call.entered = False
    processor._ledger.add(call)
    processor._ledger.settle()
    assert seconds_left(charging, clock, id) == 10


def test_an_answer_moves_no_question_that_was_put_since(charging: Deliveries, clock: RunningClock) -> None:
    processor = charging.processor()
    id = held(charging, processor)
    late = asked(processor, clock, Unknown())
    asked(processor, clock, Unknown())
    before = row(charging, id).lookup_at
    processor._ledger.add(late)
    processor._ledger.settle()
    assert row(charging, id).lookup_at == before


def test_an_answer_about_an_older_attempt_moves_no_question(
    charging: Deliveries, clock: RunningClock
) -> None:
    processor = charging.processor()
    id = held(charging, processor)
    late = asked(processor, clock, Unknown())
    with charging.engine.begin() as connection:
        charging.resolve(connection, id, NotDone())
    clock.advance(100)
    again = over(processor, id, Unknown())
    processor._ledger.add(again)
    processor._ledger.doubt()
    processor._ledger.settle()
    assert asked(processor, clock, Unknown()).lookups == late.lookups == 1
    before = row(charging, id).lookup_at
    processor._ledger.add(late)
    processor._ledger.settle()
    assert row(charging, id).lookup_at == before


@pytest.mark.parametrize(("lease", "least", "most"), [(30.0, 29.0, 31.0), (-5.0, 10.0, 10.0)])
def test_no_question_is_put_while_the_call_still_runs(
    charging: Deliveries, clock: RunningClock, lease: float, least: float, most: float
) -> None:
    """It is put when the lease and its margin are over, or after the backoff where that is longer."""
    processor = charging.processor()
    call = over(processor, schedule(charging, "charge").id)
    call.time_out()
    call.returned, call.lease_until = False, time.monotonic() + lease
    processor._ledger.add(call)
    processor._ledger.doubt()
    processor._ledger.settle()
    left = seconds_left(charging, clock, call.delivery.id)
    assert left is not None
    assert least <= left <= most
