"""Which points there are, which have been hit, and rounds that hit them.

Nobody lists the points: every worker reports those that it passes, and what has been reported is hit
sooner or later, the least visited first. Which plots lead to a point is learned the same way.
"""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from crash.plots import PLOTS, Plot
from crash.world import World
from crash.zygote import PATIENCE, Child

ANYWHERE = "anywhere"
"""Not a point: the worker is killed at some moment, from outside."""
SIGNS = {"KILL": 16, "TERM": 2, "TERM TERM": 1, "STOP": 1}
MISSES = 4
"""So often a point is looked for in vain, before others come first."""


_CALL = re.compile(r"(?P<channel>\w+(-hasty)?-a?sync) (?P<which>\w+)( cancelled)?: ")
_PROMISES = {"Interrupted": "keyed", "Held": "held|asked", "Exhausted": "keyed", "Cancelled": r"\w+"}
"""What a sweep writes of a crashed attempt -> of which channels."""
_LEADING: tuple[tuple[str, str], ...] = (
    (r"(?P<channel>[\w-]+) first cancelled: ", r"{channel} (late and )?cancelled"),
    (r"(?P<channel>[\w-]+) last cancelled: ", r"{channel} (late and )?cancelled"),
    (r"(?P<channel>[\w-]+hasty[\w-]+) (first|next|lookup): ", r"{channel} late( and shy)?"),
    (r"(?P<channel>[\w-]+) (first|lookup): ", r"{channel} (plain|slow)"),
    (r"(?P<channel>[\w-]+) next: ", r"{channel} (retried|snoozed)"),
    (r"(?P<channel>[\w-]+) last: ", r"{channel} (late and )?single|{channel} hopeless"),
    (r"cancel: ", r".* (late and )?cancelled( in vain)?"),
    (r"heartbeat: ", r".* slow"),
    (r"late evidence: ", r".*hasty-sync .*"),
    (r"lookups: ", r"asked-hasty-.* late( and shy)?"),
    (r"settle: .*Cancelled", r".* cancelled in vain"),
    (r"settle: ", r"asked-hasty-.* late.*|.* cancelled"),
    (r"sweep: .*(?P<type>Interrupted|Held)", r"({type}) plain"),
    (r"sweep: .*Exhausted", r"keyed-a?sync single|past its deadline"),
    (r"sweep: .*Cancelled", r".*sync cancelled( in vain)?"),
    (r"sweep: ", r"(keyed|held|asked)-a?sync (plain|single|cancelled)"),
    (r"claim and record: .*Failed", r"keyed-a?sync retried|held-a?sync retried"),
    (r"claim and record: .*Held", r"(held|asked)-hasty-.* late"),
    (r"claim and record: .*Exhausted", r".* hopeless"),
    (r"claim and record: .*Cancelled", r".* bounced|.*hasty.* late and cancelled"),
    (r"claim and record: .*Rescheduled", r".* snoozed"),
)
"""Point -> the plots that lead there. Only a help: what else leads anywhere is learned."""


def leading_to(point: str) -> list[str]:
    """Plots that are known to lead to this point; empty where nobody has said so."""
    for pattern, wanted in _LEADING:
        if found := re.match(pattern, point):
            names = {name: value for name, value in found.groupdict().items() if value}
            if "type" in names:
                names["type"] = rf"(?:{_PROMISES[names['type']]})-a?sync"
            plots = re.compile(wanted.format(**names))
            return [name for name in PLOTS if plots.fullmatch(name)]
    return []


def crash_before(point: str, plot: Plot) -> str | None:
    """Where a worker must die before another one can come to this point with this plot."""
    if not point.startswith("sweep: ") and not (" lookup: " in point and "hasty" not in point):
        return None
    which = "last" if "single" in plot.name else "first"
    cancelled = " cancelled" if plot.order.cancel else ""
    return f"{plot.channel} {which}{cancelled}: after the effect, at the receiver"


@dataclass
class Tally:
    """What became of one point on one database."""

    kills: int = 0
    signals: int = 0
    """Hit by SIGTERM, once or twice, or by SIGSTOP."""
    misses: int = 0
    """Workers that never came there."""
    findings: int = 0
    """Findings in worlds in which it was hit."""


@dataclass
class Totals:
    """Over all worlds of a run."""

    worlds: int = 0
    kills: int = 0
    signals: int = 0
    deliveries: int = 0
    attempts: int = 0
    effects: int = 0


@dataclass(frozen=True)
class Step:
    """One worker and its end."""

    point: str
    sign: str
    mode: str
    hit: bool
    code: int

    def __str__(self) -> str:
        return f"{self.sign} {self.mode} {self.point} {self.code}{'' if self.hit else ' (missed)'}"


@dataclass
class Matrix:
    """Points x databases; shared by all lanes of a run."""

    tallies: dict[str, dict[str, Tally]] = field(default_factory=lambda: defaultdict(dict))
    """Database -> point -> its tally."""
    thorough: bool = True
    """Aim at nothing before every plot has been played."""
    signs: dict[str, int] = field(default_factory=lambda: dict(SIGNS))
    """What workers get at their points, and how often of all times."""
    totals: Totals = field(default_factory=Totals)
    findings: list[str] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _makers: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _staged: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def saw(self, dialect: str, worker: Child, plots: Iterable[str]) -> None:
        """What a worker has reported, while these plots were on."""
        with self._lock:
            staged = set(plots)
            self._staged[dialect].update(staged)
            for line in worker.lines:
                if line.startswith("seen "):
                    point = line.removeprefix("seen ")
                    self.tallies[dialect].setdefault(point, Tally())
                    self._makers[dialect, point].update(staged)

    def choose(self, dialect: str, rng: random.Random) -> str:
        """The point that is to be hit next: of the least visited, any."""
        with self._lock:
            known = self.tallies[dialect]
            if not known or rng.random() < 0.1 or (self.thorough and self._is_new(dialect)):
                return ANYWHERE  # as long as there are plots that nobody has seen

            def visits(point: str) -> tuple[bool, int]:
                tally = known[point]
                return tally.misses >= MISSES and not tally.kills, tally.kills + tally.misses

            least = min(map(visits, known))
            return rng.choice([point for point in known if visits(point) == least])

    def _is_new(self, dialect: str) -> bool:
        return len(self._staged[dialect]) < len(PLOTS)

    def plots_for(self, dialect: str, point: str, rng: random.Random) -> list[str]:
        """What is to be scheduled so that a worker comes to this point, and something beside it."""
        with self._lock:
            makers = self._makers[dialect, point] or Counter(list(PLOTS))
            weights = [(count / max(1, self._staged[dialect][name])) ** 2 for name, count in makers.items()]
        likely = leading_to(point) or rng.choices(list(makers), weights, k=2)
        return [*rng.choices(likely, k=2), rng.choice(list(PLOTS))]

    def new_plots(self, dialect: str) -> list[str]:
        """Some that have never been played."""
        with self._lock:
            new = [name for name in PLOTS if not self._staged[dialect][name]][:6]
            self._staged[dialect].update(new)
            return new

    def hit(self, dialect: str, step: Step) -> None:
        """A worker has ended."""
        with self._lock:
            tally = self.tallies[dialect].setdefault(step.point, Tally())
            if not step.hit:
                tally.misses += 1
            elif step.sign == "KILL":
                tally.kills += 1
                self.totals.kills += 1
            else:
                tally.signals += 1
                self.totals.signals += 1

    def judged(self, dialect: str, world: World, steps: list[Step]) -> list[str]:
        """Take the verdict on a world; returns what is wrong with it."""
        found, counts = world.judge(), world.counts()
        with self._lock:
            self.totals.worlds += 1
            self.totals.deliveries += counts[0]
            self.totals.attempts += counts[1]
            self.totals.effects += counts[2]
            for point in {step.point for step in steps if found}:
                self.tallies[dialect][point].findings += len(found)
            told = [f"{dialect}: {one} [{'; '.join(map(str, steps))}]" for one in found]
            self.findings += told
        return told


def play(
    world: World, matrix: Matrix, dialect: str, rng: random.Random, workers: int, kills: int = 0
) -> list[str]:
    """So many workers end in this world, one after the other; then it is finished and judged.

    What they are sent is drawn, and not every point is reached: there are more, up to four times as
    many, until so many were killed.
    """
    steps: list[Step] = []
    companion = world.worker() if rng.random() < 0.25 else None
    for turn in range(4 * workers):
        if turn >= workers and sum(step.hit and step.sign == "KILL" for step in steps) >= kills:
            break
        for step in _steps(world, matrix, dialect, rng):
            steps.append(step)
            matrix.hit(dialect, step)
    if companion is not None:
        companion.signal(signal.SIGKILL)
        code = world.ended(companion, -signal.SIGKILL)
        steps.append(Step(ANYWHERE, "KILL", "worker", hit=True, code=code))
        matrix.hit(dialect, steps[-1])
    plots = world.live_plots()
    matrix.saw(dialect, world.finish(), plots)
    return matrix.judged(dialect, world, steps)


def _steps(world: World, matrix: Matrix, dialect: str, rng: random.Random) -> Iterator[Step]:
    """One point is aimed at; where it takes a crash to come there, there is one before."""
    point = matrix.choose(dialect, rng)
    sign = "KILL" if point == ANYWHERE else rng.choices(list(matrix.signs), list(matrix.signs.values()))[0]
    mode = rng.choices(("worker", "command", "drain"), (12, 3, 3))[0]
    plots = matrix.plots_for(dialect, point, rng)
    for turn, name in enumerate(plots):
        world.owe(PLOTS[name], priority=min(turn, 2))
    before = crash_before(point, PLOTS[plots[0]])
    if before is not None:
        yield _run(world, matrix, dialect, before, "KILL", "worker", 1)
    if point == ANYWHERE:
        world.owe(*(PLOTS[name] for name in matrix.new_plots(dialect)))
        yield _anywhere(world, matrix, dialect, mode, rng.uniform(0.0, 0.7))
    else:
        visit = 1 if _CALL.match(point) else rng.choice((1, 1, 1, 2))
        yield _run(world, matrix, dialect, point, sign, mode, visit)


def _anywhere(world: World, matrix: Matrix, dialect: str, mode: str, seconds: float) -> Step:
    plots, worker = world.live_plots(), world.worker(mode=mode)
    worker.is_ready()
    time.sleep(seconds)  # the moment is what is drawn, not something that is waited for
    worker.signal(signal.SIGKILL)
    code = world.ended(worker, -signal.SIGKILL, 0)
    matrix.saw(dialect, worker, plots)
    return Step(ANYWHERE, "KILL", mode, code != 0, code)


def _run(world: World, matrix: Matrix, dialect: str, point: str, sign: str, mode: str, visit: int) -> Step:
    number = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}.get(sign, signal.SIGTERM)
    plots, worker = world.live_plots(), world.worker(mode=mode, at=point, visit=visit, sign=number)
    hit = _end(world, worker, sign, mode, world.until_hit(worker))
    matrix.saw(dialect, worker, plots)
    return Step(point, sign, mode, hit, worker.wait())


def _end(world: World, worker: Child, sign: str, mode: str, hit: bool) -> bool:
    """What follows at the point, or where it was not reached; True where it was after all."""
    gently = (0, -signal.SIGTERM)  # killed by it: before signals are handled, or when all is done
    stopped = (*gently, 128 + signal.SIGTERM) if mode == "drain" else gently
    at_once = (*gently, 128 + signal.SIGTERM)
    if not hit and worker.is_ready():  # some points come with the end
        worker.signal(signal.SIGTERM)
    if sign == "KILL":
        code = world.ended(worker, -signal.SIGKILL, *(() if hit else stopped))
        return code == -signal.SIGKILL
    if sign == "STOP" and hit:
        world.sleep(worker, *stopped)
    elif sign == "TERM TERM":
        worker.signal(signal.SIGTERM)
        world.ended(worker, *at_once)
    else:
        end = time.monotonic() + PATIENCE
        while worker.read(0.05) and time.monotonic() < end:
            if sign == "STOP":
                worker.signal(signal.SIGCONT)
        world.ended(worker, *(stopped if hit else at_once))
    return any(line.startswith("at ") for line in worker.lines)
