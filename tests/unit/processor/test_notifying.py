"""How often processors elsewhere are told: at once, and seldom while they would be told all the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from deliveries.processor import wakeup as module
from deliveries.processor.wakeup import Wakeup
from support.apps import eventually


class Server:
    """In the place of an engine: keeps what it is sent."""

    def __init__(self) -> None:
        self.dialect = SimpleNamespace(name="postgresql")
        self.sent: list[str] = []

    def execution_options(self, **options: object) -> Server:
        return self

    def connect(self) -> Server:
        return self

    __enter__ = connect

    def __exit__(self, *error: object) -> None: ...

    def exec_driver_sql(self, sql: str) -> None:
        self.sent.append(sql)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def wakeup(server: Server) -> Iterator[Wakeup]:
    engine: Any = server
    made = Wakeup(engine)
    yield made
    made.close()


class Time:
    """In the place of the module `time`: sleeping is when commits come."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit, self._now = commit, 0.0
        self.pauses: list[float] = []
        self.rates: list[float] = []

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._now += seconds
        if self.rates:
            for _ in range(round(self.rates.pop(0) * seconds)):
                self._commit()


def paused(wakeup: Wakeup, monkeypatch: pytest.MonkeyPatch, rates: list[float]) -> list[float]:
    """How long it slept after each notification, with so many commits a second meanwhile."""
    clock = Time(wakeup.hint)
    clock.rates = list(rates)
    monkeypatch.setattr(module, "time", clock)
    wakeup.hint()
    eventually(lambda: len(clock.pauses) == len(rates) + 1)
    return clock.pauses


def test_the_busier_the_rarer(wakeup: Wakeup, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = paused(wakeup, monkeypatch, [1_000.0] * 5)
    assert pauses == [0.005, 0.01, 0.02, 0.04, 0.04, 0.04]
    assert len(server.sent) == 6


def test_what_was_much_is_told_at_once_when_it_is_little(
    wakeup: Wakeup, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a next one in each pause, even of 50 a second, once the pause is long."""
    pauses = paused(wakeup, monkeypatch, [1_000.0, 1_000.0, 1_000.0, 50.0, 200.0])
    assert pauses == [0.005, 0.01, 0.02, 0.04, 0.005, 0.005]
    assert len(server.sent) == 6


def test_what_is_said_of_queues_is_told_once(
    wakeup: Wakeup, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic))
    wakeup.hint(queues=True)
    eventually(lambda: len(server.sent) == 1)
    wakeup.hint()
    eventually(lambda: len(server.sent) == 2)
    assert ["queues" in sql for sql in server.sent] == [True, False]
