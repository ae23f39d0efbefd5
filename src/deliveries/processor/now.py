"""The deciding clock's present, without asking for it each time."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError

from deliveries.processor import ticks
from deliveries.store.failures import is_passing
from deliveries.store.store import Store


class Now:
    """The database's time when it last told us, and what elapsed since by a clock that never jumps.

    So a worker whose wall clock is an hour off writes the same times as everybody else.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._base: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        """The present, UTC."""
        deciding = self._store.deciding_now
        if deciding is not None:
            return deciding
        base, at = self._base or (self.ask(), ticks.monotonic())
        return base + timedelta(seconds=ticks.monotonic() - at)

    def told(self, now: datetime) -> None:
        """The database has just said what time it is."""
        self._base = (now, ticks.monotonic())

    def ask(self) -> datetime:
        """Ask the database; once more where the connection had been cut, or somebody was in the way."""
        try:
            now = self._read()
        except DBAPIError as error:
            if not is_passing(error):
                raise
            now = self._read()
        self.told(now)
        return now

    def _read(self) -> datetime:
        with self._store.reading() as connection:
            return self._store.now(connection)
