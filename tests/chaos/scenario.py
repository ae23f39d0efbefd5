"""One run: a server under fire, processes that go on, then calm, and what the verdict is.

Four processors and two callers work through a proxy while the server is restarted and crashed,
backends are terminated, connections cut around their COMMIT or left half-open, and processors
killed. Then comes calm, in which everything must end; a person, who has asked the receiver, says
what became of held deliveries.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import ColumnElement, NullPool, create_engine, func, select
from sqlalchemy.exc import DBAPIError

from chaos import verdict
from chaos.crew import Crew
from chaos.fire import Fire, Fuse
from chaos.reader import Tail
from chaos.server import durable_server
from chaos.shop import application, business, effects
from deliveries import Delivered, Deliveries, NotDone, Status
from deliveries.audit.invariants import Finding
from deliveries.store.schema import deliveries, events
from support.proxy import Proxy

CALLERS = 2
PROCESSORS = 4
CALM_SECONDS = 120.0
HANG_SECONDS = 4.0
"""Longer than a lease, so that half-open connections lose some."""

_pause = threading.Event().wait


@dataclass
class Report:
    """What was done, what happened, and what is wrong."""

    done: Counter[str] = field(default_factory=Counter)
    happened: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)

    @property
    def violations(self) -> int:
        """How many findings there are."""
        return sum(map(len, self.findings.values()))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long it takes."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def __str__(self) -> str:
        lines = [f"{name:<44}{number:>10,}" for name, number in sorted(self.done.items())]
        lines += [f"{name:<44}{number:>10,}" for name, number in self.happened.items()]
        lines += [f"{name:<44}{number:>10.1f} s" for name, number in self.seconds.items()]
        for check, found in self.findings.items():
            lines.append(f"{check:<44}{len(found) or 'ok':>10}")
            lines += [f"    {finding}" for finding in found[:5]]
        return "\n".join([*lines, f"{'violations':<44}{self.violations:>10}"])


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    count: int
    """Deliveries."""
    seconds: float
    """Under fire at most; callers spread their work over the first two thirds."""
    seed: int
    processors: int = PROCESSORS
    pause: float = 0.3
    """Seconds between two cuts at a COMMIT, on average."""
    calm: float = CALM_SECONDS
    """Within so many seconds after the fire all must have ended."""

    def shares(self) -> dict[str, int]:
        """Caller -> how many it schedules."""
        return {
            str(number): self.count // CALLERS + (number < self.count % CALLERS) for number in range(CALLERS)
        }

    def keys(self) -> set[str]:
        """What the callers schedule."""
        return {f"{name}:{number}" for name, share in self.shares().items() for number in range(share)}


def chaos(plan: Plan, keep: Path | None = None) -> Report:
    """Do it. The logs and the trace of effects are copied to `keep`."""
    directory = Path(tempfile.mkdtemp(prefix="deliveries-chaos-"))
    try:
        return _chaos(plan, directory)
    finally:
        if keep is not None:
            shutil.copytree(directory, keep, dirs_exist_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def _chaos(plan: Plan, directory: Path) -> Report:
    report, chance = Report(), random.Random(plan.seed)
    fuse = Fuse(chance.randrange(1 << 32), plan.pause)
    with durable_server() as server, Proxy(server.url, fuse, HANG_SECONDS) as proxy:
        database = server.create_with_schema()
        through = proxy.url(database).render_as_string(hide_password=False)
        # connections of its own, each time new: those that stay would be hit too
        witness = Witness(application(create_engine(database, poolclass=NullPool)), directory)
        business.create_all(witness.app.engine)
        with Tail(through) as tail, Crew(through, directory, plan.processors) as crew:
            for place, (name, share) in enumerate(plan.shares().items()):
                crew.call(name=name, count=share, seconds=plan.seconds * 0.66, seed=plan.seed + place)
            fuse.burning = True
            _until(lambda: witness.events() > 0, plan.calm)  # the processes are there
            fire = Fire(server, database, proxy, crew.kill, chance.randrange(1 << 32))
            with report.timed("under fire"), fire:
                _until(lambda: not crew.is_calling and witness.live() == 0, plan.seconds)
                fuse.burning = False
            with report.timed("calm"):
                _until(lambda: not crew.is_calling, plan.calm)
                for numbers in crew.said():
                    report.done.update({f"callers: {name}": number for name, number in numbers.items()})
                _until(lambda: witness.resolve() == 0 and witness.live() == 0, plan.calm)
                codes = crew.end()
            _until(lambda: len(tail.seen) >= witness.events(), 10.0)
        report.done.update(fire.done)
        report.done.update({f"cuts: {cut}": number for cut, number in proxy.cuts.items()})
        report.done["errors of the reader"] = tail.errors
        with report.timed("verdict"):
            _judge(report, plan, witness, tail.seen, codes)
        witness.app.close()
    return report


def _judge(report: Report, plan: Plan, witness: Witness, seen: list[int], codes: list[int]) -> None:
    calls = list(effects(witness.directory))
    report.happened = verdict.numbers(witness.app, calls)
    report.findings = verdict.findings(witness.app, plan.keys(), calls, seen)
    report.findings["processors end well"] = [Finding("N4", 0, f"exit code {code}") for code in codes if code]


class Witness:
    """Looks at the database directly, not through the proxy."""

    def __init__(self, app: Deliveries, directory: Path) -> None:
        self.app, self.directory = app, directory

    def live(self) -> int:
        """Deliveries on which processors still have to work."""
        return self._count(deliveries.c.status.in_([Status.PENDING, Status.ATTEMPTING]))

    def events(self) -> int:
        """All that have been committed."""
        return self._count(events.c.position > 0)

    def resolve(self) -> int:
        """Say of each held delivery what the receiver knows of it; how many there were."""
        known = {call.key for call in effects(self.directory)}
        held = self.app.find(status=Status.HELD, limit=10_000)
        for one in held:
            with self.app.engine.begin() as connection:
                outcome = Delivered() if one.idempotency_key in known else NotDone()
                self.app.resolve(connection, one.id, outcome, actor="a person")
        return len(held)

    def _count(self, wanted: ColumnElement[bool]) -> int:
        """-1 while the server does not answer."""
        try:
            with self.app.engine.connect() as connection:
                return int(connection.scalar(select(func.count()).where(wanted)) or 0)
        except DBAPIError:
            return -1


def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until it holds, `seconds` at most: what follows looks at what is there."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        _pause(0.2)
