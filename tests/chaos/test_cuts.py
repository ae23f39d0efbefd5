"""A connection that is cut around COMMIT: nobody knows what happened, and exactly one thing did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from deliveries import Backoff, Deliveries, Delivery
from deliveries.audit.invariants import Called
from deliveries.testing.proof import broken
from support.apps import Calls, eventually, evidence, kinds
from support.databases import Server
from support.proxy import Commit, Cut, Proxy, let_pass, on

CUTS = list(Cut)
COMMITTED = {Cut.AFTER_COMMIT, Cut.HANG_AFTER_COMMIT}


@pytest.fixture
def proxy(postgresql_server: Server) -> Iterator[Proxy]:
    with Proxy(postgresql_server.url, hang_seconds=0.3) as running:
        yield running


@pytest.fixture
def through(proxy: Proxy, postgresql_url: str) -> str:
    """The database's address, through the proxy."""
    return proxy.url(make_url(postgresql_url)).render_as_string(hide_password=False)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def make(calls: Calls) -> Iterator[Callable[[str], Deliveries]]:
    made: list[Deliveries] = []

    def app_for(url: str) -> Deliveries:
        app = Deliveries(url)
        app.adapter("email", backoff=Backoff.linear(0.02))(calls(lambda delivery, attempt: None))
        made.append(app)
        return app

    yield app_for
    for app in made:
        app.close()


@pytest.fixture
def app(make: Callable[[str], Deliveries], postgresql_url: str) -> Deliveries:
    """Connected directly."""
    return make(postgresql_url)


@pytest.fixture
def cut_app(make: Callable[[str], Deliveries], through: str) -> Deliveries:
    """Connected through the proxy."""
    return make(through)


def owe(app: Deliveries, key: str | None = None) -> Delivery:
    with app.engine.begin() as connection:
        return app.schedule(connection, "email", {"order": 7}, key=key)


def sound(app: Deliveries, calls: Calls) -> None:
    called = [Called(delivery_id=id, attempt=number, key=str(id)) for id, number in calls.made]
    assert broken(app.engine, calls=called, ended=True) == []


# -- callers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_scheduling_again_after_a_cut_gives_one_copy(
    app: Deliveries, cut_app: Deliveries, proxy: Proxy, calls: Calls, cut: Cut
) -> None:
    """T4: a caller that does not know whether it committed does it again with the same key."""
    proxy.decide = on(b"Scheduled", cut)
    with pytest.raises(OperationalError):
        owe(cut_app, "order:7")
    assert proxy.cuts == {cut: 1}
    assert [delivery.key for delivery in app.find()] == ["order:7"] * (cut in COMMITTED)
    again = owe(cut_app, "order:7")
    assert again.created is (cut not in COMMITTED)
    assert [delivery.id for delivery in app.find()] == [again.id]
    assert app.drain().succeeded == 1
    assert calls.made == [(again.id, 1)]
    sound(app, calls)


@pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
def test_an_async_caller_does_the_same(
    app: Deliveries, make: Callable[[str], Deliveries], through: str, proxy: Proxy, cut: Cut
) -> None:
    engine = create_async_engine(through.replace("+psycopg", "+asyncpg"), poolclass=NullPool)
    caller = make(through)

    async def owe_async() -> Delivery:
        async with engine.begin() as connection:
            return await caller.aschedule(connection, "email", {"order": 7}, key="order:7")

    proxy.decide = on(b"Scheduled", cut)
    with pytest.raises((DBAPIError, OSError)):
        asyncio.run(owe_async())
    assert proxy.cuts == {cut: 1}
    again = asyncio.run(owe_async())
    assert again.created is (cut not in COMMITTED)
    assert [delivery.id for delivery in app.find()] == [again.id]


# -- processors --------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_a_claim_that_is_cut_calls_nobody_and_is_made_again(
    app: Deliveries, cut_app: Deliveries, proxy: Proxy, calls: Calls, cut: Cut
) -> None:
    """An attempt whose commit was not answered is given back at no cost: nobody has entered it."""
    id = owe(app).id
    proxy.decide = on(b"Attempted", cut)
    with cut_app.running(poll=0.05, listen=False):
        eventually(lambda: app.get(id).is_terminal)
    assert proxy.cuts == {cut: 1}
    if cut in COMMITTED:
        assert kinds(app, id) == ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]
        assert app.get(id).endings == 0
    else:
        assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"]
    assert len(calls.of(id)) == 1
    sound(app, Calls())


@pytest.mark.parametrize("cut", CUTS)
def test_an_outcome_that_is_cut_is_on_record_once(
    app: Deliveries, cut_app: Deliveries, proxy: Proxy, calls: Calls, cut: Cut
) -> None:
    id = owe(app).id
    proxy.decide = on(b"Succeeded", cut)
    with cut_app.running(poll=0.05, listen=False):
        eventually(lambda: app.get(id).is_terminal and proxy.cuts)
        owe(app)
        eventually(lambda: all(delivery.is_terminal for delivery in app.find()))
    assert proxy.cuts == {cut: 1}
    assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"]
    assert calls.of(id) == [1]
    assert evidence(app, id) == []  # it knows its own event again, and takes it for nobody else's
    sound(app, calls)


@pytest.mark.parametrize("hang", [False, True])
def test_all_connections_at_once(
    app: Deliveries, cut_app: Deliveries, proxy: Proxy, calls: Calls, hang: bool
) -> None:
    """The pump's, the heartbeat's and the listener's; they come back by themselves."""
    with cut_app.running(poll=0.05):
        first = owe(app).id
        eventually(lambda: app.get(first).is_terminal)
        assert proxy.cut_all(hang=hang) > 0
        second = owe(app).id
        eventually(lambda: app.get(second).is_terminal)
    assert len(calls.made) == 2
    sound(app, calls)


def test_a_connection_that_falls_silent_for_good_is_given_up(
    app: Deliveries, cut_app: Deliveries, proxy: Proxy
) -> None:
    """Neither side is told: no reset comes, and the proxy keeps TCP's own probes happy."""
    proxy.hang_seconds = 600.0
    proxy.decide = on(b"Attempted", Cut.HANG_AFTER_COMMIT)
    id = owe(app).id
    processor = cut_app.processor(poll=0.05, lease=1.0, listen=False)
    processor.start()
    try:
        eventually(lambda: app.get(id).is_terminal, seconds=6.0)
    finally:
        processor.stop()
        proxy.cut_all()
        processor.join(10.0)
    assert not processor.is_alive
    assert proxy.cuts[Cut.HANG_AFTER_COMMIT] == 1


# -- the proxy itself --------------------------------------------------------------------------


def simple(connection: psycopg.Connection[Any]) -> None:
    connection.commit()


def extended(connection: psycopg.Connection[Any]) -> None:
    connection.execute("COMMIT", prepare=True)


def pipelined(connection: psycopg.Connection[Any]) -> None:
    with connection.pipeline():
        connection.execute("SELECT 1")
        connection.commit()


@pytest.mark.parametrize("commit", [simple, extended, pipelined])
@pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
def test_the_proxy_knows_a_commit_in_either_protocol(
    proxy: Proxy, through: str, postgresql_url: str, cut: Cut, commit: Callable[..., None]
) -> None:
    seen: list[bytes] = []

    def decide(found: Commit) -> Cut | None:
        seen.append(found.sent)
        return cut if b"INSERT" in found.sent else None

    proxy.decide = decide
    with psycopg.connect(plain(through)) as connection:
        connection.execute("CREATE TABLE seen (name text)")
        commit(connection)
        connection.execute("INSERT INTO seen VALUES (%s)", ["one"])
        with pytest.raises(psycopg.OperationalError):
            commit(connection)
    assert [b"CREATE" in sent for sent in seen] == [True, False]
    assert rows(postgresql_url) == [("one",)] * (cut is Cut.AFTER_COMMIT)


def test_a_proxy_that_cuts_nothing_changes_nothing(
    proxy: Proxy, through: str, make: Any, calls: Calls
) -> None:
    proxy.decide = let_pass
    app = make(through)
    ids: list[UUID] = [owe(app).id for _ in range(20)]
    assert app.drain().succeeded == 20
    assert sorted(id for id, _ in calls.made) == sorted(ids)
    assert not proxy.cuts


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def rows(url: str) -> list[Any]:
    engine: Engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql("SELECT name FROM seen")]
