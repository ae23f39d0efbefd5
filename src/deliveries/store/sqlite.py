"""The statements for SQLite.

One writer at a time, in a transaction that began IMMEDIATE: what a write transaction has read cannot
change before it commits, so a claim is a plain SELECT and the fence is a comparison. SQLite has no
clock of its own; the process's is the machine's, and comes in as `now`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, bindparam, text

from deliveries.core.codec import instant
from deliveries.store.rows import (
    CLAIM_COLUMNS,
    Birth,
    Claimed,
    Write,
    birth_values,
    claimed_of,
    write_values,
)
from deliveries.store.schema import READY, Instant, contents, deliveries, events, notes

_BINDS = {
    column.name: column.type for table in (notes, contents, events, deliveries) for column in table.c
} | {
    "now": Instant(),
    "cutoff": Instant(),
    "until": Instant(),
    "db_now": Instant(),
}


def _sql(statement: str) -> Any:
    """`text` whose parameters named like a column have that column's type."""
    clause = text(statement)
    return clause.bindparams(
        *(bindparam(name, type_=_BINDS[name]) for name in clause._bindparams if name in _BINDS)
    )


_IDS = "(SELECT value FROM json_each(:ids))"

INSERT_DELIVERY = _sql("""
INSERT INTO deliveries (id, version, status, channel, queue, priority, scheduled_at, due_at, expires_at,
  attempt, endings, interruptions, snoozes, tenant, key, tags, correlation_id, causation_id, root_id,
  max_attempts, recorded_at, digest)
VALUES (:id, :version, 'pending', :channel, :queue, :priority, :scheduled_at, :due_at, :expires_at,
  0, 0, 0, 0, :tenant, :key, :tags, :correlation_id, :causation_id, :root_id,
  :max_attempts, :recorded_at, :digest)
ON CONFLICT (tenant, key) WHERE key IS NOT NULL DO NOTHING
""")
INSERT_CONTENTS = _sql("""
INSERT INTO delivery_contents (delivery_id, recipient, payload, salt)
VALUES (:id, :recipient, :payload, :salt)
""")
INSERT_EVENT = _sql("""
INSERT INTO delivery_events (delivery_id, version, type, schema_version, recorded_at, body, digest)
VALUES (:id, :version, :type, :schema_version, :recorded_at, :body, :digest)
""")
INSERT_NOTE = _sql("""
INSERT INTO delivery_notes (delivery_id, version, text, salt) VALUES (:id, :version, :note, :salt)
""")
PRESENT = _sql(f"SELECT id FROM deliveries WHERE id IN {_IDS}").columns(id=deliveries.c.id.type)
VERSIONS = _sql(f"SELECT id, version FROM deliveries WHERE id IN {_IDS}").columns(id=deliveries.c.id.type)

_LIST = ", ".join(f"{column.table.name}.{column.name}" for column in CLAIM_COLUMNS)
_TYPES = {column.name: column.type for column in CLAIM_COLUMNS}
_FROM = "FROM deliveries LEFT JOIN delivery_contents ON delivery_contents.delivery_id = deliveries.id"

# Priority by priority, each one range of the index (queue, priority, READY); the arms of a UNION ALL
# are run one after the other, only until the outer LIMIT is reached.
CLAIM = _sql(
    " UNION ALL ".join(
        f"""
SELECT * FROM (SELECT {_LIST} {_FROM}
  WHERE deliveries.status = 'pending' AND deliveries.queue = :queue AND deliveries.priority = {priority}
    AND {READY} <= :cutoff
    AND deliveries.channel IN (SELECT value FROM json_each(:channels))
  ORDER BY {READY} LIMIT :limit)"""
        for priority in range(10)
    )
    + " LIMIT :limit"
).columns(**_TYPES)

UPDATE = _sql("""
UPDATE deliveries SET version = :version, status = :status, due_at = :due_at, attempt = :attempt,
  endings = :endings, interruptions = :interruptions, snoozes = :snoozes,
  cancel_requested = :cancel_requested, recorded_at = :recorded_at, digest = :digest,
  lease_owner = CASE WHEN :status = 'attempting' THEN coalesce(:lease_owner, lease_owner) END,
  lease_until = CASE WHEN :status = 'attempting' THEN coalesce(:lease_until, lease_until) END,
  lookup_at = :lookup_at, lookups = CASE WHEN :status = 'held' THEN 0 ELSE lookups END
WHERE id = :id
""")
EXPIRED = _sql("""
SELECT id FROM (SELECT id FROM deliveries WHERE lease_until <= :now AND status = 'attempting'
  ORDER BY lease_until LIMIT :limit)
UNION ALL
SELECT id FROM (SELECT id FROM deliveries WHERE status = 'pending' AND expires_at <= :now
    AND (lease_until IS NULL OR lease_until <= :now)
  ORDER BY expires_at LIMIT :limit)
""").columns(id=deliveries.c.id.type)
LOOKUPS = _sql(f"""
SELECT {_LIST} {_FROM}
WHERE deliveries.lookup_at <= :now AND deliveries.status = 'held'
  AND deliveries.channel IN (SELECT value FROM json_each(:channels))
ORDER BY deliveries.lookup_at LIMIT :limit
""").columns(**_TYPES)
LEASE_LOOKUP = _sql("UPDATE deliveries SET lookup_at = :lookup_at, lookups = lookups + 1 WHERE id = :id")
NEXT_LOOKUP = _sql("""
UPDATE deliveries SET lookup_at = :lookup_at
WHERE id = :id AND status = 'held' AND lookups = coalesce(:asked, lookups)
""")
RENEW = _sql("""
UPDATE deliveries SET lease_until = max(lease_until, :until)
WHERE id = :id AND lease_owner = :owner AND status = 'attempting'
""")
OWNED = _sql(
    f"SELECT id FROM deliveries WHERE lease_owner = :owner AND status = 'attempting' AND id IN {_IDS}"
).columns(id=deliveries.c.id.type)
LAST_POSITION = _sql("SELECT coalesce(max(position), 0) FROM delivery_events")


class SQLite:
    """`Backend` for SQLite; every method wants a transaction that began IMMEDIATE."""

    def schedule(self, connection: Connection, births: Sequence[Birth], now: datetime | None) -> set[UUID]:
        rows = [birth_values(birth) for birth in births]
        for row in rows:
            row["due_at"] = row["due_at"] or now
        inserted = connection.execute(INSERT_DELIVERY, rows).rowcount
        ids = {row["id"] for row in rows}
        created = ids if inserted == len(rows) else set()
        if 0 < inserted < len(rows):
            created = set(connection.scalars(PRESENT, {"ids": _json(ids)}))
        if created:
            rows = [row for row in rows if row["id"] in created]
            connection.execute(INSERT_CONTENTS, rows)
            connection.execute(INSERT_EVENT, rows)
        return created

    def claim(
        self,
        connection: Connection,
        queue: str,
        channels: Sequence[str],
        limit: int,
        now: datetime | None,
        cutoff: datetime | None,
    ) -> list[Claimed]:
        at = _given(now)
        values = {
            "queue": queue,
            "channels": msgspec.json.encode(channels).decode(),
            "limit": limit,
            "cutoff": at if cutoff is None else min(cutoff, at),
        }
        return [claimed_of(row, at) for row in connection.execute(CLAIM, values)]

    def lock(self, connection: Connection, ids: Sequence[UUID], skip_locked: bool) -> dict[UUID, datetime]:
        rows = connection.scalars(PRESENT, {"ids": _json(ids)})
        return dict.fromkeys(rows, instant(0))

    def append(self, connection: Connection, writes: Sequence[Write], now: datetime | None) -> set[UUID]:
        at = _given(now)
        ids = [write.change.after.id for write in writes]
        versions = {row.id: row.version for row in connection.execute(VERSIONS, {"ids": _json(ids)})}
        rows = []
        for write in writes:
            row = write_values(write)
            if versions.get(row["id"]) == row["version"] - 1:
                del versions[row["id"]]  # one event for a delivery; the next was decided from a state to come
                row["lease_until"] = _after(at, row["lease_seconds"])
                row["lookup_at"] = _after(at, row["lookup_seconds"])
                rows.append(row)
        if not rows:
            return set()
        connection.execute(UPDATE, rows)
        connection.execute(INSERT_EVENT, rows)
        if noted := [row for row in rows if row["note"] is not None]:
            connection.execute(INSERT_NOTE, noted)
        return {row["id"] for row in rows}

    def expired(self, connection: Connection, limit: int, now: datetime | None) -> list[UUID]:
        return list(connection.scalars(EXPIRED, {"limit": limit, "now": _given(now)}))

    def claim_lookups(
        self,
        connection: Connection,
        channels: Sequence[str],
        limit: int,
        lease: float,
        now: datetime | None,
    ) -> list[Claimed]:
        at = _given(now)
        values = {
            "channels": msgspec.json.encode(channels).decode(),
            "limit": limit,
            "now": at,
        }
        found = [claimed_of(row, at) for row in connection.execute(LOOKUPS, values)]
        until = _after(at, lease)
        if found:
            leased = [{"id": claimed.id, "lookup_at": until} for claimed in found]
            connection.execute(LEASE_LOOKUP, leased)
        return [msgspec.structs.replace(one, lookups=one.lookups + 1) for one in found]

    def next_lookup(
        self,
        connection: Connection,
        id: UUID,
        seconds: float | None,
        now: datetime | None,
        asked: int | None = None,
    ) -> None:
        values = {"id": id, "lookup_at": _after(_given(now), seconds), "asked": asked}
        connection.execute(NEXT_LOOKUP, values)

    def renew(
        self,
        connection: Connection,
        owner: str,
        ids: Sequence[UUID],
        seconds: Sequence[float],
        now: datetime | None,
    ) -> set[UUID]:
        at = _given(now)
        connection.execute(
            RENEW,
            [
                {"id": id, "owner": owner, "until": _after(at, wait)}
                for id, wait in zip(ids, seconds, strict=True)
            ],
        )
        return set(connection.scalars(OWNED, {"owner": owner, "ids": _json(ids)}))

    def safe_position(self, connection: Connection) -> int:
        return int(connection.scalar(LAST_POSITION) or 0)  # writers are serial: order is commit order


def _given(now: datetime | None) -> datetime:
    assert now is not None, "SQLite has no clock of its own"
    return now


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def _json(ids: Iterable[UUID]) -> str:
    return msgspec.json.encode([id.hex for id in ids]).decode()
