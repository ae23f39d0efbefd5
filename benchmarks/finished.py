"""Millions of finished deliveries, without waiting for them to be performed.

One delivery is scheduled and performed by the library. The rest are copies of it, made by the SQL
below inside PostgreSQL: each with an id of its own, its events chained by digests of their own, its
row and its contents, all guards on. `check` reads copies back as an audit would.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, text

from deliveries import Deliveries
from deliveries.audit.invariants import record_findings, row_findings
from deliveries.store.schema import contents, deliveries

PAGE = 100_000
"""Copies in one transaction."""

# the digest of `deliveries.core.codec.digest`, byte for byte
CHAIN = """
CREATE FUNCTION pg_temp.chain(previous bytea, id uuid, version int, type text, schema_version int,
  at timestamptz, body bytea) RETURNS bytea IMMUTABLE LANGUAGE sql AS $$
SELECT sha256(previous || uuid_send(id) || int8send(version) || int8send(schema_version)
  || int8send((extract(epoch FROM at) * 1000000)::bigint)
  || int4send(octet_length(convert_to(type, 'UTF8'))) || convert_to(type, 'UTF8')
  || int8send(octet_length(body)) || body) $$
"""
# ids as the library makes them: version 7, in the order of time
IDS = """
CREATE TEMP TABLE copies ON COMMIT DROP AS
SELECT (lpad(to_hex(:from_ms + i / 10), 12, '0') || '7' || substr(md5(random()::text), 1, 3)
  || '8' || substr(md5(random()::text), 1, 15))::uuid AS id, decode(repeat('00', 32), 'hex') AS digest
FROM generate_series(1, CAST(:n AS bigint)) AS i
"""
BODY = "convert_to(replace(convert_from(e.body, 'UTF8'), e.delivery_id::text, copies.id::text), 'UTF8')"
NEXT_DIGEST = f"""
UPDATE copies SET digest = pg_temp.chain(copies.digest, copies.id, e.version, e.type,
  e.schema_version, e.recorded_at, {BODY})
FROM delivery_events e WHERE e.delivery_id = :template AND e.version = :version
"""
NEXT_EVENT = f"""
INSERT INTO delivery_events (delivery_id, version, type, schema_version, recorded_at, body, digest)
SELECT copies.id, e.version, e.type, e.schema_version, e.recorded_at, {BODY}, copies.digest
FROM copies, delivery_events e WHERE e.delivery_id = :template AND e.version = :version
ORDER BY copies.id
"""


def fill(app: Deliveries, template: UUID, n: int) -> None:
    """Make `n` copies of a finished delivery without a key. PostgreSQL only."""
    versions = [one.version for one in app.history(template)]
    made = 0
    while made < n:
        page = min(PAGE, n - made)
        with app.engine.begin() as connection:
            _copy(connection, template, versions, page)
        made += page
    with app.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum would have, in the time they took in life


def _copy(connection: Connection, template: UUID, versions: list[int], n: int) -> None:
    last = connection.scalar(select(deliveries.c.id).order_by(deliveries.c.id.desc()).limit(1))
    assert last is not None
    connection.execute(text("DROP FUNCTION IF EXISTS pg_temp.chain"))
    connection.execute(text(CHAIN))
    connection.execute(text(IDS), {"from_ms": (last.int >> 80) + 1, "n": n})
    for version in versions:
        given = {"template": template, "version": version}
        connection.execute(text(NEXT_DIGEST), given)
        connection.execute(text(NEXT_EVENT), given)
    _rows(connection, deliveries, "id", {"id": "copies.id", "digest": "copies.digest"}, template)
    _rows(connection, contents, "delivery_id", {"delivery_id": "copies.id"}, template)


def _rows(connection: Connection, table: Any, key: str, own: dict[str, str], template: UUID) -> None:
    names = [column.name for column in table.c]
    values = ", ".join(own.get(name, f"t.{name}") for name in names)
    connection.execute(
        text(
            f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {values} "
            f"FROM copies, {table.name} t WHERE t.{key} = :template ORDER BY copies.id"
        ),
        {"template": template},
    )


def check(app: Deliveries, most: int = 100) -> int:
    """Read as many as `most` deliveries back, rows and streams; returns how many were sound."""
    with app.engine.connect() as connection:
        rows = connection.execute(select(deliveries).order_by(deliveries.c.digest).limit(most)).all()
    for row in rows:
        history = app.history(row.id)
        found = record_findings(history) + row_findings(history, row)
        assert not found, found
    return len(rows)
