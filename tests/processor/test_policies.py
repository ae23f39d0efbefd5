"""Policies before an attempt: after the lease, before `Attempted`, and never in anybody's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from deliveries import (
    Backoff,
    Defer,
    Deliveries,
    InvalidPolicy,
    Proceed,
    Retry,
    Status,
    Suppress,
    Unknown,
    policies,
)
from deliveries import events as e
from deliveries.policies.registered import Policy
from deliveries.processor.settings import Settings
from deliveries.processor.verdict import FAILED
from support.apps import (
    Apps,
    Calls,
    Gate,
    RunningClock,
    assert_called_once_each,
    eventually,
    history,
    kinds,
    last,
    row,
    schedule,
    statements,
    stopped,
    texts,
)

WAYS = ("sync", "async", "sync raises", "async raises")


def policed(way: str, decision: Any) -> Callable[..., Any]:
    """A policy that gives (or raises) `decision`, or what it gives for the delivery."""

    def rule(delivery: Any) -> Any:
        said = decision(delivery) if callable(decision) and not isinstance(decision, type) else decision
        if way.endswith("raises") and isinstance(said, BaseException):
            raise said
        return said

    async def asynchronous(delivery: Any) -> Any:
        await asyncio.sleep(0)
        return rule(delivery)

    return asynchronous if way.startswith("async") else rule


def policy(app: Deliveries, decision: Any, way: str = "sync", **options: Any) -> None:
    app.policy(policed(way, decision), when="attempt", name="rule", **options)


@pytest.fixture
def email(timed: Deliveries, calls: Calls) -> Deliveries:
    timed.adapter("email", max_attempts=2, backoff=Backoff.linear(10))(calls(lambda delivery, attempt: None))
    return timed


# -- what they say -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("said", [Proceed, Proceed()], ids=["class", "instance"])
def test_proceed(email: Deliveries, calls: Calls, way: str, said: Any) -> None:
    policy(email, said, way)
    ids = [schedule(email).id for _ in range(5)]
    summary = email.drain()
    assert (summary.attempted, summary.succeeded) == (5, 5)
    for id in ids:
        assert kinds(email, id) == ["Scheduled", "Attempted", "Succeeded"]
    assert_called_once_each(email, calls)


@pytest.mark.parametrize("way", WAYS)
def test_suppress(email: Deliveries, calls: Calls, way: str) -> None:
    policy(email, Suppress("they moved away"), way)
    id = schedule(email).id
    assert email.drain().suppressed == 1
    assert last(email, id) == e.Suppressed(by="policy", actor="rule", note=last(email, id).note)
    assert texts(email, id) == [None, "they moved away"]
    assert row(email, id).lease_owner is None
    assert calls.made == []


@pytest.mark.parametrize("way", WAYS)
def test_defer(email: Deliveries, calls: Calls, clock: RunningClock, way: str) -> None:
    until = clock.now() + timedelta(seconds=60)
    answers = [Defer(until, "too early"), Defer(for_=30), Proceed()]
    policy(email, lambda delivery: answers.pop(0), way)
    id = schedule(email).id
    assert email.drain().rescheduled == 1
    found = last(email, id)
    assert found == e.Rescheduled(due_at=until, cause="deferred", actor="rule", note=found.note)
    assert texts(email, id) == [None, "too early"]
    assert email.drain().rescheduled == 0
    clock.advance(60)
    assert email.drain().rescheduled == 1
    clock.advance(30)
    assert email.drain().succeeded == 1
    assert calls.of(id) == [1]


def test_a_deferral_counts_on_no_budget(email: Deliveries, calls: Calls, clock: RunningClock) -> None:
    policy(email, lambda delivery: Defer(for_=1) if delivery.version < 20 else Proceed())
    id = schedule(email).id
    for _ in range(25):
        email.drain()
        clock.advance(1.1)
    found = email.get(id)
    assert (found.status, found.attempt, found.endings, found.snoozes) == (Status.SUCCEEDED, 1, 0, 0)
    assert kinds(email, id).count("Rescheduled") == 19


def test_no_deferral_outlives_the_deadline(email: Deliveries, calls: Calls, clock: RunningClock) -> None:
    policy(email, Defer(for_=3_600))
    id = schedule(email, expires_at=clock.now() + timedelta(seconds=60)).id
    email.drain()
    assert email.get(id).status is Status.PENDING
    clock.advance(61)
    email.drain()
    assert last(email, id) == e.Exhausted(cause="deadline")
    assert calls.made == []


def test_what_has_expired_is_not_asked_about(email: Deliveries, clock: RunningClock) -> None:
    asked: list[UUID] = []
    policy(email, lambda delivery: asked.append(delivery.id) or Proceed())
    id = schedule(email, expires_at=clock.now() + timedelta(seconds=1)).id
    clock.advance(2)
    email.drain()
    assert (last(email, id), asked) == (e.Exhausted(cause="deadline"), [])


def test_a_deadline_that_passes_while_it_thinks(email: Deliveries, calls: Calls, clock: RunningClock) -> None:
    policy(email, lambda delivery: (clock.advance(60), Proceed())[1])
    id = schedule(email, expires_at=clock.now() + timedelta(seconds=30)).id
    email.drain()
    assert last(email, id) == e.Exhausted(cause="deadline")
    assert calls.made == []


def test_it_is_asked_before_each_attempt(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email", backoff=Backoff.linear(1))(lambda delivery, attempt: Retry("busy"))
    policy(timed, lambda delivery: Suppress("enough") if delivery.attempt == 2 else Proceed())
    id = schedule(timed).id
    for _ in range(4):
        timed.drain()
        clock.advance(10)
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Failed", "Attempted", "Failed", "Suppressed"]


def test_what_it_is_told(email: Deliveries) -> None:
    told: list[Any] = []
    policy(email, lambda delivery: told.append(delivery) or Proceed())
    schedule(email, payload={"a": [1]}, recipient="ann", tags=["x"], tenant="acme")
    email.drain()
    (delivery,) = told
    assert (delivery.payload, delivery.recipient, delivery.tags) == ({"a": [1]}, "ann", ("x",))
    assert (delivery.status, delivery.attempt, delivery.tenant) == (Status.PENDING, 0, "acme")


# -- several ---------------------------------------------------------------------------------------


def test_the_first_that_objects_decides(email: Deliveries) -> None:
    asked: list[str] = []

    def named(name: str, decision: Any) -> Callable[..., Any]:
        return lambda delivery: asked.append(name) or decision

    email.policy(policed("sync", named("a", Proceed)), when="attempt")
    email.policy(policed("async", named("b", Proceed())))
    email.policy(policed("async", named("c", Proceed())))
    email.policy(policed("sync", named("d", Suppress("d says so"))), when="attempt")
    email.policy(policed("async", named("e", Proceed())))
    id = schedule(email).id
    email.drain()
    assert asked == ["a", "b", "c", "d"]
    assert texts(email, id)[-1] == "d says so"


def test_all_of_both_kinds_must_agree(email: Deliveries, calls: Calls) -> None:
    for way in ("async", "sync", "sync", "async"):
        policy(email, Proceed, way)
    ids = [schedule(email).id for _ in range(20)]
    assert email.drain(queues={"email": 3}).succeeded == 20
    assert {tuple(kinds(email, id)) for id in ids} == {("Scheduled", "Attempted", "Succeeded")}
    assert_called_once_each(email, calls)


def test_channels(email: Deliveries, calls: Calls) -> None:
    email.adapter("sms")(calls(lambda delivery, attempt: None))
    policy(email, Suppress("no"), channels="sms")
    mail, sms = schedule(email).id, schedule(email, "sms").id
    email.drain()
    assert (email.get(mail).status, email.get(sms).status) == (Status.SUCCEEDED, Status.SUPPRESSED)


# -- no answer -----------------------------------------------------------------------------------------


class Unreadable(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Liar:
    @property
    def __class__(self) -> Any:
        raise KeyboardInterrupt


NO_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "None": lambda delivery: None,
    "True": lambda delivery: True,
    "a class": lambda delivery: Suppress,
    "another outcome": lambda delivery: Unknown(),
    "a liar": lambda delivery: Liar(),
    "an error": lambda delivery: 1 / 0,
    "a NUL": lambda delivery: raising(ValueError("a\x00b")),
    "SystemExit": lambda delivery: raising(SystemExit(1)),
    "KeyboardInterrupt": lambda delivery: raising(KeyboardInterrupt()),
    "unreadable": lambda delivery: raising(Unreadable()),
}


def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("answer", NO_ANSWERS)
def test_no_answer_sends_nothing(email: Deliveries, calls: Calls, way: str, answer: str) -> None:
    policy(email, NO_ANSWERS[answer], way, channels="email")
    email.adapter("sms")(calls(lambda delivery, attempt: None))
    id, other = schedule(email).id, schedule(email, "sms").id
    email.drain()
    found = last(email, id)
    assert (type(found), found.cause, found.actor) == (e.Rescheduled, "deferred", "rule")
    assert "the policy gave no answer" in (texts(email, id)[-1] or "")
    assert email.get(other).status is Status.SUCCEEDED
    assert calls.of(id) == []


def test_no_answer_waits_longer_each_time(email: Deliveries, clock: RunningClock) -> None:
    broken = [True]
    policy(email, lambda delivery: None if broken else Proceed())
    id = schedule(email).id
    waits = []
    for _ in range(12):
        before = clock.now()
        email.drain()
        waits.append((last(email, id).due_at - before).total_seconds())
        clock.advance(waits[-1] + 1)
    expected = [FAILED.delay(number) for number in range(1, 13)]
    assert waits == pytest.approx(expected, abs=0.1)
    assert max(waits) <= 3_601
    broken.clear()
    assert email.drain().succeeded == 1


def test_a_sync_one_that_takes_too_long(email: Deliveries, calls: Calls) -> None:
    gate = Gate()
    policy(email, lambda delivery: gate() or Proceed(), timeout=0.2, channels="email")
    email.adapter("sms")(calls(lambda delivery, attempt: None))
    id, other = schedule(email).id, schedule(email, "sms").id
    with email.running(queues={"email": 1, "sms": 1}):
        eventually(lambda: email.get(id).version == 2)
        assert email.get(other).status is Status.SUCCEEDED
        assert "no answer within 0.2 s" in (texts(email, id)[-1] or "")
        gate.open()
    assert email.get(id).version == 2
    assert calls.of(id) == []


def test_an_async_one_that_takes_too_long(email: Deliveries, calls: Calls) -> None:
    async def endless(delivery: Any) -> Any:
        await asyncio.Event().wait()

    email.policy(endless, timeout=0.2)
    id = schedule(email).id
    email.drain()
    assert "no answer within 0.2 s" in (texts(email, id)[-1] or "")
    assert calls.made == []


def test_one_that_is_stuck_keeps_its_slot_and_nobody_elses(email: Deliveries) -> None:
    gate = Gate()
    policy(email, lambda delivery: gate() if delivery.recipient == "stuck" else Proceed(), timeout=0.2)
    stuck = schedule(email, recipient="stuck").id
    with email.running(queues={"email": 2}) as processor:
        gate.wait_for()
        eventually(lambda: email.get(stuck).version == 2)
        ids = [schedule(email).id for _ in range(5)]
        eventually(lambda: all(email.get(id).is_terminal for id in ids))
        assert processor._claims.free() == {"email": 1}
        gate.open()
        eventually(lambda: processor._claims.free() == {"email": 2})


def test_a_coroutine_that_nobody_awaits(email: Deliveries, calls: Calls) -> None:
    async def asynchronous(delivery: Any) -> Any:
        return Proceed()

    @email.policy(when="attempt")
    def looks_plain(delivery: Any) -> Any:
        return asynchronous(delivery)

    email.policy(policed("sync", Suppress("never asked")), when="attempt")
    id = schedule(email).id
    email.drain()
    assert "an `async def`" in (texts(email, id)[-1] or "")


# -- meanwhile --------------------------------------------------------------------------------------


@pytest.fixture
def thinking(email: Deliveries) -> Gate:
    """Where the policy of `email` thinks until it is let go on."""
    gate = Gate()
    policy(email, lambda delivery: gate() or Proceed(), timeout=30)
    return gate


def test_the_row_is_leased_and_stays_pending(email: Deliveries, thinking: Gate) -> None:
    id = schedule(email).id
    with email.running() as processor:
        thinking.wait_for()
        found = row(email, id)
        assert (found.status, found.version, found.lease_owner) == ("pending", 1, processor.worker)
        left = found.lease_until - email._store.clock.now()
        assert left.total_seconds() == pytest.approx(Settings().lease + 30, abs=0.1)
        assert email.drain().attempted == 0
        assert email.perform(id).result == "busy"
        assert email.explain(id).status == "pending"
        thinking.open()
        eventually(lambda: email.get(id).is_terminal)
    assert kinds(email, id) == ["Scheduled", "Attempted", "Succeeded"]


def test_a_cancel_meanwhile_wins(email: Deliveries, calls: Calls, thinking: Gate) -> None:
    id = schedule(email).id
    with email.running() as processor:
        thinking.wait_for()
        with email.engine.begin() as connection:
            email.cancel(connection, id)
        thinking.open()
        eventually(lambda: not processor._policing)
    assert kinds(email, id) == ["Scheduled", "Cancelled"]
    assert calls.made == []


def test_a_cancel_that_is_not_committed_yet_is_waited_for(
    email: Deliveries, calls: Calls, thinking: Gate, dialect: str
) -> None:
    if dialect == "sqlite":
        return  # there a second writer waits as such
    id, other = schedule(email).id, schedule(email).id
    with email.running() as processor:
        thinking.wait_for(2)
        with email.engine.connect() as connection:
            email.cancel(connection, id)
            thinking.open()
            eventually(lambda: email.get(other).is_terminal)
            assert processor._policing
            connection.rollback()
        eventually(lambda: email.get(id).status is Status.SUCCEEDED)
    assert_called_once_each(email, calls)


def test_moved_meanwhile(email: Deliveries, calls: Calls, thinking: Gate) -> None:
    id = schedule(email).id
    with email.running() as processor:
        thinking.wait_for()
        with email.engine.begin() as connection:
            email.reschedule(connection, id, delay=60)
        thinking.open()
        eventually(lambda: not processor._policing)
    assert kinds(email, id) == ["Scheduled", "Rescheduled"]
    assert calls.made == []


def test_a_late_answer_starts_nothing(
    email: Deliveries, calls: Calls, clock: RunningClock, thinking: Gate
) -> None:
    """Its lease ran out, and another one's policy says no."""
    id = schedule(email).id
    with email.running(poll=3_600, listen=False) as processor:
        thinking.wait_for()
        clock.advance(3_600)
        other = second(email)
        policy(other, Suppress("meanwhile"))
        other.drain()
        assert kinds(email, id) == ["Scheduled", "Suppressed"]
        thinking.open()
        eventually(lambda: not processor._policing)
    assert kinds(email, id) == ["Scheduled", "Suppressed"]
    assert calls.made == []


def test_a_lease_that_another_one_has_is_respected(
    email: Deliveries, calls: Calls, clock: RunningClock, thinking: Gate
) -> None:
    """N2: while the second still thinks, the first's late leave to send is worth nothing."""
    id = schedule(email).id
    gate = Gate()
    other = second(email, calls)
    policy(other, lambda delivery: gate() or Proceed(), timeout=30)
    with email.running(poll=3_600, listen=False) as first:  # which would else ask again itself
        thinking.wait_for()
        clock.advance(3_600)
        with other.running():
            gate.wait_for()
            thinking.open()
            eventually(lambda: not first._policing)
            assert kinds(email, id) == ["Scheduled"]
            gate.open()
            eventually(lambda: email.get(id).is_terminal)
    assert kinds(email, id) == ["Scheduled", "Attempted", "Succeeded"]
    assert_called_once_each(email, calls)


def second(app: Deliveries, calls: Calls | None = None) -> Deliveries:
    """Another application on the same database and clock."""
    made = Deliveries(app.engine, clock=app._store.clock)
    function: Any = lambda delivery, attempt: None  # noqa: E731 - decorated below
    made.adapter("email")(function if calls is None else calls(function))
    return made


def test_killed_between_lease_and_answer(
    email: Deliveries, calls: Calls, clock: RunningClock, thinking: Gate
) -> None:
    """N5: the next one asks again, once the lease is over and not before."""
    id = schedule(email).id
    dead = email.processor()
    dead._policing.begin = lambda: None  # type: ignore[method-assign]  # it dies after the commit
    dead._settings = Settings(queues={"email": 1})
    with dead._serving():
        dead._turn(stays=False)
    assert row(email, id).lease_owner == dead.worker
    thinking.open()
    assert email.drain().attempted == 0
    clock.advance(Settings().lease + 30 + 1)
    assert email.drain().succeeded == 1
    assert kinds(email, id) == ["Scheduled", "Attempted", "Succeeded"]
    assert_called_once_each(email, calls)


def test_a_deadline_passes_after_a_kill(email: Deliveries, clock: RunningClock) -> None:
    policy(email, Proceed)
    id = schedule(email, expires_at=clock.now() + timedelta(seconds=10)).id
    dead = email.processor()
    dead._policing.begin = lambda: None  # type: ignore[method-assign]  # it dies after the commit
    with dead._serving():
        dead._turn(stays=False)
    clock.advance(3_600)
    email.drain()
    assert last(email, id) == e.Exhausted(cause="deadline")


def test_stopping_gives_the_lease_back(email: Deliveries, calls: Calls, thinking: Gate) -> None:
    id = schedule(email).id
    processor = email.processor(grace=10)
    processor.start()
    thinking.wait_for()
    processor.stop()
    stopped(processor, 5)
    assert (row(email, id).lease_owner, row(email, id).lease_until) == (None, None)
    thinking.open()
    assert email.drain().succeeded == 1
    assert_called_once_each(email, calls)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_commit_whose_answer_was_lost(email: Deliveries, calls: Calls, lost: int) -> None:
    """Of the lease, of the start, of the outcome: it is found out, and nothing is sent twice."""
    policy(email, Proceed)
    ids = [schedule(email).id for _ in range(3)]
    processor, seen = email.processor(), [0]

    @contextmanager
    def losing() -> Iterator[Any]:
        wrote = [0]
        with transaction() as connection:
            yield counting(connection, wrote)
        seen[0] += wrote[0]
        if wrote[0] and seen[0] == lost:
            raise OperationalError("COMMIT", {}, Exception("the answer was lost"))

    store = processor._store
    transaction, store.transaction = store.transaction, losing  # type: ignore[method-assign]
    try:
        processor.run(until_idle=True)
        email.drain()
    finally:
        store.transaction = transaction  # type: ignore[method-assign]
    assert seen[0] >= 3
    assert {email.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert_called_once_each(email, calls)


def counting(connection: Any, wrote: list[int]) -> Any:
    """`connection`, on which the first write of a transaction counts."""

    def after(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        words = statement.lstrip().upper()
        if words.startswith("UPDATE DELIVERIES") or "INSERT INTO DELIVERY_EVENTS" in words:
            wrote[0] = 1

    event.listen(connection, "after_cursor_execute", after)
    return connection


def test_an_answer_that_the_database_refuses(fresh_url: str, apps: Apps, clock: RunningClock) -> None:
    """One delivery is put aside; the others go on."""
    app = apps(fresh_url, clock)
    app.adapter("email")(lambda delivery, attempt: None)
    policy(app, lambda delivery: Suppress("x") if delivery.recipient == "bad" else Proceed())
    bad = schedule(app, recipient="bad").id
    ids = [schedule(app).id for _ in range(3)]
    refuse(app, bad)
    app.drain()
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert app.get(bad).status is Status.PENDING
    assert (row(app, bad).lease_owner, row(app, bad).lease_until > clock.now()) == (None, True)


def refuse(app: Deliveries, id: UUID) -> None:
    """No further event of this delivery is let in."""
    with app.engine.begin() as connection:
        if app.engine.dialect.name == "sqlite":
            connection.exec_driver_sql(
                f"CREATE TRIGGER refuse BEFORE INSERT ON delivery_events WHEN NEW.delivery_id = '{id.hex}' "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        else:
            connection.execute(
                text(
                    f"ALTER TABLE delivery_events ADD CHECK (delivery_id <> '{id}' OR version = 1) NOT VALID"
                )
            )


# -- perform --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "result", "attempted"),
    [(Proceed, "done", True), (Suppress("x"), "done", False), (Defer(for_=60), "not_due", False)],
)
def test_perform(email: Deliveries, calls: Calls, said: Any, result: str, attempted: bool) -> None:
    policy(email, said)
    id = schedule(email).id
    performed = email.perform(id)
    assert (performed.result, performed.attempted) == (result, attempted)
    assert calls.of(id) == [1] * attempted


# -- never in the way -----------------------------------------------------------------------------------


def test_no_more_slots_than_there_are(email: Deliveries) -> None:
    """An attempt takes over the slot of the question that came before it."""
    busy, most, lock = [0], [0], threading.Lock()

    def count(*told: Any) -> Any:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        threading.Event().wait(0.005)
        with lock:
            busy[0] -= 1
        return Proceed()

    def adapter(delivery: Any, attempt: Any) -> None:
        count()

    email.adapter("sms")(adapter)
    policy(email, count)
    ids = [schedule(email, "sms").id for _ in range(20)]
    email.drain(queues={"sms": 3})
    assert {email.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert most[0] <= 3


def test_without_policies_nothing_is_different(email: Deliveries, calls: Calls) -> None:
    """The same statements, for a channel that no policy speaks of; how often is a matter of time."""
    schedule(email)
    with statements(email.engine) as before:
        email.drain()
    policy(email, Suppress("no"), channels="sms")
    schedule(email)
    with statements(email.engine) as after:
        email.drain()
    assert set(after) == set(before)


def test_many(email: Deliveries, calls: Calls) -> None:
    policy(email, lambda delivery: Suppress("odd") if delivery.payload % 2 else Proceed())
    ids = [schedule(email, payload=number).id for number in range(60)]
    email.drain(queues={"email": 10})
    found = [email.get(id).status for id in ids]
    assert found == [Status.SUCCEEDED, Status.SUPPRESSED] * 30
    assert_called_once_each(email, calls)


# -- registration -----------------------------------------------------------------------------------------


async def asynchronous(delivery: Any) -> Any:
    return Proceed()


def iterate(delivery: Any) -> Any:
    yield Proceed()


@pytest.mark.parametrize(
    "options",
    [
        {"function": 3},
        {"function": policies.QuietHours},
        {"function": iterate},
        {"function": asynchronous, "when": "schedule"},
        {"function": asynchronous, "when": ("schedule", "attempt")},
        {"function": print, "when": "never"},
        {"function": print, "when": ()},
        {"function": print, "timeout": 0},
        {"function": print, "timeout": 61},
        {"function": print, "timeout": "1"},
        {"function": print, "channels": []},
        {"function": print, "channels": [3]},
    ],
    ids=lambda options: ", ".join(
        f"{name}={getattr(value, '__name__', value)}" for name, value in options.items()
    ),
)
def test_what_is_no_policy(options: Any) -> None:
    with pytest.raises(InvalidPolicy):
        Policy(**options)


def test_ways_to_register(timed: Deliveries) -> None:
    @timed.policy
    def bare(delivery: Any) -> Any:
        return Proceed()

    @timed.policy(channels=["email"], when="attempt", timeout=timedelta(seconds=1))
    def with_options(delivery: Any) -> Any:
        return Proceed()

    quiet = timed.policy(policies.QuietHours("22:00", "07:00"), channels="sms")
    assert isinstance(quiet, policies.QuietHours)
    assert (bare(None), with_options(None)) == (Proceed(), Proceed())
    assert [one.name for one in timed._policies.of("email", "attempt")] == ["bare", "with_options"]
    assert [one.name for one in timed._policies.of("sms", "schedule")] == ["bare", "QuietHours"]
    with pytest.raises(InvalidPolicy, match="unexpected"):
        timed.policy(print, wen="attempt")


def test_the_history_reads_well(email: Deliveries) -> None:
    policy(email, Suppress("on holiday"))
    id = schedule(email).id
    email.drain()
    assert "suppressed by the policy: on holiday" in str(email.explain(id))
    assert "by rule" in str(email.explain(id))
    assert len(history(email, id)) == 2
