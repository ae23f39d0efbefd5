"""T1 and T2 for asynchronous callers, on aiosqlite, asyncpg and psycopg."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from deliveries import Deliveries, Draft, IdempotencyConflict, Status, sqlite
from support.apps import Apps, Calls
from transactions.debts import assert_key_is_free, assert_nothing_left, owed

DRIVERS = {
    "aiosqlite": ("sqlite", "sqlite+aiosqlite"),
    "asyncpg": ("postgresql", "postgresql+asyncpg"),
    "psycopg": ("postgresql", "postgresql+psycopg"),
}
CALLERS = 16

Main = Callable[[AsyncEngine], Awaitable[None]]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, driver: str) -> str:
    return str(request.getfixturevalue(f"{DRIVERS[driver][0]}_url"))


@pytest.fixture
def app(database_url: str, apps: Apps, calls: Calls) -> Deliveries:
    made = apps(database_url)
    made.adapter("email")(calls(lambda delivery, attempt: None))
    return made


@pytest.fixture
def run(database_url: str, driver: str) -> Callable[[Main], None]:
    """Runs a coroutine function with an async engine of the driver; nothing may take a minute."""

    def running(main: Main) -> None:
        async def within() -> None:
            async with async_engine(database_url, driver) as engine, asyncio.timeout(60):
                await main(engine)

        asyncio.run(within())

    return running


@asynccontextmanager
async def async_engine(url: str, driver: str) -> AsyncIterator[AsyncEngine]:
    made, arguments = make_url(url), {}
    if driver == "asyncpg":  # it takes a socket's directory as an argument only
        arguments = {"host": made.query["host"]} if "host" in made.query else {}
        made = made.set(query={})
    engine = create_async_engine(
        made.set(drivername=DRIVERS[driver][1]), connect_args=arguments, pool_size=CALLERS
    )
    sqlite.configure(engine)
    try:
        yield engine
    finally:
        await engine.dispose()


def test_savepoints_of_every_outcome(app: Deliveries, run: Any, calls: Calls) -> None:
    async def raising(session: AsyncSession) -> None:
        async with session.begin_nested():
            await app.aschedule(session, "email", "lost")
            raise ZeroDivisionError

    async def main(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await app.aschedule(session, "email", "outer")
            async with session.begin_nested():
                await app.aschedule(session, "email", "kept")
                lost = await session.begin_nested()
                await app.aschedule_many(session, "email", [Draft("lost", key="k"), Draft("lost too")])
                await lost.rollback()
                again = await session.begin_nested()
                assert (await app.aschedule(session, "email", "again", key="k")).created
                await again.commit()
            with pytest.raises(ZeroDivisionError):
                await raising(session)
            with pytest.raises(IdempotencyConflict):
                await app.aschedule_many(session, "email", [Draft("lost"), Draft("other", key="k")])

    run(main)
    assert owed(app) == ["outer", "kept", "again"]
    assert app.drain().succeeded == len(calls) == 3


def test_an_outer_rollback_undoes_a_release(app: Deliveries, run: Any, calls: Calls) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            async with connection.begin_nested():
                await app.aschedule(connection, "email", 1, key="k")
            await connection.rollback()

    run(main)
    assert_nothing_left(app, calls)
    assert_key_is_free(app, "k")


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_a_session_in_an_outer_transaction(app: Deliveries, run: Any, commits: bool) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            outer = await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                await app.aschedule(session, "email", "kept with the outer")
                await session.commit()
                await app.aschedule(session, "email", "lost")
                await session.rollback()
            await (outer.commit() if commits else outer.rollback())

    run(main)
    assert owed(app) == (["kept with the outer"] if commits else [])


def test_the_session_of_a_scope(app: Deliveries, run: Any) -> None:
    async def main(engine: AsyncEngine) -> None:
        registry = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        kept = await app.aschedule(registry(), "email", "kept")
        assert (await app.aget(kept.id, session=registry())).status is Status.PENDING
        await registry.commit()
        await app.aschedule(registry(), "email", "lost")
        await registry.rollback()
        await app.aschedule(registry(), "email", "forgotten")
        await registry.remove()

    run(main)
    assert owed(app) == ["kept"]


@pytest.mark.parametrize("how", ["closed", "raised", "cancelled", "timed out"])
def test_who_leaves_without_a_commit_owes_nothing(app: Deliveries, run: Any, how: str, calls: Calls) -> None:
    async def main(engine: AsyncEngine) -> None:
        scheduled = asyncio.Event()

        async def caller() -> None:
            async with AsyncSession(engine) as session:
                await app.aschedule(session, "email", 1, key="k")
                scheduled.set()
                if how == "raised":
                    raise ZeroDivisionError
                if how != "closed":
                    await asyncio.Event().wait()

        match how:
            case "closed":
                await caller()
            case "raised":
                with pytest.raises(ZeroDivisionError):
                    await caller()
            case "cancelled":
                task = asyncio.create_task(caller())
                await scheduled.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            case "timed out":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await caller()

    run(main)
    assert_nothing_left(app, calls)
    assert_key_is_free(app, "k")


def test_a_task_that_is_cancelled_while_it_schedules(app: Deliveries, run: Any, calls: Calls) -> None:
    """At any of its steps: whatever had been sent, nothing of it stays, and the pool stays usable."""

    async def main(engine: AsyncEngine) -> None:
        async def caller() -> None:
            async with AsyncSession(engine) as session, session.begin():
                for n in range(3):
                    await app.aschedule(session, "email", n)
                await asyncio.Event().wait()

        for steps in range(40):
            task = asyncio.create_task(caller())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with engine.begin() as connection:
            assert (await app.aschedule(connection, "email", "last")).created

    run(main)
    assert owed(app) == ["last"]
    assert app.drain().attempted == len(calls) == 1


def test_many_tasks_on_one_key(app: Deliveries, run: Any) -> None:
    """The first eight who get the key roll back; the ninth keeps it."""
    left = iter(range(8))
    answers: list[tuple[Any, bool]] = []

    async def main(engine: AsyncEngine) -> None:
        barrier = asyncio.Barrier(CALLERS)

        async def caller() -> None:
            async with AsyncSession(engine) as session:
                await barrier.wait()
                delivery = await app.aschedule(session, "email", 1, key="k")
                answers.append((delivery.id, delivery.created))
                if delivery.created and next(left, None) is not None:
                    await session.rollback()
                else:
                    await session.commit()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    run(main)
    assert Counter(created for _, created in answers) == {True: 9, False: CALLERS - 9}
    assert {id for id, created in answers if not created} == {found.id for found in app.find()}
    assert owed(app) == [1]
