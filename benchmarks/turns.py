"""How long who writes into a SQLite file waits for the others, beside what SQLite's own waiting gives.

    python benchmarks/turns.py [--rounds 3]

caller     schedules one every 5 ms, while a processor of another process drains 40,000 whose calls
           take 1 ms: milliseconds for each, median, 99th percentile, worst.
threads    as many schedule without a pause: the same, and transactions a second together.

In turn on one machine: connections as `deliveries.sqlite.configure` makes them, and plain ones, which ask
after pauses of up to 100 ms.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, create_engine

from deliveries import Deliveries, Draft, sqlite

BACKLOG = 40_000
CALLS = 200
"""Of one caller."""
COMMITS = 1_600
"""Of all threads together."""
WAYS = {"in turn": {}, "as SQLite does": {"factory": sqlite3.Connection}}
"""How connections wait -> what they are made with."""


def application(url: str, way: str) -> Deliveries:
    engine: Engine = create_engine(url, pool_size=64, connect_args=WAYS[way])
    sqlite.configure(engine)
    app = Deliveries(engine)
    app.create_schema()

    @app.adapter("slow", queue="slow")
    def slow(delivery: object, attempt: object) -> None:
        time.sleep(0.001)

    @app.adapter("other", queue="other")
    def other(delivery: object, attempt: object) -> None:
        """Nobody performs it here."""

    return app


def waits(app: Deliveries, count: int, pause: float = 0.0) -> list[float]:
    """Milliseconds that each of so many transactions took, each of which schedules one."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        with app.engine.begin() as connection:
            app.schedule(connection, "other", {"order": 4711})
        found.append((time.perf_counter() - began) * 1e3)
        time.sleep(pause)
    return found


def drain(url: str, way: str, stopping: threading.Event) -> None:
    with application(url, way).running({"slow": 100}):
        stopping.wait()


@contextmanager
def drained(url: str, way: str) -> Iterator[None]:
    """A processor in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    stopping = spawn.Event()
    process = spawn.Process(target=drain, args=(url, way, stopping))
    process.start()
    try:
        yield
    finally:
        stopping.set()
        process.join()


def caller(url: str, way: str) -> str:
    app = application(url, way)
    with app.engine.begin() as connection:
        app.schedule_many(connection, "slow", [Draft({"order": number}) for number in range(BACKLOG)])
    with drained(url, way):
        while not app.find(status="succeeded", channel="slow", limit=1):
            time.sleep(0.05)
        return told(waits(app, CALLS, 0.005))


def threads(url: str, way: str, count: int) -> str:
    app, began = application(url, way), time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        found = [pool.submit(waits, app, COMMITS // count) for _ in range(count)]
        each = [wait for one in found for wait in one.result()]
    return f"{told(each)} {len(each) / (time.perf_counter() - began):8,.0f}/s"


def told(found: list[float]) -> str:
    found.sort()
    return f"{found[len(found) // 2]:8.1f} {found[len(found) * 99 // 100]:8.1f} {found[-1]:8.1f} ms"


ACTS = {"caller": caller, "4 threads": partial(threads, count=4), "32 threads": partial(threads, count=32)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{'':12}{'':16}{'p50':>8} {'p99':>8} {'worst':>8}")
    for _ in range(rounds):
        for name, act in ACTS.items():
            for way in WAYS:
                with tempfile.TemporaryDirectory(prefix="deliveries-turns-") as folder:
                    found = act(f"sqlite:///{Path(folder) / 'turns.db'}", way)
                print(f"{name:12}{way:16}{found}", flush=True)


if __name__ == "__main__":
    main()
