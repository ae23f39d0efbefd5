"""Threads for adapters that block: few where calls are quick, as many as calls where they wait.

Calls stand in one queue. A thread for each would cost more than most calls do, in switches between
threads that only one can run at a time; a fixed number would let slow calls hold up the others. So a
pacer looks, every millisecond while calls stand in the queue, how fast it moves, and doubles the
threads until nobody waits for long. Threads are kept: the next batch finds them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from deliveries.processor.call import Call

TICK_SECONDS = 0.001
"""Between two looks at the queue."""

PATIENCE_TICKS = 20
"""A queue that will be empty in so many ticks, at the pace of the last one, needs no more threads."""


class Threads:
    """Daemon threads, made when needed and kept; one that is stuck keeps nobody from exiting."""

    def __init__(self, run: Callable[[Call], None], done: Callable[[Call], None]) -> None:
        self._run, self._done = run, done
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._waiting = threading.Event()
        self._size = self._taken = 0
        self._pacer: threading.Thread | None = None
        self._closed = False

    def submit(self, calls: Sequence[Call]) -> None:
        """Put these in the queue; they begin in this order."""
        for call in calls:
            self._calls.put(call)
        if self._pacer is None:
            self._grow(1)
            self._pacer = threading.Thread(target=self._pace, name="deliveries-pacer", daemon=True)
            self._pacer.start()
        self._waiting.set()

    def close(self) -> None:
        """Let idle threads end, and those that are being made meanwhile."""
        self._closed = True
        self._waiting.set()
        self._calls.put(None)

    def _grow(self, more: int) -> None:
        for _ in range(more):
            self._size += 1
            threading.Thread(target=self._work, name="deliveries-adapter", daemon=True).start()

    def _pace(self) -> None:
        """Add threads while the queue moves too slowly. Only this thread does so once it runs."""
        while self._waiting.wait() and not self._closed:
            self._waiting.clear()
            taken, pause = self._taken, threading.Event()
            while (left := self._calls.qsize()) and not self._closed:
                pause.wait(TICK_SECONDS)
                moved, taken = self._taken - taken, self._taken
                left = self._calls.qsize()
                if left > moved * PATIENCE_TICKS:
                    self._grow(min(left, self._size))

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return self._calls.put(None)  # for the next: nobody knows how many there are
            self._taken += 1  # two at once may count one: it is a pace, not an account
            self._run(call)
            self._done(call)
            del call  # an idle thread must not keep a payload alive
