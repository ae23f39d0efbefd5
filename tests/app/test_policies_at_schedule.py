"""Policies asked while something is scheduled: in the caller's transaction, as events of their own."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from deliveries import Defer, Deliveries, Draft, InvalidSchedule, Proceed, Status, Suppress, policies, sqlite
from deliveries import events as e
from support.apps import Apps, RunningClock, history, kinds, schedule, statements, texts


@pytest.fixture
def email(timed: Deliveries) -> Deliveries:
    timed.adapter("email")(lambda delivery, attempt: None)
    return timed


def rule(app: Deliveries, decision: Any, when: Any = "schedule", **options: Any) -> None:
    app.policy(decision, when=when, name="rule", **options)


def raising(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    "said", [Suppress("gone"), lambda: raising(Suppress("gone"))], ids=["says", "raises"]
)
def test_suppress(email: Deliveries, said: Any) -> None:
    rule(email, lambda delivery: said() if callable(said) else said)
    made = schedule(email, recipient="ann", payload={"a": 1}, key="k")
    assert (made.status, made.version, made.created) == (Status.SUPPRESSED, 2, True)
    assert (made.recipient, made.payload) == ("ann", {"a": 1})
    assert email.get(made.id) == made
    found = history(email, made.id)[1]
    assert found == e.Suppressed(by="policy", actor="rule", note=found.note)
    assert texts(email, made.id) == [None, "gone"]
    assert email.drain().attempted == 0
    again = schedule(email, recipient="ann", payload={"a": 1}, key="k")
    assert (again.id, again.created) == (made.id, False)


def test_defer(email: Deliveries, clock: RunningClock) -> None:
    until = clock.now() + timedelta(hours=1)
    rule(email, lambda delivery: Defer(until, "busy"))
    made = schedule(email)
    assert (made.status, made.due_at) == (Status.PENDING, until)
    found = history(email, made.id)[1]
    assert found == e.Rescheduled(due_at=until, cause="deferred", actor="rule", note=found.note)
    assert email.drain().attempted == 0
    clock.advance(3_601)
    assert email.drain().succeeded == 1


def test_no_deferral_makes_it_earlier(email: Deliveries, clock: RunningClock) -> None:
    due_at = clock.now() + timedelta(days=60)
    rule(email, lambda delivery: Defer(for_=60))
    made = schedule(email, due_at=due_at)
    assert (made.due_at, kinds(email, made.id)) == (due_at, ["Scheduled"])


@pytest.mark.parametrize("said", [Proceed, Proceed()])
def test_proceed(email: Deliveries, said: Any) -> None:
    rule(email, lambda delivery: said)
    assert kinds(email, schedule(email).id) == ["Scheduled"]


def test_what_it_is_told(email: Deliveries) -> None:
    told: list[Any] = []
    rule(email, lambda delivery: told.append(delivery) or Proceed())
    made = schedule(email, payload=[1], recipient="ann", tenant="acme")
    assert told == [made]


def test_the_first_that_objects_decides(email: Deliveries) -> None:
    rule(email, lambda delivery: Proceed())
    rule(email, lambda delivery: Suppress("second"))
    rule(email, lambda delivery: 1 / 0)
    assert texts(email, schedule(email).id) == [None, "second"]


def test_many(email: Deliveries) -> None:
    rule(email, lambda delivery: Suppress("odd") if delivery.payload % 2 else Proceed())
    schedule(email, payload=1, key="taken")
    with email.engine.begin() as connection:
        drafts = [Draft(payload=0), Draft(payload=1), Draft(payload=1, key="taken"), Draft(payload=2)]
        made = email.schedule_many(connection, "email", drafts)
    assert [one.status.value for one in made] == ["pending", "suppressed", "suppressed", "pending"]
    assert [one.created for one in made] == [True, True, False, True]
    assert [email.get(one.id).version for one in made] == [1, 2, 2, 1]


def test_a_rollback_takes_it_all_back(email: Deliveries) -> None:
    rule(email, lambda delivery: Suppress("x"))
    with email.engine.connect() as connection:
        email.schedule(connection, "email")
        connection.rollback()
    assert email.find() == []


def test_hooks_see_both_events(email: Deliveries) -> None:
    rule(email, lambda delivery: Suppress("x"))
    seen: list[str] = []
    email.on(e.Event)(lambda event, delivery, connection: seen.append(type(event).__name__))
    schedule(email)
    assert seen == ["Scheduled", "Suppressed"]


@pytest.mark.parametrize("answer", [lambda: None, lambda: raising(ValueError("boom")), lambda: Suppress])
def test_no_answer_is_asked_for_again_before_the_attempt(email: Deliveries, answer: Any) -> None:
    rule(email, lambda delivery: answer(), when=("schedule", "attempt"))
    made = schedule(email)
    assert kinds(email, made.id) == ["Scheduled"]
    assert email.drain().rescheduled == 1
    assert email.get(made.id).attempt == 0


@pytest.mark.parametrize("answer", [lambda: None, lambda: raising(ValueError("boom"))])
def test_no_answer_where_it_is_not_asked_again(email: Deliveries, answer: Any) -> None:
    rule(email, lambda delivery: answer())
    with email.engine.begin() as connection:
        with pytest.raises(InvalidSchedule, match="rule gave no answer"):
            email.schedule(connection, "email")
        assert email.find(session=connection) == []


def test_ctrl_c_is_for_the_caller(email: Deliveries) -> None:
    rule(email, lambda delivery: raising(KeyboardInterrupt()), when=("schedule", "attempt"))
    with pytest.raises(KeyboardInterrupt):
        schedule(email)


def test_quiet_hours(email: Deliveries, clock: RunningClock) -> None:
    """NOW is noon. What is due by day is not touched; what is due by night waits for the morning."""
    email.policy(policies.QuietHours("22:00", "07:00", "UTC"))
    assert schedule(email).version == 1
    night = clock.now().replace(hour=23)
    made = schedule(email, due_at=night)
    assert made.due_at == (night + timedelta(days=1)).replace(hour=7, minute=0, second=0, microsecond=0)
    clock.advance(12 * 3_600)
    email.drain()
    late = schedule(email)
    assert late.due_at == made.due_at


def test_an_attempt_in_quiet_hours(email: Deliveries, clock: RunningClock) -> None:
    email.policy(policies.QuietHours("22:00", "07:00", "UTC"), when="attempt")
    id = schedule(email, delay=3_600).id
    clock.advance(11 * 3_600)
    assert email.drain().rescheduled == 1
    clock.advance(8 * 3_600 + 1)
    assert email.drain().succeeded == 1
    assert kinds(email, id) == ["Scheduled", "Rescheduled", "Attempted", "Succeeded"]


def test_an_asynchronous_caller(apps: Apps, sqlite_url: str) -> None:
    app = apps(sqlite_url)
    app.adapter("email")(lambda delivery, attempt: None)
    rule(app, lambda delivery: Suppress("x"))

    async def main() -> Any:
        engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
        sqlite.configure(engine)
        async with engine.begin() as connection:
            made = await app.aschedule(connection, "email")
        await engine.dispose()
        return made

    assert asyncio.run(main()).status is Status.SUPPRESSED


def test_without_policies_nothing_is_asked(email: Deliveries) -> None:
    schedule(email)
    with statements(email.engine) as before:
        schedule(email)
    rule(email, lambda delivery: Suppress("x"), channels="sms")
    email.policy(lambda delivery: Suppress("x"), when="attempt")
    with statements(email.engine) as after:
        schedule(email)
    assert after == before
