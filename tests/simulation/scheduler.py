"""A seeded scheduler: tasks take turns where they say so, on a clock that moves only when all wait.

A task is a greenlet: plain code that calls `pause`, `sleep` or waits for a `Signal`. Nothing else
switches, so a seed is a history. A process is a set of tasks that is stopped, or killed, together.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from greenlet import getcurrent, greenlet

NEVER = float("inf")


class Killed(BaseException):
    """The process of this task is dead: it may clean up, but reaches nothing any more."""


class Process:
    """What lives and dies together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.stopped_until = 0.0
        """It gets no turn before."""


class Task:
    """One thread of control."""

    __slots__ = ("greenlet", "process", "wake")

    def __init__(self, function: Callable[[], object], process: Process, wake: float) -> None:
        self.greenlet = greenlet(function)
        self.process, self.wake = process, wake


class Scheduler:
    """Times are seconds since the start of the history."""

    def __init__(self, seed: int | str) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.turns = 0
        self._tasks: list[Task] = []
        self._running: Task | None = None

    def spawn(self, function: Callable[[], object], process: Process, delay: float = 0.0) -> None:
        """Begin `function` as a task of `process`."""

        def live() -> None:
            try:
                if not process.dead:
                    function()
            except Killed:
                return

        self._tasks.append(Task(live, process, self.now + delay))

    # -- for tasks -----------------------------------------------------------------------------

    @property
    def process(self) -> Process | None:
        """Whose turn it is; None between turns."""
        return None if self._running is None else self._running.process

    def pause(self) -> None:
        """Let others have a turn."""
        self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        """Wait so long. Raises: Killed."""
        task = self._running
        assert task is not None, "only a task can wait"
        self.alive()
        task.wake = self.now + seconds
        getcurrent().parent.switch()
        self.alive()

    def alive(self) -> None:
        """Raises: Killed, where the running task's process is dead."""
        if self._running is not None and self._running.process.dead:
            raise Killed

    def kill(self, process: Process) -> None:
        """`process` gets no turn any more, and nothing that it still does reaches anybody."""
        process.dead = True

    # -- for the history -----------------------------------------------------------------------

    def run(self, limit: float) -> None:
        """Give turns until the clock says `limit`, or nobody waits for one."""
        while self.now < limit and self._turn(limit):
            pass

    def end(self) -> None:
        """Everybody dies."""
        for task in self._tasks:
            task.process.dead = True
        while self._tasks:
            self._bury(self._tasks.pop())

    def _turn(self, limit: float) -> bool:
        ready, first = [], NEVER
        for task in self._tasks:
            if task.process.dead:
                continue
            at = max(task.wake, task.process.stopped_until)
            if at <= self.now:
                ready.append(task)
            elif at < first:
                first = at
        if not ready:
            self.now = min(first, limit)
            return first < NEVER
        task = ready[0] if len(ready) == 1 else ready[int(self.random.random() * len(ready))]
        self.turns += 1
        self._running = task
        try:
            task.greenlet.switch()
        finally:
            self._running = None
        if task.greenlet.dead:
            self._tasks.remove(task)
        if task.process.dead:
            self._tasks = [one for one in self._tasks if not (one.process.dead and self._bury(one))]
        return True

    def _bury(self, task: Task) -> bool:
        """Let what holds resources give them back; it reaches nothing."""
        if task.greenlet:  # started, and not over
            self._running = task
            try:
                task.greenlet.throw(Killed)
            finally:
                self._running = None
        return True


class Signal:
    """A `threading.Event` for one task that waits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._set = False
        self._waiting: Task | None = None

    def set(self) -> None:
        self._set = True
        if self._waiting is not None:
            self._waiting.wake = self._scheduler.now

    def is_set(self) -> bool:
        return self._set

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float) -> bool:
        self._waiting = self._scheduler._running
        self._scheduler.sleep(0.0 if self._set else timeout)
        self._waiting = None
        return self._set
