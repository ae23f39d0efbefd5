"""T1 and T2 for who works without SQLAlchemy: a plain psycopg connection is the caller's transaction too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.exc import DBAPIError, OperationalError

from deliveries import (
    Deliveries,
    Draft,
    EngineNotConfigured,
    IdempotencyConflict,
    Proceed,
    Status,
    Suppress,
    Unique,
)
from deliveries.errors import CallerError
from deliveries.events import Scheduled
from support.apps import Apps, Calls, eventually, plain, schedule
from transactions.debts import assert_nothing_left, owed

NEVER = 3_600.0


@pytest.fixture
def app(postgresql_url: str, apps: Apps, calls: Calls) -> Deliveries:
    made = apps(postgresql_url)
    made.adapter("email")(calls(lambda delivery, attempt: None))
    return made


@pytest.fixture
def raw(app: Deliveries) -> Iterator[psycopg.Connection[Any]]:
    with plain(app) as connection:
        yield connection


def test_it_is_owed_if_and_only_if_the_caller_commits(
    app: Deliveries, raw: psycopg.Connection[Any], calls: Calls
) -> None:
    app.schedule(raw, "email", "rolled back")
    raw.rollback()
    assert_nothing_left(app, calls)
    with raw.transaction():
        made = app.schedule(raw, "email", "committed")
        assert app.get(made.id, session=raw).payload == "committed"
        assert owed(app) == []
    assert owed(app) == ["committed"]


def test_a_savepoint_that_is_rolled_back_leaves_nothing(
    app: Deliveries, raw: psycopg.Connection[Any]
) -> None:
    with raw.transaction():
        app.schedule(raw, "email", "outer")
        with raw.transaction():
            app.schedule_many(raw, "email", [Draft("inner"), Draft("inner")])
            raise psycopg.Rollback
    assert owed(app) == ["outer"]


def test_many_are_all_or_nothing(app: Deliveries, raw: psycopg.Connection[Any]) -> None:
    app.schedule(raw, "email", "theirs", key="k")
    with pytest.raises(IdempotencyConflict):
        app.schedule_many(raw, "email", [Draft("ours"), Draft("another debt", key="k")])
    made = app.schedule_many(raw, "email", [Draft(n) for n in range(2_500)])
    raw.commit()
    assert [one.payload for one in made] == list(range(2_500))
    assert sorted(map(str, owed(app))) == sorted(["theirs", *map(str, range(2_500))])


def test_a_key_is_one_delivery(app: Deliveries, raw: psycopg.Connection[Any]) -> None:
    first = app.schedule(raw, "email", "debt", key="k")
    again = app.schedule(raw, "email", "debt", key="k")
    assert (first.created, again.created, again.id) == (True, False, first.id)
    with pytest.raises(IdempotencyConflict):
        app.schedule(raw, "email", "another", key="k")
    raw.commit()
    assert owed(app) == ["debt"]


def test_whatever_rows_the_caller_likes(app: Deliveries) -> None:
    with plain(app, row_factory=dict_row, cursor_factory=psycopg.ClientCursor) as raw:
        made = app.schedule(raw, "email", "debt", key="k")
        assert app.schedule(raw, "email", "debt", key="k").id == made.id
        assert [one.id for one in app.find(session=raw)] == [made.id]
        assert raw.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_all_that_comes_with_it(app: Deliveries, raw: psycopg.Connection[Any]) -> None:
    """Uniqueness, policies, hooks and operators, in the same transaction."""
    seen = []

    @app.policy(channels="email", when="schedule")
    def never_to_bob(delivery: Any) -> Any:
        return Suppress("no") if delivery.recipient == "bob" else Proceed()

    app.on(Scheduled)(lambda event, delivery, connection: seen.append(delivery.id))
    unique = Unique(period=60, fields=("recipient",))
    ann = app.schedule(raw, "email", recipient="ann", unique=unique)
    assert app.schedule(raw, "email", recipient="ann", unique=unique).id == ann.id
    bob = app.schedule(raw, "email", recipient="bob")
    assert (bob.status, seen) == (Status.SUPPRESSED, [ann.id, bob.id])
    assert app.cancel(raw, ann.id, reason="enough").status is Status.CANCELLED
    app.queues.pause(raw, "email")
    raw.rollback()
    assert_nothing_left(app)


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_processor_that_does_not_poll_is_told(
    app: Deliveries, raw: psycopg.Connection[Any], pause: float
) -> None:
    with app.running(poll=NEVER, sweep_every=NEVER):
        first = schedule(app, "email", "to know that it listens")
        eventually(lambda: app.get(first.id).is_terminal)
        made = app.schedule(raw, "email", "debt")
        raw.execute("SELECT pg_sleep(%s)", (pause,))
        raw.commit()
        eventually(lambda: app.get(made.id).is_terminal)


def test_an_app_that_never_connected_before(
    postgresql_url: str, apps: Apps, app: Deliveries, raw: psycopg.Connection[Any]
) -> None:
    fresh = apps(postgresql_url)
    fresh.adapter("email")(lambda delivery, attempt: None)
    made = fresh.schedule(raw, "email", "debt")
    raw.commit()
    assert app.get(made.id).payload == "debt"


def test_the_first_act_of_all_looks_at_the_server_elsewhere(postgresql_url: str) -> None:
    """SQLAlchemy asks a server what it is; not in the caller's transaction, nor never."""
    app = Deliveries(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    with plain(app) as raw:
        app.schedule(raw, "email", "debt")
        assert app.engine.dialect.server_version_info
        raw.commit()
    assert owed(app) == ["debt"]
    app.close()


def test_autocommit_is_refused(app: Deliveries) -> None:
    why = "^this connection is in autocommit mode: begin a transaction$"
    with plain(app, autocommit=True) as raw, pytest.raises(EngineNotConfigured, match=why):
        app.schedule(raw, "email", "debt")
    assert_nothing_left(app)


def test_a_transaction_of_an_autocommitting_connection_is_one(app: Deliveries) -> None:
    with plain(app, autocommit=True) as raw:
        with raw.transaction():
            app.schedule(raw, "email", "rolled back")
            raise psycopg.Rollback
        with raw.transaction():
            app.schedule(raw, "email", "debt")
        assert owed(app) == ["debt"]


def broken(raw: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error):
        raw.execute("SELECT 1 / 0")


@pytest.mark.parametrize("spoil", [psycopg.Connection.close, broken], ids=["closed", "failed"])
def test_errors_are_those_of_sqlalchemy_and_tell_no_contents(
    app: Deliveries, raw: psycopg.Connection[Any], spoil: Callable[[Any], None]
) -> None:
    spoil(raw)
    with pytest.raises(DBAPIError) as caught:
        app.schedule(raw, "email", {"secret": "rosebud"}, recipient="ann@example.org", key=uuid4().hex)
    assert "rosebud" not in str(caught.value)
    assert "ann@" not in str(caught.value)
    assert isinstance(caught.value.orig, psycopg.Error)


def test_a_server_that_is_gone(app: Deliveries, raw: psycopg.Connection[Any]) -> None:
    app.schedule(raw, "email", "lost")
    with app.engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({raw.info.backend_pid}, 5000)")
    with pytest.raises(OperationalError):
        app.schedule(raw, "email", "lost")
    assert_nothing_left(app)


def test_another_database_is_refused(sqlite_url: str, apps: Apps, raw: psycopg.Connection[Any]) -> None:
    embedded = apps(sqlite_url)
    embedded.adapter("email")(lambda delivery, attempt: None)
    with pytest.raises(CallerError, match="psycopg"):
        embedded.schedule(raw, "email", "debt")
