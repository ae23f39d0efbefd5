"""Acts on many deliveries: what fits is done, each with its event; what does not is told apart."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from deliveries import (
    Deliveries,
    DeliveriesError,
    InvalidCommand,
    InvalidFilter,
    InvalidSchedule,
    Report,
    Where,
)
from deliveries.bulk import Bulk, Pages, pages_of
from deliveries.clock import SystemClock
from deliveries.commanding import commanding
from deliveries.core import commands as c
from deliveries.store.schema import deliveries as rows
from deliveries.store.schema import events
from deliveries.store.store import Store
from deliveries.testing.examples import NOW, at
from deliveries.testing.lives import ENDINGS
from support.apps import Apps, Gate, RunningClock, everything, kinds, last, schedule, texts
from support.lives import lead

SAID: dict[str, Any] = {"actor": "ops:ann", "reason": "the provider is down"}
VERBS: dict[str, tuple[dict[str, Any], str]] = {
    "cancel_where": ({}, "Cancelled"),
    "suppress_where": ({}, "Suppressed"),
    "reschedule_where": ({"delay": 600}, "Rescheduled"),
}


def act(app: Deliveries, verb: str, where: Any, **options: Any) -> Report:
    report = getattr(app, verb)(where, **{**VERBS[verb][0], **SAID, **options})
    assert isinstance(report, Report)
    return report


def pending(app: Deliveries, count: int, **options: Any) -> list[UUID]:
    if "email" not in app.channels:
        app.adapter("email")(lambda delivery, attempt: None)
    return [schedule(app, **options).id for _ in range(count)]


@pytest.mark.parametrize("verb", VERBS)
def test_each_that_fits_gets_its_event(app: Deliveries, verb: str) -> None:
    wanted, others = pending(app, 7, tenant="a"), pending(app, 2, tenant="b")
    report = act(app, verb, {"tenant": "a"}, batch=3)
    assert (report.matched, report.done, report.left) == (7, 7, {})
    assert report.sample == tuple(wanted)
    salts = set()
    for id in wanted:
        assert kinds(app, id) == ["Scheduled", VERBS[verb][1]]
        assert last(app, id).actor == "ops:ann"
        assert texts(app, id)[-1] == "the provider is down"
        salts.add(last(app, id).note)
    assert len(salts) == 7  # each note has a salt of its own
    assert all(kinds(app, id) == ["Scheduled"] for id in others)


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_tells_the_same_and_writes_nothing(app: Deliveries, verb: str) -> None:
    pending(app, 5)
    app.perform(pending(app, 1)[0])
    before = everything(app)
    dry = act(app, verb, {"channel": "email"}, dry_run=True, batch=2)
    assert everything(app) == before
    done = act(app, verb, {"channel": "email"}, batch=2)
    assert dry.dry_run
    assert not done.dry_run
    assert (dry.matched, dry.done, dry.left, dry.sample) == (6, 5, {"succeeded": 1}, done.sample)
    assert (done.matched, done.done, done.left) == (6, 5, {"succeeded": 1})


EVENTS: dict[str, dict[str, str]] = {
    "cancel_where": {
        "pending": "Cancelled",
        "attempting": "CancelRequested",
        "held for a person": "Cancelled",
        "held for lookup": "Cancelled",
        "held after a crash": "Cancelled",
    },
    "suppress_where": {"pending": "Suppressed", "attempting": "CancelRequested"},
    "reschedule_where": {"pending": "Rescheduled"},
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_standing(timed: Deliveries, clock: RunningClock, verb: str) -> None:
    """Each moves only what the act on one delivery moves; the rest is told by its status."""
    timed.adapter("email")(lambda delivery, attempt: None)
    ids = {ending: lead(timed, clock, ending) for ending in ENDINGS}
    clock.travel(NOW)
    before = {ending: kinds(timed, id) for ending, id in ids.items()}
    report = act(timed, verb, {"channel": "email"}, batch=4)
    left: Counter[str] = Counter()
    for ending, id in ids.items():
        new = EVENTS[verb].get(ending)
        assert kinds(timed, id) == before[ending] + ([] if new is None else [new]), ending
        if new is None:
            left[ENDINGS[ending].status.value] += 1
    assert (report.matched, report.done) == (len(ids), len(EVENTS[verb]))
    assert report.left == dict(sorted(left.items()))


@pytest.mark.parametrize("verb", VERBS)
def test_again_nothing_is_left_to_do(app: Deliveries, verb: str) -> None:
    pending(app, 4)
    act(app, verb, {"channel": "email"})
    report = act(app, verb, {"channel": "email", "status": ["pending"]})
    assert report.done == (4 if verb == "reschedule_where" else 0)
    assert act(app, verb, {"tenant": "nobody"}).matched == 0


def test_rescheduling_moves_to_one_time(timed: Deliveries) -> None:
    ids = pending(timed, 3)
    act(timed, "reschedule_where", {"status": "pending"}, delay=None, due_at=at(7_200))
    assert {timed.get(id).due_at for id in ids} == {at(7_200)}
    assert timed.drain().attempted == 0


def test_what_was_moved_to_now_is_performed_now(app: Deliveries) -> None:
    """The wake-up: a processor that waits for a poll an hour away hears of it."""
    gate = Gate()
    app.adapter("sms")(gate)
    gate.open()
    schedule(app, "sms", delay=3_600)
    with app.running(poll=3_600):
        act(app, "reschedule_where", {"channel": "sms"}, delay=0)
        gate.wait_for(1)


# -- others at the same rows -------------------------------------------------------------------------


def cancelling(app: Deliveries, where: Where) -> Bulk:
    """The same act without a facade, to look between its steps."""
    store = Store(app.engine, SystemClock())
    handle = commanding(store, lambda now, note: c.Cancel(now=now, note=note), "why")
    return Bulk(store, "cancel", handle, where.conditions(), dry_run=False, written=id, pauses=(0.01, 0.01))


def pages(app: Deliveries, where: Where, batch: int = 2) -> Pages:
    return pages_of(Store(app.engine, SystemClock()), where.conditions(), where.fits, batch)


PENDING = Where(status="pending")


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_row_that_somebody_holds_stops_nobody(app: Deliveries) -> None:
    first, held, third = pending(app, 3)
    with app.engine.begin() as holder:
        holder.execute(select(rows).where(rows.c.id == held).with_for_update())
        report = cancelling(app, PENDING).run(pages(app, PENDING))
    assert (report.matched, report.done, report.left) == (3, 2, {"busy": 1})
    assert report.sample == (first, third)
    report = act(app, "cancel_where", {"status": "pending"})
    assert (report.done, report.sample) == (1, (held,))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_row_that_is_held_for_a_while_is_tried_again(app: Deliveries) -> None:
    (id,) = pending(app, 1)
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with app.engine.begin() as holder:
            holder.execute(select(rows).where(rows.c.id == id).with_for_update())
            locked.set()
            assert release.wait(30)

    holding = threading.Thread(target=hold)
    holding.start()
    assert locked.wait(30)
    timer = threading.Timer(0.05, release.set)
    timer.start()
    report = act(app, "cancel_where", {"channel": "email"})
    holding.join(30)
    assert (report.done, report.left) == (1, {})


def test_what_moved_on_between_look_and_lock_is_left(app: Deliveries) -> None:
    """The filter said pending: what has begun or ended meanwhile is not asked to cancel."""
    ids = pending(app, 3)
    look = pages(app, PENDING)

    def meanwhile(connection: Any, after: UUID | None) -> Any:
        answer = look(connection, after)
        if after is None:
            with app.engine.begin() as other:
                app.suppress(other, ids[1])
        return answer

    report = cancelling(app, PENDING).run(meanwhile)
    assert (report.matched, report.done, report.left) == (3, 2, {"changed meanwhile": 1})
    assert kinds(app, ids[1]) == ["Scheduled", "Suppressed"]


def test_what_is_made_meanwhile_is_not_acted_on(app: Deliveries) -> None:
    """An act that makes deliveries which fit its own filter comes to an end."""
    ids = pending(app, 3)
    look = pages(app, PENDING)

    def meanwhile(connection: Any, after: UUID | None) -> Any:
        pending(app, 1)
        return look(connection, after)

    report = cancelling(app, PENDING).run(meanwhile)
    assert report.sample == tuple(ids)
    assert report.matched == 3


def test_a_corrupt_stream_is_left_and_stops_nobody(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    first, bad, third = pending(app, 3)
    with app.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER delivery_events_no_update"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(events.update().where(events.c.delivery_id == bad).values(body=b"{}"))
    report = act(app, "cancel_where", {"status": "pending"})
    assert (report.done, report.left, report.sample) == (2, {"corrupt": 1}, (first, third))


def test_a_row_that_the_database_refuses_is_left_alone(fresh_url: str, apps: Apps) -> None:
    """An end that somebody wrote past us: the guard refuses a second one, and the page goes on without."""
    app = apps(fresh_url)
    apps.damaged = True
    first, bad, third = pending(app, 3)
    forged = {"delivery_id": bad, "version": 2, "type": "Noise", "schema_version": 0, "body": b"{}"}
    with app.engine.begin() as connection:
        connection.execute(events.insert(), forged | {"recorded_at": NOW, "digest": bytes(32)})
        connection.execute(rows.update().where(rows.c.id == bad).values(version=1))
    report = act(app, "cancel_where", {"status": "pending"})
    assert report.sample == (first, third)
    assert report.done == 2
    assert sum(report.left.values()) == 1


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("where", [{}, Where(), {"status": None}])
def test_a_filter_that_says_nothing_is_refused(nowhere: Deliveries, verb: str, where: Any) -> None:
    with pytest.raises(InvalidFilter, match="every delivery"):
        act(nowhere, verb, where)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("where", [{"colour": "red"}, {"status": "ended"}, {"channel": 7}, None, 7])
def test_a_filter_that_is_none_is_refused(nowhere: Deliveries, verb: str, where: Any) -> None:
    with pytest.raises(InvalidFilter):
        act(nowhere, verb, where)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "options",
    [
        {"actor": ""},
        {"reason": ""},
        {"actor": None},
        {"reason": None},
        {"actor": "a\nb"},
        {"actor": "a" * 256},
        {"reason": "\x00"},
        {"reason": b"bytes"},
        {"batch": 0},
        {"batch": 10_001},
        {"batch": True},
        {"batch": "5"},
    ],
    ids=str,
)
def test_options_that_are_refused(nowhere: Deliveries, verb: str, options: dict[str, Any]) -> None:
    with pytest.raises(DeliveriesError):
        act(nowhere, verb, {"channel": "email"}, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": None},
        {"due_at": at(60)},
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": None, "due_at": at(60).replace(tzinfo=None)},
        {"delay": 10**10},
    ],
    ids=str,
)
def test_times_that_are_refused(nowhere: Deliveries, options: dict[str, Any]) -> None:
    with pytest.raises((InvalidCommand, InvalidSchedule)):
        act(nowhere, "reschedule_where", {"channel": "email"}, **options)


def test_a_report_reads_well(app: Deliveries) -> None:
    pending(app, 2)
    app.drain()
    pending(app, 1)
    report = act(app, "cancel_where", {"channel": "email"}, dry_run=True)
    assert str(report) == "cancel (dry run): 1 of 3, 2 left: succeeded"
