"""What a claim costs in a table that is full: 1,000,000 deliveries that ended, 100,000 that are due.

    python benchmarks/claim.py [--ended 1000000] [--due 100000] [--url URL]

The rows are made by the library's own pure core, each with its whole history, chained and as its guards
demand, and go in by COPY, with the guards on: through the API it would take an hour. A claim locks a
hundred of them; its time is taken with the transaction around it, which is rolled back. Other processes
on the machine make the figures worse, so the least and the median are shown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from uuid_utils.compat import uuid7

from bench import database
from deliveries import Delivered, Deliveries
from deliveries.core import commands as c
from deliveries.core.events import Rules, Scheduled
from deliveries.core.stream import START, Change, advance
from deliveries.processor.limits import Limits
from deliveries.processor.settings import Settings
from deliveries.store.schema import deliveries, events

CLAIM, ROUNDS, TENANTS, PAGE = 100, 50, 100, 20_000
RULES = Rules(
    max_attempts=10, max_interruptions=5, max_snoozes=100, on_unknown="retry", timeout=30.0, retry_in=15.0
)
EVENT = ("delivery_id", "version", "type", "schema_version", "recorded_at", "body", "digest")
DELIVERY = (
    *("id", "version", "channel", "queue", "priority", "scheduled_at", "due_at", "tenant"),
    *("attempt", "endings", "interruptions", "snoozes"),
)
BORN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=100_000)
    parser.add_argument("--url", help="a PostgreSQL URL; its role may create databases")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="deliveries-bench-") as folder,
        database("postgresql", Path(folder), options.url) as url,
    ):
        app = Deliveries(url)
        app.create_schema()
        fill(app, options.ended, ended=True)
        fill(app, options.due, ended=False)
        with app.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
        report(app)
        app.close()


# -- filling ---------------------------------------------------------------------------------------


def fill(app: Deliveries, number: int, *, ended: bool) -> None:
    started = time.perf_counter()
    for first in range(0, number, PAGE):
        page = [life(index, ended) for index in range(first, min(first + PAGE, number))]
        with app.engine.begin() as connection:
            copy(connection, "delivery_events", [row for one in page for row in history(one)])
            copy(connection, "deliveries", [projection(one) for one in page])
            copy(connection, "delivery_contents", [contents(one) for one in page])
    what = "ended" if ended else "due"
    print(f"{number:,} {what}, in {time.perf_counter() - started:,.0f} s", flush=True)


def life(index: int, ended: bool) -> list[Change]:
    """A delivery of a day ago: scheduled, and if it has ended, attempted and succeeded."""
    at = BORN + timedelta(milliseconds=index / 100)
    scheduled = Scheduled(
        delivery_id=uuid7(),
        channel="email",
        queue="mail",
        scheduled_at=at,
        payload_digest="0" * 64,
        recipient_digest="0" * 64,
        due_at=at,
        priority=(0, 5, 5, 9)[index % 4],
        tenant=f"tenant-{index % TENANTS}" if index % 2 else "tenant-0",  # one of them has half of it all
    )
    commands: list[c.Command] = [c.Schedule(now=at, scheduled=scheduled)]
    if ended:
        commands += [
            c.Start(now=at, worker="bench", rules=RULES),
            c.Report(now=at, attempt=1, outcome=Delivered()),
        ]
    changes: list[Change] = []
    for command in commands:
        change = advance(changes[-1].stream if changes else START, command)
        assert change is not None
        changes.append(change)
    return changes


def history(changes: list[Change]) -> list[dict[str, Any]]:
    return [{name: getattr(one.recorded, name) for name in EVENT} for one in changes]


def projection(changes: list[Change]) -> dict[str, Any]:
    recorded, after = changes[-1].recorded, changes[-1].after
    row = {name: getattr(after, name) for name in DELIVERY}
    return row | {
        "status": after.status.value,
        "recorded_at": recorded.recorded_at,
        "digest": recorded.digest,
    }


def contents(changes: list[Change]) -> dict[str, Any]:
    id = changes[0].after.id
    address = f"{id.int % 1_000}@example.org"
    return {
        "delivery_id": id,
        "recipient": address,
        "payload": '{"order":7,"template":"paid"}',
        "salt": b"s" * 16,
    }


def copy(connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
    driver: Any = connection.connection.driver_connection
    columns = ", ".join(rows[0])
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as into:
        for row in rows:
            into.write_row(list(row.values()))


# -- measuring -------------------------------------------------------------------------------------


def report(app: Deliveries) -> None:
    with app.engine.connect() as connection:
        for table in (deliveries, events):
            print(f"{table.name}: {connection.scalar(text(f'SELECT count(*) FROM {table.name}')):,} rows")
        print("\nthe claim of a queue of which nothing is wanted:")
        with executed(app) as seen:
            app._store.backend.claim(connection, "mail", ["email"], CLAIM, None, None)
        statement, values = seen[-1]
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", values)
        print("\n".join(plan.scalars()), "\n")
        briefly = f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY ON, FORMAT JSON) {statement}"
        took = [one[0]["Execution Time"] / 1e3 for one in _plans(connection, briefly, values)]
        print(f"{'':28}{'least':>10}{'median':>10}{'most':>10}")
        print(line("the statement, by the server", took))
        connection.rollback()
    print(f"a claim of {CLAIM}, by the caller, from BEGIN to ROLLBACK:")
    ops = app.queues
    ways: dict[str, Callable[[Connection], object]] = {
        "nothing is wanted": lambda bind: ops.clear(bind, "mail"),
        "concurrency": lambda bind: ops.scale(bind, "mail", 1_000),
        "total": lambda bind: ops.limit(bind, "mail", 100_000),
        "rate": lambda bind: ops.rate(bind, "mail", 1_000_000),
        "fair": lambda bind: ops.fair(bind, "mail"),
        "rate for each tenant": lambda bind: ops.rate(bind, "mail", 1_000, by="tenant"),
        "rate for each recipient": lambda bind: ops.rate(bind, "mail", 1_000, by="recipient"),
    }
    for name, want in ways.items():
        with app.engine.begin() as connection:
            ops.clear(connection, "mail")
            want(connection)
        print(line(name, list(claims(app))), flush=True)


def claims(app: Deliveries) -> Iterator[float]:
    """Seconds for a claim, from BEGIN to ROLLBACK."""
    limits = Limits(app._store, ["email"], Settings(queues={"mail": CLAIM}))
    limits.look()
    for _ in range(ROUNDS):
        with timed() as took, app.engine.connect() as connection:
            found, _more = limits.claim(connection, "mail", CLAIM, None)
            connection.rollback()
        assert len(found) == CLAIM, len(found)
        yield took[0]


def _plans(connection: Connection, statement: str, values: Any) -> Iterator[Any]:
    for _ in range(ROUNDS):
        yield connection.exec_driver_sql(statement, values).scalar_one()


@contextmanager
def executed(app: Deliveries) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database meanwhile, as the driver gets it."""
    seen: list[tuple[str, Any]] = []

    def before(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(app.engine, "before_cursor_execute", before)
    yield seen
    event.remove(app.engine, "before_cursor_execute", before)


@contextmanager
def timed() -> Iterator[list[float]]:
    took: list[float] = []
    started = time.perf_counter()
    yield took
    took.append(time.perf_counter() - started)


def line(name: str, seconds: list[float]) -> str:
    figures = (min(seconds), statistics.median(seconds), max(seconds))
    return f"{name:28}" + "".join(f"{1e3 * figure:>7.1f} ms" for figure in figures)


if __name__ == "__main__":
    main()
