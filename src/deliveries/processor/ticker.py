"""Making the ticks of periodic entries, from a thread of its own.

Payload functions are user code, and the pump runs nobody's code but ours: one that hangs must not
keep outcomes from being written. If the thread dies with its process, another processor's makes the
tick: it is a key, so nobody needs to lead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from sqlalchemy import Engine

from deliveries.processor.watchdog import Watchdog
from deliveries.store.failures import cause

TROUBLE_SECONDS = 5.0
"""How long after an error nothing is tried."""

_log = logging.getLogger("deliveries")


class Looked(Protocol):
    """What a look at the timetable tells."""

    @property
    def errors(self) -> Mapping[str, BaseException]:
        """Entry's name -> why its ticks could not be made."""

    @property
    def wait(self) -> float:
        """Seconds until the next look."""


class Ticker:
    """Looks at the timetable for the length of a `with`."""

    def __init__(self, engine: Engine, look: Callable[[], Looked], lease: float) -> None:
        self._look = look
        self._watchdog = Watchdog(engine, lease)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deliveries-ticker", daemon=True)

    def __enter__(self) -> Self:
        self._watchdog.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self._watchdog.stop()

    def _run(self) -> None:
        with self._watchdog.watching():
            while not self._stopping.is_set():
                self._stopping.wait(self._turn())

    def _turn(self) -> float:
        """One look; returns the seconds until the next."""
        try:
            look = self._look()
        except BaseException as error:  # SystemExit of a payload function too: it must not end the thread
            _log.warning("the timetable was not looked at; trying again: %s", cause(error))
            return TROUBLE_SECONDS
        for name, problem in look.errors.items():
            _log.error("periodic %s: its tick was not made; trying again: %s", name, cause(problem))
        return max(look.wait, TROUBLE_SECONDS) if look.errors else look.wait
