"""T1 with a processor beside: a wake-up for what was rolled back does no harm, and one that is lost none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from deliveries import Deliveries, DeliveryNotFound, Draft, Projection, Status
from support.apps import Apps, Calls, assert_called_once_each, eventually, schedule
from transactions.debts import assert_nothing_left, owed
from transactions.watch import PATIENCE

NEVER = 3_600.0
LISTENING = text("""
SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN deliveries' AND datname = current_database()
""")


def test_a_hint_for_what_was_rolled_back_calls_nobody(app: Deliveries, calls: Calls) -> None:
    """The processor does not poll: it comes when it is called, and finds nothing."""
    with app.running(poll=NEVER, sweep_every=NEVER) as processor:
        first = schedule(app, "email", "first")
        eventually(lambda: app.get(first.id).is_terminal)
        for n in range(50):
            with Session(app.engine) as session:
                app.schedule(session, "email", n, key="k")
                if n % 2:
                    app.schedule_many(session, "email", [Draft(n), Draft(n)])
                session.rollback()
        last = schedule(app, "email", "last")
        eventually(lambda: app.get(last.id).is_terminal)
        assert processor.is_alive
        assert processor.error is None
    assert [id for id, _ in calls.made] == [first.id, last.id]
    assert owed(app) == ["first", "last"]


def test_a_hint_for_a_cancel_that_was_rolled_back(app: Deliveries, calls: Calls) -> None:
    later = schedule(app, "email", "later", delay=NEVER)
    with app.running(poll=NEVER, sweep_every=NEVER):
        for _ in range(10):
            with Session(app.engine) as session:
                app.reschedule(session, later.id, delay=0)
                session.rollback()
        with Session(app.engine) as session, session.begin():
            app.reschedule(session, later.id, delay=0)
        eventually(lambda: app.get(later.id).status is Status.SUCCEEDED)
    assert calls.of(later.id) == [1]


def test_a_connection_that_is_never_given_back_gives_no_hint(app: Deliveries, calls: Calls) -> None:
    """Then polling finds the debt."""
    with app.running(poll=0.05, sweep_every=0.5), app.engine.connect() as kept:
        made = app.schedule(kept, "email", "kept")
        kept.commit()
        eventually(lambda: app.get(made.id).is_terminal)
        app.schedule(kept, "email", "lost")
        kept.rollback()
    assert calls.made == [(made.id, 1)]


@pytest.fixture
def notified(postgresql_url: str) -> Iterator[Any]:
    """Whoever listens, as a processor in another process would."""
    import psycopg
    from sqlalchemy import create_engine

    engine = create_engine(postgresql_url)
    arguments, options = engine.dialect.create_connect_args(engine.url)
    with psycopg.connect(*arguments, **options, autocommit=True) as connection:
        connection.execute("LISTEN deliveries")
        yield connection


def test_a_notification_for_what_was_rolled_back_does_no_harm_elsewhere(
    postgresql_url: str, apps: Apps, calls: Calls, notified: Any
) -> None:
    scheduling, performing = apps(postgresql_url), apps(postgresql_url)
    scheduling.adapter("email")(lambda delivery, attempt: None)
    performing.adapter("email")(calls(lambda delivery, attempt: None))
    with performing.running(poll=NEVER, sweep_every=NEVER) as processor:
        for n in range(20):
            with Session(scheduling.engine) as session:
                scheduling.schedule(session, "email", n)
                session.rollback()
        assert list(notified.notifies(timeout=15, stop_after=1)), "the hint comes after a rollback too"
        made = schedule(scheduling, "email", "owed")
        eventually(lambda: performing.get(made.id).is_terminal)
        assert processor.error is None
    assert calls.made == [(made.id, 1)]
    assert owed(scheduling) == ["owed"]


def test_those_of_one_process_hear_on_one_connection(postgresql_url: str, apps: Apps, calls: Calls) -> None:
    """Two processors and a follower; whoever leaves takes nothing from the others."""
    scheduling, app = apps(postgresql_url), apps(postgresql_url)
    scheduling.adapter("email")(lambda delivery, attempt: None)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    seen: list[Any] = []

    def listening() -> int:
        with scheduling.engine.connect() as connection:
            return len(connection.execute(LISTENING).all())

    projection = Projection("seen", lambda entries, connection: seen.extend(entries))
    with app.following(projection, poll=NEVER):
        with app.running(poll=NEVER, sweep_every=NEVER):
            with app.running(poll=NEVER, sweep_every=NEVER):
                eventually(lambda: listening() == 1)
            made = schedule(scheduling, "email", "owed")
            eventually(lambda: app.get(made.id).is_terminal)
            assert listening() == 1
        last = schedule(scheduling, "email", "seen, but not performed")
        eventually(lambda: last.id in [entry.delivery_id for entry in seen])
        assert listening() == 1
    eventually(lambda: listening() == 0)
    assert calls.made == [(made.id, 1)]


@pytest.mark.parametrize("first_is", ["open", "closed"])
def test_apps_that_share_an_engine_take_no_hint_from_each_other(
    sqlite_url: str, apps: Apps, first_is: str
) -> None:
    """On SQLite nobody else could give one, and the processor does not poll."""
    first = apps(sqlite_url)
    first.adapter("email")(lambda delivery, attempt: None)
    schedule(first)
    first.drain()
    second = Deliveries(first.engine)
    if first_is == "closed":
        first.close()
    second.adapter("sms")(lambda delivery, attempt: None)
    with second.running(poll=NEVER, sweep_every=NEVER) as processor:
        eventually(lambda: processor.is_idle)
        owed_here = schedule(second, "sms")
        eventually(lambda: second.get(owed_here.id).is_terminal)
    second.close()


def test_a_hint_that_comes_while_another_is_sent_is_told(
    postgresql_url: str, apps: Apps, notified: Any
) -> None:
    """Else a queue that is resumed just after it was paused stays asleep until the next poll."""
    app = apps(postgresql_url)
    app.adapter("email", queue="mail")(lambda delivery, attempt: None)
    sent: list[str] = []

    def resume_while_it_is_sent(*execution: Any) -> None:
        if "pg_notify" not in (statement := execution[2]):
            return
        sent.append(statement)
        if len(sent) == 1:
            with app.engine.begin() as connection:
                app.queues.resume(connection, "mail")

    event.listen(app.engine, "after_cursor_execute", resume_while_it_is_sent)
    schedule(app)
    heard = [told.payload for told in notified.notifies(timeout=15, stop_after=2)]
    assert heard == ["", "queues"]


def test_only_what_was_committed_is_performed_however_it_is_mixed(app: Deliveries, calls: Calls) -> None:
    """Callers that commit and roll back, wholly and by savepoints, beside a processor at work."""

    def caller(seed: int) -> list[Any]:
        chance, kept = random.Random(seed), []
        for _ in range(25):
            with Session(app.engine) as session:
                ids = [app.schedule(session, "email").id]
                for _ in range(chance.randrange(3)):
                    savepoint = session.begin_nested()
                    inner = app.schedule(session, "email").id
                    if chance.random() < 0.5:
                        savepoint.commit()
                        ids.append(inner)
                    else:
                        savepoint.rollback()
                if chance.random() < 0.5:
                    session.commit()
                    kept += ids
                else:
                    session.rollback()
        return kept

    with app.running(poll=0.05), ThreadPoolExecutor(4) as pool:
        kept = {id for ids in pool.map(caller, range(4)) for id in ids}
        eventually(lambda: len(app.find(status="succeeded", limit=1_000)) == len(kept), PATIENCE)
    assert {id for id, _ in calls.made} == kept
    assert {found.id for found in app.find(limit=1_000)} == kept
    assert_called_once_each(app, calls)


def test_a_rolled_back_delivery_cannot_be_performed_by_its_id(app: Deliveries, calls: Calls) -> None:
    """A job elsewhere may have been told the id too early."""
    with Session(app.engine) as session:
        lost = app.schedule(session, "email")
        session.rollback()
    with pytest.raises(DeliveryNotFound):
        app.perform(lost.id)
    assert_nothing_left(app, calls)
