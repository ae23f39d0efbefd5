"""T1 and T3 for a caller who commits in two phases: a prepared transaction may stay open for days."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import Session

from deliveries import Deliveries, Draft
from support.apps import Apps, Calls, schedule
from support.databases import DRIVER, create_schema, own_server
from transactions.debts import assert_key_is_free, assert_nothing_left, owed
from transactions.watch import PATIENCE, watching


@pytest.fixture(scope="module")
def preparing_url() -> Iterator[str]:
    """A server that allows prepared transactions, as no server does unless it is told to."""
    with own_server() as server:
        url = make_url(server.get_uri()).set(drivername=DRIVER)
        create_schema(url)
        with autocommit(url) as connection:
            connection.execute(text("ALTER SYSTEM SET max_prepared_transactions = 10"))
        server.stop()
        server.start()
        yield url.render_as_string(hide_password=False)


@contextmanager
def autocommit(url: Any) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def app(preparing_url: str, apps: Apps, calls: Calls) -> Iterator[Deliveries]:
    with autocommit(preparing_url) as connection:
        connection.exec_driver_sql(_WIPE)
    made = apps(preparing_url, connect_args={"options": "-c lock_timeout=5000"})
    made.adapter("email")(calls(lambda delivery, attempt: None))
    yield made
    end_all(made.engine, "ROLLBACK")


_WIPE = """
SET session_replication_role = replica;
TRUNCATE deliveries, delivery_events, delivery_contents, delivery_notes, delivery_evidence RESTART IDENTITY;
"""


def prepared(engine: Engine) -> list[str]:
    """The transactions that wait for their second phase."""
    with autocommit(engine.url) as connection:
        return list(connection.scalars(text("SELECT gid FROM pg_prepared_xacts ORDER BY prepared")))


def end_all(engine: Engine, how: str) -> None:
    """COMMIT or ROLLBACK them, as an operator would from anywhere."""
    with autocommit(engine.url) as connection:
        for gid in prepared(engine):
            connection.exec_driver_sql(f"{how} PREPARED '{gid}'")


def left_prepared(app: Deliveries, act: Callable[[Connection], Any]) -> Any:
    """A caller who prepares, and whose connection is gone before the second phase."""
    with app.engine.connect() as connection:
        transaction = connection.begin_twophase()
        answer = act(connection)
        transaction.prepare()
        connection.invalidate()
    return answer


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_a_session_of_two_phases(app: Deliveries, commits: bool, calls: Calls) -> None:
    with Session(app.engine, twophase=True) as session:
        with session.begin_nested():
            app.schedule(session, "email", "kept", key="k")
        savepoint = session.begin_nested()
        app.schedule(session, "email", "lost")
        savepoint.rollback()
        app.schedule_many(session, "email", [Draft(n) for n in range(3)])
        session.prepare()
        assert len(prepared(app.engine)) == 1
        assert owed(app) == []
        assert app.drain().attempted == 0
        session.commit() if commits else session.rollback()
    assert prepared(app.engine) == []
    if commits:
        assert owed(app) == ["kept", 0, 1, 2]
        assert app.drain().succeeded == len(calls) == 4
    else:
        assert_nothing_left(app, calls)
        assert_key_is_free(app, "k")


@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK"])
def test_the_second_phase_from_another_connection(app: Deliveries, how: str, calls: Calls) -> None:
    """The caller is gone; the transaction manager decides, and nobody is there to give a hint."""
    left_prepared(app, lambda bind: app.schedule(bind, "email", "owed", key="k"))
    with app.running(poll=0.05):
        other = schedule(app, "email", "other")
        assert owed(app) == ["other"], "an open first phase keeps nobody else waiting"
        end_all(app.engine, how)
    app.drain()
    assert owed(app) == (["owed", "other"] if how == "COMMIT" else ["other"])
    assert len(calls) == (2 if how == "COMMIT" else 1)
    assert calls.of(other.id) == [1]
    if how == "ROLLBACK":
        assert_key_is_free(app, "k")


@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK"])
def test_who_wants_the_key_waits_for_the_second_phase(app: Deliveries, how: str) -> None:
    first = left_prepared(app, lambda bind: app.schedule(bind, "email", "owed", key="k"))
    with ThreadPoolExecutor(1) as pool, watching(app.engine) as watch:
        second = pool.submit(schedule, app, "email", "owed", key="k")
        watch.until_waiting(0, 1)  # PostgreSQL's word for a prepared transaction
        end_all(app.engine, how)
        answer = second.result(PATIENCE)
    assert answer.created is (how == "ROLLBACK")
    assert (answer.id == first.id) is (how == "COMMIT")


def test_the_log_misses_nothing_of_a_first_phase(app: Deliveries) -> None:
    """No session holds the announcement any more, and it still counts."""
    before = schedule(app, "email", "before").id

    def read() -> list[Any]:
        return [entry.originator_id for entry in app.event_log.notification_log.select(1, 100)]

    assert read() == [before]
    late = left_prepared(app, lambda bind: app.schedule(bind, "email", "late")).id
    after = schedule(app, "email", "after").id
    assert not {late, after} & set(read())
    end_all(app.engine, "COMMIT")
    assert read() == [before, late, after]


def test_a_command_in_a_first_phase_holds_one_row(app: Deliveries, calls: Calls) -> None:
    ids = [schedule(app, "email", n).id for n in range(5)]
    left_prepared(app, lambda bind: app.cancel(bind, ids[2]))
    assert app.drain().succeeded == 4
    assert app.perform(ids[2]).result == "busy"
    end_all(app.engine, "COMMIT")
    assert app.drain().attempted == 0
    assert calls.of(ids[2]) == []
    assert app.get(ids[2]).status == "cancelled"


def test_the_doctor_sees_what_waits_for_its_second_phase(app: Deliveries) -> None:
    assert {one.name: one.verdict for one in app.doctor(long=0).checks}["transactions"] == "ok"
    left_prepared(app, lambda connection: app.schedule(connection, "email"))
    found = {one.name: one for one in app.doctor(long=0).checks}
    assert found["transactions"].verdict == "problem"
    assert prepared(app.engine)[0] in found["transactions"].seen[0]
    assert found["bound"].verdict == "warning"
    assert "for a prepared transaction" in found["bound"].seen[0]
