"""Calls that take too long: the pump's own watch, since a thread cannot be interrupted.

A sync call that times out keeps its slot until it returns. Async calls time out on their loop; here
they get a second more, for the case that an adapter blocks the loop.
"""

from __future__ import annotations

import heapq
import itertools

from deliveries.processor import ticks
from deliveries.processor.call import Call

LOOP_MARGIN_SECONDS = 1.0
"""What an async call may exceed its timeout before the pump decides without its loop."""


class Deadlines:
    """A heap of calls by the moment at which they are given up."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._room = 64

    def add(self, call: Call) -> None:
        """Watch `call` from now on."""
        self._push(call, ticks.monotonic())

    def next(self) -> float:
        """When to look again, monotonic seconds; infinity without a call."""
        while self._heap and _is_over(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def passed(self) -> list[Call]:
        """The calls whose time is over and which have not come back."""
        passed = []
        now = ticks.monotonic()
        while self.next() <= now:
            call = heapq.heappop(self._heap)[2]
            if not call.entered or call.entered_at + self._allowed(call) > now:
                self._push(call, max(call.entered_at, now - self._allowed(call) + 0.01))
            else:
                passed.append(call)
        return passed

    def _push(self, call: Call, since: float) -> None:
        if len(self._heap) >= self._room:  # those that are over wait behind one that is not: forget them
            self._heap = [entry for entry in self._heap if not _is_over(entry[2])]
            heapq.heapify(self._heap)
            self._room = 2 * len(self._heap) + 64
        heapq.heappush(self._heap, (since + self._allowed(call), next(self._order), call))

    @staticmethod
    def _allowed(call: Call) -> float:
        return call.timeout + (LOOP_MARGIN_SECONDS if call.is_async else 0.0)


def _is_over(call: Call) -> bool:
    return call.reported or call.returned
