"""Renewing leases, from a thread that runs nobody's code but ours.

A lease is renewed while its adapter may still answer: up to its timeout and a margin, never for
ever. So a blocked event loop keeps its leases, and a call that never returns loses them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from sqlalchemy import bindparam, delete, insert, update

from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.store.failures import cause
from deliveries.store.schema import workers
from deliveries.store.store import Store

FORGET_SECONDS = 86_400.0
"""A worker not seen for so long is removed from the table of workers."""

_SEEN = update(workers).where(workers.c.worker == bindparam("name")).values(seen_at=bindparam("now"))

_log = logging.getLogger("deliveries")


class Heartbeat:
    """Beats every third of a lease, between `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        worker: str,
        lease: float,
        calls: Callable[[], Iterable[Call]],
        watching: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._store, self._worker, self._lease, self._calls = store, worker, lease, calls
        self._watching = watching
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="deliveries-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more beats."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        with self._watching():
            self._beat_on()

    def _beat_on(self) -> None:
        pause = self._lease / 3
        while not self._stopping.wait(pause):
            pause = self._lease / 3
            try:
                self.beat()
            except Exception as error:
                pause = self._lease / 20  # a third later the lease may be over
                _log.warning("leases were not renewed; trying again: %s", cause(error))

    def beat(self) -> None:
        """Renew what is past a third of its lease and may still answer."""
        wanted: list[tuple[Call, float]] = []
        now = ticks.monotonic()
        for call in list(self._calls()):
            if call.is_lookup or call.reported or not call.entered:
                continue
            seconds = min(self._lease, call.entered_at + call.timeout + self._lease - now)
            if call.lease_until < now + min(seconds, self._lease * 2 / 3):
                wanted.append((call, seconds))
        if not wanted:
            return
        with self._store.transaction() as connection:
            held = self._store.backend.renew(
                connection,
                self._worker,
                [call.delivery.id for call, _ in wanted],
                [seconds for _, seconds in wanted],
                self._store.deciding_now,
            )
        for call, seconds in wanted:
            if call.delivery.id in held:
                call.lease_until = max(call.lease_until, now + seconds)


class Presence:
    """This worker's row in the table of workers: who works on what, and since when."""

    def __init__(self, store: Store, worker: str, lease: float, queues: Sequence[str]) -> None:
        self._store, self._worker, self._lease, self._queues = store, worker, lease, queues

    def announce(self) -> None:
        """Write or refresh the row, and forget workers long gone."""
        with self._store.transaction() as connection:
            now = self._store.now(connection)
            if connection.execute(_SEEN, {"name": self._worker, "now": now}).rowcount:
                return
            row = {
                "worker": self._worker,
                "queues": " ".join(self._queues),
                "started_at": now,
                "seen_at": now,
                "lease_seconds": self._lease,
            }
            connection.execute(insert(workers), row)
            gone = [
                worker
                for worker, at in connection.execute(
                    workers.select().with_only_columns(workers.c.worker, workers.c.seen_at)
                )
                if (now - at).total_seconds() > FORGET_SECONDS
            ]
            connection.execute(delete(workers).where(workers.c.worker.in_(gone)))

    def leave(self) -> None:
        """Remove the row."""
        with self._store.transaction() as connection:
            connection.execute(delete(workers).where(workers.c.worker == self._worker))
