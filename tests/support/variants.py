"""Known-bad stores: each is a way in which an outcome of the past was written over the present.

They bring an event up to date with whatever the row holds now, where the store leaves it out because
the stream has moved on. They differ in what they ask before they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import structs
from sqlalchemy import Connection, select

from deliveries.core import codec
from deliveries.store.backend import Backend
from deliveries.store.rows import Write
from deliveries.store.schema import deliveries
from deliveries.store.store import BACKENDS

LIVE = ("pending", "attempting", "held")
"""The database itself refuses what follows an end; these stores never get so far."""


def by_id_alone(row: Any, write: Write) -> bool:
    """`UPDATE ... WHERE id = :id`."""
    return row.status in LIVE


def by_status_alone(row: Any, write: Write) -> bool:
    """`UPDATE ... WHERE id = :id AND status = 'attempting'`: whichever attempt that is."""
    return row.status == "attempting"


def by_lease_without_fence(row: Any, write: Write) -> bool:
    """Whoever is told to hold the lease may write: nobody asks which of its leases it was."""
    return row.status == "attempting" and row.lease_owner == _started_by(write)


VARIANTS: tuple[Callable[[Any, Write], bool], ...] = (by_id_alone, by_status_alone, by_lease_without_fence)


def variant(dialect: str, accepts: Callable[[Any, Write], bool]) -> Backend:
    """The dialect's backend, but for the fence: it writes what `accepts` lets through."""

    class Unfenced(BACKENDS[dialect]):  # type: ignore[misc]
        def append(self, connection: Connection, writes: Sequence[Write], now: datetime | None) -> set[UUID]:
            for write in writes:
                _STARTED_BY.update(_starts(write))
            ids = [write.change.after.id for write in writes]
            rows = {
                row.id: row for row in connection.execute(select(deliveries).where(deliveries.c.id.in_(ids)))
            }
            updated = [_on_top(write, rows[id], accepts) for id, write in zip(ids, writes, strict=True)]
            return super().append(connection, updated, now)

    return Unfenced()


_STARTED_BY: dict[tuple[UUID, int], str] = {}


def _starts(write: Write) -> dict[tuple[UUID, int], str]:
    after = write.change.after
    return {} if write.lease_owner is None else {(after.id, after.attempt): write.lease_owner}


def _started_by(write: Write) -> str | None:
    after = write.change.after
    return _STARTED_BY.get((after.id, after.attempt))


def _on_top(write: Write, row: Any, accepts: Callable[[Any, Write], bool]) -> Write:
    """`write`, as if it had been decided on what `row` holds."""
    change = write.change
    if change.after.version == row.version + 1 or not accepts(row, write):
        return write
    old, version = change.recorded, row.version + 1
    recorded_at = max(old.recorded_at, row.recorded_at)
    chained = codec.digest(row.digest, row.id, version, old.type, old.schema_version, recorded_at, old.body)
    recorded = structs.replace(old, version=version, recorded_at=recorded_at, digest=chained)
    after = structs.replace(change.after, version=version)
    return structs.replace(write, change=structs.replace(change, recorded=recorded, after=after))
