"""What may start now and has not: by queue and channel, at a cost that no backlog raises."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, bindparam, text

from deliveries.store.schema import READY, Instant

SAMPLE = 1_000
"""Due deliveries that are looked at of each queue and priority, the oldest first."""

QUEUES = 1_000
"""Queues that are looked at."""

# From queue to queue by the index (queue, priority, READY), without reading what lies between.
_NEXT = "SELECT min(queue) FROM deliveries WHERE status = 'pending'"
_QUEUES = text(f"""
WITH RECURSIVE found(queue, number) AS (
  SELECT ({_NEXT}), 1
  UNION ALL
  SELECT ({_NEXT} AND queue > found.queue), found.number + 1
  FROM found WHERE found.queue IS NOT NULL AND found.number < {QUEUES})
SELECT queue FROM found WHERE queue IS NOT NULL
""")

# As a claim: priority by priority, each one range of that index, so that a backlog costs no more than this.
_DUE = (
    text(
        "SELECT channel, count(*) AS number, min(due_at) AS oldest FROM ("
        + " UNION ALL ".join(
            f"""
SELECT * FROM (SELECT channel, due_at FROM deliveries
  WHERE status = 'pending' AND queue = :queue AND priority = {priority} AND {READY} <= :now
  ORDER BY {READY} LIMIT {SAMPLE}) AS p{priority}"""
            for priority in range(10)
        )
        + ") AS due GROUP BY channel ORDER BY channel"
    )
    .bindparams(bindparam("now", type_=Instant()))
    .columns(oldest=Instant())
)


class Due(Struct, frozen=True):
    """What of one channel may start now in one queue, and has not."""

    queue: str
    channel: str
    number: int
    """Counted up to a sample."""
    oldest: datetime

    def __str__(self) -> str:
        more = " or more" if self.number >= SAMPLE else ""
        return f"{self.number}{more} due in queue {self.queue!r}"


def due(connection: Connection, now: datetime) -> list[Due]:
    """What waits for a processor, by queue and channel."""
    return [
        Due(queue, row.channel, row.number, row.oldest)
        for queue in connection.scalars(_QUEUES).all()
        for row in connection.execute(_DUE, {"queue": queue, "now": now})
    ]
