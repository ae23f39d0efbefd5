"""The guards that live in the database: what no code, ours or anybody's, can write.

Events are never updated or truncated. An event of ours needs a live predecessor: version 1 is
`Scheduled`, any other follows a version that is there and did not end the delivery. On PostgreSQL
a further trigger announces a lower bound of the positions a transaction will draw, so that a
reader of the log needs no table lock (see `postgresql.safe_position`).

Events go in one way only, and leave a mark. A tombstone can be set only for a stream that has ended
and is whole, with its number of events and the digest of the last; who has one may be deleted, and
nothing can be written under its id again. Tombstones stay. Evidence is appended, like events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import DDL, Connection, Table, event

from deliveries.core.codec import REGISTERED
from deliveries.core.machine import TERMINAL_EVENTS
from deliveries.store.schema import DOMAINS, domain_of, events, evidence, metadata, tombstones

SHIFT = 10
"""Announced bounds are rounded down to a multiple of 2**SHIFT, so that few distinct locks exist."""

_ENDS = {kind.__name__ for kind in TERMINAL_EVENTS}
_ours = ", ".join(f"'{name}'" for name in sorted(REGISTERED))
_ends = ", ".join(f"'{name}'" for name in sorted(_ENDS))


def _any(value: str, names: Iterable[str]) -> str:
    """`value` is one of `names`; as comparisons, since SQLite builds a table anew for each IN list."""
    return " OR ".join(f"{value} = '{name}'" for name in sorted(names))


# A tombstone would be refused for a stream that is alive, has a hole, or ends in another digest.
_whole = """NEW.version = (SELECT count(*) FROM {schema}delivery_events e
      WHERE e.delivery_id = NEW.delivery_id)
    AND EXISTS (SELECT 1 FROM {schema}delivery_events e WHERE e.delivery_id = NEW.delivery_id
      AND e.version = NEW.version AND e.digest = NEW.digest AND e.type IN ({ends}))"""
_buried = "EXISTS (SELECT 1 FROM {schema}delivery_tombstones t WHERE t.delivery_id = {row}.delivery_id)"


def _sqlite_never(table: str, act: str, unless: str = "") -> str:
    """A trigger that refuses `act` (UPDATE or DELETE) of rows of `table`."""
    condition = f"WHEN NOT {unless}" if unless else ""
    return f"""
CREATE TRIGGER IF NOT EXISTS {table}_no_{act.lower()} BEFORE {act} ON {table} {condition}
BEGIN SELECT RAISE(ABORT, 'rows of {table} are never {act.lower()}d'); END
"""


def _sqlite_no_replace(table: str, *same: str) -> str:
    """INSERT OR REPLACE would delete without firing the delete trigger: refuse what already stands."""
    there = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE {one})" for one in same)
    return f"""
CREATE TRIGGER IF NOT EXISTS {table}_no_replace BEFORE INSERT ON {table}
WHEN {there}
BEGIN SELECT RAISE(ABORT, 'this row of {table} exists already'); END
"""


_sqlite_buried = _buried.format(schema="", row="OLD")

SQLITE = {
    events.name: (
        _sqlite_never(events.name, "UPDATE"),
        _sqlite_never(events.name, "DELETE", _sqlite_buried),
        _sqlite_no_replace(
            events.name,
            "delivery_id = NEW.delivery_id AND version = NEW.version",
            "position = NEW.position",
        ),
        f"""
CREATE TRIGGER IF NOT EXISTS delivery_events_predecessor BEFORE INSERT ON delivery_events
WHEN CASE
  WHEN NEW.type = 'Scheduled' THEN NEW.version <> 1 OR {_buried.format(schema="", row="NEW")}
  WHEN {_any("NEW.type", REGISTERED)} THEN
    coalesce((SELECT {_any("type", _ENDS)} OR NOT ({_any("type", REGISTERED)}) FROM delivery_events
      WHERE delivery_id = NEW.delivery_id AND version = NEW.version - 1), 1)
  ELSE {_buried.format(schema="", row="NEW")} END
BEGIN SELECT RAISE(ABORT, 'a delivery event needs a live predecessor'); END
""",
    ),
    evidence.name: (
        _sqlite_never(evidence.name, "UPDATE"),
        _sqlite_never(evidence.name, "DELETE", _sqlite_buried),
        _sqlite_no_replace(evidence.name, "delivery_id = NEW.delivery_id AND sequence = NEW.sequence"),
    ),
    tombstones.name: (
        _sqlite_never(tombstones.name, "UPDATE"),
        _sqlite_never(tombstones.name, "DELETE"),
        _sqlite_no_replace(tombstones.name, "delivery_id = NEW.delivery_id"),
        f"""
CREATE TRIGGER IF NOT EXISTS delivery_tombstones_whole BEFORE INSERT ON delivery_tombstones
WHEN NOT ({_whole.format(schema="", ends=_ends)})
BEGIN SELECT RAISE(ABORT, 'a tombstone needs a whole stream that has ended'); END
""",
    ),
}


def _postgresql_kept(table: str) -> tuple[str, ...]:
    """Rows of `table` are never updated or truncated, and deleted only under a tombstone."""
    return (
        f"""
DO $install$ BEGIN EXECUTE format($body$
CREATE OR REPLACE FUNCTION %1$I.{table}_immutable() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  RAISE EXCEPTION 'rows of {table} are never updated or deleted' USING ERRCODE = '23000';
END $f$;
CREATE OR REPLACE FUNCTION %1$I.{table}_buried() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $f$
BEGIN
  IF EXISTS (SELECT 1 FROM deleted d
      WHERE NOT {_buried.format(schema="%1$I.", row="d")}) THEN
    RAISE EXCEPTION 'rows of {table} are never deleted without a tombstone' USING ERRCODE = '23000';
  END IF;
  RETURN NULL;
END $f$;
$body$, current_schema()); END $install$
""",
        f"""
CREATE OR REPLACE TRIGGER {table}_immutable BEFORE UPDATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {table}_immutable()
""",
        f"""
CREATE OR REPLACE TRIGGER {table}_buried AFTER DELETE ON {table}
REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION {table}_buried()
""",
        f"""
CREATE OR REPLACE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {table}_immutable()
""",
    )


# `format` with %1$I puts the schema's name into every function, so that no search_path matters.
# The predecessor is looked up by a scalar subquery, which the planner cannot turn into a hash join
# over the whole table, with sequential scans off: the plan is cached while the table is still tiny.
POSTGRESQL = {
    events.name: (
        f"""
DO $install$ BEGIN EXECUTE format($body$
CREATE OR REPLACE FUNCTION %1$I.delivery_events_announce() RETURNS trigger LANGUAGE plpgsql AS $f$
DECLARE
  mine text := pg_current_xact_id()::text;
  done text;
BEGIN  -- assignments: each PERFORM would be a query of its own
  IF current_setting('deliveries.announced', true) IS DISTINCT FROM mine THEN
    done := pg_advisory_xact_lock_shared(
      TG_RELID::bigint::bit(32)::int,
      (coalesce(pg_sequence_last_value('%1$I.delivery_events_position_seq'), 0) >> {SHIFT})::int)::text;
    done := set_config('deliveries.announced', mine, true);
  END IF;
  RETURN NULL;
END $f$;
CREATE OR REPLACE FUNCTION %1$I.delivery_events_predecessor() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $f$
BEGIN
  -- a birth is known by the first look; in one expression with the second, both would be prepared
  IF EXISTS (SELECT 1 FROM inserted n WHERE n.type <> 'Scheduled' OR n.version <> 1
      OR {_buried.format(schema="%1$I.", row="n")}) THEN
    IF EXISTS (SELECT 1 FROM inserted n WHERE CASE
        WHEN n.type = 'Scheduled' THEN n.version <> 1 OR {_buried.format(schema="%1$I.", row="n")}
        WHEN n.type IN ({_ours}) THEN
          coalesce((SELECT p.type IN ({_ends}) OR p.type NOT IN ({_ours})
            FROM %1$I.delivery_events p
            WHERE p.delivery_id = n.delivery_id AND p.version = n.version - 1), true)
        ELSE {_buried.format(schema="%1$I.", row="n")} END) THEN
      RAISE EXCEPTION 'a delivery event needs a live predecessor' USING ERRCODE = '23000';
    END IF;
  END IF;
  RETURN NULL;
END $f$;
$body$, current_schema()); END $install$
""",
        """
CREATE OR REPLACE TRIGGER delivery_events_announce BEFORE INSERT ON delivery_events
FOR EACH STATEMENT EXECUTE FUNCTION delivery_events_announce()
""",
        """
CREATE OR REPLACE TRIGGER delivery_events_predecessor AFTER INSERT ON delivery_events
REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION delivery_events_predecessor()
""",
        *_postgresql_kept(events.name),
    ),
    evidence.name: _postgresql_kept(evidence.name),
    tombstones.name: (
        f"""
DO $install$ BEGIN EXECUTE format($body$
CREATE OR REPLACE FUNCTION %1$I.delivery_tombstones_immutable() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  RAISE EXCEPTION 'tombstones are never updated or deleted' USING ERRCODE = '23000';
END $f$;
CREATE OR REPLACE FUNCTION %1$I.delivery_tombstones_whole() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $f$
BEGIN
  IF NOT ({_whole.format(schema="%1$I.", ends=_ends)}) THEN
    RAISE EXCEPTION 'a tombstone needs a whole stream that has ended' USING ERRCODE = '23000';
  END IF;
  RETURN NEW;
END $f$;
$body$, current_schema()); END $install$
""",
        """
CREATE OR REPLACE TRIGGER delivery_tombstones_whole BEFORE INSERT ON delivery_tombstones
FOR EACH ROW EXECUTE FUNCTION delivery_tombstones_whole()
""",
        """
CREATE OR REPLACE TRIGGER delivery_tombstones_immutable BEFORE UPDATE OR DELETE ON delivery_tombstones
FOR EACH STATEMENT EXECUTE FUNCTION delivery_tombstones_immutable()
""",
        """
CREATE OR REPLACE TRIGGER delivery_tombstones_no_truncate BEFORE TRUNCATE ON delivery_tombstones
FOR EACH STATEMENT EXECUTE FUNCTION delivery_tombstones_immutable()
""",
    ),
}

# A type that is there already is taken, and a column that has it is left alone.
_DOMAIN = """
DO $install$ BEGIN
  IF to_regtype(format('%I.{name}', current_schema())) IS NULL THEN
    CREATE DOMAIN {name} AS {base} CHECK ({condition});
  END IF;
END $install$
"""
_COLUMNS = """
DO $install$ DECLARE changes text; BEGIN
  SELECT string_agg(format('ALTER %I TYPE %I', w.name, w.domain), ', ') INTO changes
  FROM (VALUES {wanted}) AS w(name, domain)
  JOIN pg_attribute a ON a.attname = w.name
    AND a.attrelid = to_regclass(format('%I.{table}', current_schema()))
  WHERE a.atttypid <> to_regtype(format('%I.%I', current_schema(), w.domain));
  IF changes IS NOT NULL THEN
    EXECUTE format('ALTER TABLE %I.{table} ', current_schema()) || changes;
  END IF;
END $install$
"""


def _typed(table: Table) -> str:
    """The statement that turns the table's columns into domains."""
    wanted = ((column.name, domain_of(column)) for column in table.c)
    rows = ", ".join(f"('{name}', '{domain}')" for name, domain in wanted if domain)
    return _COLUMNS.format(table=table.name, wanted=rows) if rows else ""


_TYPES = [
    *(
        _DOMAIN.format(name=name, base=base, condition=condition)
        for name, (base, condition) in DOMAINS.items()
    ),
    *filter(None, map(_typed, metadata.tables.values())),
]

TYPES = {"sqlite": (), "postgresql": tuple(_TYPES)}
"""Dialect name -> idempotent statements, to run before the guards."""

GUARDS = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
"""Dialect name -> table -> idempotent statements, to run after the table exists."""

STATEMENTS = {
    dialect: (*TYPES[dialect], *(statement for statements in guards.values() for statement in statements))
    for dialect, guards in GUARDS.items()
}
"""Dialect name -> all of them, to run after all tables exist."""


@event.listens_for(events, "after_create")
@event.listens_for(evidence, "after_create")
@event.listens_for(tombstones, "after_create")
def _after_create(target: Any, connection: Any, **_: Any) -> None:
    """`create_all` makes the guards with each table."""
    _execute(connection, GUARDS[connection.dialect.name][target.name])


def install(connection: Connection) -> None:
    """Create or replace the guards. Idempotent."""
    _execute(connection, STATEMENTS[connection.dialect.name])


def _execute(connection: Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.execute(DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]  # SQLAlchemy's
