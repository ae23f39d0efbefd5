"""Who waits to write into a SQLite file gets a turn, whoever else writes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from deliveries import sqlite
from support.apps import eventually


class Rival:
    """Writes all the time: after each transaction of 20 ms a pause of one."""

    def __init__(self, url: str) -> None:
        self.turns = 0
        self._path = str(make_url(url).database)
        self._stop = threading.Event()

    def write(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        while not self._stop.is_set():
            connection.execute("BEGIN IMMEDIATE")
            self._stop.wait(0.02)
            connection.execute("COMMIT")
            self.turns += 1
            self._stop.wait(0.001)
        connection.close()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self.write)
        thread.start()
        try:
            eventually(lambda: self.turns)
            yield
        finally:
            self._stop.set()
            thread.join()


@contextmanager
def held(url: str) -> Iterator[None]:
    """The file's write lock, in other hands."""
    writer = sqlite3.connect(str(make_url(url).database), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        writer.execute("ROLLBACK")
        writer.close()


def patience(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one())


def test_a_caller_waits_for_few_turns_of_a_busy_writer(
    sqlite_url: str, engines: Callable[..., Engine]
) -> None:
    """One that waits as SQLite does sees some pass each time, and now and then a hundred."""
    engine, rival = engines(sqlite_url), Rival(sqlite_url)
    with rival.at_work():
        before = rival.turns
        for _ in range(15):
            time.sleep(0.005)
            with engine.begin():
                pass
        passed = rival.turns - before
    assert passed < 15 * 16


def test_an_asynchronous_caller_waits_for_as_few(sqlite_url: str) -> None:
    rival = Rival(sqlite_url)

    async def begin_often() -> int:
        engine = create_async_engine(make_url(sqlite_url).set(drivername="sqlite+aiosqlite"))
        sqlite.configure(engine)
        before = rival.turns
        for _ in range(15):
            await asyncio.sleep(0.005)
            async with engine.begin():
                pass
        passed = rival.turns - before
        await engine.dispose()
        return passed

    with rival.at_work():
        assert asyncio.run(begin_often()) < 15 * 16


def test_of_those_who_share_an_engine_one_asks_at_a_time(
    sqlite_url: str, engines: Callable[..., Engine]
) -> None:
    """Many that ask each half millisecond would leave no time for who is to end."""
    engine = engines(sqlite_url, pool_size=4)
    heard: list[list[str]] = []

    def listen(connection: Any, record: Any) -> None:
        statements: list[str] = []
        heard.append(statements)
        connection.set_trace_callback(statements.append)

    def asked() -> list[int]:
        """How often each connection asked."""
        return [statements.count("BEGIN IMMEDIATE") for statements in heard]

    event.listen(engine, "connect", listen)

    def write() -> None:
        with engine.begin():
            pass

    with ThreadPoolExecutor(4) as threads:
        with held(sqlite_url):
            writing = [threads.submit(write) for _ in range(4)]
            eventually(lambda: len(heard) == 4 and max(asked()) > 20)
            assert sorted(asked())[:3] == [0, 0, 0]
        for one in writing:
            one.result(30)
    assert min(asked()) > 0


def test_a_wait_is_as_long_as_the_connection_says(sqlite_url: str, engines: Callable[..., Engine]) -> None:
    engine = engines(sqlite_url)
    assert patience(engine) == sqlite.BUSY_TIMEOUT_SECONDS * 1000
    event.listen(
        engine, "checkout", lambda driver, *rest: driver.execute("PRAGMA busy_timeout = 40"), once=True
    )
    with held(sqlite_url), pytest.raises(OperationalError, match="locked"), engine.begin():
        pass
    assert patience(engine) == 40


def test_who_waits_behind_another_gives_up_too(sqlite_url: str, engines: Callable[..., Engine]) -> None:
    engine = engines(sqlite_url)
    event.listen(engine, "checkout", lambda driver, *rest: driver.execute("PRAGMA busy_timeout = 40"))
    refused: list[str] = []

    def write() -> None:
        with pytest.raises(OperationalError) as caught, engine.begin():
            pass
        refused.append(str(caught.value.orig))

    with held(sqlite_url), ThreadPoolExecutor(3) as threads:
        for one in [threads.submit(write) for _ in range(3)]:
            one.result(30)
    assert refused == ["database is locked"] * 3


def test_nobody_waits_for_a_turn_longer_than_for_the_file(
    sqlite_url: str, engines: Callable[..., Engine]
) -> None:
    """Another may have more patience, and has the turn for that long."""
    engine = engines(sqlite_url)
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
    event.listen(engine, "checkout", lambda driver, *rest: driver.execute("PRAGMA busy_timeout = 40"))
    with driver.turn, ThreadPoolExecutor(1) as threads:
        with held(sqlite_url), pytest.raises(OperationalError, match="locked"):
            threads.submit(patience, engine).result(10)
        assert threads.submit(patience, engine).result(10) == 40


def test_a_process_that_was_forked_while_somebody_asked_waits_for_nobody(
    sqlite_url: str, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who asked is not there to end it."""
    engine = engines(sqlite_url)
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
    monkeypatch.setattr(os, "getpid", lambda: 1)
    engine.dispose(close=False)
    with driver.turn, ThreadPoolExecutor(1) as threads:
        assert threads.submit(patience, engine).result(5) == sqlite.BUSY_TIMEOUT_SECONDS * 1000


class Mine(sqlite3.Connection):
    pass


@pytest.mark.parametrize("said", ["factory", "module"])
def test_a_connection_of_the_callers_own_stays(said: str, sqlite_url: str) -> None:
    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(*arguments, **{"factory": Mine} | options)

    other = SimpleNamespace(**vars(sqlite3) | {"Connection": Mine, "connect": connect})
    options: Any = {"connect_args": {"factory": Mine}} if said == "factory" else {"module": other}
    engine = create_engine(sqlite_url, **options)
    sqlite.configure(engine)
    with engine.begin() as connection:
        assert type(connection.connection.driver_connection) is Mine
        sqlite.check(connection)
    engine.dispose()
