"""Hooks: they run in the transaction that appends, whoever appends, and can spoil nothing but themselves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from deliveries import (
    Bounced,
    Deliveries,
    Discard,
    Draft,
    InvalidHook,
    NotDone,
    Retry,
    Snooze,
    Status,
    Unknown,
    sqlite,
)
from deliveries import events as e
from deliveries.hooks import MAX_DEPTH, MAX_WRECKS
from deliveries.store.schema import deliveries
from support.apps import Apps, RunningClock, eventually, history, kinds, schedule, statements

Seen = list[tuple[str, Any]]


def email(
    app: Deliveries, answer: Callable[[Any, Any], Any] = lambda delivery, attempt: None, **options: Any
) -> None:
    app.adapter("email", **options)(answer)


def watched(app: Deliveries, *kinds: type[e.Event], **options: Any) -> Seen:
    """What hooks on these events were told."""
    seen: Seen = []

    @app.on(*kinds, **options)
    def look(event: e.Event, delivery: Any, connection: Any) -> None:
        seen.append((type(event).__name__, delivery))

    return seen


def names(seen: Seen) -> list[str]:
    return [name for name, _ in seen]


# -- they fire for everybody -------------------------------------------------------------------


def test_the_whole_life(app: Deliveries) -> None:
    email(app)
    seen = watched(app, e.Event)
    id = schedule(app, payload={"a": 1}, recipient="ann").id
    app.drain()
    assert names(seen) == ["Scheduled", "Attempted", "Succeeded"] == kinds(app, id)
    for _, delivery in seen:
        assert (delivery.id, delivery.recipient, delivery.payload) == (id, "ann", {"a": 1})
    assert [delivery.status for _, delivery in seen] == ["pending", "attempting", "succeeded"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Retry("x"), e.Failed),
        (Snooze(60), e.Rescheduled),
        (Bounced("gone"), e.Cancelled),
        (Discard("no"), e.Exhausted),
        (Unknown("?"), e.Held),
    ],
    ids=lambda one: "",
)
def test_outcomes(app: Deliveries, answer: Any, kind: type[e.Event]) -> None:
    email(app, lambda delivery, attempt: answer, on_unknown="hold")
    seen = watched(app, kind)
    id = schedule(app, recipient="ann").id
    app.drain()
    assert names(seen) == [kind.__name__]
    assert seen[0][1].id == id


def test_a_sweep(timed: Deliveries, clock: RunningClock) -> None:
    email(timed)
    seen = watched(timed, e.Exhausted)
    deadline = clock.now() + timedelta(seconds=30)
    schedule(timed, recipient="ann", delay=60, expires_at=deadline)
    clock.advance(31)
    timed.drain()
    assert [delivery.recipient for _, delivery in seen] == ["ann"]


def test_operators(app: Deliveries) -> None:
    email(app, lambda delivery, attempt: Unknown(), on_unknown="hold")
    seen = watched(app, e.Rescheduled, e.Cancelled, e.Suppressed)
    ids = [schedule(app, recipient=str(number)).id for number in range(3)]
    app.drain()
    others = [schedule(app, recipient=str(number)).id for number in range(3, 5)]
    with app.engine.begin() as connection:
        app.resolve(connection, ids[0], NotDone())
        app.cancel(connection, ids[1])
        app.suppress(connection, others[0])
        app.reschedule(connection, others[1], delay=60)
    assert names(seen) == ["Rescheduled", "Cancelled", "Suppressed", "Rescheduled"]
    assert [delivery.recipient for _, delivery in seen] == ["0", "1", "3", "4"]


def test_scheduling_many_and_a_key_that_is_taken(app: Deliveries) -> None:
    email(app)
    seen = watched(app, e.Scheduled)
    schedule(app, key="a")
    schedule(app, key="a")
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(recipient="x"), Draft(key="a"), Draft(recipient="y")])
    assert [delivery.recipient for _, delivery in seen] == [None, "x", "y"]


def test_a_lookup(timed: Deliveries, clock: RunningClock) -> None:
    def asked(delivery: Any, attempt: Any) -> Any:
        return NotDone()

    email(timed, lambda delivery, attempt: Unknown(), lookup=asked, backoff=lambda *_: 1)
    seen = watched(timed, e.Rescheduled)
    schedule(timed)
    timed.drain()
    clock.advance(5)
    timed.drain()
    assert names(seen) == ["Rescheduled"]


def test_channels(app: Deliveries) -> None:
    email(app)
    app.adapter("sms")(lambda delivery, attempt: None)
    seen, both = (
        watched(app, e.Succeeded, channels="sms"),
        watched(app, e.Succeeded, channels=["sms", "email"]),
    )
    schedule(app)
    sms = schedule(app, "sms").id
    app.drain()
    assert [delivery.id for _, delivery in seen] == [sms]
    assert len(both) == 2


def test_an_asynchronous_caller(apps: Apps, sqlite_url: str) -> None:
    app = apps(sqlite_url)
    email(app)
    seen = watched(app, e.Scheduled)

    async def main() -> None:
        engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
        sqlite.configure(engine)
        async with engine.begin() as connection:
            await app.aschedule(connection, "email", recipient="ann")
        await engine.dispose()

    asyncio.run(main())
    assert [delivery.recipient for _, delivery in seen] == ["ann"]


# -- in the transaction ------------------------------------------------------------------------


def test_what_a_hook_schedules_commits_with_the_event(app: Deliveries) -> None:
    email(app, lambda delivery, attempt: Discard("no"))
    sent: list[Any] = []
    app.adapter("sms")(lambda delivery, attempt: sent.append(delivery.recipient))

    @app.on(e.Exhausted, channels="email")
    def fall_back(event: e.Exhausted, delivery: Any, connection: Any) -> None:
        app.schedule(connection, "sms", recipient=delivery.recipient, key=f"fallback:{delivery.id}")

    id = schedule(app, recipient="ann").id
    app.drain()
    (found,) = app.find(channel="sms")
    assert found.key == f"fallback:{id}"
    app.drain()
    assert sent == ["ann"]


def test_a_session_in_a_hook(app: Deliveries) -> None:
    email(app)

    @app.on(e.Succeeded)
    def again(event: e.Event, delivery: Any, connection: Any) -> None:
        if delivery.key is None:
            with Session(connection) as session, session.begin():
                app.schedule(session, "email", key="again")

    schedule(app)
    app.drain()
    assert len(app.find(key="again")) == 1


def test_what_a_caller_takes_back_was_never_hooked(app: Deliveries) -> None:
    email(app)

    @app.on(e.Scheduled)
    def twin(event: e.Event, delivery: Any, connection: Any) -> None:
        if delivery.key is None:
            app.schedule(connection, "email", key="twin")

    with app.engine.connect() as connection:
        app.schedule(connection, "email")
        connection.rollback()
    assert app.find() == []
    schedule(app)
    assert len(app.find()) == 2


# -- they spoil nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), GeneratorExit()], ids=lambda one: type(one).__name__
)
def test_one_that_raises_is_undone_and_the_event_stands(
    app: Deliveries, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    email(app)

    @app.on(e.Succeeded)
    def bad(event: e.Event, delivery: Any, connection: Any) -> None:
        app.schedule(connection, "email", key=f"undone:{delivery.id}")
        raise error

    seen = watched(app, e.Succeeded)
    ids = [schedule(app).id for _ in range(3)]
    app.drain()
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert len(seen) == 3
    assert len(app.find()) == 3
    assert caplog.text.count("bad failed for delivery") == 3


def swallows_an_error(connection: Any) -> None:
    with pytest.raises(Exception, match="nowhere"):
        connection.execute(text("SELECT * FROM nowhere"))


def violates(connection: Any) -> None:
    connection.execute(text("UPDATE delivery_events SET version = 9"))


def leaves_a_savepoint(connection: Any) -> None:
    connection.begin_nested()


def leaves_a_session(connection: Any) -> None:
    session = Session(connection)
    session.execute(select(deliveries.c.id))
    kept.append(session)


def rolls_back_its_savepoint(connection: Any) -> None:
    connection.get_nested_transaction().rollback()


kept: list[Any] = []

SPOILERS: list[Callable[[Any], None]] = [
    lambda connection: connection.commit(),
    lambda connection: connection.rollback(),
    lambda connection: connection.close(),
    lambda connection: connection.invalidate(),
    lambda connection: connection.detach(),
    violates,
    leaves_a_savepoint,
    leaves_a_session,
    rolls_back_its_savepoint,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_the_transaction_is_not_theirs(
    app: Deliveries, spoil: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    email(app)
    app.on(e.Succeeded)(lambda event, delivery, connection: spoil(connection))
    seen = watched(app, e.Succeeded)
    ids = [schedule(app).id for _ in range(2)]
    app.drain()
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert len(seen) == 2
    assert caplog.text.count("failed for delivery") == 2
    kept.clear()


def test_an_error_that_a_hook_swallowed(app: Deliveries) -> None:
    """On PostgreSQL it has aborted the transaction for everybody."""
    email(app)
    app.on(e.Succeeded)(lambda event, delivery, connection: swallows_an_error(connection))
    seen = watched(app, e.Succeeded)
    id = schedule(app).id
    app.drain()
    assert app.get(id).status is Status.SUCCEEDED
    assert len(seen) == 1


def test_one_that_ends_the_transaction_is_left_out_at_last(
    app: Deliveries, caplog: pytest.LogCaptureFixture
) -> None:
    email(app)
    times = []

    @app.on(e.Succeeded)
    def wreck(event: e.Event, delivery: Any, connection: Any) -> None:
        if delivery.recipient == "mallory":
            times.append(1)
            connection.get_transaction().rollback()

    ids = [schedule(app, recipient=name).id for name in ("ann", "mallory", "bob")]
    app.drain(patience=10)
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert len(times) == MAX_WRECKS
    assert "it is left out now" in caplog.text


def test_a_caller_hears_of_a_transaction_that_a_hook_ended(app: Deliveries) -> None:
    email(app)
    app.on(e.Scheduled)(lambda event, delivery, connection: connection.get_transaction().rollback())
    with pytest.raises(Exception, match="the transaction ended in hook"):
        schedule(app)
    assert app.find() == []


def test_hooks_without_end(app: Deliveries, caplog: pytest.LogCaptureFixture) -> None:
    email(app)

    @app.on(e.Scheduled)
    def more(event: e.Event, delivery: Any, connection: Any) -> None:
        app.schedule(connection, "email")

    schedule(app)
    assert len(app.find()) == MAX_DEPTH
    assert f"{MAX_DEPTH} deep is enough" in caplog.text


def test_a_hook_that_acts_on_its_own_delivery(app: Deliveries) -> None:
    email(app, lambda delivery, attempt: Retry("x"))

    @app.on(e.Failed)
    def enough(event: e.Failed, delivery: Any, connection: Any) -> None:
        app.cancel(connection, delivery.id, reason="once is enough")

    id = schedule(app).id
    app.drain()
    assert kinds(app, id) == ["Scheduled", "Attempted", "Failed", "Cancelled"]


def test_ctrl_c_is_for_whoever_waits(app: Deliveries) -> None:
    email(app)

    @app.on(e.Scheduled)
    def interrupted(event: e.Event, delivery: Any, connection: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        schedule(app)
    assert app.find() == []
    made = []
    thread = threading.Thread(target=lambda: made.append(schedule(app)))
    thread.start()
    thread.join()
    assert len(app.find()) == len(made) == 1


def test_a_running_processor_survives_them(app: Deliveries) -> None:
    email(app)

    @app.on(e.Attempted, e.Succeeded)
    def bad(event: e.Event, delivery: Any, connection: Any) -> None:
        raise SystemExit

    with app.running() as processor:
        ids = [schedule(app).id for _ in range(5)]
        eventually(lambda: all(app.get(id).is_terminal for id in ids))
        assert processor.is_alive
    assert processor.error is None


def test_a_coroutine_is_no_hook(app: Deliveries, caplog: pytest.LogCaptureFixture) -> None:
    email(app)

    async def asynchronous(event: e.Event, delivery: Any, connection: Any) -> None: ...

    with pytest.raises(InvalidHook, match="plain function"):
        app.on(e.Succeeded)(asynchronous)

    @app.on(e.Succeeded)
    def looks_plain(event: e.Event, delivery: Any, connection: Any) -> Any:
        return asynchronous(event, delivery, connection)

    schedule(app)
    app.drain()
    assert "returned a coroutine" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda app: app.on()(print),
        lambda app: app.on(print)(print),
        lambda app: app.on("Exhausted")(print),
        lambda app: app.on(Status)(print),
        lambda app: app.on(e.Exhausted)(3),
        lambda app: app.on(e.Exhausted, channels=[])(print),
        lambda app: app.on(e.Exhausted, channels=[3])(print),
        lambda app: app.on(e.Exhausted)(iterate),
    ],
)
def test_what_is_no_hook(app: Deliveries, wrong: Callable[[Deliveries], Any]) -> None:
    with pytest.raises(InvalidHook):
        wrong(app)


def iterate(event: Any, delivery: Any, connection: Any) -> Any:
    yield


def test_without_hooks_nothing_is_asked(app: Deliveries, caplog: pytest.LogCaptureFixture) -> None:
    """One that waits for other events costs no statement either."""
    email(app)
    with statements(app.engine) as before:
        id = schedule(app).id
        app.drain()
    watched(app, e.Exhausted)
    with statements(app.engine) as after:
        schedule(app)
        app.drain()
    assert len(after) <= len(before)
    assert history(app, id)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
