"""Who works: the rows that processors write while they run. No part of the truth, and never rebuilt."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, select

from deliveries.store.schema import workers


class Worker(Struct, frozen=True, kw_only=True):
    """One processor that stays; a drain or a `perform` has no row."""

    name: str
    queues: tuple[str, ...]
    started_at: datetime
    seen_at: datetime
    """Written anew every third of its lease."""
    lease_seconds: float

    def is_alive(self, now: datetime) -> bool:
        """Whether it was seen within its lease; who was not has missed two beats and more."""
        return (now - self.seen_at).total_seconds() <= self.lease_seconds


def read(connection: Connection) -> list[Worker]:
    """All of them, by name."""
    return [
        Worker(
            name=row.worker,
            queues=tuple(row.queues.split()),
            started_at=row.started_at,
            seen_at=row.seen_at,
            lease_seconds=row.lease_seconds,
        )
        for row in connection.execute(select(workers).order_by(workers.c.worker))
    ]
