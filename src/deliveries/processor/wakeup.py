"""Hints that there is work. Polling is the truth: a lost or doubled hint changes nothing.

In this process a committed transaction sets a flag. Between processes on PostgreSQL a background
thread sends NOTIFY on a connection of its own, after the commit and never inside the caller's
transaction, where it would serialise commits.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event

from deliveries.processor.listener import CHANNEL, QUEUES, Listener
from deliveries.store.borrowed import Borrowed, Plain, borrowed

_HINT = "deliveries.hint"
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.005, 0.04
"""After a notification; twice as long each time while so much comes that processors look anyway."""
_MANY_PER_SECOND = 800.0
"""Commits, each with work, that make a pause longer. A rate: a pause must not be what keeps itself long."""
_OPEN_SECONDS = 1.0
"""How long the transaction of a plain connection is looked at; one that lasts longer is found by polls."""
# One round trip. Nothing durable is written, so nobody need wait for the disk.
_NOTIFY = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', '{{payload}}')"

_log = logging.getLogger("deliveries")


class Worker(Protocol):
    """Who performs deliveries of some queues."""

    is_idle: bool
    """Asleep, with free slots for whatever comes."""

    def hint(self) -> None:
        """Wake up. Must not block."""


class Wakeup:
    """Who wants to know that something was scheduled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._alone = engine
        if engine.dialect.name == "postgresql":
            self._alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._listeners: frozenset[Callable[[], None]] = frozenset()
        self._crews: dict[frozenset[str], tuple[Worker, ...]] = {}
        self._listening: dict[str | None, tuple[Listener, int]] = {}
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._hinted = False
        self._commits = 0
        self._open: dict[int, tuple[weakref.ref[Plain], bool, float]] = {}
        self._notifier: threading.Thread | None = None
        self._closed = False
        self._telling = False
        self.changes = 0
        """How often we heard that something else is wanted of some queue."""

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener`, which must not block, at every hint."""
        self._listeners |= {listener}

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """No more hints for `listener`."""
        self._listeners -= {listener}

    @contextlib.contextmanager
    def on_call(self, worker: Worker, queues: Iterable[str]) -> Iterator[None]:
        """Hint to `worker`, who does the work of these queues, unless another one who does was idle."""
        crew = frozenset(queues)
        with self._lock:
            self._crews = {**self._crews, crew: (*self._crews.get(crew, ()), worker)}
        try:
            yield
        finally:
            with self._lock:
                left = tuple(one for one in self._crews[crew] if one is not worker)
                self._crews = {**self._crews, crew: left}
            self.pass_on(queues)  # what it was called for and did not do

    @contextlib.contextmanager
    def listening(self, url: str | None = None) -> Iterator[None]:
        """Hear what other processes say, on one connection (to `url`) for all here who want to."""
        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._lock:
            listener, others = self._listening.get(url) or (Listener(self._engine, self.heard, url), 0)
            if not others:
                listener.start()
            self._listening[url] = (listener, others + 1)
        try:
            yield
        finally:
            with self._lock:
                _, users = self._listening.pop(url)
                if users > 1:
                    self._listening[url] = (listener, users - 1)
            if users == 1:
                listener.stop()

    def pass_on(self, queues: Iterable[str]) -> bool:
        """Hint to one who does this work and is idle; True where there was one."""
        for worker in self._crews.get(frozenset(queues), ()):
            if worker.is_idle:
                worker.hint()
                return True
        return False

    def after_commit(self, connection: Connection, *, queues: bool = False) -> None:
        """Hint once `connection` has ended its transaction and gone back to its pool.

        The pool's check-in is the first moment at which the commit is over for sure; a rollback
        ends there too, and then the hint is merely useless. A plain connection of the caller's has no
        such moment, and is looked at. `queues`: what is wanted of them changed.
        """
        if (lent := borrowed(connection)) is not None:
            plain = lent.plain
            queues |= self._open.get(id(plain), (plain, False))[1]
            self._open[id(plain)] = (weakref.ref(plain), queues, time.monotonic() + _OPEN_SECONDS)
            self._tell()
            return
        owed = connection.info.setdefault(_HINT, {})  # of each app that shares the engine
        owed[self] = queues or owed.get(self, False)
        if connection.engine.pool not in self._engines:
            with self._lock:
                if connection.engine.pool not in self._engines:
                    self._engines.add(connection.engine.pool)
                    event.listen(connection.engine.pool, "checkin", self._checkin)

    def heard(self, payload: str = "") -> None:
        """Somebody says that something is due; with the payload `queues`, that one of them changed."""
        self.changes += payload == QUEUES
        for listener in self._listeners:
            listener()
        for queues, crew in self._crews.items():
            if payload == QUEUES or not self.pass_on(queues):
                for worker in crew:
                    worker.hint()

    def hint(self, *, queues: bool = False) -> None:
        """Something is due, here and now."""
        self._hint(queues)
        if self._hinted:
            self._tell()

    def _hint(self, queues: bool) -> None:
        self.heard(QUEUES if queues else "")
        if queues:
            self._telling = True
        self._hinted = self._engine.dialect.name == "postgresql"  # elsewhere there is nobody to tell

    def _tell(self) -> None:
        self._commits += 1  # about: threads may lose some
        if not self._closed:
            if not self._due.is_set():
                self._due.set()
            if self._notifier is None:
                self._start_notifier()

    def _look(self) -> None:
        """Hint for each plain connection whose transaction is over; one that lasts is left to polls."""
        for place in list(self._open):
            reference, queues, until = self._open.pop(place)
            plain = reference()
            lasts = plain is not None and Borrowed(plain).in_transaction
            if lasts and time.monotonic() < until:
                self._open.setdefault(place, (reference, queues, until))
                self._due.set()
            else:
                self._hint(queues)

    def close(self) -> None:
        """Send no more notifications."""
        self._closed = True
        self._due.set()
        if self._notifier is not None:
            self._notifier.join(timeout=5.0)

    def _checkin(self, dbapi_connection: Any, record: Any) -> None:
        owed = record.info.get(_HINT)
        if owed and (queues := owed.pop(self, None)) is not None:
            self.hint(queues=queues)

    def _start_notifier(self) -> None:
        with self._lock:
            if self._notifier is None:
                self._notifier = threading.Thread(
                    target=_notify,
                    args=(weakref.ref(self), self._due),
                    name="deliveries-notify",
                    daemon=True,
                )
                self._notifier.start()


class _Pace:
    """How long to pause after a notification."""

    def __init__(self) -> None:
        self._pause, self._commits, self._at = _PAUSE_SECONDS, 0, time.monotonic()

    def after(self, commits: int) -> float:
        """Seconds, by how many commits there were since this was last asked."""
        came, lasted = commits - self._commits, time.monotonic() - self._at
        self._commits, self._at = commits, self._at + lasted
        much = came > lasted * _MANY_PER_SECOND and came > 1
        self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS) if much else _PAUSE_SECONDS
        return self._pause


def _notify(owner: weakref.ref[Wakeup], due: threading.Event) -> None:
    """Send NOTIFY whenever `due`; ends with its owner, or after a while without work."""
    pace = _Pace()
    while due.wait(60.0):
        wakeup = owner()
        if wakeup is None or wakeup._closed:
            return
        due.clear()
        pause = pace.after(wakeup._commits)
        wakeup._look()
        if not wakeup._hinted:
            del wakeup
            time.sleep(_PAUSE_SECONDS)
            continue
        wakeup._hinted = False  # before it is told: what is said while we send is told by the next one
        try:
            if telling := wakeup._telling:
                wakeup._telling = False
            with wakeup._alone.connect() as connection:
                connection.exec_driver_sql(_NOTIFY.format(payload=QUEUES if telling else ""))
        except Exception:
            _log.debug("a notification was not sent; processors poll", exc_info=True)
        del wakeup
        time.sleep(pause)
    wakeup = owner()
    if wakeup is not None:
        wakeup._notifier = None
        if due.is_set():
            wakeup.hint()
