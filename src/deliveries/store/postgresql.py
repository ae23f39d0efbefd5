"""The statements for PostgreSQL 14 and newer.

Many rows travel in one statement as arrays through `unnest`, so that a batch of 500 costs one round
trip and one plan. Casts are spelled out: the same text must do for psycopg and asyncpg.

`statement_timestamp()` is the clock: stable within a statement (so an index can use it) and not
frozen at the start of the caller's transaction, as `now()` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from deliveries.errors import StandbyReader
from deliveries.store.ddl import SHIFT
from deliveries.store.rows import (
    CLAIM_COLUMNS,
    Birth,
    Claimed,
    Write,
    birth_values,
    claimed_of,
    write_values,
)
from deliveries.store.schema import READY, Instant

NOW = "coalesce(CAST(:now AS timestamptz), statement_timestamp())"

CHUNK = 2_000
"""Rows per scheduling statement."""


def _unnest(columns: dict[str, str]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    return f"unnest({arrays}) AS u({', '.join(columns)})"


_EVENT = {
    "id": "uuid",
    "version": "int",
    "type": "text",
    "schema_version": "int",
    "recorded_at": "timestamptz",
    "body": "bytea",
    "digest": "bytea",
}
_BIRTH = _EVENT | {
    "channel": "text",
    "queue": "text",
    "priority": "int",
    "scheduled_at": "timestamptz",
    "due_at": "timestamptz",
    "expires_at": "timestamptz",
    "tenant": "text",
    "key": "text",
    "tags": "text",
    "correlation_id": "text",
    "causation_id": "text",
    "root_id": "uuid",
    "max_attempts": "int",
    "recipient": "text",
    "payload": "text",
    "salt": "bytea",
}

# One statement for one delivery or thousands. Who finds the key taken inserts nothing: the unique
# index makes a concurrent caller of the same key wait for the other's end, and nobody else.
SCHEDULE = text(f"""
WITH u AS MATERIALIZED (SELECT * FROM {_unnest(_BIRTH)}),
d AS (
  INSERT INTO deliveries (id, version, status, channel, queue, priority, scheduled_at, due_at,
    expires_at, attempt, endings, interruptions, snoozes, tenant, key, tags, correlation_id,
    causation_id, root_id, max_attempts, recorded_at, digest)
  SELECT id, version, 'pending', channel, queue, priority, scheduled_at,
    coalesce(due_at, {NOW}), expires_at, 0, 0, 0, 0, tenant, key, tags, correlation_id,
    causation_id, root_id, max_attempts, recorded_at, digest
  FROM u ON CONFLICT (tenant, key) WHERE key IS NOT NULL DO NOTHING RETURNING id),
c AS (
  INSERT INTO delivery_contents (delivery_id, recipient, payload, salt)
  SELECT id, recipient, payload, salt FROM u JOIN d USING (id)),
e AS (
  INSERT INTO delivery_events (delivery_id, version, type, schema_version, recorded_at, body, digest)
  SELECT id, version, type, schema_version, recorded_at, body, digest
  FROM u JOIN d USING (id) ORDER BY id)
SELECT id FROM d
""")

# Priority by priority, so that each is one range of the index (queue, priority, READY): a million
# deliveries of tomorrow in priority 0 are never walked to find one of today in priority 1. The
# inner LIMITs keep the planner from joining the whole of delivery_contents.
_CLAIM_LIST = ", ".join(
    f"c.{column.name}" if column.table.name == "delivery_contents" else f"d.{column.name}"
    for column in CLAIM_COLUMNS
)
_CONTENTS = """LEFT JOIN LATERAL (
  SELECT recipient, payload FROM delivery_contents WHERE delivery_id = d.id LIMIT 1) c ON true"""
_CLAIM_TYPES = {column.name: column.type for column in CLAIM_COLUMNS}


def _claiming(sql: str) -> Any:
    return text(sql).columns(**_CLAIM_TYPES, db_now=Instant())


CLAIM = _claiming(f"""
SELECT {_CLAIM_LIST}, {NOW} AS db_now
FROM generate_series(0, 9) AS p(priority) CROSS JOIN LATERAL (
  SELECT * FROM deliveries d
  WHERE d.status = 'pending' AND d.queue = :queue AND d.priority = p.priority
    AND {READY} <= least(CAST(:cutoff AS timestamptz), {NOW})
    AND d.channel = ANY(CAST(:channels AS text[]))
  ORDER BY {READY} LIMIT :limit FOR UPDATE SKIP LOCKED) d
{_CONTENTS}
LIMIT :limit
""")

LOCK = text("""
SELECT id, statement_timestamp() AS db_now FROM deliveries
WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
""")
LOCK_SKIPPING = text(str(LOCK.text) + " SKIP LOCKED")

_WRITE = _EVENT | {
    "status": "text",
    "due_at": "timestamptz",
    "attempt": "int",
    "endings": "int",
    "interruptions": "int",
    "snoozes": "int",
    "cancel_requested": "text",
    "lease_owner": "text",
    "lease_seconds": "float8",
    "lookup_seconds": "float8",
    "note": "text",
    "salt": "bytea",
}

# The fence. A row is taken only if its stream still is where the event was decided, and only if
# nobody holds it: an operator's open cancel of one delivery must not stall the other 499. Row,
# event and note are one statement, so no interleaving can write one without the others. Of several
# events for one delivery the lowest version counts: the next one was decided from a state to come.
# Each step hands all columns on to the next. The planner thinks that the version check leaves one
# row, and joining back to `u` became a nested loop of 1,000 times 1,000 (measured: 160 ms a batch, not 30).
_EVENT_LIST = ", ".join(_EVENT)
APPEND = text(f"""
WITH u AS MATERIALIZED (
  SELECT DISTINCT ON (id) * FROM {_unnest(_WRITE)} ORDER BY id, version),
locked AS (
  SELECT u.* FROM u JOIN deliveries d ON d.id = u.id
  WHERE d.version = u.version - 1 FOR UPDATE OF d SKIP LOCKED),
changed AS (
  UPDATE deliveries d SET version = u.version, status = u.status, due_at = u.due_at,
    attempt = u.attempt, endings = u.endings, interruptions = u.interruptions,
    snoozes = u.snoozes, cancel_requested = u.cancel_requested,
    recorded_at = u.recorded_at, digest = u.digest,
    lease_owner = CASE WHEN u.status = 'attempting' THEN coalesce(u.lease_owner, d.lease_owner) END,
    lease_until = CASE WHEN u.status = 'attempting'
      THEN coalesce({NOW} + make_interval(secs => u.lease_seconds), d.lease_until) END,
    lookup_at = {NOW} + make_interval(secs => u.lookup_seconds),
    lookups = CASE WHEN u.status = 'held' THEN 0 ELSE d.lookups END
  FROM locked u WHERE d.id = u.id RETURNING u.*),
e AS (
  INSERT INTO delivery_events (delivery_id, {_EVENT_LIST.removeprefix("id, ")})
  SELECT {_EVENT_LIST} FROM changed),
n AS (
  INSERT INTO delivery_notes (delivery_id, version, text, salt)
  SELECT id, version, note, salt FROM changed WHERE note IS NOT NULL)
SELECT id FROM changed
""")

EXPIRED = text(f"""
SELECT id FROM deliveries WHERE status = 'attempting' AND lease_until <= {NOW}
ORDER BY lease_until LIMIT :limit FOR UPDATE SKIP LOCKED
""")
PAST_DEADLINE = text(f"""
SELECT id FROM deliveries WHERE status = 'pending' AND expires_at <= {NOW}
    AND (lease_until IS NULL OR lease_until <= {NOW})
ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
""")

# Asking is no event: it decides nothing until it answers. `lookup_at` is its lease too: whoever asks
# moves it on, so that nobody else asks meanwhile and somebody does if this worker dies.
CLAIM_LOOKUPS = _claiming(f"""
WITH due AS (
  SELECT id FROM deliveries
  WHERE lookup_at <= {NOW} AND status = 'held' AND channel = ANY(CAST(:channels AS text[]))
  ORDER BY lookup_at LIMIT :limit FOR UPDATE SKIP LOCKED),
d AS (
  UPDATE deliveries SET lookups = lookups + 1, lookup_at = {NOW} + make_interval(secs => :lease)
  WHERE id IN (SELECT id FROM due) RETURNING *)
SELECT {_CLAIM_LIST}, {NOW} AS db_now FROM d {_CONTENTS}
""")

NEXT_LOOKUP = text(f"""
UPDATE deliveries SET lookup_at = {NOW} + make_interval(secs => CAST(:seconds AS float8))
WHERE id = CAST(:id AS uuid) AND status = 'held'
  AND lookups = coalesce(CAST(:asked AS int), lookups)
""")

RENEW = text(f"""
WITH u AS MATERIALIZED (SELECT * FROM {_unnest({"id": "uuid", "seconds": "float8"})}),
mine AS (
  SELECT u.* FROM u JOIN deliveries d ON d.id = u.id
  WHERE d.lease_owner = :owner AND d.status = 'attempting' FOR UPDATE OF d SKIP LOCKED)
UPDATE deliveries d SET lease_until = greatest(d.lease_until, {NOW} + make_interval(secs => u.seconds))
FROM mine u WHERE d.id = u.id RETURNING d.id
""")

# Three statements, each with a snapshot of its own, in this order: a transaction that announces
# after the second draws positions above what the first has read; one that ended before the
# second is visible to whatever reads next.
LAST_POSITION = text("""
SELECT pg_is_in_recovery(), coalesce(pg_sequence_last_value(
  pg_get_serial_sequence('delivery_events', 'position')::regclass), 0)
""")
LOWEST_ANNOUNCED = text(f"""
SELECT min(CAST(objid AS bigint) << {SHIFT}) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND classid = CAST('delivery_events' AS regclass)::oid
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")


class PostgreSQL:
    """`Backend` for PostgreSQL."""

    def schedule(self, connection: Connection, births: Sequence[Birth], now: datetime | None) -> set[UUID]:
        created: set[UUID] = set()
        # by key, so that two batches of the same keys wait for each other and never cross
        ordered = sorted(births, key=lambda birth: (birth.scheduled.tenant, birth.scheduled.key or ""))
        for start in range(0, len(ordered), CHUNK):
            arrays = _arrays(_BIRTH, [birth_values(birth) for birth in ordered[start : start + CHUNK]])
            created.update(connection.scalars(SCHEDULE, {**arrays, "now": now}))
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
        rows = connection.execute(
            CLAIM,
            {
                "queue": queue,
                "channels": list(channels),
                "limit": limit,
                "now": now,
                "cutoff": cutoff,
            },
        )
        return [claimed_of(row, row.db_now) for row in rows]

    def lock(self, connection: Connection, ids: Sequence[UUID], skip_locked: bool) -> dict[UUID, datetime]:
        rows = connection.execute(LOCK_SKIPPING if skip_locked else LOCK, {"ids": list(ids)})
        return {row.id: row.db_now for row in rows}

    def append(self, connection: Connection, writes: Sequence[Write], now: datetime | None) -> set[UUID]:
        arrays = _arrays(_WRITE, [write_values(write) for write in writes])
        return set(connection.scalars(APPEND, {**arrays, "now": now}))

    def expired(self, connection: Connection, limit: int, now: datetime | None) -> list[UUID]:
        found: list[UUID] = []
        for statement in (EXPIRED, PAST_DEADLINE):
            found += connection.scalars(statement, {"limit": limit, "now": now})
        return found

    def claim_lookups(
        self,
        connection: Connection,
        channels: Sequence[str],
        limit: int,
        lease: float,
        now: datetime | None,
    ) -> list[Claimed]:
        values = {"channels": list(channels), "limit": limit, "lease": lease, "now": now}
        return [claimed_of(row, row.db_now) for row in connection.execute(CLAIM_LOOKUPS, values)]

    def next_lookup(
        self,
        connection: Connection,
        id: UUID,
        seconds: float | None,
        now: datetime | None,
        asked: int | None = None,
    ) -> None:
        values = {"id": id, "seconds": seconds, "now": now, "asked": asked}
        connection.execute(NEXT_LOOKUP, values)

    def renew(
        self,
        connection: Connection,
        owner: str,
        ids: Sequence[UUID],
        seconds: Sequence[float],
        now: datetime | None,
    ) -> set[UUID]:
        values = {"id": list(ids), "seconds": list(seconds), "owner": owner, "now": now}
        return set(connection.scalars(RENEW, values))

    def safe_position(self, connection: Connection) -> int:
        standby, last = connection.execute(LAST_POSITION).one()
        if standby:
            raise StandbyReader("the event log cannot be read on a hot standby: read the primary")
        announced = connection.scalar(LOWEST_ANNOUNCED)
        return int(last) if announced is None else min(int(last), int(announced))


def _arrays(columns: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in columns}
