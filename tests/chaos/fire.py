"""What is done to a database and to its users' connections, at random from a seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

from sqlalchemy import URL, NullPool, create_engine, text

from chaos.server import DurableServer
from support.proxy import Commit, Cut, Proxy

CUTS = [Cut.BEFORE_COMMIT] * 4 + [Cut.AFTER_COMMIT] * 4 + [Cut.HANG_BEFORE_COMMIT, Cut.HANG_AFTER_COMMIT]

_TERMINATE = text("""
SELECT pg_terminate_backend(pid) FROM (
  SELECT pid FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()
  ORDER BY random() LIMIT 1) AS victim
""")


class Fuse:
    """Decides about each COMMIT: while it burns, one is cut every `pause` seconds on average."""

    def __init__(self, seed: int, pause: float) -> None:
        self.burning = False
        self._chance, self._pause, self._next = random.Random(seed), pause, 0.0

    def __call__(self, commit: Commit) -> Cut | None:
        now = time.monotonic()
        if not self.burning or now < self._next:
            return None
        self._next = now + self._chance.expovariate(1 / self._pause)
        return self._chance.choice(CUTS)


class Fire(threading.Thread):
    """Restarts, crashes, terminated backends, cuts and kills, for the length of a `with`."""

    def __init__(
        self, server: DurableServer, database: URL, proxy: Proxy, kill: Callable[[int], None], seed: int
    ) -> None:
        super().__init__(name="fire", daemon=True)
        self.done: Counter[str] = Counter()
        self.problem: BaseException | None = None
        self._server, self._database, self._proxy, self._kill = server, database, proxy, kill
        self._chance = random.Random(seed)
        self._out = threading.Event()
        self._acts: list[tuple[Callable[[], None], float]] = [
            (self.restart, 6.0),
            (self.terminate, 1.0),
            (self.cut_all, 15.0),
            (self.kill, 12.0),
        ]
        """Each act, and its pause in seconds on average."""

    def run(self) -> None:
        try:
            self._burn()
        except BaseException as error:
            self.problem = error

    def _burn(self) -> None:
        now = time.monotonic()
        due = {act: now + pause / 4 for act, pause in self._acts}
        while True:
            act = min(due, key=lambda one: due[one])
            if self._out.wait(max(0.0, due[act] - time.monotonic())):
                return
            act()
            pause = dict(self._acts)[act]
            due[act] = time.monotonic() + self._chance.uniform(0.5, 1.5) * pause

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Put out: the server stands. Raises what has gone wrong with the fire itself."""
        self._out.set()
        self.join(90.0)
        if self.problem is not None:
            raise self.problem

    def restart(self) -> None:
        """Immediate and fast, in turn."""
        mode = ("immediate", "fast")[self._server.restarts % 2]
        self._server.restart(mode)
        self.done[f"restarts, {mode}"] += 1

    def terminate(self) -> None:
        """One connection, ended from the server's side."""
        engine = create_engine(self._server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            found = connection.scalars(_TERMINATE, {"name": self._database.database}).all()
        self.done["backends terminated"] += len(found)

    def cut_all(self) -> None:
        """Every connection through the proxy at once; every other time they only fall silent."""
        self._proxy.cut_all(hang=self.done["all connections"] % 2 == 1)
        self.done["all connections"] += 1

    def kill(self) -> None:
        """SIGKILL for one processor; another one takes its place."""
        self._kill(self._chance.randrange(1 << 16))
        self.done["processors killed"] += 1
