"""Who waits for whom on PostgreSQL, and which locks somebody holds, seen from a session of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, text

from support.apps import eventually

PATIENCE = 60.0

BLOCKED = text("""
SELECT blocked.query FROM pg_stat_activity AS blocked
WHERE datname = current_database() AND coalesce(
  CAST(:pid AS int) = ANY(pg_blocking_pids(pid)), cardinality(pg_blocking_pids(pid)) > 0)
""")
LOCKS = text("""
SELECT l.locktype, l.mode, coalesce(c.relname, '') AS name, coalesce(c.relkind::text, '') AS kind
FROM pg_locks l LEFT JOIN pg_class c ON l.locktype = 'relation' AND c.oid = l.relation
WHERE l.pid = :pid AND l.granted
  AND (c.oid IS NULL OR c.relnamespace <> 'pg_catalog'::regnamespace)
""")


class Watch:
    """A session that looks. It is in no transaction: in one, the list of sessions would stand still."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def waiting_for(self, pid: int | None) -> list[str]:
        """The statements that wait for a lock of session `pid`; None: of any."""
        with self._lock:
            return [row.query for row in self._connection.execute(BLOCKED, {"pid": pid})]

    def until_waiting(self, pid: int, number: int) -> None:
        """So many wait for session `pid`."""
        eventually(lambda: len(self.waiting_for(pid)) == number, PATIENCE)

    def locks_of(self, pid: int) -> set[tuple[str, str, str]]:
        """(type, mode, relation) of each lock that session `pid` holds on anything but the catalogue."""
        with self._lock:
            return {
                (row.locktype, row.mode, row.name) for row in self._connection.execute(LOCKS, {"pid": pid})
            }

    def terminate(self, pid: int) -> None:
        """Cut the connection of session `pid`."""
        with self._lock:
            self._connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


@contextmanager
def watching(engine: Engine) -> Iterator[Watch]:
    """A watch on the database of `engine`."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield Watch(connection)


def pid_of(bind: Any) -> int:
    """The server's process behind a session or connection."""
    return int(bind.scalar(text("SELECT pg_backend_pid()")))


@contextmanager
def nobody_waiting_for(engine: Engine, pid: int) -> Iterator[Callable[[], None]]:
    """Looks again and again, and fails if ever somebody waited for session `pid` meanwhile.

    What it yields returns after one more look.
    """
    seen: list[str] = []
    over, looked = threading.Event(), threading.Event()

    def look(watch: Watch) -> None:
        while not over.wait(0.01):
            seen.extend(watch.waiting_for(pid))
            looked.set()

    def look_again() -> None:
        for _ in range(2):  # the first may have begun before
            looked.clear()
            assert looked.wait(PATIENCE)

    with watching(engine) as watch:
        thread = threading.Thread(target=look, args=(watch,))
        thread.start()
        try:
            yield look_again
            seen.extend(watch.waiting_for(pid))
        finally:
            over.set()
            thread.join()
    assert not seen, f"waited for the open transaction: {set(seen)}"
