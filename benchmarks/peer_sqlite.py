"""Ourselves beside other queues on SQLite, in one run, every commit on disk before it returns.

    python benchmarks/peer_sqlite.py [-n 5000] [--rounds 5] [--peers huey,persist-queue,litequeue]

Each peer runs in a process and a virtual environment of its own, which the first run makes in the
cache folder. All write ahead with `synchronous=FULL`, and each connection is asked whether it does.

bulk    N no-op jobs by the fastest call that the peer documents. huey and persist-queue have none for
        many, so each of their jobs is a commit; litequeue puts them in one transaction, as we do.
drain   N no-op jobs that are there already: from the first line of the first job to the moment when
        the database holds no unfinished one. huey forgets a job before it runs it; persist-queue's
        queue is the one that is told when a job is done; litequeue has the same two steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PEERS = {"huey": "huey", "persist-queue": "persist-queue", "litequeue": "litequeue"}
"""Name -> what pip installs."""

CACHE = Path.home() / ".cache" / "deliveries-peers" / "sqlite"
FULL = 2


class Clock:
    """Runs from the first job on."""

    def __init__(self) -> None:
        self.first = 0.0
        self.count = 0

    def tick(self) -> None:
        """The body of every no-op job."""
        self.count += 1
        self.first = self.first or time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first job's first line."""
        return time.perf_counter() - self.first


def durable(execute: Callable) -> None:
    """Ask a connection whether its commits are on disk when they return."""
    found = [execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    if found != ["wal", FULL]:
        raise SystemExit(f"not a durable connection: {found}")


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


# -- one function per peer: (phase, folder, n) -> seconds ------------------------------------------


def run_huey(phase: str, folder: Path, n: int) -> float:
    from huey import SqliteHuey

    clock = Clock()
    huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=True, results=False)
    durable(huey.storage.conn.execute)
    noop = huey.task()(clock.tick)
    if phase == "bulk":
        return timed(lambda: [noop() for _ in range(n)])
    consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.001, max_delay=0.001)
    consumer.start()
    while clock.count < n or huey.pending_count():
        time.sleep(0.002)
    elapsed = clock.seconds
    consumer.stop(graceful=True)
    return elapsed


def run_persist_queue(phase: str, folder: Path, n: int) -> float:
    from persistqueue import Empty, SQLiteAckQueue

    clock = Clock()
    queue = SQLiteAckQueue(str(folder), multithreading=True)
    for connection in (queue._getter, queue._putter):
        connection.execute(f"PRAGMA synchronous = {FULL}")
        durable(connection.execute)
    if phase == "bulk":
        return timed(lambda: [queue.put({"i": i}) for i in range(n)])
    try:
        while True:
            job = queue.get(block=False, raw=True)
            clock.tick()
            queue.ack(id=job["pqid"])
    except Empty:
        return clock.seconds


def run_litequeue(phase: str, folder: Path, n: int) -> float:
    from litequeue import LiteQueue

    clock = Clock()
    queue = LiteQueue(folder / "litequeue.db")
    queue.conn.execute(f"PRAGMA synchronous = {FULL}")
    durable(queue.conn.execute)

    def put() -> None:
        with queue.transaction():
            for i in range(n):
                queue.put(json.dumps({"i": i}))

    if phase == "bulk":
        return timed(put)
    while (job := queue.pop()) is not None:
        clock.tick()
        queue.done(job.message_id)
    return clock.seconds


def run_deliveries(phase: str, folder: Path, n: int) -> float:
    from deliveries import Deliveries, Draft

    clock = Clock()
    app = Deliveries(f"sqlite:///{folder / 'deliveries.db'}")
    app.create_schema()
    with app.engine.connect() as connection:
        durable(connection.exec_driver_sql)

    @app.adapter("noop")
    async def noop(delivery: object, attempt: object) -> None:
        clock.tick()

    def schedule() -> None:
        with app.engine.begin() as connection:
            app.schedule_many(connection, "noop", [Draft({"i": i}) for i in range(n)])

    if phase == "bulk":
        return timed(schedule)
    summary = app.drain({"noop": 500})
    assert summary.succeeded == n, summary
    return clock.seconds


RUN = {
    "huey": run_huey,
    "persist-queue": run_persist_queue,
    "litequeue": run_litequeue,
    "deliveries": run_deliveries,
}


# -- all of them, in turn --------------------------------------------------------------------------


def python_for(name: str, cache: Path) -> Path:
    """A Python that has the peer; our own for ourselves."""
    if name not in PEERS:
        return Path(sys.executable)
    python = cache / name / "bin" / "python"
    if not (cache / name / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache / name], check=True)
        subprocess.run(
            [python, "-m", "pip", "-q", "install", PEERS[name]], check=True, stderr=subprocess.DEVNULL
        )
        (cache / name / "ready").touch()
    return python


def rate(name: str, phase: str, n: int, cache: Path) -> float:
    """Jobs a second, in a file of its own; what is drained was put there in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="deliveries-peers-") as folder:
        for step in ("bulk", "drain") if phase == "drain" else ("bulk",):
            command = [python_for(name, cache), __file__, "one", name, step, folder, str(n)]
            seconds = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return n / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--phases", default="bulk,drain")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    names = [*filter(None, options.peers.split(",")), "deliveries"]
    for phase in options.phases.split(","):
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.rounds):  # in turn, so that a slow minute is everybody's
            for name in names:
                found[name].append(rate(name, phase, options.n, options.cache))
        show(phase, found)


def show(phase: str, found: dict[str, list[float]]) -> None:
    ours = statistics.median(found["deliveries"])
    print(f"\n{phase}")
    for name, rates in found.items():
        middle = statistics.median(rates)
        ratio = "" if name == "deliveries" else f"   we do {ours / middle:.2f} times as many"
        print(f"  {name:14}{middle:>10,.0f}/s  ({min(rates):,.0f}..{max(rates):,.0f}){ratio}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        _, _, name, phase, folder, n = sys.argv
        print(RUN[name](phase, Path(folder), int(n)))
    else:
        main()
