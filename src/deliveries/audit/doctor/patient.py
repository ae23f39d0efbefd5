"""What all checks look at."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from sqlalchemy import Connection

from deliveries.store import backlog, queues, workers
from deliveries.store.backlog import Due
from deliveries.store.queues import Wanted
from deliveries.store.store import Store
from deliveries.store.workers import Worker


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One database, looked at by one connection."""

    store: Store
    connection: Connection
    channels: Collection[str]
    """Those that this program has adapters for."""
    late: float
    """Seconds."""
    long: float
    """Seconds."""

    @cached_property
    def now(self) -> datetime:
        """The present, by the clock that decides."""
        return self.store.now(self.connection)

    @cached_property
    def due(self) -> list[Due]:
        """What waits for a processor, by queue and channel."""
        return backlog.due(self.connection, self.now)

    @property
    def waiting(self) -> dict[str, Due]:
        """The same for each queue as a whole, under its oldest channel."""
        found: dict[str, Due] = {}
        for one in self.due:
            other = found.get(one.queue, Due(one.queue, one.channel, 0, one.oldest))
            first = min(one, other, key=lambda due: due.oldest)
            found[one.queue] = Due(one.queue, first.channel, one.number + other.number, first.oldest)
        return found

    @cached_property
    def workers(self) -> list[Worker]:
        """The rows of processors."""
        return workers.read(self.connection)

    @cached_property
    def wanted(self) -> dict[str, Wanted]:
        """Queue -> what is wanted of it."""
        return queues.read(self.connection)

    def serving(self, queue: str) -> list[Worker]:
        """The live workers of a queue."""
        return [one for one in self.workers if queue in one.queues and one.is_alive(self.now)]

    def age(self, at: datetime) -> float:
        """Seconds since then."""
        return (self.now - at).total_seconds()
