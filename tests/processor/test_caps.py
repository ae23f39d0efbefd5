"""Caps: no window ever holds more, whoever counts, and everybody has a turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from deliveries import Backoff, Deliveries, InvalidPolicy, Retry, Status, policies
from deliveries.policies.registered import Present
from deliveries.store import slots
from deliveries.store.schema import cap_slots
from deliveries.testing.examples import NOW, at
from support.apps import Apps, RunningClock, everything, kinds, last, schedule, texts

HOUR = timedelta(hours=1)


@pytest.fixture
def sent() -> list[Any]:
    return []


@pytest.fixture
def email(timed: Deliveries, clock: RunningClock, sent: list[Any]) -> Deliveries:
    for channel in ("email", "sms"):
        timed.adapter(channel)(lambda delivery, attempt: sent.append((delivery.recipient, clock.now())))
    return timed


def drained(app: Deliveries, clock: RunningClock, hours: float, step: float = 600) -> None:
    """Drain every `step` seconds of these hours."""
    for _ in range(int(hours * 3_600 / step)):
        app.drain()
        clock.advance(step)


def test_so_many_and_no_more(email: Deliveries, clock: RunningClock, sent: list[Any]) -> None:
    email.policy(policies.Cap(2, HOUR))
    ids = [schedule(email, recipient="ann").id for _ in range(5)]
    other = schedule(email, recipient="bob").id
    summary = email.drain()
    assert (summary.succeeded, summary.rescheduled) == (3, 3)
    assert email.get(other).status is Status.SUCCEEDED
    drained(email, clock, 3)
    assert {email.get(id).status for id in ids} == {Status.SUCCEEDED}
    times = sorted(when for who, when in sent if who == "ann")
    for first, third in zip(times, times[2:], strict=False):
        assert third - first >= HOUR
    assert [kinds(email, id).count("Rescheduled") for id in ids].count(1) == 3


def test_each_is_deferred_once(email: Deliveries, clock: RunningClock) -> None:
    """A hundred that wait are not asked about again whenever one was served."""
    email.policy(policies.Cap(1, 60))
    ids = [schedule(email, recipient="ann").id for _ in range(12)]
    drained(email, clock, 0.25, step=30)
    assert {email.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert sum(kinds(email, id).count("Rescheduled") for id in ids) <= 13


def test_spellings_tenants_and_channels(email: Deliveries) -> None:
    email.policy(policies.Cap(1, HOUR))
    ids = [
        schedule(email, recipient="ann").id,
        schedule(email, recipient="ann", tenant="acme").id,
        schedule(email, "sms", recipient="ann").id,
        schedule(email).id,
        schedule(email).id,
    ]
    email.drain()
    assert {email.get(id).status for id in ids} == {Status.SUCCEEDED}
    again = schedule(email, recipient=" ANN").id
    email.drain()
    assert "at most 1 in 1:00:00 for this recipient" in (texts(email, again)[-1] or "")


def test_a_name_counts_channels_together(email: Deliveries) -> None:
    email.policy(policies.Cap(1, HOUR, name="all"))
    schedule(email, recipient="ann")
    email.drain()
    sms = schedule(email, "sms", recipient="ann").id
    email.drain()
    assert email.get(sms).status is Status.PENDING


def test_per_tenant(email: Deliveries) -> None:
    email.policy(policies.Cap(2, HOUR, per="tenant"))
    for name in ("ann", "bob", "cid"):
        schedule(email, recipient=name, tenant="acme")
    other = schedule(email, recipient="dot", tenant="other").id
    summary = email.drain()
    assert (summary.succeeded, summary.rescheduled) == (3, 1)
    assert email.get(other).status is Status.SUCCEEDED


def test_a_retry_keeps_its_slot(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email", backoff=Backoff.linear(60))(
        lambda delivery, attempt: Retry() if attempt.number < 3 else None
    )
    timed.policy(policies.Cap(1, HOUR))
    first = schedule(timed, recipient="ann").id
    timed.drain()
    second = schedule(timed, recipient="ann").id
    drained(timed, clock, 0.5, step=60)
    assert (timed.get(first).status, timed.get(second).attempt) == (Status.SUCCEEDED, 0)
    assert "Rescheduled" not in kinds(timed, first)


def test_who_went_and_waits_again_still_counts(timed: Deliveries, clock: RunningClock) -> None:
    went: list[tuple[Any, datetime]] = []

    @timed.adapter("email")
    def email(delivery: Any, attempt: Any) -> Any:
        went.append((delivery.recipient, clock.now()))
        return {("first", 1): Retry(after=20), ("first", 2): Retry(after=40)}.get(
            (delivery.correlation_id, attempt.number)
        )

    timed.policy(policies.Cap(1, 60, per="tenant"))
    for priority, name in enumerate(("first", "second")):
        schedule(timed, recipient=name, correlation_id=name, priority=priority)
        timed.drain()
    drained(timed, clock, 0.1, step=5)
    assert {who for who, _ in went} == {"first", "second"}
    for who, moment in went:
        last = max((other for whose, other in went if whose != who and other < moment), default=None)
        assert last is None or moment - last >= timedelta(seconds=60)


def test_who_ended_before_its_turn_frees_its_slot(email: Deliveries, clock: RunningClock) -> None:
    email.policy(policies.Cap(1, HOUR))
    schedule(email, recipient="ann")
    email.drain()
    waiting = schedule(email, recipient="ann").id
    email.drain()
    with email.engine.begin() as connection:
        email.cancel(connection, waiting)
    after = schedule(email, recipient="ann").id
    email.drain()
    assert last(email, after).due_at <= clock.now() + HOUR


def test_two_caps(email: Deliveries, clock: RunningClock) -> None:
    email.policy(policies.Cap(1, 60))
    email.policy(policies.Cap(2, HOUR))
    ids = [schedule(email, recipient="ann").id for _ in range(3)]
    drained(email, clock, 0.5, step=30)
    assert [email.get(id).status for id in ids].count(Status.SUCCEEDED) == 2
    drained(email, clock, 1, step=60)
    assert [email.get(id).status for id in ids].count(Status.SUCCEEDED) == 3


def test_an_operator_cannot_jump_the_queue_by_accident(email: Deliveries, clock: RunningClock) -> None:
    email.policy(policies.Cap(1, HOUR))
    schedule(email, recipient="ann")
    email.drain()
    waiting = schedule(email, recipient="ann").id
    email.drain()
    due_at = email.get(waiting).due_at
    with email.engine.begin() as connection:
        email.reschedule(connection, waiting, delay=0)
    email.drain()
    assert email.get(waiting).due_at == due_at


def test_nothing_personal_is_kept_and_nothing_for_long(email: Deliveries, clock: RunningClock) -> None:
    email.policy(policies.Cap(1, 60))
    schedule(email, recipient="ann@example.org")
    email.drain()
    assert "ann@" not in repr(everything(email, "delivery_contents"))
    assert len(everything(email)["delivery_cap_slots"]) == 1
    clock.advance(61)
    schedule(email, recipient="bob@example.org")
    email.drain()
    assert len(everything(email)["delivery_cap_slots"]) == 1


def test_erasing_takes_the_slot(email: Deliveries) -> None:
    email.policy(policies.Cap(1, 60))
    ids = [schedule(email, recipient=name).id for name in ("ann", "bob")]
    email.drain()
    assert email.erase(where={"id": ids[0]}).done == 1
    with email.engine.connect() as connection:
        assert list(connection.scalars(select(cap_slots.c.delivery_id))) == ids[1:]


def test_two_who_ask_at_once(apps: Apps, database_url: str) -> None:
    """On the database's own clock, from many threads: never more than there is room for."""
    app = apps(database_url)
    app.adapter("email")(lambda delivery, attempt: None)
    cap, granted, barrier = policies.Cap(3, 3_600), [], threading.Barrier(8)
    made = [schedule(app, recipient="ann") for _ in range(8)]

    def ask(delivery: Any) -> None:
        barrier.wait(10)
        with app._store.transaction() as connection:
            decision = cap.ask(delivery, Present(app._store, connection))
        granted.append(type(decision).__name__)

    threads = [threading.Thread(target=ask, args=(delivery,)) for delivery in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(granted) == ["Defer"] * 5 + ["Proceed"] * 3


def test_two_processors(email: Deliveries, clock: RunningClock, sent: list[Any]) -> None:
    email.policy(policies.Cap(4, HOUR))
    for _ in range(20):
        schedule(email, recipient="ann")
    with email.running(poll=0.05), email.running(poll=0.05):
        wait = threading.Event()
        for _ in range(200):
            wait.wait(0.02)
            if sum(one.version > 1 for one in email.find()) == 20:
                break
    email.drain()
    assert len(sent) == 4


@settings(deadline=None)
@given(
    limit=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=40),
)
@example(limit=1, steps=[(0, 0), (1, 0), (0, 20), (0, 40), (1, 0)])
def test_no_window_ever_holds_more(limit: int, steps: list[tuple[int, int]]) -> None:
    """Whoever asks whenever: what counts is the moment of each delivery's last leave to go."""
    window, now = timedelta(seconds=60), NOW
    booked: dict[int, datetime] = {}
    went: dict[int, datetime] = {}
    for who, seconds in steps:
        now += timedelta(seconds=seconds)
        known = {*booked.items(), *went.items()}  # a slot that waits, and the one used before it
        others = [taken for other, taken in known if other != who]
        booked[who] = slots._place(booked.get(who), others, now, limit, window)
        assert booked[who] >= now or booked[who] == went.get(who)
        if booked[who] == now:
            went[who] = now
            assert sum(now - window < taken <= now for taken in went.values()) <= limit


def test_the_next_is_booked_behind_those_who_wait() -> None:
    window = timedelta(seconds=60)
    taken = [at(0), at(10), at(60)]
    assert slots._place(None, taken, at(20), 2, window) == at(70)
    assert slots._place(at(60), taken[:2], at(20), 2, window) == at(60)
    assert slots._place(at(60), taken[:2], at(61), 2, window) == at(61)
    assert slots._place(None, [], at(0), 1, window) == at(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: policies.Cap(0, 60),
        lambda: policies.Cap(1_001, 60),
        lambda: policies.Cap(True, 60),
        lambda: policies.Cap(1, 0),
        lambda: policies.Cap(1, timedelta(days=31)),
        lambda: policies.Cap(1, float("nan")),
        lambda: policies.Cap(1, 60, per="nobody"),  # type: ignore[arg-type]
        lambda: policies.Cap(1, 60, name=""),
        lambda: policies.Cap(1, 60, name="a\x00"),
    ],
)
def test_what_is_no_cap(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidPolicy):
        make()


def test_a_delivery_that_is_gone_counts(email: Deliveries) -> None:
    """A slot whose delivery cannot be found is one that was used."""
    store = email._store
    with store.transaction() as connection:
        for expected in (True, False):
            got = slots.book(store, connection, "cap", bytes(32), uuid4(), 1, HOUR)
            assert (got is None) is expected
