"""The statements for SQLite.

One writer at a time, in a transaction that began IMMEDIATE: what a write transaction has read cannot
change before it commits, so a claim is a plain SELECT and the fence is a comparison. SQLite has no
clock of its own; the process's is the machine's, and comes in as `now`.

A statement here is a function call of some microseconds, so what costs is Python. Statements that
carry a batch therefore go to the driver as they are, with plain values: preparing typed parameters
took longer than SQLite took for the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, bindparam, text

from deliveries.core.codec import instant, micros
from deliveries.store.rows import (
    CLAIM_COLUMNS,
    Birth,
    Claimed,
    Ready,
    Write,
    birth_values,
    claimed_of,
    ids_of,
    write_values,
)
from deliveries.store.schema import READY, Id, Instant, contents, deliveries, events, notes
from deliveries.store.statement import Bare, Result

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


class Plain:
    """A statement for the driver itself, whose `:name`s are taken from mappings of plain values.

    Plain are hexadecimal digits for an id and microseconds for an instant, as the tables store them.
    """

    def __init__(self, sql: str) -> None:
        self.sql = re.sub(r":\w+", "?", sql)
        names = re.findall(r":(\w+)", sql)
        self._values = itemgetter(*names) if len(names) > 1 else lambda values: (values[names[0]],)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Result:
        """Run it once."""
        return Bare(connection.exec_driver_sql(self.sql, self._values(values)))

    def run_many(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> int:
        """Run it for each of `rows`, of which there is one at least; returns how many rows it wrote."""
        return connection.exec_driver_sql(self.sql, [self._values(row) for row in rows]).rowcount


_IDS = "(SELECT value FROM json_each(:ids))"

INSERT_DELIVERY = Plain("""
INSERT INTO deliveries (id, version, status, channel, queue, priority, scheduled_at, due_at, expires_at,
  attempt, endings, interruptions, snoozes, tenant, key, tags, correlation_id, causation_id, root_id,
  max_attempts, recorded_at, digest)
VALUES (:id, :version, 'pending', :channel, :queue, :priority, :scheduled_at, :due_at, :expires_at,
  0, 0, 0, 0, :tenant, :key, :tags, :correlation_id, :causation_id, :root_id,
  :max_attempts, :recorded_at, :digest)
ON CONFLICT (tenant, key) WHERE key IS NOT NULL DO NOTHING
""")
INSERT_CONTENTS = Plain("""
INSERT INTO delivery_contents (delivery_id, recipient, payload, salt)
VALUES (:id, :recipient, :payload, :salt)
""")
INSERT_EVENT = Plain("""
INSERT INTO delivery_events (delivery_id, version, type, schema_version, recorded_at, body, digest)
VALUES (:id, :version, :type, :schema_version, :recorded_at, :body, :digest)
""")
INSERT_NOTE = Plain("""
INSERT INTO delivery_notes (delivery_id, version, text, salt) VALUES (:id, :version, :note, :salt)
""")
VERSIONS = Plain(f"SELECT id, version FROM deliveries WHERE id IN {_IDS}")

_LIST = ", ".join(f"{column.table.name}.{column.name}" for column in CLAIM_COLUMNS)
_TYPES = {column.name: column.type for column in CLAIM_COLUMNS}
_READ = [
    (place, UUID if isinstance(kind, Id) else instant)
    for place, kind in enumerate(_TYPES.values())
    if isinstance(kind, (Id, Instant))
]
"""Place in a claim's row -> what makes of a plain value what the store's other rows hold."""

_FROM = "FROM deliveries LEFT JOIN delivery_contents ON delivery_contents.delivery_id = deliveries.id"

# Priority by priority, each one range of the index (queue, priority, READY); the arms of a UNION ALL
# are run one after the other, only until the outer LIMIT is reached.
CLAIM = Plain(
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
)

UPDATE = Plain("""
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

    def ready(self, births: Sequence[Birth]) -> Ready:
        return Ready(births, ids_of(births))  # its rows hold the time at which they are written

    def schedule(self, connection: Connection, ready: Ready, now: datetime | None) -> set[UUID]:
        rows = [_born(birth, now) for birth in ready.births]
        created = set(ready.ids)
        inserted = INSERT_DELIVERY.run_many(connection, rows)
        if inserted < len(rows):
            present = _versions(connection, created) if inserted else {}
            created = {id for id in created if id.hex in present}
            rows = [row for row in rows if row["id"] in present]
        if rows:
            INSERT_CONTENTS.run_many(connection, rows)
            INSERT_EVENT.run_many(connection, rows)
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
        at = _given(now)
        values = {
            "queue": queue,
            "channels": msgspec.json.encode(channels).decode(),
            "limit": limit,
            "cutoff": micros(at if cutoff is None else min(cutoff, at)),
        }
        return [claimed_of(_found(row), at) for row in CLAIM.run(connection, values).fetchall()]

    def lock(self, connection: Connection, ids: Sequence[UUID], skip_locked: bool) -> dict[UUID, datetime]:
        present = _versions(connection, ids)
        return dict.fromkeys((id for id in ids if id.hex in present), instant(0))

    def append(self, connection: Connection, writes: Sequence[Write], now: datetime | None) -> set[UUID]:
        at = _given(now)
        ids = [write.change.after.id for write in writes]
        versions = _versions(connection, ids)
        rows, appended = [], set()
        for write, id in zip(writes, ids, strict=True):
            row = write_values(write)
            if versions.get(id.hex) == row["version"] - 1:
                del versions[id.hex]  # one event for a delivery; the next was decided from a state to come
                appended.add(id)
                row["lease_until"] = _after(at, row["lease_seconds"])
                row["lookup_at"] = _after(at, row["lookup_seconds"])
                rows.append(_plain(row, "due_at", "recorded_at", "lease_until", "lookup_at"))
        if rows:
            UPDATE.run_many(connection, rows)
            INSERT_EVENT.run_many(connection, rows)
        if noted := [row for row in rows if row["note"] is not None]:
            INSERT_NOTE.run_many(connection, noted)
        return appended

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


def _born(birth: Birth, now: datetime | None) -> dict[str, Any]:
    row = birth_values(birth)
    row["due_at"] = row["due_at"] or now
    if row["root_id"] is not None:
        row["root_id"] = row["root_id"].hex
    return _plain(row, "scheduled_at", "due_at", "expires_at", "recorded_at")


def _plain(row: dict[str, Any], *instants: str) -> dict[str, Any]:
    """The id and these columns as SQLite stores them."""
    row["id"] = row["id"].hex
    for name in instants:
        if row[name] is not None:
            row[name] = micros(row[name])
    return row


def _found(row: Any) -> list[Any]:
    """A row of a claim, with values as the store's other rows have them."""
    found = list(row)
    for place, read in _READ:
        if found[place] is not None:
            found[place] = read(found[place])
    return found


def _versions(connection: Connection, ids: Iterable[UUID]) -> dict[str, int]:
    """Which of these are there, by their digits, and how far each stream is."""
    found = VERSIONS.run(connection, {"ids": _json(ids)})
    return dict(found.fetchall())


def _given(now: datetime | None) -> datetime:
    assert now is not None, "SQLite has no clock of its own"
    return now


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def _json(ids: Iterable[UUID]) -> str:
    return msgspec.json.encode([id.hex for id in ids]).decode()
