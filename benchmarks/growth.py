"""How cost grows on PostgreSQL: with finished deliveries, crowds, dead rows, processors, payloads.

    python benchmarks/growth.py [--phases terminal,due,snapshot,processors,payloads,left] [-n 10000]

terminal    drain with --terminal deliveries finished before (0, 1 and 10 million), in one growing database
due         drain, and claims alone, with --due deliveries due at once
snapshot    drain again and again while another session holds a snapshot for --hold seconds: no row that
            dies meanwhile can be removed
processors  1, 2, 4 and 8 processes on one crowd
payloads    payloads of 100 B, 4 KiB and 64 KiB that do not compress
left        rows, bytes, write-ahead log and heap-only updates of a finished delivery

A claim is timed as the statement that takes due deliveries, from the processor's side. The database is
one of its own on the server that the tests use, durable; --url names another server. The finished
deliveries are copies made by SQL, see `finished.py`. --folder says where the server's files go: ten
million finished deliveries need some 20 GB and half an hour.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, text

import finished
from bench import database
from deliveries import Deliveries, Draft

TABLES = ("deliveries", "delivery_events", "delivery_contents", "delivery_notes")
CLAIM = re.compile(r"generate_series\(0, 9\).*SKIP LOCKED", re.DOTALL)
DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'deliveries'"
CONCURRENCY = 100
WARM = 1_000


class Claims:
    """Seconds that each claim took."""

    def __init__(self, engine: Engine) -> None:
        self.seconds: list[float] = []
        self._began = 0.0
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, _c: Any, _k: Any, statement: str, *_: Any) -> None:
        self._began = time.perf_counter()

    def _after(self, _c: Any, _k: Any, statement: str, *_: Any) -> None:
        if CLAIM.search(statement):
            self.seconds.append(time.perf_counter() - self._began)

    def take(self) -> str:
        """p50 and p99 of those since the last time."""
        taken, self.seconds = sorted(self.seconds), []
        if not taken:
            return "no claim"
        middle, late = statistics.median(taken), taken[int(0.99 * (len(taken) - 1))]
        return f"claim p50 {middle * 1e3:6.2f} ms  p99 {late * 1e3:6.2f} ms"


def application(url: str) -> Deliveries:
    app = Deliveries(url)

    @app.adapter("noop")
    async def noop(delivery: object, attempt: object) -> None:
        pass

    return app


def bulk(app: Deliveries, n: int, payload: object = None) -> float:
    """Schedule `n`, a thousand in a transaction; returns how many a second."""
    started = time.perf_counter()
    for start in range(0, n, 1_000):
        with app.engine.begin() as connection:
            app.schedule_many(connection, "noop", [Draft(payload) for _ in range(min(1_000, n - start))])
    return n / (time.perf_counter() - started)


def drain(app: Deliveries, n: int) -> float:
    """Perform the `n` that are due; returns how many a second."""
    started = time.perf_counter()
    summary = app.drain({"noop": CONCURRENCY})
    assert summary.succeeded == n, summary
    return n / (time.perf_counter() - started)


def measured(app: Deliveries, claims: Claims, n: int) -> str:
    scheduled = bulk(app, n)
    claims.take()
    return f"schedule {scheduled:>8,.0f}/s   drain {drain(app, n):>8,.0f}/s   {claims.take()}"


# -- phases ----------------------------------------------------------------------------------------


def terminal(url: str, options: argparse.Namespace) -> None:
    app = application(url)
    claims = Claims(app.engine)
    print(f"  {'warm':>12}   {measured(app, claims, options.n)}", flush=True)
    template = app.find(limit=1)[0].id
    made = 0
    for size in options.terminal:
        started = time.perf_counter()
        finished.fill(app, template, size - made)
        if size > made:
            took = time.perf_counter() - started
            print(f"  copied {size - made:,} finished deliveries by SQL in {took:,.0f} s")
        made = max(made, size)
        sound = finished.check(app)
        print(f"  {size:>12,}   {measured(app, claims, options.n)}   ({sound} read back, sound)", flush=True)
    app.close()


def due(url: str, options: argparse.Namespace) -> None:
    app = application(url)
    claims = Claims(app.engine)
    for n in (options.n, options.due):
        print(f"  {n:>12,}   {measured(app, claims, n)}", flush=True)
    app.close()


def snapshot(url: str, options: argparse.Namespace) -> None:
    app = application(url)
    claims = Claims(app.engine)
    n = max(100, options.n // 2)
    print(f"  {'before':>12}   {measured(app, claims, n)}", flush=True)
    with app.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
        other.execute(text("SELECT count(*) FROM deliveries"))
        started, told, rounds = time.perf_counter(), 0, 0
        while (held := time.perf_counter() - started) < options.hold:
            line = measured(app, claims, n)
            rounds += 1
            if held >= told * options.hold / 5:
                told += 1
                with app.engine.connect() as connection:
                    rows = connection.scalar(text(DEAD))
                print(
                    f"  {f'after {held:,.0f} s':>12}   {line}   {rounds * n:,} done, {rows:,} dead rows",
                    flush=True,
                )
        print(f"  {'at the end':>12}   {measured(app, claims, n)}", flush=True)
    with app.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM deliveries"))
    print(f"  {'vacuumed':>12}   {measured(app, claims, n)}", flush=True)
    app.close()


def processors(url: str, options: argparse.Namespace) -> None:
    app = application(url)
    for count in options.processors:
        bulk(app, options.n)
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "worker", url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()  # it is connected
        started = time.perf_counter()
        done = [int(worker.communicate("go\n")[0]) for worker in _told(workers)]
        elapsed = time.perf_counter() - started
        assert sum(done) == options.n, done
        shares = " ".join(f"{share:,}" for share in done)
        print(f"  {count:>12}   drain {options.n / elapsed:>8,.0f}/s   shares {shares}", flush=True)
    app.close()


def _told(workers: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """All of them begin at once."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return workers


def worker(url: str) -> None:
    app = application(url)
    with app.engine.connect():
        print("ready", flush=True)
    sys.stdin.readline()
    print(app.drain({"noop": CONCURRENCY}).succeeded)
    app.close()


def payloads(url: str, options: argparse.Namespace) -> None:
    app = application(url)
    for size in options.payloads:
        payload = base64.b64encode(os.urandom(size)).decode()[: size - 2]  # two quotes make it JSON
        n = max(100, min(options.n, 64 * 1024 * 1024 // size))
        scheduled = bulk(app, n, payload)
        print(f"  {size:>10,} B   schedule {scheduled:>8,.0f}/s   drain {drain(app, n):>8,.0f}/s", flush=True)
    app.close()


def left(url: str, options: argparse.Namespace) -> None:
    app = application(url)
    bulk(app, WARM)
    drain(app, WARM)  # connections, plans and first pages are there
    steps = {"schedule": lambda: bulk(app, options.n), "perform": lambda: drain(app, options.n)}
    for name, step in steps.items():
        log, ours, theirs = _log_position(app), time.process_time(), _server_cpu(app)
        step()
        log, ours, theirs = _log_position(app) - log, time.process_time() - ours, _server_cpu(app) - theirs
        each = 1e6 / options.n
        cpu = f"CPU {ours * each:,.0f} us ours, {theirs * each:,.0f} us the server's"
        print(f"  to {name:10}{log / options.n:>8,.0f} B of write-ahead log   {cpu}", flush=True)
    with app.engine.connect() as connection:
        time.sleep(1.5)  # statistics of the sessions above reach the views once a second
        for table in TABLES:
            size = connection.scalar(text(f"SELECT pg_total_relation_size('{table}')"))
            rows = connection.scalar(text(f"SELECT count(*) FROM {table}"))
            updates, hot = connection.execute(
                text(f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{table}'")
            ).one()
            n = options.n + WARM
            print(
                f"  {table:18}{rows / n:>6.2f} rows  {size / n:>8,.0f} B  "
                f"{updates / n:>5.2f} updates, {hot / n:.2f} of them heap-only"
            )
    app.close()


def _server_cpu(app: Deliveries) -> float:
    """Seconds of all processes of the server that stay; 0 where it is on another machine."""
    with app.engine.connect() as connection:
        pids = connection.scalars(text("SELECT pid FROM pg_stat_activity")).all()
    spent = 0.0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            spent += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return spent / os.sysconf("SC_CLK_TCK")


def _log_position(app: Deliveries) -> int:
    with app.engine.connect() as connection:
        return int(connection.scalar(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")) or 0)


PHASES = {
    "left": left,
    "payloads": payloads,
    "processors": processors,
    "due": due,
    "terminal": terminal,
    "snapshot": snapshot,
}


@contextmanager
def fresh(options: argparse.Namespace) -> Iterator[str]:
    """A database with our tables, for one phase."""
    with (
        tempfile.TemporaryDirectory(prefix="deliveries-growth-", dir=options.folder) as folder,
        database("postgresql", Path(folder), options.url) as url,
    ):
        app = Deliveries(url)
        app.create_schema()
        app.close()
        yield url


def numbers(value: str) -> list[int]:
    return [int(one) for one in value.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000, help="deliveries in one measurement")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--terminal", type=numbers, default=[0, 1_000_000, 10_000_000])
    parser.add_argument("--due", type=int, default=100_000)
    parser.add_argument("--hold", type=float, default=300.0, help="seconds")
    parser.add_argument("--processors", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--payloads", type=numbers, default=[100, 4_096, 65_536])
    parser.add_argument("--url", help="a PostgreSQL URL; its role may create databases")
    parser.add_argument(
        "--folder", type=Path, help="where the server's files go; the system's temporary folder"
    )
    options = parser.parse_args()
    for name in options.phases.split(","):
        print(f"\n{name}", flush=True)
        with fresh(options) as url:
            PHASES[name](url, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2])
    else:
        main()
