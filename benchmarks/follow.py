"""How fast a projection is taken along the log, beside `eventsourcing`'s own ProjectionRunner.

    python benchmarks/follow.py [-n 10000] [--rounds 3] [--url URL]

One log of three events for each of N deliveries, on PostgreSQL with durable commits, read by both. Both
projections count events by type in a table of the same database, in the transaction that moves their
position: the runner one event at a time, as it works; `follow` so many at a time as it is told, one included.
The runner is given the same log, with a fast recorder and mapper (ours), and a fifth of the events, since it
needs longer. Only ratios from one run count; the least, the median and the most of the rounds are shown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection as TheirProjection
from eventsourcing.projection import ProjectionRunner
from sqlalchemy import Connection, make_url, text

from bench import database
from deliveries import Deliveries, Draft, Entry, Projection

COUNT = """
INSERT INTO counts (name, type, n) VALUES (:name, :type, :n)
ON CONFLICT (name, type) DO UPDATE SET n = counts.n + excluded.n
"""
THEIR_COUNT = COUNT.replace(":name", "%s").replace(":type", "%s").replace(":n", "%s")
SHARE = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000, help="deliveries; three events each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="a PostgreSQL URL; its role may create databases")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="deliveries-bench-") as folder,
        database("postgresql", Path(folder), options.url) as url,
    ):
        app = log_of(url, options.n)
        ways: dict[str, Callable[[], float]] = {
            "ProjectionRunner": lambda: runner_rate(app, url, 3 * options.n // SHARE),
            **{f"follow, {batch} at a time": batched(app, batch) for batch in (1, 100, 1_000, 5_000)},
            "follow, statistics": lambda: statistics_rate(app),
        }
        found = {name: sorted(way() for _ in range(options.rounds)) for name, way in ways.items()}
        app.close()
    theirs = statistics.median(found["ProjectionRunner"])
    print(f"{'events/s':<26}{'median':>10}{'least':>10}{'most':>10}{'ratio':>8}")
    for name, rates in found.items():
        middle = statistics.median(rates)
        print(f"{name:<26}{middle:>10,.0f}{rates[0]:>10,.0f}{rates[-1]:>10,.0f}{middle / theirs:>8.1f}")


def log_of(url: str, n: int) -> Deliveries:
    app = Deliveries(url)
    app.create_schema()

    @app.adapter("email")
    def email(delivery: object, attempt: object) -> None:
        pass

    with app.engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE counts (name text, type text, n bigint, PRIMARY KEY (name, type))")
        )
    for start in range(0, n, 2_000):
        with app.engine.begin() as connection:
            app.schedule_many(connection, "email", [Draft()] * min(2_000, n - start))
    app.drain({"email": 500})
    with app.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return app


def batched(app: Deliveries, batch: int) -> Callable[[], float]:
    """Follow it with so many events in a transaction; one at a time, a fifth of them."""

    def rate() -> float:
        name = f"p{uuid4().hex}"

        def count(entries: Sequence[Entry], connection: Connection) -> None:
            by_type = Counter(entry.type for entry in entries)
            rows = [{"name": name, "type": kind, "n": n} for kind, n in by_type.items()]
            connection.execute(text(COUNT), rows)

        projection = Projection(name, count)
        end = app.event_log.recorder.max_notification_id() or 0
        if batch == 1:
            with app.engine.begin() as connection:
                app.rewind(connection, projection, to=end - end // SHARE)
        started = time.perf_counter()
        done = app.follow(projection, until_caught_up=True, batch=batch)
        elapsed = time.perf_counter() - started
        check(app, name, done.seen)
        return done.seen / elapsed

    return rate


def statistics_rate(app: Deliveries) -> float:
    with app.engine.begin() as connection:
        app.reset_statistics(connection)
    started = time.perf_counter()
    done = app.follow("statistics", until_caught_up=True)
    return done.seen / (time.perf_counter() - started)


class Counts(PostgresTrackingRecorder):
    """Theirs: a tracking recorder with a table of its own, as its documentation shows."""

    who = ""

    def add(self, kind: str, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(THEIR_COUNT, (self.who, kind, 1), prepare=True)


class Counting(TheirProjection[Counts]):
    """Theirs: one event, one transaction."""

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.add(domain_event.type, tracking)


def runner_rate(app: Deliveries, url: str, n: int) -> float:
    place = make_url(url)
    Counts.who = name = f"runner-{uuid4().hex}"
    projection = type("Counting", (Counting,), {"name": f"r{uuid4().hex}"})
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": place.database or "",
        "POSTGRES_HOST": str(place.query.get("host") or place.host or "localhost"),
        "POSTGRES_PORT": str(place.port or place.query.get("port") or 5432),
        "POSTGRES_USER": place.username or "",
        "POSTGRES_PASSWORD": place.password or "-",
    }
    end = app.event_log.recorder.max_notification_id() or 0
    first = next(app.tail(last=n)).position or 1
    started = time.perf_counter()
    with ProjectionRunner(
        application_class=app.event_log_class,
        projection_class=projection,
        view_class=at(first - 1, Counts),
        env=env,
    ) as runner:
        runner.wait(end, timeout=600)
        elapsed = time.perf_counter() - started
    check(app, name, n)
    return n / elapsed


def at(position: int, view: type[Counts]) -> type[Counts]:
    """A view that has seen everything up to `position`."""

    class Later(view):  # type: ignore[misc, valid-type]  # made here
        def max_tracking_id(self, application_name: str) -> int | None:
            return super().max_tracking_id(application_name) or position

    Later.__module__ = __name__
    return Later


def check(app: Deliveries, name: str, n: int) -> None:
    with app.engine.connect() as connection:
        counted = connection.scalar(text("SELECT sum(n) FROM counts WHERE name = :name"), {"name": name})
    assert counted == n, (counted, n)


if __name__ == "__main__":
    main()
