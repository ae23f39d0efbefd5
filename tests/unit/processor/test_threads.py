"""Threads for adapters that block: as many as calls that wait, few where calls are quick."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deliveries.processor.threads import Threads


class Crowd:
    """What runs on the threads, and who has run."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.names: set[int] = set()
        self.all_done = threading.Event()
        self.wanted = 0

    def run(self, call: Any) -> None:
        self.names.add(threading.get_ident())
        call()

    def over(self, call: Any) -> None:
        self.done.append(call)
        if len(self.done) == self.wanted:
            self.all_done.set()

    def submit(self, threads: Threads, calls: list[Any]) -> None:
        self.wanted += len(calls)
        self.all_done.clear()
        threads.submit(calls)


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


@pytest.fixture
def threads(crowd: Crowd) -> Iterator[Threads]:
    made = Threads(crowd.run, crowd.over)
    yield made
    made.close()


@pytest.mark.parametrize("calls", [1, 2, 60])
def test_calls_that_wait_for_each_other_all_begin(threads: Threads, crowd: Crowd, calls: int) -> None:
    """A barrier opens only if every call has a thread of its own."""
    barrier = threading.Barrier(calls)
    crowd.submit(threads, [barrier.wait for _ in range(calls)])
    assert crowd.all_done.wait(30)
    assert len(crowd.names) == calls


def test_one_stuck_call_stops_no_other(threads: Threads, crowd: Crowd) -> None:
    free = threading.Event()
    crowd.submit(threads, [lambda: free.wait(30)] + [lambda: None] * 100)
    crowd.wanted = 100
    assert crowd.all_done.wait(30)
    free.set()


def test_quick_calls_share_few_threads(threads: Threads, crowd: Crowd) -> None:
    crowd.submit(threads, [lambda: None] * 5_000)
    assert crowd.all_done.wait(30)
    assert len(crowd.names) < 100


def test_threads_are_kept(threads: Threads, crowd: Crowd) -> None:
    for _ in range(3):
        barrier = threading.Barrier(20)
        crowd.submit(threads, [barrier.wait] * 20)
        assert crowd.all_done.wait(30)
    assert len(crowd.names) < 60


def test_closing_ends_idle_threads(crowd: Crowd) -> None:
    others = set(threading.enumerate())
    threads = Threads(crowd.run, crowd.over)
    crowd.submit(threads, [lambda: None])
    assert crowd.all_done.wait(30)
    threads.close()
    assert all_end(others)


@pytest.mark.parametrize("head_start", [0, 0.001, 0.003, 0.01])
def test_closing_ends_threads_that_are_made_meanwhile(crowd: Crowd, head_start: float) -> None:
    others = set(threading.enumerate())
    free = threading.Event()
    threads = Threads(crowd.run, crowd.over)
    crowd.submit(threads, [lambda: free.wait(30)] * 200)
    free.wait(head_start)
    threads.close()
    free.set()
    assert crowd.all_done.wait(30)
    assert all_end(others)


def all_end(others: set[threading.Thread]) -> bool:
    """Every thread that has come since ends; what other tests left behind is not ours."""
    until = time.monotonic() + 30
    while alive := set(threading.enumerate()) - others:
        if time.monotonic() > until:
            return False
        for one in alive:
            if one.ident is not None:  # it has begun
                one.join(1)
    return True
