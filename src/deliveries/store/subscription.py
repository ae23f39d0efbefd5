"""Following the log: what is there, then what comes, for as long as somebody reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eventsourcing import persistence as es

if TYPE_CHECKING:
    from deliveries.store.recorder import DeliveryRecorder

PAGE = 500
"""Events that a subscription reads at once."""

POLL_SECONDS = 0.5
"""How long a subscription that has read everything waits, unless it is woken."""


class LogSubscription(es.Subscription["DeliveryRecorder"]):
    """Every event once, in the order of the log; waits at the end for more.

    It reads rows and decodes none, so no event can end it. A database error is raised to whoever
    asks for the next event; asking again goes on where it stopped.
    """

    def __init__(self, recorder: DeliveryRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder, gt, topics)
        self._after = gt or 0
        self._read: deque[es.Notification] = deque()

    def stop(self) -> None:
        """End the iteration, in whatever thread it waits."""
        super().stop()
        self._recorder.wake()

    def __next__(self) -> es.Notification:
        while True:
            rung = self._recorder.bell.rung  # before the look, so that no ring in between is lost
            if self._has_been_stopped:
                raise StopIteration
            if not self._read and not self._look():
                self._recorder.bell.wait(rung, self._recorder.poll_seconds)
                continue
            return self._read.popleft()

    def _look(self) -> bool:
        found, self._after = self._recorder.page(self._after, PAGE, topics=self._topics)
        self._read.extend(found)
        return bool(found)
