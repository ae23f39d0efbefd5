"""Saying what is wanted of a queue: in the caller's transaction, refused whole, read back equal."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from deliveries import Deliveries, InvalidQueue, Queue, sqlite
from deliveries.store.schema import queues
from support.apps import Apps, RunningClock, everything, schedule

Act = Callable[[Deliveries, Any], Queue]


@pytest.fixture
def mail(timed: Deliveries) -> Deliveries:
    """An application with one channel, `email`, in the queue `mail`."""
    timed.adapter("email", queue="mail")(lambda delivery, attempt: None)
    return timed


def said(app: Deliveries, act: Callable[[Any], Queue]) -> Queue:
    """`act` in a transaction of its own; what it returned, which is what is read."""
    with app.engine.begin() as connection:
        returned = act(connection)
    (read,) = [one for one in app.queues.list() if one.name == returned.name]
    return read


# -- what is read is what was said -----------------------------------------------------------------


def test_a_queue_of_which_nobody_spoke(mail: Deliveries) -> None:
    assert mail.queues.list() == [Queue(name="mail")]


def test_everything_that_can_be_said(mail: Deliveries, clock: RunningClock) -> None:
    ops = mail.queues
    with mail.engine.begin() as connection:
        ops.pause(connection, "mail")
        ops.scale(connection, "mail", 7)
        ops.limit(connection, "mail", 70)
        ops.fair(connection, "mail")
        returned = ops.rate(connection, "mail", 9, "minute", by="tenant", reason="a deal", actor="ann")
    (read,) = ops.list()
    assert read == returned
    assert read.is_paused
    assert (read.concurrency, read.total, read.fair) == (7, 70, True)
    assert (read.rate, read.per, read.by) == (9, 60.0, "tenant")
    assert (read.actor, read.reason) == ("ann", "a deal")
    assert read.paused_at is not None
    assert read.paused_at < read.changed_at <= clock.now()


@pytest.mark.parametrize(
    ("per", "seconds"),
    [("second", 1.0), ("hour", 3_600.0), (0.5, 0.5), (90, 90.0), (timedelta(minutes=2), 120.0)],
)
def test_lengths_of_time(mail: Deliveries, per: Any, seconds: float) -> None:
    assert said(mail, lambda session: mail.queues.rate(session, "mail", 1, per)).per == seconds


def test_what_is_taken_back_leaves_no_row(mail: Deliveries) -> None:
    ops, before = mail.queues, everything(mail)
    ways: list[tuple[Act, Act]] = [
        (lambda app, s: app.queues.pause(s, "mail"), lambda app, s: app.queues.resume(s, "mail")),
        (lambda app, s: app.queues.scale(s, "mail", 2), lambda app, s: app.queues.scale(s, "mail", None)),
        (lambda app, s: app.queues.limit(s, "mail", 2), lambda app, s: app.queues.limit(s, "mail", None)),
        (lambda app, s: app.queues.rate(s, "mail", 2), lambda app, s: app.queues.rate(s, "mail", None)),
        (lambda app, s: app.queues.fair(s, "mail"), lambda app, s: app.queues.fair(s, "mail", False)),
        (lambda app, s: app.queues.pause(s, "mail"), lambda app, s: app.queues.clear(s, "mail")),
    ]
    for do, undo in ways:
        assert said(mail, lambda session, do=do: do(mail, session)) != Queue(name="mail")
        with mail.engine.begin() as connection:
            undo(mail, connection)
        assert ops.list() == [Queue(name="mail")]
        assert everything(mail) == before


def test_paused_twice_is_paused_since_the_first_time(mail: Deliveries, clock: RunningClock) -> None:
    first = said(mail, lambda session: mail.queues.pause(session, "mail"))
    clock.advance(60)
    again = said(mail, lambda session: mail.queues.pause(session, "mail", reason="still"))
    assert (again.paused_at, again.reason) == (first.paused_at, "still")


def test_a_rollback_leaves_nothing(mail: Deliveries) -> None:
    before = everything(mail)
    with mail.engine.connect() as connection:
        mail.queues.pause(connection, "mail")
        assert mail.queues.list(session=connection)[0].is_paused
        connection.rollback()
    assert everything(mail) == before


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_who_speak_of_a_queue_for_the_first_time(database_url: str, apps: Apps) -> None:
    """One waits for the other, and both are heard."""
    one, other = apps(database_url), apps(database_url)
    with one.engine.begin() as connection:
        one.queues.scale(connection, "mail", 3)
        waiting = threading.Thread(
            target=lambda: said(other, lambda session: other.queues.limit(session, "mail", 9))
        )
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(15)
    (read,) = one.queues.list()
    assert (read.concurrency, read.total) == (3, 9)


# -- bad input ---------------------------------------------------------------------------------------


BAD: dict[str, tuple[Callable[[Any, Any], Queue], str, str]] = {
    "limit 0": (lambda ops, s: ops.limit(s, "mail", 0), "total", "pause the queue"),
    "limit -1": (lambda ops, s: ops.limit(s, "mail", -1), "total", "from 1 to 1000000"),
    "limit True": (lambda ops, s: ops.limit(s, "mail", True), "total", "not True"),
    "limit 1.0": (lambda ops, s: ops.limit(s, "mail", 1.0), "total", "not 1.0"),
    "scale 0": (lambda ops, s: ops.scale(s, "mail", 0), "concurrency", "pause the queue"),
    "scale 10001": (lambda ops, s: ops.scale(s, "mail", 10_001), "concurrency", "1 to 10000"),
    "scale text": (lambda ops, s: ops.scale(s, "mail", "3"), "concurrency", "'3'"),
    "rate 0": (lambda ops, s: ops.rate(s, "mail", 0), "amount", "not 0"),
    "rate 2**40": (lambda ops, s: ops.rate(s, "mail", 2**40), "amount", "1000000"),
    "per 0": (lambda ops, s: ops.rate(s, "mail", 1, 0), "per", "0.001 to 86400"),
    "per fortnight": (lambda ops, s: ops.rate(s, "mail", 1, "fortnight"), "per", "second, minute"),
    "per nan": (lambda ops, s: ops.rate(s, "mail", 1, float("nan")), "per", "finite"),
    "per None": (lambda ops, s: ops.rate(s, "mail", 1, None), "per", "NoneType"),
    "per two days": (lambda ops, s: ops.rate(s, "mail", 1, timedelta(days=2)), "per", "172800"),
    "by country": (lambda ops, s: ops.rate(s, "mail", 1, by="country"), "by", "tenant, recipient"),
    "by list": (lambda ops, s: ops.rate(s, "mail", 1, by=["tenant"]), "by", "tenant, recipient"),
    "by alone": (lambda ops, s: ops.rate(s, "mail", None, by="tenant"), "by", "nothing to count"),
    "fair 1": (lambda ops, s: ops.fair(s, "mail", 1), "on", "not 1"),
    "no name": (lambda ops, s: ops.pause(s, ""), "queue", "no name of a queue"),
    "None": (lambda ops, s: ops.pause(s, None), "queue", "None"),
    "SQL": (lambda ops, s: ops.pause(s, "mail'; --"), "queue", "no name of a queue"),
    "newline": (lambda ops, s: ops.clear(s, "mail\n"), "queue", "no name of a queue"),
    "actor NUL": (lambda ops, s: ops.pause(s, "mail", actor="a\0"), "actor", "NUL"),
    "reason int": (lambda ops, s: ops.pause(s, "mail", reason=7), "reason", "int"),
    "reason long": (lambda ops, s: ops.pause(s, "mail", reason="x" * 1_001), "reason", "1001"),
}


@pytest.mark.parametrize(("act", "field", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_any_sql(
    mail: Deliveries, act: Callable[[Any, Any], Queue], field: str, says: str
) -> None:
    before, executed = everything(mail), []
    with mail.engine.connect() as connection:
        event.listen(mail.engine, "before_cursor_execute", lambda *args: executed.append(args[2]))
        with pytest.raises(InvalidQueue, match=f"^{field}: ") as raised:
            act(mail.queues, connection)
        assert executed == []
    assert raised.value.field == field
    assert says in str(raised.value)
    assert everything(mail) == before


def test_a_queue_that_nobody_knows_is_probably_a_slip(
    mail: Deliveries, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "deliveries"):
        said(mail, lambda session: mail.queues.pause(session, "mail"))
        assert caplog.messages == []
        said(mail, lambda session: mail.queues.pause(session, "mial"))
        assert "'mial'" in caplog.text
    assert [one.name for one in mail.queues.list()] == ["mail", "mial"]


# -- explained -----------------------------------------------------------------------------------------


def test_explain_says_what_holds_a_delivery_back(mail: Deliveries) -> None:
    id = schedule(mail, "email").id
    assert mail.explain(id).next == "attempt 1 starts as soon as a processor is free"
    with mail.engine.begin() as connection:
        mail.queues.pause(connection, "mail", actor="ann", reason="provider down")
        mail.queues.limit(connection, "mail", 5)
        mail.queues.rate(connection, "mail", 2, "minute", by="tenant", actor="ann", reason="provider down")
    told = mail.explain(id).next
    assert "queue 'mail' is paused since 20" in told
    assert told.endswith(
        "Z by ann (provider down), runs at most 5 attempts at a time, "
        "starts at most 2 attempts in 60 s for each tenant"
    )
    said(mail, lambda session: mail.queues.clear(session, "mail"))
    mail.drain()
    assert mail.explain(id).next == "nothing: this is the end"


# -- asynchronous twins ----------------------------------------------------------------------------------


def test_the_twins(database_url: str, apps: Apps) -> None:
    app = apps(database_url)
    engine = create_async_engine(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
    sqlite.configure(engine)

    async def story() -> list[Queue]:
        async with engine.begin() as connection:
            ops = app.queues
            await ops.apause(connection, "mail")
            await ops.aresume(connection, "mail")
            await ops.ascale(connection, "mail", 3)
            await ops.alimit(connection, "mail", 4)
            await ops.arate(connection, "mail", 5, "hour", by="recipient")
            await ops.afair(connection, "mail")
            await ops.apause(connection, "web")
            await ops.aclear(connection, "web")
        found = await ops.alist()
        await engine.dispose()
        return found

    (read,) = asyncio.run(story())
    assert (read.is_paused, read.concurrency, read.total) == (False, 3, 4)
    assert (read.rate, read.per, read.by, read.fair) == (5, 3_600.0, "recipient", True)


def test_the_database_refuses_nonsense_too(mail: Deliveries) -> None:
    said(mail, lambda session: mail.queues.scale(session, "mail", 3))
    for column, value in (("total", 0), ("concurrency", 0), ("rate_by", "tenant"), ("rate_amount", 3)):
        with mail.engine.connect() as connection, pytest.raises(Exception, match="delivery_queues_"):
            connection.execute(queues.update().values({column: value}))
