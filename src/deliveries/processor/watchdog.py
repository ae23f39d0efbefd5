"""Cutting a connection that has fallen silent.

A connection whose other side is gone without a word answers nothing and breaks nothing: the driver
waits, and with it the thread that does all the work. PostgreSQL's drivers know no bound for a
statement, and TCP gives up after minutes or hours, behind a pooler or a proxy never. So a
transaction of the processor that takes longer than a lease, after which its claims are worth
nothing anyway, gets its socket shut from another thread, and fails as any broken connection does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, event

from deliveries.processor import ticks

_log = logging.getLogger("deliveries")


class Watchdog:
    """Watches what the threads that ask for it have checked out, `seconds` each at most."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._pool, self._seconds = engine.pool, seconds
        self._watched: set[int] = set()
        self._out: dict[Any, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._needed = engine.dialect.name == "postgresql"

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """For the length of the `with`, watch the connections of this thread."""
        me = threading.get_ident()
        self._watched.add(me)
        try:
            yield
        finally:
            self._watched.discard(me)

    def start(self) -> None:
        """Begin to look, in a daemon thread."""
        if self._needed:
            event.listen(self._pool, "checkout", self._checked_out)
            event.listen(self._pool, "checkin", self._checked_in)
            self._thread = threading.Thread(target=self._run, name="deliveries-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            event.remove(self._pool, "checkout", self._checked_out)
            event.remove(self._pool, "checkin", self._checked_in)

    def _checked_out(self, connection: Any, record: Any, proxy: Any) -> None:
        if threading.get_ident() in self._watched:
            self._out[connection] = ticks.monotonic()

    def _checked_in(self, connection: Any, record: Any) -> None:
        self._out.pop(connection, None)

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds / 4):
            late = ticks.monotonic() - self._seconds
            for connection, since in list(self._out.items()):
                if since < late and self._out.pop(connection, None) is not None:
                    _log.warning("a connection was silent for %g s, and is cut", self._seconds)
                    _shut(connection)


def _shut(connection: Any) -> None:
    """Shut the socket under a psycopg connection: who waits for it reads its end."""
    with (
        contextlib.suppress(Exception),  # closed meanwhile, or another driver's
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as shared,
    ):
        shared.shutdown(socket.SHUT_RDWR)
