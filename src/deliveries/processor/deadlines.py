"""Calls that take too long: the pump's own watch, since a thread cannot be interrupted.

A sync call that times out keeps its slot until it returns. Async calls time out on their loop; here
they get a second more, for the case that an adapter blocks the loop.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from deliveries.processor import ticks
from deliveries.processor.call import Call

LOOP_MARGIN_SECONDS = 1.0
"""What an async call may exceed its timeout before the pump decides without its loop."""


class Deadlines:
    """A heap of calls by the moment at which they are given up; those that began together are one entry."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, list[Call]]] = []
        self._order = itertools.count()
        self._held, self._room = 0, 64

    def add(self, calls: Sequence[Call]) -> None:
        """Watch these from now on."""
        self._make_room(len(calls))
        groups: dict[float, list[Call]] = {}
        for call in calls:
            groups.setdefault(_allowed(call), []).append(call)
        now = ticks.monotonic()
        for allowed, group in groups.items():
            self._push(now + allowed, group)

    def next(self) -> float:
        """When to look again, monotonic seconds; infinity without a call."""
        while self._heap and _are_over(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def passed(self) -> list[Call]:
        """The calls whose time is over and which have not come back."""
        passed = []
        now = ticks.monotonic()
        while self.next() <= now:
            for call in heapq.heappop(self._heap)[2]:
                if _is_over(call):
                    continue
                if not call.entered or call.entered_at + _allowed(call) > now:
                    self._push(max(call.entered_at + _allowed(call), now + 0.01), [call])
                else:
                    passed.append(call)
        return passed

    def _push(self, until: float, calls: list[Call]) -> None:
        heapq.heappush(self._heap, (until, next(self._order), calls))

    def _make_room(self, more: int) -> None:
        """Those that are over wait behind one that is not: forget them before they are too many."""
        self._held += more
        if self._held > self._room:
            left = [
                (at, order, [call for call in calls if not _is_over(call)]) for at, order, calls in self._heap
            ]
            self._heap = [entry for entry in left if entry[2]]
            heapq.heapify(self._heap)
            self._held = more + sum(len(calls) for _, _, calls in self._heap)
            self._room = 2 * self._held + 64


def _allowed(call: Call) -> float:
    return call.timeout + (LOOP_MARGIN_SECONDS if call.is_async else 0.0)


def _are_over(calls: list[Call]) -> bool:
    while calls and _is_over(calls[-1]):
        calls.pop()
    return not calls


def _is_over(call: Call) -> bool:
    return call.reported or call.returned
