"""A reader at the heels of all writers: one subscription, asked again after every error."""

from __future__ import annotations

import threading
from typing import Self

from eventsourcing import persistence as es

from deliveries import Deliveries

RETRY_SECONDS = 0.05


class Tail(threading.Thread):
    """Follows the log from its beginning, for the length of a `with`."""

    def __init__(self, url: str) -> None:
        super().__init__(name="tail", daemon=True)
        self.app = Deliveries(url)
        self.seen: list[int] = []
        """The positions, in the order in which they came."""
        self.errors = 0
        self.problem: BaseException | None = None
        self._stopping = threading.Event()
        self._subscription = self.app.event_log.subscribe()

    def run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self.problem = error

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                for _, tracking in self._subscription:
                    self.seen.append(tracking.notification_id)
            except es.PersistenceError:
                self.errors += 1
                self._stopping.wait(RETRY_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End, in whatever it waits. Raises what has ended it before."""
        self._stopping.set()
        self._subscription.stop()
        self.join(20.0)
        self.app.close()
        if self.problem is not None:
            raise self.problem
