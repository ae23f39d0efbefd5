"""The asynchronous twins, on aiosqlite, asyncpg and psycopg."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from deliveries import (
    ConcurrentSchedule,
    Deliveries,
    DeliveryNotFound,
    Draft,
    EngineNotConfigured,
    IdempotencyConflict,
    Status,
    Unknown,
    sqlite,
)
from deliveries import Delivered as Done
from deliveries.errors import CallerError
from support.apps import Apps, kinds

DRIVERS = {
    "aiosqlite": ("sqlite", "sqlite+aiosqlite"),
    "asyncpg": ("postgresql", "postgresql+asyncpg"),
    "psycopg": ("postgresql", "postgresql+psycopg"),
}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, driver: str) -> str:
    return str(request.getfixturevalue(f"{DRIVERS[driver][0]}_url"))


@pytest.fixture
def app(url: str, apps: Apps) -> Deliveries:
    made = apps(url)
    made.adapter("email")(lambda delivery, attempt: None)
    made.adapter("charge", on_unknown="hold")(lambda delivery, attempt: Unknown())
    return made


@pytest.fixture
def running(url: str, driver: str) -> Callable[[Callable[[AsyncEngine], Awaitable[None]]], None]:
    """Runs a coroutine function with an async engine of the driver."""

    def run(main: Callable[[AsyncEngine], Awaitable[None]]) -> None:
        async def within() -> None:
            async with async_engine(url, driver) as engine:
                await main(engine)

        asyncio.run(within())

    return run


@asynccontextmanager
async def async_engine(url: str, driver: str) -> AsyncIterator[AsyncEngine]:
    made = make_url(url)
    arguments = {}
    if driver == "asyncpg":  # it takes a socket's directory as an argument only
        arguments = {"host": made.query["host"]} if "host" in made.query else {}
        made = made.set(query={})
    engine = create_async_engine(made.set(drivername=DRIVERS[driver][1]), connect_args=arguments)
    sqlite.configure(engine)
    try:
        yield engine
    finally:
        await engine.dispose()


def test_scheduling_in_the_callers_transaction(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            kept = await app.aschedule(
                session, "email", {"é": [1, None]}, recipient="ann", key="k", tags=["a"]
            )
            with pytest.raises(DeliveryNotFound):
                await app.aget(kept.id)
            assert (await app.aget(kept.id, session=session)).payload == {"é": [1, None]}
        async with AsyncSession(engine) as session:
            lost = await app.aschedule(session, "email")
            await session.rollback()
        async with engine.begin() as connection:
            savepoint = await connection.begin_nested()
            lost_too = await app.aschedule(connection, "email", delay=60)
            await savepoint.rollback()
        for one in (lost, lost_too):
            with pytest.raises(DeliveryNotFound):
                await app.aget(one.id)
        assert [found.id for found in await app.afind()] == [kept.id]
        assert (await app.aget(kept.id)).recipient == "ann"

    running(main)


def test_keys_and_conflicts(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            first = await app.aschedule(connection, "email", 1, key="k")
            again = await app.aschedule(connection, "email", 1, key="k")
            assert (again.id, again.created) == (first.id, False)
            with pytest.raises(IdempotencyConflict):
                await app.aschedule(connection, "email", 2, key="k")

    running(main)


def test_many(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            drafts = [Draft(n, key=f"k{n}") for n in range(200)]
            made = await app.aschedule_many(session, "email", drafts)
            assert [delivery.payload for delivery in made] == list(range(200))
            with pytest.raises(IdempotencyConflict):
                await app.aschedule_many(session, "email", [Draft("new"), Draft("other", key="k7")])
        assert len(await app.afind(limit=1_000)) == 200

    running(main)


def test_commands_and_readers(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            ids = [(await app.aschedule(connection, "email", n)).id for n in range(4)]
        async with AsyncSession(engine) as session, session.begin():
            await app.acancel(session, ids[0], reason="no longer", actor="ann")
            await app.asuppress(session, ids[1], actor="ann")
            await app.areschedule(session, ids[2], delay=60)
            assert (await app.aget(ids[0], session=session)).status is Status.CANCELLED
            assert len(await app.ahistory(ids[0], session=session)) == 2
            assert (await app.aexplain(ids[1], session=session)).status == "suppressed"
            assert len(await app.afind(session=session, status="pending")) == 2
        assert [recorded.note for recorded in await app.ahistory(ids[0])] == [None, "no longer"]
        assert "ann" in str(await app.aexplain(ids[0]))
        with pytest.raises(DeliveryNotFound):
            await app.aexplain(UUID(int=7))

    running(main)


def test_performing_and_resolving(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            held = await app.aschedule(connection, "charge")
            other = await app.aschedule(connection, "email")
        assert (await app.aperform(held.id)).delivery.status is Status.HELD
        async with engine.begin() as connection:
            assert (await app.aresolve(connection, held.id, Done("seen"), actor="ann")).is_terminal
        assert (await app.adrain()).succeeded == 1
        assert (await app.aget(other.id)).status is Status.SUCCEEDED

    running(main)
    assert {kinds(app, one.id)[-1] for one in app.find()} == {"Succeeded"}


def test_a_connection_that_has_not_begun_begins(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await app.aschedule(connection, "email")
            assert connection.in_transaction()
            await connection.commit()
            await app.aschedule(connection, "email")
            await connection.rollback()

    running(main)
    assert len(app.find()) == 1


def test_where_the_answer_is_unknowable(app: Deliveries, running: Any, driver: str) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="REPEATABLE READ")
            await connection.execute(text("SELECT 1"))
            async with engine.begin() as other:
                await app.aschedule(other, "email", 1, key="k")
            with pytest.raises(ConcurrentSchedule) as caught:
                await app.aschedule(connection, "email", 1, key="k")
            assert caught.value.retryable
            await connection.rollback()

    if driver != "aiosqlite":  # SQLite's writers are serial
        running(main)


def test_an_app_on_an_async_engine(app: Deliveries, running: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        made = Deliveries(engine)
        made.adapter("email")(lambda delivery, attempt: None)
        async with engine.begin() as connection:
            delivery = await made.aschedule(connection, "email")
        assert (await made.aperform(delivery.id)).result == "done"
        await asyncio.to_thread(made.close)

    if app.engine.dialect.name == "sqlite":
        running(main)


@pytest.mark.parametrize("bind", [None, "sqlite://", 7])
def test_what_is_no_async_session_is_refused(app: Deliveries, bind: Any) -> None:
    async def main() -> None:
        with pytest.raises(CallerError, match="AsyncSession or AsyncConnection"):
            await app.aschedule(bind, "email")

    asyncio.run(main())


def test_a_sync_connection_is_refused(app: Deliveries) -> None:
    async def main() -> None:
        with app.engine.connect() as connection, pytest.raises(CallerError, match="AsyncSession"):
            await app.aschedule(connection, "email")  # type: ignore[arg-type]

    asyncio.run(main())


def test_an_unconfigured_async_engine_is_refused(sqlite_url: str, apps: Apps) -> None:
    made = apps(sqlite_url)
    made.adapter("email")(lambda delivery, attempt: None)

    async def main() -> None:
        engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with engine.begin() as connection:
            with pytest.raises(EngineNotConfigured, match="configure"):
                await made.aschedule(connection, "email")
        await engine.dispose()

    asyncio.run(main())


def test_an_async_autocommit_connection_is_refused(app: Deliveries, running: Any, driver: str) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(EngineNotConfigured, match="autocommit"):
                await app.aschedule(connection, "email")

    if driver != "aiosqlite":
        running(main)


def test_what_operators_do(app: Deliveries, running: Any) -> None:
    by = {"actor": "ops:ann", "reason": "why not"}

    async def main(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            ended = await app.aschedule(session, "email", 1, recipient="ann@example.org")
            waiting = await app.aschedule(session, "email", 2, delay=600)
            held = await app.aschedule(session, "charge")
        await app.adrain()
        async with AsyncSession(engine) as session, session.begin():
            await app.aresolve(session, held.id, Done(reference="ch-1"))
            made = await app.aredrive(session, ended.id, **by)
            assert (made.root_id, made.payload, made.created) == (ended.id, 1, True)
            assert not (await app.aredrive(session, ended.id)).created
            told = await app.arecord_evidence(session, "refunded", reference="ch-1", fact={"cents": 1})
            assert told.id == held.id
            (piece,) = await app.aevidence(held.id, session=session)
            assert piece.kind == "refunded"
        where = {"id": [waiting.id]}
        assert (await app.areschedule_where(where, delay=60, **by)).done == 1
        assert (await app.acancel_where(where, **by, dry_run=True)).done == 1
        assert (await app.asuppress_where(where, **by)).done == 1
        assert (await app.acancel_where(where, **by)).left == {"suppressed": 1}
        assert (await app.aredrive_where({"id": [ended.id, waiting.id]}, **by)).left == {"redriven": 1}
        assert (await app.aerase(recipient="ann@example.org")).done == 2
        assert (await app.aget(ended.id)).recipient is None
        assert (await app.aprune(0)).done == 4
        with pytest.raises(DeliveryNotFound):
            await app.aget(ended.id)

    running(main)
