"""The statements for PostgreSQL 14 and newer.

Many rows travel in one statement as arrays through `unnest`, so that a batch of 500 costs one round
trip and one plan. Casts are spelled out: the same text must do for psycopg and asyncpg.

`statement_timestamp()` is the clock: stable within a statement (so an index can use it) and not
frozen at the start of the caller's transaction, as `now()` is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Connection, text

from deliveries.core import codec
from deliveries.errors import StandbyReader
from deliveries.store.arrays import Rows, literal
from deliveries.store.ddl import SHIFT
from deliveries.store.rows import (
    BIRTH_COLUMNS,
    CLAIM_COLUMNS,
    EVENT_COLUMNS,
    WRITE_COLUMNS,
    Birth,
    Claimed,
    Ready,
    Write,
    birth_row,
    claimed_of,
    ids_of,
    write_row,
)
from deliveries.store.schema import READY, Instant
from deliveries.store.statement import Result, Statement

NOW = "coalesce(CAST(:now AS timestamptz), statement_timestamp())"

CHUNK = 2_000
"""Rows per scheduling statement."""

_KINDS = {
    **dict.fromkeys(("id", "root_id"), "uuid"),
    **dict.fromkeys(("version", "schema_version", "priority", "max_attempts"), "int"),
    **dict.fromkeys(("attempt", "endings", "interruptions", "snoozes"), "int"),
    **dict.fromkeys(("recorded_at", "scheduled_at", "due_at", "expires_at"), "timestamptz"),
    **dict.fromkeys(("body", "digest", "salt"), "bytea"),
    **dict.fromkeys(("lease_seconds", "lookup_seconds"), "float8"),
}
"""Column -> type, where it is not a text."""


def _kinds(columns: Sequence[str]) -> dict[str, str]:
    return {name: _KINDS.get(name, "text") for name in columns}


# One statement for one delivery or thousands. Who finds the key taken inserts nothing: the unique
# index makes a concurrent caller of the same key wait for the other's end, and nobody else.
_SCHEDULE = f"""
WITH u AS {{rows}},
d AS (
  INSERT INTO deliveries (id, version, status, channel, queue, priority, scheduled_at, due_at,
    expires_at, attempt, endings, interruptions, snoozes, tenant, key, tags, correlation_id,
    causation_id, root_id, max_attempts, recorded_at, digest)
  SELECT id, version, 'pending', channel, queue, priority, scheduled_at,
    coalesce(due_at, {NOW}), expires_at, 0, 0, 0, 0, tenant, key, tags, correlation_id,
    causation_id, root_id, max_attempts, recorded_at, digest
  FROM u {{unless_taken}}),
c AS (
  INSERT INTO delivery_contents (delivery_id, recipient, payload, salt)
  SELECT id, recipient, payload, salt FROM {{born}})
INSERT INTO delivery_events (delivery_id, version, type, schema_version, recorded_at, body, digest)
SELECT id, version, type, schema_version, recorded_at, body, digest FROM {{born}}{{in_order}}
"""


def _scheduling(unless_taken: str, born: str, in_order: str, returning: str | None) -> Rows:
    sql = _SCHEDULE.replace("{unless_taken}", unless_taken).replace("{born}", born)
    sql = sql.replace("{in_order}", in_order)
    return Rows(sql, returning, _kinds(BIRTH_COLUMNS))


_UNLESS_TAKEN = "ON CONFLICT (tenant, key) WHERE key IS NOT NULL DO NOTHING"
SCHEDULE = _scheduling(f"{_UNLESS_TAKEN} RETURNING id", "u JOIN d USING (id)", " ORDER BY id", "delivery_id")
# Without a key there is nothing to collide with: three inserts need not ask one another, nor tell us, and
# what they read is in order.
SCHEDULE_KEYLESS = _scheduling("", "u", "", None)

_EPOCH = codec.instant(0)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
"""Adding what has passed since makes an aware instant in a fifth of the time that `replace` takes."""
_INSTANTS = [place for place, column in enumerate(CLAIM_COLUMNS) if isinstance(column.type, Instant)]


def _claim_column(column: Column[Any]) -> str:
    """As selected: an instant without its zone, in UTC, costs a driver half of what it costs with one."""
    if column.table.name == "delivery_contents":
        return f"c.{column.name}"
    return f"d.{column.name}" + (" AT TIME ZONE 'UTC'" if isinstance(column.type, Instant) else "")


_CLAIM_LIST = ", ".join((*map(_claim_column, CLAIM_COLUMNS), f"{NOW} AT TIME ZONE 'UTC' AS db_now"))
# Priority by priority, so that each is one range of the index (queue, priority, READY): a million
# deliveries of tomorrow in priority 0 are never walked to find one of today in priority 1. The
# inner LIMITs keep the planner from joining the whole of delivery_contents.
_CONTENTS = """LEFT JOIN LATERAL (
  SELECT recipient, payload FROM delivery_contents WHERE delivery_id = d.id LIMIT 1) c ON true"""
CLAIM = Statement(f"""
SELECT {_CLAIM_LIST}
FROM generate_series(0, 9) AS p(priority) CROSS JOIN LATERAL (
  SELECT * FROM deliveries d
  WHERE d.status = 'pending' AND d.queue = :queue AND d.priority = p.priority
    AND {READY} >= coalesce((CAST(CAST(:floors AS text) AS timestamptz[]))[p.priority + 1], '-infinity')
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

# The fence. A row is taken only if its stream still is where the event was decided, and only if
# nobody holds it: an operator's open cancel of one delivery must not stall the other 499. Row,
# event and note are one statement, so no interleaving can write one without the others.
# Rows are found one by one, by their key: a join of the two is planned as a scan of the whole table as
# long as that is small (measured with 54,000 rows: half of what a batch of 1,000 cost). A row that is locked
# stays where it is, so the update finds it there, without the index. Each step hands all columns on
# to the next: joining back to `u` became a nested loop of 1,000 times 1,000.
_EVENT_LIST = ", ".join(EVENT_COLUMNS)
APPEND = Rows(
    f"""
WITH u AS {{rows}},
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
  FROM (
    SELECT u.*, d.place FROM u CROSS JOIN LATERAL (
      SELECT ctid AS place FROM deliveries
      WHERE id = u.id AND version = u.version - 1 LIMIT 1 FOR UPDATE SKIP LOCKED) d) u
  WHERE d.ctid = u.place RETURNING u.*),
n AS (
  INSERT INTO delivery_notes (delivery_id, version, text, salt)
  SELECT id, version, note, salt FROM changed WHERE note IS NOT NULL)
INSERT INTO delivery_events (delivery_id, {_EVENT_LIST.removeprefix("id, ")})
SELECT {_EVENT_LIST} FROM changed
""",
    "delivery_id",
    _kinds(WRITE_COLUMNS),
)
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
CLAIM_LOOKUPS = Statement(f"""
WITH due AS (
  SELECT id FROM deliveries
  WHERE lookup_at <= {NOW} AND status = 'held' AND channel = ANY(CAST(:channels AS text[]))
  ORDER BY lookup_at LIMIT :limit FOR UPDATE SKIP LOCKED),
d AS (
  UPDATE deliveries SET lookups = lookups + 1, lookup_at = {NOW} + make_interval(secs => :lease)
  WHERE id IN (SELECT id FROM due) RETURNING *)
SELECT {_CLAIM_LIST} FROM d {_CONTENTS}
""")

NEXT_LOOKUP = text(f"""
UPDATE deliveries SET lookup_at = {NOW} + make_interval(secs => CAST(:seconds AS float8))
WHERE id = CAST(:id AS uuid) AND status = 'held'
  AND lookups = coalesce(CAST(:asked AS int), lookups)
""")

RENEW = Rows(
    f"""
WITH u AS {{rows}},
mine AS (
  SELECT u.*, d.place FROM u CROSS JOIN LATERAL (
    SELECT ctid AS place FROM deliveries WHERE id = u.id AND lease_owner = :owner AND status = 'attempting'
    LIMIT 1 FOR UPDATE SKIP LOCKED) d)
UPDATE deliveries d SET lease_until = greatest(d.lease_until, {NOW} + make_interval(secs => u.seconds))
FROM mine u WHERE d.ctid = u.place
""",
    "d.id",
    {"id": "uuid", "seconds": "float8"},
)

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


SPLIT = 64
"""From so many rows on each type of event has a statement of its own: a trip costs less than columns do."""


def _alike(rows: list[tuple[Any, ...]]) -> Iterable[list[tuple[Any, ...]]]:
    """`rows` by the type of their events, where there are many: then few columns vary."""
    if len(rows) < SPLIT:
        return [rows] if rows else []
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        groups.setdefault(row[2], []).append(row)
    return groups.values()


def _claimed(rows: Result) -> list[Claimed]:
    """Rows of `_CLAIM_LIST`: those of `CLAIM_COLUMNS`, and the database's present, one for a statement."""
    found, now = [], None
    for row in rows.fetchall():
        columns = list(row)
        for place in _INSTANTS:
            if (instant := columns[place]) is not None:
                columns[place] = _EPOCH + (instant - _NAIVE_EPOCH)
        now = now or _EPOCH + (columns[-1] - _NAIVE_EPOCH)
        found.append(claimed_of(columns, now))
    return found


class PostgreSQL:
    """`Backend` for PostgreSQL."""

    def ready(self, births: Sequence[Birth]) -> Ready:
        ordered = births
        if any(birth.scheduled.key is not None for birth in births):
            # by key, so that two batches of the same keys wait for each other and never cross
            ordered = sorted(births, key=lambda birth: (birth.scheduled.key or "", birth.scheduled.tenant))
        chunks = []
        for start in range(0, len(ordered), CHUNK):
            rows = [birth_row(birth) for birth in ordered[start : start + CHUNK]]
            statement = SCHEDULE_KEYLESS if ordered[start + len(rows) - 1].scheduled.key is None else SCHEDULE
            chunks.append(statement.filled(rows))
        return Ready(births, ids_of(births), chunks)

    def schedule(self, connection: Connection, ready: Ready, now: datetime | None) -> set[UUID]:
        created = set(ready.ids)
        for chunk in ready.form:
            created -= chunk.write(connection, now=now)
        return created

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
        values = {
            "queue": queue,
            "channels": list(channels),
            "limit": limit,
            "now": now,
            "cutoff": cutoff,
            # a text, whatever it says: for each type of a parameter the driver prepares the statement anew
            "floors": literal("timestamptz", floors or ()),
        }
        return _claimed(CLAIM.run(connection, values))

    def lock(self, connection: Connection, ids: Sequence[UUID], skip_locked: bool) -> dict[UUID, datetime]:
        rows = connection.execute(LOCK_SKIPPING if skip_locked else LOCK, {"ids": list(ids)})
        return {row.id: row.db_now for row in rows}

    def append(self, connection: Connection, writes: Sequence[Write], now: datetime | None) -> set[UUID]:
        first: dict[UUID, tuple[Any, ...]] = {}
        for row in map(write_row, writes):
            other = first.setdefault(row[0], row)
            if row[1] < other[1]:  # of several events for one delivery the lowest version counts: the
                first[row[0]] = row  # next one was decided from a state to come
        written = set(first)
        for batch in _alike(list(first.values())):
            written -= APPEND.write(connection, batch, now=now)
        return written

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
        return _claimed(CLAIM_LOOKUPS.run(connection, values))

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
        rows = list(zip(ids, seconds, strict=True))
        return set(ids) - RENEW.write(connection, rows, owner=owner, now=now)

    def safe_position(self, connection: Connection) -> int:
        standby, last = connection.execute(LAST_POSITION).one()
        if standby:
            raise StandbyReader("the event log cannot be read on a hot standby: read the primary")
        announced = connection.scalar(LOWEST_ANNOUNCED)
        return int(last) if announced is None else min(int(last), int(announced))
