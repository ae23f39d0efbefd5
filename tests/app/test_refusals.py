"""Databases and connections that cannot keep our promises, and registrations that could not be honoured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine, insert

from deliveries import (
    Backoff,
    Deliveries,
    DeliveriesError,
    Draft,
    EngineNotConfigured,
    InvalidAdapter,
    SchemaMissing,
    SchemaTooNew,
    sqlite,
)
from deliveries.clock import SystemClock
from deliveries.errors import CallerError, StoreError
from deliveries.store import schema
from support.apps import Apps, schedule


def done(delivery: object, attempt: object) -> None: ...


# -- connections ---------------------------------------------------------------------------------------


def test_an_unconfigured_sqlite_engine_is_refused(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    app = Deliveries(engine)
    app.adapter("email")(done)
    for act in (lambda: schedule(app), app.drain, app.find):
        with pytest.raises(EngineNotConfigured, match=r"deliveries\.sqlite\.configure\(engine\)"):
            act()
    app.close()


def test_a_configured_one_will_do(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    sqlite.configure(engine)
    app = Deliveries(engine)
    app.adapter("email")(done)
    schedule(app)
    assert app.drain().succeeded == 1
    app.close()


def test_autocommit_is_refused(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(done)
    with app.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(EngineNotConfigured, match="autocommit"):
            app.schedule(connection, "email")
        with pytest.raises(EngineNotConfigured, match="autocommit"):
            app.schedule_many(connection, "email", [Draft()])
        with pytest.raises(EngineNotConfigured, match="autocommit"):
            app.cancel(connection, UUID(int=7))


def test_an_engine_in_autocommit_is_refused(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url, isolation_level="AUTOCOMMIT")
    app.adapter("email")(done)
    with pytest.raises(EngineNotConfigured, match="autocommit"):
        schedule(app)


@pytest.mark.parametrize("bind", [None, "sqlite://", 7, object()])
def test_what_is_no_session_is_refused(nowhere: Deliveries, bind: Any) -> None:
    with pytest.raises(CallerError, match="Session or a Connection"):
        nowhere.schedule(bind, "email")


def test_another_database_is_refused(
    sqlite_url: str, postgresql_url: str, apps: Apps, engines: Callable[..., Engine]
) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(done)
    with engines(sqlite_url).connect() as connection, pytest.raises(CallerError, match="postgresql"):
        app.schedule(connection, "email")


@pytest.mark.parametrize(
    "database",
    [
        "no url",
        "oracle://x",
        "sqlite+nonsense://",
        "postgresql+psycopg2://localhost/x",
        "mysql+pymysql://x/y",
    ],
)
def test_databases_that_are_refused(database: str) -> None:
    with pytest.raises(CallerError):
        Deliveries(database)


def test_no_database_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELIVERIES_URL", raising=False)
    with pytest.raises(CallerError, match="DELIVERIES_URL"):
        Deliveries()


def test_the_environments_database(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    monkeypatch.setenv("DELIVERIES_URL", sqlite_url)
    app = Deliveries()
    assert app.find() == []
    app.close()


def test_in_memory(apps: Apps) -> None:
    app = Deliveries("sqlite://")
    app.create_schema()
    app.adapter("email")(done)
    schedule(app)
    assert app.drain().succeeded == 1
    app.close()


# -- schemas -------------------------------------------------------------------------------------------


def test_a_missing_schema_is_named_everywhere(empty_url: str, apps: Apps) -> None:
    apps.damaged = True
    app = apps(empty_url)
    app.adapter("email")(done)
    for act in (lambda: schedule(app), app.drain, app.find, lambda: app.get(UUID(int=7))):
        with pytest.raises(SchemaMissing, match=r"create_schema\(\)"):
            act()
    app.create_schema()
    app.create_schema()
    schedule(app)
    assert app.drain().succeeded == 1
    assert issubclass(SchemaMissing, StoreError)


def test_a_schema_of_the_future_is_left_alone(fresh_url: str, apps: Apps) -> None:
    apps.damaged = True
    app = apps(fresh_url)
    app.adapter("email")(done)
    with app.engine.begin() as connection:
        row = {"version": schema.SCHEMA_VERSION + 1, "created_at": SystemClock().now()}
        connection.execute(insert(schema.schema), row)
    for act in (lambda: schedule(app), app.drain, app.find, app.create_schema):
        with pytest.raises(SchemaTooNew, match="upgrade the library"):
            act()


# -- registrations -------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"effect": "unsafe"}, "on_unknown"),
    ({"effect": "unsafe", "on_unknown": "retry"}, "unsafe"),
    ({"effect": "unsafe", "on_unknown": "retry", "lookup": done}, "unsafe"),
    ({"effect": "sometimes"}, "effect"),
    ({"on_unknown": "guess"}, "on_unknown"),
    ({"on_unknown": "lookup"}, "lookup"),
    ({"max_attempts": 0}, "max_attempts"),
    ({"max_attempts": -1}, "max_attempts"),
    ({"max_attempts": 2**31}, "max_attempts"),
    ({"max_attempts": 1.5}, "max_attempts"),
    ({"max_attempts": True}, "max_attempts"),
    ({"max_attempts": None}, "max_attempts"),
    ({"max_interruptions": 0}, "max_interruptions"),
    ({"max_snoozes": -1}, "max_snoozes"),
    ({"max_lookups": 0}, "max_lookups"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": 86_401}, "timeout"),
    ({"timeout": float("nan")}, "timeout"),
    ({"timeout": 10**400}, "timeout"),
    ({"timeout": None}, "timeout"),
    ({"backoff": 5}, "backoff"),
    ({"backoff": None}, "backoff"),
    ({"queue": "a b"}, "queue"),
    ({"queue": "-a"}, "queue"),
    ({"queue": 7}, "queue"),
    ({"queue": "q" * 101}, "queue"),
    ({"nonsense": 1}, "nonsense"),
    ({"retries": 3}, "retries"),
]


@pytest.mark.parametrize(("options", "named"), REFUSED, ids=lambda one: repr(one)[:40])
def test_options_that_are_refused(nowhere: Deliveries, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidAdapter, match=named) as caught:
        nowhere.adapter("sms", **options)(done)
    assert isinstance(caught.value, CallerError)
    assert isinstance(caught.value, DeliveriesError)
    assert "sms" not in nowhere.channels
    nowhere.adapter("sms")(done)  # the name is still free


@pytest.mark.parametrize("channel", ["", " ", "a b", "a/b", "é", "-a", ".a", "a" * 101, "a\n", None, 7])
def test_channels_that_are_refused(nowhere: Deliveries, channel: Any) -> None:
    with pytest.raises(InvalidAdapter, match="channel"):
        nowhere.adapter(channel)(done)


@pytest.mark.parametrize("function", [None, "email", 7])
def test_what_cannot_be_called_is_refused(nowhere: Deliveries, function: Any) -> None:
    with pytest.raises(InvalidAdapter, match="callable"):
        nowhere.adapter("sms")(function)


def test_an_adapter_whose_body_would_not_run_is_refused() -> None:
    app = Deliveries("sqlite://")

    def lazy(delivery: Any, attempt: Any) -> Any:
        yield 1

    async def lazier(delivery: Any, attempt: Any) -> Any:
        yield 1

    for adapter in (lazy, lazier):
        with pytest.raises(InvalidAdapter, match="generator"):
            app.adapter("email")(adapter)
    app.close()


def test_an_sqlite_without_strict_tables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))
    with pytest.raises(CallerError, match=r"3\.37\.0 or newer"):
        Deliveries("sqlite://")
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 37, 0))
    Deliveries("sqlite://").close()


def test_a_channel_has_one_adapter(nowhere: Deliveries) -> None:
    with pytest.raises(InvalidAdapter, match="already"):
        nowhere.adapter("email")(done)


@pytest.mark.parametrize(
    "options",
    [
        {"effect": "unsafe", "on_unknown": "hold"},
        {"effect": "unsafe", "lookup": done},
        {"effect": "natural", "on_unknown": "hold"},
        {"max_attempts": 2**31 - 1, "max_snoozes": 0},
        {"timeout": 86_400, "queue": "a-b.c_9"},
        {"backoff": Backoff.linear(5)},
    ],
)
def test_options_that_are_accepted(nowhere: Deliveries, options: dict[str, Any]) -> None:
    assert nowhere.adapter("sms", **options)(done) is done
    registration = nowhere.channels["sms"]
    assert {name: getattr(registration, name) for name in options} == options
    assert registration.queue == options.get("queue", "sms")
