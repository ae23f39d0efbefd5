"""What a worker takes, looked at one act at a time, with nobody who would try again."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import IntegrityError

from deliveries import Backoff, Deliveries, Unknown
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.stream import Change, advance
from deliveries.processor.claims import Claims
from deliveries.processor.now import Now
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import ASIDE_SECONDS
from deliveries.store.rows import Claimed
from deliveries.store.schema import contents, deliveries
from deliveries.store.store import Store
from support.apps import Apps, ManualClock, RunningClock, kinds, row, schedule, statements

LEASE = 30.0


@pytest.fixture
def app(fresh_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    a_wait_is_an_error = {"connect_args": {"options": "-c lock_timeout=5s"}}
    app = apps(fresh_url, clock, **(a_wait_is_an_error if fresh_url.startswith("postgresql") else {}))
    app.adapter("email")(lambda delivery, attempt: None)
    return app


@pytest.fixture
def claims_of(app: Deliveries, clock: RunningClock) -> Callable[..., Claims]:
    def claims(**queues: int) -> Claims:
        store = Store(app.engine, clock)
        return Claims(store, app.channels, "w1", Settings(queues=queues, lease=LEASE), Now(store))

    return claims


def claimed(claims: Claims, **options: Any) -> tuple[list[tuple[Claimed, Change]], bool]:
    """What a claim for the free slots gives; it is given up again."""
    with claims._store.transaction() as connection:
        return claims.claim(connection, claims.free(), **options)


# -- slots -----------------------------------------------------------------------------------------


def test_slots_are_taken_and_given_back(app: Deliveries, claims_of: Any) -> None:
    claims = claims_of(email=3, fax=1)
    calls = [claims.call(claims.start(schedule(app).id)) for _ in range(3)]
    assert claims.free() == {"email": 3, "fax": 1}
    claims.occupy(calls[:1])
    assert claims.free() == {"email": 2, "fax": 1}
    claims.occupy(calls[1:])
    assert claims.free() == {"fax": 1}
    for call, free in zip(calls, (1, 2, 3), strict=True):
        was_full = claims.release(call)
        assert was_full == (free == 1)  # only then somebody may have waited for it
        assert claims.free() == {"email": free, "fax": 1}


def test_a_slot_is_the_last_by_what_an_operator_said(app: Deliveries, claims_of: Any) -> None:
    claims = claims_of(email=3)
    with app.engine.begin() as connection:
        app.queues.scale(connection, "email", 1)
    claims.limits.look()
    call = claims.call(claims.start(schedule(app).id))
    claims.occupy([call])
    assert claims.free() == {}
    assert claims.release(call)


# -- attempts --------------------------------------------------------------------------------------


def test_there_may_be_more_where_one_queue_gave_all(app: Deliveries, claims_of: Any) -> None:
    app.adapter("fax")(lambda delivery, attempt: None)
    ids = [schedule(app, "email").id, schedule(app, "fax").id]
    for slots, more in (({"email": 1, "fax": 2}, True), ({"fax": 1, "email": 2}, True)):
        starts, full = claimed(claims_of(**slots))
        assert ({one.id for one, _ in starts}, full) == (set(ids), more)
    starts, full = claimed(claims_of(email=2, fax=2))
    assert ({one.id for one, _ in starts}, full) == (set(ids), False)
    assert claimed(claims_of()) == ([], False)


def test_what_is_due_after_the_cutoff_is_left(app: Deliveries, claims_of: Any, clock: RunningClock) -> None:
    first = schedule(app).id
    cutoff = clock.now()
    schedule(app)
    starts, _ = claimed(claims_of(email=5), cutoff=cutoff)
    assert [one.id for one, _ in starts] == [first]


def test_a_lease_is_counted_from_before_the_claim(app: Deliveries, claims_of: Any) -> None:
    id = schedule(app).id
    claims = claims_of(email=1)
    before = time.monotonic()
    ((_, change),), _ = claimed(claims)
    after = time.monotonic()
    call = claims.call(change)
    assert before + LEASE <= call.lease_until <= after + LEASE
    assert (call.delivery.id, call.registration, call.margin) == (id, app.channels["email"], 1.0)
    assert call.started_at == change.recorded.recorded_at


def test_a_lease_of_one_is_counted_from_before_it_was_started(app: Deliveries, claims_of: Any) -> None:
    claims = claims_of(email=1)
    before = time.monotonic()
    change = claims.start(schedule(app).id)
    assert before + LEASE <= claims.call(change).lease_until <= time.monotonic() + LEASE


def test_only_an_attempt_is_under_a_lease(app: Deliveries, claims_of: Any, clock: RunningClock) -> None:
    app.adapter("fax", max_attempts=1)(lambda delivery, attempt: None)
    claims = claims_of(email=1)
    change = claims.start(schedule(app, "fax").id)
    write = claims.write(change)
    assert (write.lease_owner, write.lease_seconds) == ("w1", LEASE)
    ended = advance(change.stream, c.Report(now=clock.now(), attempt=1, outcome=o.Delivered()))
    assert ended is not None
    assert claims.write(ended).lease_seconds is None


def test_what_nobody_performs_is_put_aside(
    app: Deliveries, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    app.adapter("x" * 100)(lambda delivery, attempt: None)
    id, store = schedule(app, "x" * 100).id, Store(app.engine, clock)
    claims = Claims(store, {"email": app.channels["email"]}, "w1", Settings(), Now(store))
    assert claims.start(id) is None
    assert caplog.messages == [
        f"put aside: {id}: it cannot start: no adapter is registered for channel '{'x' * 79}"
    ]
    assert ASIDE_SECONDS - 1 < (row(app, id).lease_until - clock.now()).total_seconds() <= ASIDE_SECONDS


@pytest.mark.parametrize(
    ("table", "values", "problem"),
    [
        (deliveries, {"tags": "nonsense"}, "the row of delivery {id} cannot be read: DecodeError"),
        (contents, {"payload": "{broken"}, "the payload of delivery {id} cannot be read: DecodeError"),
        (deliveries, {"cancel_requested": "mine"}, "Attempted after a cancel was requested"),
    ],
    ids=["row", "payload", "state"],
)
def test_what_cannot_be_read_is_put_aside(
    app: Deliveries,
    apps: Apps,
    claims_of: Any,
    caplog: pytest.LogCaptureFixture,
    table: Any,
    values: dict[str, Any],
    problem: str,
) -> None:
    apps.damaged = True
    id = schedule(app).id
    with app.engine.begin() as connection:
        connection.execute(update(table).values(values))
    assert claimed(claims_of(email=5)) == ([], False)
    assert caplog.messages == [f"put aside: {id}: it cannot start: {problem.format(id=id)}"]


def test_what_is_attempted_is_put_aside(
    app: Deliveries, claims_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No claim finds it: whoever has it at hand nevertheless does not start it twice."""
    claims, id = claims_of(email=1), schedule(app).id
    assert claims.start(id) is not None
    with claims._store.transaction() as connection:
        assert claims._decide(connection, claims._store.claimed(connection, id)) is None
    assert caplog.messages == [f"put aside: {id}: it cannot start: it is attempting"]
    assert kinds(app, id) == ["Scheduled", "Attempted"]


def test_what_was_not_written_did_not_start(
    app: Deliveries, claims_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims, id = claims_of(email=1), schedule(app).id
    monkeypatch.setattr(claims._store, "append", lambda connection, writes: set())
    assert claims.start(id) is None


def test_what_is_due_this_very_moment_is_started(
    app: Deliveries, claims_of: Any, clock: RunningClock
) -> None:
    """And what is no longer pending is not, however long it has been due."""
    claims = claims_of(email=1)
    id = schedule(app).id
    change = claims.start(id)
    assert change is not None
    assert change.after.id == id
    clock.advance(100)
    assert claims.start(id) is None
    assert kinds(app, id) == ["Scheduled", "Attempted"]


def test_what_is_due_now_is_not_too_early(fresh_url: str, apps: Apps) -> None:
    clock = ManualClock()
    app = apps(fresh_url, clock)
    app.adapter("email")(lambda delivery, attempt: None)
    store = Store(app.engine, clock)
    claims = Claims(store, app.channels, "w1", Settings(), Now(store))
    id = schedule(app).id
    assert row(app, id).due_at == clock.now()
    assert claims.start(id) is not None


# -- questions -------------------------------------------------------------------------------------


def charging(app: Deliveries, channel: str = "charge", **options: Any) -> None:
    """An adapter whose outcome is asked for after a second."""
    app.adapter(channel, effect="unsafe", lookup=lambda *_: None, backoff=Backoff.schedule([1]), **options)(
        lambda *_: Unknown()
    )


def held(app: Deliveries, claims: Claims, *channels: str) -> list[UUID]:
    """Deliveries whose outcome is unknown."""
    ids = []
    for channel in channels:
        change = claims.start(schedule(app, channel).id)
        assert change is not None
        command = c.Report(now=claims._store.clock.now(), attempt=1, outcome=o.Unknown())
        with claims._store.transaction() as connection:
            claims._store.command(connection, change.after.id, lambda now, command=command: command)
        ids.append(change.after.id)
    return ids


def test_every_channel_is_asked_about_under_a_lease_of_its_own(
    app: Deliveries, claims_of: Any, clock: RunningClock
) -> None:
    charging(app, "slow", timeout=100)
    charging(app, "quick", timeout=5)
    claims = claims_of(slow=5, quick=5)
    ids = held(app, claims, "slow", "quick")
    clock.advance(2)
    before = time.monotonic()
    calls = claims.lookups()
    after = time.monotonic()
    assert [call.delivery.id for call in calls] == ids
    for call, id, timeout in zip(calls, ids, (100, 5), strict=True):
        assert before + timeout + LEASE <= call.lease_until <= after + timeout + LEASE
        assert (call.registration, call.lookups) == (app.channels[call.delivery.channel], 1)
        assert call.started_at == app.history(id)[1].recorded_at
        left = (row(app, id).lookup_at - clock.now()).total_seconds()
        assert left == pytest.approx(timeout + LEASE, abs=0.1)
    assert claims.lookups() == []


def test_no_more_is_asked_than_slots_are_free(app: Deliveries, claims_of: Any, clock: RunningClock) -> None:
    charging(app, "slow")
    charging(app, "quick")
    claims = claims_of(slow=1, quick=2)
    held(app, claims, "slow", *["quick"] * 4)
    clock.advance(2)
    assert [call.delivery.channel for call in claims.lookups()] == ["slow", "quick", "quick"]


def test_for_the_last_free_slot_one_is_asked(app: Deliveries, claims_of: Any, clock: RunningClock) -> None:
    charging(app)
    claims = claims_of(charge=1)
    held(app, claims, "charge", "charge")
    clock.advance(2)
    calls = claims.lookups()
    assert len(calls) == 1
    claims.occupy(calls)
    with statements(app.engine) as seen:
        assert claims.lookups() == []
    assert seen == [], "without a slot nothing is looked for"


def test_who_has_nobody_to_ask_looks_for_nothing(app: Deliveries, claims_of: Any) -> None:
    charging(app)
    claims = claims_of(email=1)  # the queue of `charge` is somebody else's
    with statements(app.engine) as seen:
        assert claims.lookups() == []
    assert seen == []


def test_the_last_question_is_put_and_none_after_it(
    app: Deliveries, claims_of: Any, clock: RunningClock
) -> None:
    charging(app, max_lookups=2, timeout=5)
    claims = claims_of(charge=5)
    first, other = held(app, claims, "charge", "charge")
    with app.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == other).values(lookups=2))
    clock.advance(2)
    assert [(call.delivery.id, call.lookups) for call in claims.lookups()] == [(first, 1)]
    assert row(app, other).lookup_at is None
    clock.advance(36)
    assert [(call.delivery.id, call.lookups) for call in claims.lookups()] == [(first, 2)]
    clock.advance(36)
    assert claims.lookups() == []
    assert row(app, first).lookup_at is None


# -- orphans ---------------------------------------------------------------------------------------


def test_what_was_started_in_our_name_is_given_back(app: Deliveries, claims_of: Any) -> None:
    claims = claims_of(email=5)
    orphan, known = (claims.start(schedule(app).id).after.id for _ in range(2))
    changes, complete = claims.orphans([known])
    assert [(change.after.id, change.event.cause) for change in changes] == [(orphan, "given_back")]
    assert complete
    assert [row(app, id).status for id in (orphan, known)] == ["pending", "attempting"]
    assert claims.orphans([known]) == ([], True)


def test_what_was_closed_meanwhile_is_no_orphan(
    app: Deliveries, claims_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = claims_of(email=5)
    closed = schedule(app).id
    monkeypatch.setattr(claims._store, "owned", lambda connection, worker: [closed])
    assert claims.orphans([]) == ([], True)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_an_orphan_that_somebody_holds_waits_and_no_other_does(app: Deliveries, claims_of: Any) -> None:
    claims = claims_of(email=5)
    ids = sorted(claims.start(schedule(app).id).after.id for _ in range(3))
    with app.engine.begin() as operator:
        operator.execute(select(deliveries.c.id).where(deliveries.c.id == ids[0]).with_for_update())
        changes, complete = claims.orphans([])
        assert {change.after.id for change in changes} == set(ids[1:])
        assert not complete
    changes, complete = claims.orphans([])
    assert ([change.after.id for change in changes], complete) == (ids[:1], True)


def test_an_orphan_that_is_refused_stops_no_other(
    app: Deliveries, claims_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    claims = claims_of(email=5)
    ids = {claims.start(schedule(app).id).after.id for _ in range(3)}

    def refuse(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if "INTO delivery_events" in statement and not caplog.messages:
            raise IntegrityError(statement, {"text": "ann@example.org"}, ValueError("refused"))

    event.listen(app.engine, "before_cursor_execute", refuse)
    changes, complete = claims.orphans([])
    (left,) = ids - {change.after.id for change in changes}
    assert complete
    assert caplog.messages == [f"delivery {left} cannot be given back: ValueError: refused"]
    assert row(app, left).lease_until - row(app, left).recorded_at <= timedelta(seconds=LEASE + 1)
