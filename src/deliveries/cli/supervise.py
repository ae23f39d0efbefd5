"""A processor, and the signals that end it. Only the command handles signals; the library never does.

The processor works in a thread of its own while the main thread waits, since Python runs signal
handlers in the main thread between any two steps: a handler that interrupted the processor inside
one of its locks and then called `stop`, which takes that lock, would wait for itself for ever.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from deliveries.processor.processor import Processor

LAST_SECONDS = 3.0
"""What a second signal leaves to the processor for giving back what it holds."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def supervise(processor: Processor, *, until_idle: bool, ready: Callable[[], None] | None = None) -> int:
    """Run `processor` until it is idle, or signalled; returns the exit code.

    `ready` is called once signals are handled: who reads that we started may stop us at once.

    The first signal stops it gracefully: 0, or 128 + n where it was to run until idle. A second one
    ends the process with 128 + n, whatever still runs. Raises: what ended the processor.
    """
    work = _Work(processor, until_idle)
    with _handled(work):
        if ready is not None:
            ready()
        work.start()
        while work.is_alive():
            work.join(0.5)  # a signal may go to another thread, as right after SIGCONT: look again soon
        if len(work.signals) > 1:
            work.leave()
    if work.error is not None:
        raise work.error
    return 128 + work.signals[0] if work.signals and until_idle else 0


class _Work(threading.Thread):
    """The processor's thread: a daemon, so that it can be left behind."""

    def __init__(self, processor: Processor, until_idle: bool) -> None:
        super().__init__(name="deliveries-processor", daemon=True)
        self._processor, self._until_idle = processor, until_idle
        self.error: BaseException | None = None
        self.signals: list[int] = []

    def run(self) -> None:
        try:
            self._processor.run(until_idle=self._until_idle)
        except BaseException as error:
            self.error = error

    def signalled(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, at any moment: no logging and no buffered writing here."""
        self.signals.append(number)
        if len(self.signals) == 1:
            self._processor.stop()
            os.write(2, b"deliveries: stopping once running calls are done; a second signal stops at once\n")
        elif len(self.signals) == 2:
            self._processor.stop(0)
            threading.Thread(target=self._leave_soon, daemon=True).start()
        else:
            self.leave()

    def leave(self) -> None:
        """End the process: no thread that hangs and no `atexit` function delays it."""
        os.write(2, b"deliveries: stopped at once; what was running is taken up when its lease ends\n")
        os._exit(128 + self.signals[1])

    def _leave_soon(self) -> None:
        self.join(LAST_SECONDS)
        if self.is_alive():  # or else the main thread, which waits for it too, leaves
            self.leave()


@contextmanager
def _handled(work: _Work) -> Iterator[None]:
    before = {number: signal.signal(number, work.signalled) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
