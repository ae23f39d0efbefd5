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

from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

from bench import database
from deliveries import Delivered, Deliveries
from deliveries.core import commands as c
from deliveries.core.events import Rules, Scheduled
from deliveries.core.stream import START, Change, advance
from deliveries.processor.limits import Limits
from deliveries.processor.settings import Settings
from deliveries.store import postgresql
from deliveries.store.rows import Birth, Contents, birth_values, event_values
from deliveries.store.schema import deliveries, events

CLAIM, ROUNDS, TENANTS, PAGE = 100, 50, 100, 20_000
RULES = Rules(
    max_attempts=10, max_interruptions=5, max_snoozes=100, on_unknown="retry", timeout=30.0, retry_in=15.0
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
    rows = [event_values(change.recorded) for change in changes]
    return [{"delivery_id": row.pop("id"), **row} for row in rows]


def projection(changes: list[Change]) -> dict[str, Any]:
    last = changes[-1]
    born = birth_values(Birth(changes[0], Contents(recipient=None, payload="null", salt=b"")))
    row = {column.name: born.get(column.name) for column in deliveries.c if column.name in born}
    after = last.after
    return row | {
        "version": last.recorded.version,
        "status": after.status.value,
        "due_at": after.due_at,
        "attempt": after.attempt,
        "endings": after.endings,
        "interruptions": after.interruptions,
        "snoozes": after.snoozes,
        "recorded_at": last.recorded.recorded_at,
        "digest": last.recorded.digest,
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
        values = {"queue": "mail", "channels": ["email"], "limit": CLAIM, "now": None, "cutoff": None}
        print("\nthe claim of a queue of which nothing is wanted:")
        plan = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS) {postgresql.CLAIM.element.text}"), values)
        print("\n".join(plan.scalars()), "\n")
        connection.rollback()
    print(f"{f'a claim of {CLAIM}':28}{'least':>10}{'median':>10}{'most':>10}")
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
