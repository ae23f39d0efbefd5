"""`make demo`: the main job, end to end, on one SQLite file, with a proof at the end.

A shop takes orders, each with its webhook in one transaction. A worker process performs the webhooks
against a receiver that misbehaves; half-way it is killed with SIGKILL, and another takes over. Then
the receiver's log is held against the events. Nothing printed is known beforehand.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from sqlalchemy import func, select

from deliveries import Deliveries, Recorded, metadata, sqlite
from deliveries.cli.demo_process import DemoFailed, Worker
from deliveries.cli.demo_proof import Books, Proof, prove
from deliveries.cli.demo_receiver import Habit, Receiver
from deliveries.cli.demo_report import Progress, introduce, show_explanation, show_outcomes, show_proof
from deliveries.cli.demo_shop import Fate, Shop, draw_fates
from deliveries.cli.demo_worker import webhooks

LEAST, MOST = 50, 10_000
"""Deliveries: fewer are done before anybody can kill their worker, and `find` returns no more."""
LIMIT_SECONDS = 120.0
"""After so long the demo gives up, for each 1,000 deliveries or part of it."""

_rows = metadata.tables["deliveries"]


def run(console: Console, *, deliveries: int = 1000, seed: int = 2026, keep: Path | None = None) -> int:
    """Play the demo. 0: the proof holds; 1: it does not, or there is none; 130: stopped by Ctrl-C.

    `deliveries`: how many are committed, 50..10000. `seed`: decides which order meets which fate.
    `keep`: where to leave the database file, which must not exist yet; a directory gets `demo.db`.
    """
    try:
        if not LEAST <= deliveries <= MOST:
            raise DemoFailed(f"choose {LEAST:,} to {MOST:,} deliveries, not {deliveries:,}")
        with _place(keep) as path:
            proof = _play(console, path, deliveries, seed)
    except DemoFailed as failure:
        console.print(f"[bold red]No proof:[/] {escape(str(failure))}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; its processes are gone.")
        return 130
    if keep is not None:
        console.print(f"The database is kept in {escape(str(path))}", soft_wrap=True, highlight=False)
    return 0 if proof.holds else 1


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="deliveries-demo-") as directory:
            yield Path(directory) / "demo.db"
        return
    path = (keep / "demo.db" if keep.is_dir() else keep).absolute()
    if path.exists():
        raise DemoFailed(f"{path} exists already, and would be mixed up")
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path


def _play(console: Console, path: Path, deliveries: int, seed: int) -> Proof:
    chance = random.Random(seed)  # noqa: S311 - a demo that can be repeated, no secret
    fates = draw_fates(deliveries, chance)
    paid = [number for number, fate in enumerate(fates, start=1) if fate is Fate.COMMIT]
    habits = dict(zip(paid, Habit.deal(deliveries, chance), strict=True))
    introduce(console, fates)
    stage = Stage(path, console, time.monotonic() + LIMIT_SECONDS * -(-deliveries // 1000))
    with closing(stage.app), Receiver(habits, deliveries // 2) as receiver:
        stage.app.create_schema()
        shop = Shop(stage.app, receiver.url, fates)
        stage.perform(shop, receiver)
        streams = {found.idempotency_key: stage.app.history(found.id) for found in stage.app.find(limit=MOST)}
        proof = prove(
            Books(
                requests=receiver.requests,
                streams={key: [one.event for one in history] for key, history in streams.items()},
                committed=shop.committed,
                undone=shop.undone,
                killed={stage.killed},
            )
        )
        show_outcomes(console, {key: habits[order] for key, order in shop.committed.items()}, streams)
        show_explanation(console, stage.app.explain(_telling(streams, proof)), bool(proof.repeated))
        show_proof(console, proof, stage.elapsed)
    return proof


@dataclass
class Stage:
    """One performance: its database, its workers, and how long it may take."""

    path: Path
    console: Console
    gives_up_at: float
    killed: str = ""
    """The name of the worker that was killed."""
    app: Deliveries = field(init=False)
    _started: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.app = webhooks(self._url)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def perform(self, shop: Shop, receiver: Receiver) -> None:
        """From the first order to the last webhook, with a kill in between. Raises: DemoFailed."""
        with ExitStack() as open_, Progress(self.console, len(shop.fates), shop.owed) as progress:
            first = open_.enter_context(Worker(self._url)).ready()
            open_.enter_context(shop)
            if not self._watch(progress, shop, first, receiver.midway):
                raise DemoFailed("all was done before the worker could be killed: take more deliveries")
            first.kill()
            self.killed = first.name
            progress.tell(
                f"kill -9 {first.pid}: that worker is gone, after {receiver.accepted:,} webhooks, "
                f"in the middle of {self._open_attempts(first.name):,} more"
            )
            second = open_.enter_context(Worker(self._url)).ready()
            progress.tell(f"worker {second.pid} takes over, and finds what the dead one left open")
            self._watch(progress, shop, second, threading.Event())
            second.stop()
            for worker in (first, second):
                if complaint := worker.complaint():
                    progress.tell(f"worker {worker.pid} says{complaint}")

    def _watch(self, progress: Progress, shop: Shop, worker: Worker, until: threading.Event) -> bool:
        """Show how far it is. True once the event is set, False once all is done. Raises: DemoFailed."""
        while not until.wait(0.05):
            taken = shop.is_done  # asked first, or the last order could be missed below
            live, ended = self._counts()
            progress.show(len(shop.committed) + len(shop.undone), ended)
            if taken and not live:
                return False
            worker.check()
            if time.monotonic() > self.gives_up_at:
                raise DemoFailed(
                    f"after {self.elapsed:.0f} s {live:,} webhooks are not done{worker.complaint()}"
                )
        return True

    def _counts(self) -> tuple[int, int]:
        """Deliveries that are not done, and those that are."""
        counts = select(_rows.c.status, func.count().label("number")).group_by(_rows.c.status)
        with self.app.engine.connect() as connection:
            reader = connection.execution_options(**{sqlite.READ_ONLY: True})
            found = {row.status: row.number for row in reader.execute(counts)}
        live = sum(found.pop(status, 0) for status in ("pending", "attempting", "held"))
        return live, sum(found.values())

    def _open_attempts(self, worker: str) -> int:
        mine = select(func.count()).where(_rows.c.status == "attempting", _rows.c.lease_owner == worker)
        with self.app.engine.connect() as connection:
            return int(connection.execution_options(**{sqlite.READ_ONLY: True}).scalar(mine) or 0)

    @property
    def _url(self) -> str:
        return f"sqlite:///{self.path}"


def _telling(streams: dict[str, list[Recorded]], proof: Proof) -> str:
    """The delivery with the most to tell: among those accepted twice, if there are any."""
    keys = [key for key in proof.repeated if key in streams] or list(streams)
    if not keys:
        raise DemoFailed("there is no delivery in the database")
    return str(streams[max(keys, key=lambda key: len(streams[key]))][0].delivery_id)
