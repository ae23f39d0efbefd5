"""Adapters that say what a test tells them to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any

from deliveries.core.delivery import Attempt, Delivery
from deliveries.core.outcomes import Outcome
from deliveries.testing.clock import VirtualClock
from deliveries.testing.performing import Crash


class Fate(Enum):
    """What may become of a call beside an answer."""

    TIMEOUT = "timeout"
    """The call takes all the time that it may, by the virtual clock, and longer."""
    CRASH = "crash"
    """The process dies in the call: nobody reports it, and its lease runs out."""


class Script:
    """An adapter that says one thing a call, in order, and `then` ever after.

    An outcome or any other value is returned, an exception (or its class) is raised, a function is
    called with (delivery, attempt) and answers; a `Fate` befalls the call. `calls` has the
    (delivery, attempt) of every call, in order.
    """

    def __init__(self, clock: VirtualClock, says: Iterable[Any], then: Any = None) -> None:
        self.calls: list[tuple[Delivery, Attempt]] = []
        self._clock, self._left, self._then = clock, deque(says), then
        self._lock = threading.Lock()

    def __call__(self, delivery: Delivery, attempt: Attempt) -> Any:
        """Say the next thing."""
        with self._lock:
            self.calls.append((delivery, attempt))
            said = self._left.popleft() if self._left else self._then
        if said is Fate.CRASH:
            raise Crash
        if said is Fate.TIMEOUT:
            self._clock.advance(attempt.timeout)
            return None
        if isinstance(said, Outcome):
            return said
        if isinstance(said, BaseException) or (isinstance(said, type) and issubclass(said, BaseException)):
            raise said
        return said(delivery, attempt) if callable(said) else said

    @property
    def left(self) -> int:
        """How many things it has not said yet."""
        return len(self._left)
