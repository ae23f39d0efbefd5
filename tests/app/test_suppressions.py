"""The suppression list: who is on it gets nothing, and nobody can read who it is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import create_async_engine

from deliveries import (
    Bounced,
    Cancel,
    Deliveries,
    InvalidPolicy,
    InvalidSchedule,
    NotDone,
    Status,
    Suppress,
    Unknown,
    policies,
    sqlite,
)
from deliveries import events as e
from deliveries.store.schema import secrets, suppressions
from support.apps import Apps, everything, kinds, schedule, statements, texts

ANN = "Ann@Example.org"


def added(app: Deliveries, recipient: str = ANN, **options: Any) -> bool:
    with app.engine.begin() as connection:
        return app.suppressions.add(connection, recipient, **options)


def removed(app: Deliveries, recipient: str = ANN, **options: Any) -> bool:
    with app.engine.begin() as connection:
        return app.suppressions.remove(connection, recipient, **options)


# -- the list ----------------------------------------------------------------------------------


def test_add_and_remove(app: Deliveries) -> None:
    assert not app.suppressions.contains(ANN)
    assert added(app, reason="asked for it", actor="ann")
    assert not added(app, reason="again")
    assert app.suppressions.contains(ANN)
    (entry,) = app.suppressions.list()
    assert (entry.reason, entry.actor, entry.channel, entry.tenant) == ("asked for it", "ann", None, "")
    assert len(bytes.fromhex(entry.digest)) == 32
    assert removed(app)
    assert not removed(app)
    assert not app.suppressions.contains(ANN)


@pytest.mark.parametrize("same", ["ann@example.org", " ANN@EXAMPLE.ORG\n", "\uff21nn@example.org"])
def test_spellings(app: Deliveries, same: str) -> None:
    added(app)
    assert app.suppressions.contains(same)
    assert not app.suppressions.contains("bob@example.org")


def test_channels_and_tenants(app: Deliveries) -> None:
    added(app, channel="sms", tenant="acme")
    contains = app.suppressions.contains
    assert contains(ANN, channel="sms", tenant="acme")
    assert not contains(ANN, channel="email", tenant="acme")
    assert not contains(ANN, tenant="acme")
    assert not contains(ANN, channel="sms")
    added(app, tenant="acme")
    assert contains(ANN, channel="email", tenant="acme")
    assert contains(ANN, tenant="acme")
    assert not removed(app, channel="email", tenant="acme")
    assert removed(app, channel="sms", tenant="acme")
    assert contains(ANN, channel="sms", tenant="acme")


def test_listing(app: Deliveries) -> None:
    for number in range(3):
        added(app, f"r{number}", channel="sms" if number else None, tenant="acme" if number == 2 else "")
    assert [entry.channel for entry in app.suppressions.list()] == ["sms", "sms", None]
    assert len(app.suppressions.list(channel="sms")) == 2
    assert len(app.suppressions.list(channel="sms", tenant="acme")) == 1
    assert len(app.suppressions.list(limit=1)) == 1
    with pytest.raises(ValueError, match="limit"):
        app.suppressions.list(limit=0)


def test_it_is_the_callers_transaction(app: Deliveries) -> None:
    with app.engine.connect() as connection:
        app.suppressions.add(connection, ANN)
        assert app.suppressions.contains(ANN, session=connection)
        assert len(app.suppressions.list(session=connection)) == 1
        connection.rollback()
    assert not app.suppressions.contains(ANN)


def test_nobody_can_read_who_it_is(app: Deliveries) -> None:
    added(app, reason="bounced")
    assert "ann" not in repr(everything(app)).casefold()


def test_another_database_has_other_digests(apps: Apps, sqlite_url: str, empty_sqlite_url: str) -> None:
    first, second = apps(sqlite_url), apps(empty_sqlite_url)
    second.create_schema()
    added(first)
    added(second)
    assert first.suppressions.list()[0].digest != second.suppressions.list()[0].digest


def test_a_key_that_is_drawn_late(app: Deliveries) -> None:
    """Whoever made the tables without `create_schema` has none yet."""
    with app.engine.begin() as connection:
        connection.execute(delete(secrets))
    assert not app.suppressions.contains(ANN)
    assert not removed(app)
    added(app)
    assert app.suppressions.contains(ANN)
    with app.engine.connect() as connection:
        assert len(connection.scalar(select(secrets.c.value))) == 32


def test_nobody_waits_for_somebody_who_adds_the_same(app: Deliveries, dialect: str) -> None:
    if dialect == "sqlite":
        return  # there is one writer at a time
    added(app, "bob")  # the key is drawn
    with app.engine.connect() as connection:
        app.suppressions.add(connection, ANN)
        thread = threading.Thread(target=added, args=(app,))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        connection.commit()
    assert app.suppressions.contains(ANN)
    assert removed(app)
    assert not app.suppressions.contains(ANN)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("recipient", {"recipient": ""}),
        ("recipient", {"recipient": "  "}),
        ("recipient", {"recipient": 3}),
        ("recipient", {"recipient": "a\x00"}),
        ("channel", {"channel": ""}),
        ("channel", {"channel": 3}),
        ("tenant", {"tenant": "a\nb"}),
        ("reason", {"reason": "x" * 201}),
        ("reason", {"reason": "a\nb"}),
        ("actor", {"actor": "\ud800"}),
    ],
    ids=str,
)
def test_what_is_refused_before_any_sql(app: Deliveries, field: str, options: dict[str, Any]) -> None:
    with statements(app.engine) as seen, app.engine.begin() as connection:
        with pytest.raises(InvalidSchedule) as caught:
            app.suppressions.add(connection, **({"recipient": ANN} | options))
        assert caught.value.field == field
    assert seen == []


def test_asynchronous_twins(apps: Apps, sqlite_url: str) -> None:
    app = apps(sqlite_url)

    async def main() -> None:
        engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
        sqlite.configure(engine)
        async with engine.begin() as connection:
            assert await app.suppressions.aadd(connection, ANN)
        assert await app.suppressions.acontains(ANN)
        assert len(await app.suppressions.alist()) == 1
        async with engine.begin() as connection:
            assert await app.suppressions.aremove(connection, ANN)
        await engine.dispose()

    asyncio.run(main())
    assert not app.suppressions.contains(ANN)


# -- the policy ----------------------------------------------------------------------------------


def email(app: Deliveries, said: Any = None, **options: Any) -> None:
    def adapter(delivery: Any, attempt: Any) -> Any:
        return said

    app.adapter("email", **options)(adapter)
    app.policy(policies.SuppressionList())


def test_who_is_on_it_gets_nothing(app: Deliveries) -> None:
    email(app)
    before = schedule(app, recipient=ANN).id
    added(app, reason="opted out")
    after = schedule(app, recipient=ANN.upper())
    assert after.status is Status.SUPPRESSED
    nobody, other = schedule(app).id, schedule(app, recipient="bob").id
    app.drain()
    assert kinds(app, before) == ["Scheduled", "Suppressed"]
    assert texts(app, before)[-1] == "on the suppression list: opted out"
    assert {app.get(id).status for id in (nobody, other)} == {Status.SUCCEEDED}
    removed(app)
    assert schedule(app, recipient=ANN).status is Status.PENDING


def test_between_two_attempts(app: Deliveries) -> None:
    email(app, ValueError, max_attempts=5)
    app.adapter("fails", backoff=lambda *_: 0)(lambda delivery, attempt: 1 / 0)
    id = schedule(app, "fails", recipient=ANN).id
    app.drain()
    added(app, channel="fails")
    app.drain()
    assert kinds(app, id) == ["Scheduled", "Attempted", "Failed", "Suppressed"]


@pytest.mark.parametrize(
    ("said", "reason"), [(Bounced("no mailbox"), "bounced"), (policies.OptedOut(), "opted_out")]
)
def test_it_learns(app: Deliveries, said: Any, reason: str) -> None:
    email(app, said)
    app.adapter("sms")(lambda delivery, attempt: None)
    schedule(app, recipient=ANN, tenant="acme")
    app.drain()
    (entry,) = app.suppressions.list()
    assert (entry.reason, entry.channel, entry.tenant) == (reason, "email", "acme")
    assert schedule(app, recipient=ANN, tenant="acme").status is Status.SUPPRESSED
    assert schedule(app, recipient=ANN).status is Status.PENDING
    assert schedule(app, "sms", recipient=ANN, tenant="acme").status is Status.PENDING


@pytest.mark.parametrize("said", [Cancel("no"), Suppress("not this one"), None])
def test_it_learns_nothing_from_others(app: Deliveries, said: Any) -> None:
    email(app, said)
    schedule(app, recipient=ANN)
    schedule(app)
    app.drain()
    assert app.suppressions.list() == []


def test_it_learns_from_operators_too(app: Deliveries) -> None:
    email(app, Unknown(), on_unknown="hold")
    held, other = schedule(app, recipient=ANN).id, schedule(app, recipient="bob").id
    app.drain()
    with app.engine.begin() as connection:
        app.resolve(connection, held, Bounced("the provider says so"), actor="ops")
        app.resolve(connection, other, NotDone())
    (entry,) = app.suppressions.list()
    assert (entry.reason, entry.actor) == ("bounced", "ops")


def test_it_learns_in_the_transaction(app: Deliveries) -> None:
    email(app, Unknown(), on_unknown="hold")
    held = schedule(app, recipient=ANN).id
    app.drain()
    with app.engine.connect() as connection:
        app.resolve(connection, held, Bounced())
        connection.rollback()
    assert app.suppressions.list() == []


def test_other_causes(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: Bounced())
    app.policy(policies.SuppressionList(causes=()))
    schedule(app, recipient=ANN)
    app.drain()
    assert app.suppressions.list() == []
    for wrong in ("bounced", [3]):
        with pytest.raises(InvalidPolicy):
            policies.SuppressionList(causes=wrong)


def test_one_entry_for_many_bounces(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: Bounced())
    app.on(e.Cancelled)(lambda event, delivery, connection: None)
    app.policy(policies.SuppressionList(), when="schedule")
    for _ in range(5):
        schedule(app, recipient=ANN)
    app.drain()
    with app.engine.connect() as connection:
        assert len(list(connection.execute(select(suppressions)))) == 1


# -- what providers report afterwards ----------------------------------------------------------


@pytest.mark.parametrize(("kind", "listed"), [("bounced", True), ("complained", True), ("delivered", False)])
def test_it_learns_from_evidence(app: Deliveries, kind: str, listed: bool) -> None:
    app.policy(policies.SuppressionList(), channels="email")
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app, "email", recipient=ANN).id
    app.drain()
    for _ in range(2):  # the provider reports twice
        with app.engine.begin() as connection:
            app.record_evidence(connection, kind, id=id, key="report-1")
    assert app.suppressions.contains(ANN, channel="email") is listed
    assert app.get(id).status is Status.SUCCEEDED
    assert schedule(app, "email", recipient=ANN).status is (Status.SUPPRESSED if listed else Status.PENDING)
