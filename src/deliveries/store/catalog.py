"""What a PostgreSQL server knows of its sessions, locks and tables. Read by the doctor only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, TextClause, text

from deliveries.store.schema import metadata

_OURS = "ANY(SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"

TABLES = text("""
SELECT name FROM unnest(CAST(:tables AS text[])) AS name WHERE to_regclass(name) IS NOT NULL
""")

# A session of another role shows neither kind, state nor times to those who may not see statistics.
SESSIONS = text("""
SELECT pid, usename, application_name, state,
  extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age,
  extract(epoch FROM clock_timestamp() - state_change)::float8 AS still
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND (backend_type = 'client backend' OR backend_type IS NULL)
ORDER BY xact_start NULLS LAST
""")

PREPARED = text("""
SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::float8 AS age
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
""")

ANNOUNCED = text("""
SELECT DISTINCT a.pid, a.usename, a.application_name, a.state,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
  AND l.classid = CAST('delivery_events' AS regclass)::oid
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.pid <> pg_backend_pid()
ORDER BY age DESC NULLS LAST
""")

# Who waits for a row's lock waits for a transaction; that it is about our rows is told by what else it holds.
BLOCKED = text(f"""
SELECT a.pid, a.usename, a.application_name, pg_blocking_pids(a.pid) AS by,
  extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS age
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
  AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.relation = {_OURS})
ORDER BY a.state_change
""")

VACUUM = text(f"""
SELECT c.relname, coalesce(s.n_dead_tup, 0) AS dead, coalesce(s.n_live_tup, 0) AS live,
  coalesce((SELECT lower(option_value) IN ('off', 'false', 'no', '0') FROM pg_options_to_table(c.reloptions)
    WHERE option_name = 'autovacuum_enabled'), false) AS off
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.oid = {_OURS} ORDER BY c.relname
""")

GUARDS = text(f"""
SELECT tgname AS name, CASE WHEN tgenabled IN ('O', 'A') THEN 'on' ELSE 'disabled' END AS state
  FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = {_OURS}
UNION ALL
SELECT c.relname, CASE WHEN i.indisvalid THEN 'on' ELSE 'invalid' END
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {_OURS}
UNION ALL
SELECT conname, CASE WHEN convalidated THEN 'on' ELSE 'not validated' END
  FROM pg_constraint WHERE contype IN ('c', 'u') AND conrelid = {_OURS}
""")


def ask(connection: Connection, question: TextClause) -> list[Any]:
    """The rows that answer one of these."""
    about_tables = {"tables": list(metadata.tables)} if ":tables" in question.text else {}
    return list(connection.execute(question, about_tables))
