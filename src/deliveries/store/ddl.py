"""The guards that live in the database: what no code, ours or anybody's, can write.

Events are never updated, deleted or truncated. An event of ours needs a live predecessor: version 1
is `Scheduled`, any other follows a version that is there and did not end the delivery. On PostgreSQL
a further trigger announces a lower bound of the positions a transaction will draw, so that a
reader of the log needs no table lock (see `postgresql.safe_position`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import DDL, Connection, Table, event

from deliveries.core.codec import REGISTERED
from deliveries.core.machine import TERMINAL_EVENTS
from deliveries.store.schema import DOMAINS, domain_of, events, metadata

SHIFT = 10
"""Announced bounds are rounded down to a multiple of 2**SHIFT, so that few distinct locks exist."""

_ENDS = {kind.__name__ for kind in TERMINAL_EVENTS}
_ours = ", ".join(f"'{name}'" for name in sorted(REGISTERED))
_ends = ", ".join(f"'{name}'" for name in sorted(_ENDS))


def _any(value: str, names: Iterable[str]) -> str:
    """`value` is one of `names`; as comparisons, since SQLite builds a table anew for each IN list."""
    return " OR ".join(f"{value} = '{name}'" for name in sorted(names))


SQLITE = (
    """
CREATE TRIGGER IF NOT EXISTS delivery_events_no_update BEFORE UPDATE ON delivery_events
BEGIN SELECT RAISE(ABORT, 'delivery events are never updated'); END
""",
    """
CREATE TRIGGER IF NOT EXISTS delivery_events_no_delete BEFORE DELETE ON delivery_events
BEGIN SELECT RAISE(ABORT, 'delivery events are never deleted'); END
""",
    # INSERT OR REPLACE would delete without firing the delete trigger: refuse what already stands
    """
CREATE TRIGGER IF NOT EXISTS delivery_events_no_replace BEFORE INSERT ON delivery_events
WHEN EXISTS (SELECT 1 FROM delivery_events WHERE delivery_id = NEW.delivery_id AND version = NEW.version)
    OR EXISTS (SELECT 1 FROM delivery_events WHERE position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'this delivery event exists already'); END
""",
    f"""
CREATE TRIGGER IF NOT EXISTS delivery_events_predecessor BEFORE INSERT ON delivery_events
WHEN CASE WHEN NEW.type = 'Scheduled' THEN NEW.version <> 1 WHEN {_any("NEW.type", REGISTERED)} THEN
    coalesce((SELECT {_any("type", _ENDS)} OR NOT ({_any("type", REGISTERED)}) FROM delivery_events
        WHERE delivery_id = NEW.delivery_id AND version = NEW.version - 1), 1) END
BEGIN SELECT RAISE(ABORT, 'a delivery event needs a live predecessor'); END
""",
)

# `format` with %1$I puts the schema's name into every function, so that no search_path matters.
# The predecessor is looked up by a scalar subquery, which the planner cannot turn into a hash join
# over the whole table, with sequential scans off: the plan is cached while the table is still tiny.
POSTGRESQL = (
    f"""
DO $install$ BEGIN EXECUTE format($body$
CREATE OR REPLACE FUNCTION %1$I.delivery_events_announce() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  IF current_setting('deliveries.announced', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
    PERFORM pg_advisory_xact_lock_shared(
      TG_RELID::bigint::bit(32)::int,
      (coalesce(pg_sequence_last_value('%1$I.delivery_events_position_seq'), 0) >> {SHIFT})::int);
    PERFORM set_config('deliveries.announced', pg_current_xact_id()::text, true);
  END IF;
  RETURN NULL;
END $f$;
CREATE OR REPLACE FUNCTION %1$I.delivery_events_predecessor() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $f$
BEGIN
  IF EXISTS (SELECT 1 FROM inserted n WHERE n.type IN ({_ours}) AND
      CASE n.type WHEN 'Scheduled' THEN n.version <> 1 ELSE
        coalesce((SELECT p.type IN ({_ends}) OR p.type NOT IN ({_ours})
          FROM %1$I.delivery_events p
          WHERE p.delivery_id = n.delivery_id AND p.version = n.version - 1), true) END) THEN
    RAISE EXCEPTION 'a delivery event needs a live predecessor' USING ERRCODE = '23000';
  END IF;
  RETURN NULL;
END $f$;
CREATE OR REPLACE FUNCTION %1$I.delivery_events_immutable() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  RAISE EXCEPTION 'delivery events are never updated or deleted' USING ERRCODE = '23000';
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
    """
CREATE OR REPLACE TRIGGER delivery_events_immutable BEFORE UPDATE OR DELETE ON delivery_events
FOR EACH STATEMENT EXECUTE FUNCTION delivery_events_immutable()
""",
    """
CREATE OR REPLACE TRIGGER delivery_events_no_truncate BEFORE TRUNCATE ON delivery_events
FOR EACH STATEMENT EXECUTE FUNCTION delivery_events_immutable()
""",
)

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

STATEMENTS = {"sqlite": SQLITE, "postgresql": (*_TYPES, *POSTGRESQL)}
"""Dialect name -> idempotent statements, to run after the tables exist."""


@event.listens_for(events, "after_create")
def _after_create(target: Any, connection: Any, **_: Any) -> None:
    """`create_all` makes the guards with the table."""
    install(connection)


def install(connection: Connection) -> None:
    """Create or replace the guards. Idempotent."""
    for statement in STATEMENTS[connection.dialect.name]:
        connection.execute(DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]  # SQLAlchemy's
