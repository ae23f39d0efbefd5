"""Asks the tests about mutants: they are collected once, and forked for each mutant.

A mutant is asked about by the tests that execute what it changes: first those that killed its like,
then the quickest. The first that fails kills it. One on which a test does not come back is asked about
once more, alone and with more patience, before that counts.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from mutmut.mutation.trampoline import set_mutant_under_test

KILLED, SURVIVED, NO_TESTS, TIMEOUT = 1, 0, 33, 36
"""As mutmut writes them down."""

CPU_SECONDS = 120
"""For one mutant: an endless loop ends here."""


class Mutant(NamedTuple):
    """A change, and where it is."""

    name: str
    file: str
    lines: frozenset[int]

    @property
    def function(self) -> str:
        return self.name.partition("__mutmut_")[0]


class Trial(NamedTuple):
    """What became of one mutant."""

    mutant: Mutant
    verdict: int
    test: str = ""
    """Which killed it, or did not come back."""


@dataclass
class Test:
    """A test, and what it did while nothing was changed."""

    item: Any
    seconds: float
    lines: dict[str, set[int]]


@dataclass
class Child:
    """A process in which one mutant is alive."""

    mutant: Mutant
    pid: int
    test: str = ""
    since: float = field(default_factory=time.monotonic)


class Judge:
    """A pytest plugin: instead of running the tests once, runs some of them for each mutant."""

    def __init__(self, mutants: list[Mutant], tell: Callable[[Trial], None], children: int) -> None:
        self._mutants, self._tell, self._children = mutants, tell, children
        self._kills: dict[str, Counter[str]] = defaultdict(Counter)
        self.broken: list[str] = []
        """Tests that fail while nothing is changed: then nothing can be said."""

    @pytest.hookimpl
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._session = session
        self._home = Path(tempfile.mkdtemp(prefix="mutants-", dir=os.environ.get("TMPDIR")))
        try:
            set_mutant_under_test("")
            self._run(session.items[0])  # what a session sets up once is set up before all forks
            self._tests = self._look()
            if not self.broken:
                late = self._judge(self._mutants, self._children, patience=1)
                self._judge(late, children=1, patience=4)
        finally:
            shutil.rmtree(self._home, ignore_errors=True)
        return True

    def _run(self, item: Any, following: Any = None) -> bool:
        """Whether it passed. The fixtures of the session stay for `following`."""
        failed = self._session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following or self._session)
        return self._session.testsfailed == failed

    # -- what each test does ---------------------------------------------------------------------

    def _look(self) -> dict[str, Test]:
        """Run everything once, in a process of its own: how long, and through which lines."""
        seen = self._home / "seen.json"
        if (pid := os.fork()) == 0:
            self._alone(lambda: seen.write_text(json.dumps(self._observed())))
        os.waitpid(pid, 0)
        found, self.broken = json.loads(seen.read_text())
        return {
            item.nodeid: Test(item, seconds, {file: set(lines) for file, lines in by.items()})
            for item in self._session.items
            for seconds, by in [found[item.nodeid]]
        }

    def _observed(self) -> tuple[dict[str, tuple[float, dict[str, list[int]]]], list[str]]:
        files = {mutant.file for mutant in self._mutants}
        cover = coverage.Coverage(data_file=None, include=list(files), concurrency="thread")
        seconds, broken = {}, []
        with cover.collect():
            for item in self._session.items:
                cover.switch_context(item.nodeid)
                began = time.monotonic()
                if not self._run(item):
                    broken.append(item.nodeid)
                seconds[item.nodeid] = time.monotonic() - began
        by: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for file in files:
            for line, tests in cover.get_data().contexts_by_lineno(file).items():
                for test in tests:
                    by[test][file].append(line)
        return {test: (took, by[test]) for test, took in seconds.items()}, broken

    # -- what they say of a mutant -----------------------------------------------------------------

    def _judge(self, mutants: list[Mutant], children: int, patience: int) -> list[Mutant]:
        """Ask about each, so many at a time; returns on which to ask again."""
        waiting, running, late = mutants[::-1], dict[int, Child](), []
        while waiting or running:
            while waiting and len(running) < children:
                mutant = waiting.pop()
                if tests := self._asked(mutant):
                    running.update([self._start(mutant, tests)])
                else:
                    self._tell(Trial(mutant, NO_TESTS))
            ready, _, _ = select.select(list(running), [], [], 1.0)
            for pipe, child in list(running.items()):
                verdict = self._heard(pipe, child) if pipe in ready else None
                if verdict is None and time.monotonic() - child.since > patience * self._bearable(child.test):
                    verdict = TIMEOUT
                if verdict is not None:
                    del running[pipe]
                    trial = self._end(pipe, child, verdict)
                    if trial.verdict == TIMEOUT and patience == 1:
                        late.append(trial.mutant)
                    else:
                        self._tell(trial)
        return late

    def _asked(self, mutant: Mutant) -> list[Test]:
        kills = self._kills[mutant.function]
        able = [one for one in self._tests.values() if mutant.lines & one.lines.get(mutant.file, set())]
        return sorted(able, key=lambda test: (-kills[test.item.nodeid], test.seconds))

    def _bearable(self, test: str) -> float:
        """Seconds: the machine may be busy with other things."""
        return 20.0 + 20.0 * (self._tests[test].seconds if test else 0.0)

    def _start(self, mutant: Mutant, tests: list[Test]) -> tuple[int, Child]:
        listen, tell = os.pipe()
        if (pid := os.fork()) == 0:
            os.setsid()  # to be ended together with what it starts
            self._alone(lambda: self._survives(mutant, tests, tell))
        os.close(tell)
        return listen, Child(mutant, pid)

    def _survives(self, mutant: Mutant, tests: list[Test], tell: int) -> None:
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, used + CPU_SECONDS + 5))
        set_mutant_under_test(mutant.name)
        for test, following in zip(tests, [*tests[1:], None], strict=True):
            os.write(tell, f"{test.item.nodeid}\n".encode())
            if not self._run(test.item, following and following.item):
                os._exit(KILLED)

    def _alone(self, act: Callable[[], object]) -> None:
        """In a child: `act`, silently, with temporary files of its own; does not return."""
        try:
            silence = os.open(os.devnull, os.O_RDWR)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            own = self._home / str(os.getpid())
            own.mkdir()
            self._session.config._tmp_path_factory._basetemp = own  # type: ignore[attr-defined]  # it has no setter
            act()
        except BaseException:
            os._exit(KILLED)
        os._exit(SURVIVED)

    def _heard(self, pipe: int, child: Child) -> int | None:
        said = os.read(pipe, 65_536)
        if not said:
            return KILLED  # or whatever its exit says
        child.test, child.since = said.decode().splitlines()[-1], time.monotonic()
        return None

    def _end(self, pipe: int, child: Child, verdict: int) -> Trial:
        if verdict == TIMEOUT:
            os.killpg(child.pid, signal.SIGKILL)
        os.close(pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        if verdict == KILLED:
            verdict = {0: SURVIVED, -signal.SIGXCPU: TIMEOUT}.get(code, KILLED)
        if verdict == KILLED:
            self._kills[child.mutant.function][child.test] += 1
        shutil.rmtree(self._home / str(child.pid), ignore_errors=True)
        return Trial(child.mutant, verdict, "" if verdict == SURVIVED else child.test)
