"""What a database must be able to do for the store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from sqlalchemy import Connection

from deliveries.store.rows import Birth, Claimed, Ready, Write


class Backend(Protocol):
    """The statements whose form depends on the database: all writes, and what takes locks.

    `now` is None where the database's own clock counts, and an instant where the caller has a clock
    of authority (always on SQLite; in tests).
    """

    def ready(self, births: Sequence[Birth]) -> Ready:
        """What can be done of their scheduling before it, and without a connection."""

    def schedule(self, connection: Connection, ready: Ready, now: datetime | None) -> set[UUID]:
        """Insert deliveries whose key is free; returns the ids of those. One statement per chunk."""

    def claim(
        self,
        connection: Connection,
        queue: str,
        channels: Sequence[str],
        limit: int,
        now: datetime | None,
        cutoff: datetime | None,
        floors: Sequence[datetime | None] | None = None,
    ) -> list[Claimed]:
        """Lock up to `limit` due deliveries, the most urgent first, skipping locked ones.

        `floors`: by priority, a time before which nothing need be looked for.
        """

    def lock(self, connection: Connection, ids: Sequence[UUID], skip_locked: bool) -> dict[UUID, datetime]:
        """Lock these rows; id -> the database's now. `skip_locked` leaves out those that others hold."""

    def append(self, connection: Connection, writes: Sequence[Write], now: datetime | None) -> set[UUID]:
        """Append events whose stream still is at the version before; returns the ids that were.

        A row that another transaction holds, or that moved on, is left out and changes nothing.
        """

    def expired(self, connection: Connection, limit: int, now: datetime | None) -> list[UUID]:
        """Lock up to `limit` deliveries whose lease or deadline has passed, skipping locked ones."""

    def claim_lookups(
        self,
        connection: Connection,
        channels: Sequence[str],
        limit: int,
        lease: float,
        now: datetime | None,
    ) -> list[Claimed]:
        """Held deliveries whose lookup is due; nobody else gets them for `lease` seconds."""

    def next_lookup(
        self,
        connection: Connection,
        id: UUID,
        seconds: float | None,
        now: datetime | None,
        asked: int | None = None,
    ) -> None:
        """Ask again in `seconds`; None: never, a person must tell.

        Does nothing unless the question asked last was number `asked` (None: whichever it was).
        """

    def renew(
        self,
        connection: Connection,
        owner: str,
        ids: Sequence[UUID],
        seconds: Sequence[float],
        now: datetime | None,
    ) -> set[UUID]:
        """Move the leases of `owner` on, skipping locked rows; returns the ids still held."""

    def safe_position(self, connection: Connection) -> int:
        """Up to here the event log is complete: no transaction still open can write at or below it."""
