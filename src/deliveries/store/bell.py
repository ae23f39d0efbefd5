"""A wake-up inside this process."""

from __future__ import annotations

import threading


class Bell:
    """A hint only: whoever waits looks again after a while anyway."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.rung = 0

    def ring(self) -> None:
        """Wake all that wait."""
        with self._condition:
            self.rung += 1
            self._condition.notify_all()

    def wait(self, rung: int, seconds: float) -> None:
        """Wait until it has been rung more than `rung` times, `seconds` at most."""
        with self._condition:
            self._condition.wait_for(lambda: self.rung != rung, seconds)
