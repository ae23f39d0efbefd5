"""The tables. One `MetaData` for both databases; hand it to Alembic if you use it.

`delivery_events` is the truth. `deliveries` is its projection and the queue, written in the same
transaction and rebuildable from the events, `lease_*` and `lookup*` aside. Contents, notes and
evidence stand beside the stream. Triggers, which `MetaData` cannot express, are in `ddl`; they are
attached to the tables, so that `create_all` makes them too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects import postgresql

from deliveries.core import codec
from deliveries.core.machine import TERMINAL_EVENTS

SCHEMA_VERSION = 1
"""Raised by one whenever a table, a trigger or an index changes."""


class Instant(TypeDecorator[datetime]):
    """A UTC instant: `timestamptz` on PostgreSQL, microseconds since 1970 on SQLite.

    SQLite has no time type; whole microseconds compare, sort and index exactly.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return codec.micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(_UTC) if dialect.name == "postgresql" else codec.instant(value)


_UTC = codec.instant(0).tzinfo
_POSITION = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER is AUTOINCREMENT there

metadata = MetaData()
"""All tables of this library, for `create_all` or a user's Alembic."""

events = Table(
    "delivery_events",
    metadata,
    Column("position", _POSITION, Identity(always=True), primary_key=True),
    Column("delivery_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    UniqueConstraint("delivery_id", "version", name="delivery_events_version"),
    sqlite_autoincrement=True,
)

_terminal = ", ".join(f"'{kind.__name__}'" for kind in sorted(TERMINAL_EVENTS, key=str))
Index(
    "delivery_events_terminal",
    events.c.delivery_id,
    unique=True,
    sqlite_where=text(f"type IN ({_terminal})"),
    postgresql_where=text(f"type IN ({_terminal})"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("scheduled_at", Instant, nullable=False),
    Column("due_at", Instant),
    Column("expires_at", Instant),
    Column("attempt", Integer, nullable=False),
    Column("endings", Integer, nullable=False),
    Column("interruptions", Integer, nullable=False),
    Column("snoozes", Integer, nullable=False),
    Column("cancel_requested", Text),
    Column("tenant", Text, nullable=False),
    Column("key", Text),
    Column("tags", Text),
    Column("correlation_id", Text),
    Column("causation_id", Text),
    Column("root_id", Uuid),
    Column("max_attempts", Integer),
    Column("recorded_at", Instant, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", Instant),
    Column("lookup_at", Instant),
    Column("lookups", Integer, nullable=False, server_default="0"),
    # N7: whatever else goes wrong, a pending delivery has a time at which it is due
    CheckConstraint("status <> 'pending' OR due_at IS NOT NULL", name="deliveries_pending_is_due"),
    # room for the two updates of a life on the same page
    postgresql_with={"fillfactor": 50},
)

_partial = {
    "deliveries_key": (("tenant", "key"), "key IS NOT NULL"),
    "deliveries_due": (("queue", "priority", "due_at"), "status = 'pending'"),
    "deliveries_lease": (("lease_until",), "lease_until IS NOT NULL"),
    "deliveries_lookup": (("lookup_at",), "lookup_at IS NOT NULL"),
    "deliveries_deadline": (("expires_at",), "status = 'pending' AND expires_at IS NOT NULL"),
}
for _name, (_columns, _where) in _partial.items():
    Index(
        _name,
        *(deliveries.c[column] for column in _columns),
        unique=_name == "deliveries_key",
        sqlite_where=text(_where),
        postgresql_where=text(_where),
    )

contents = Table(
    "delivery_contents",
    metadata,
    Column("delivery_id", Uuid, primary_key=True),
    Column("recipient", Text),
    Column("payload", Text),
    Column("salt", LargeBinary),
)

notes = Table(
    "delivery_notes",
    metadata,
    Column("delivery_id", Uuid, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text),
    Column("salt", LargeBinary),
)

evidence = Table(
    "delivery_evidence",
    metadata,
    Column("delivery_id", Uuid, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
)

workers = Table(
    "delivery_workers",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("queues", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("lease_seconds", Float, nullable=False),
)

positions = Table(
    "delivery_positions",
    metadata,
    Column("application", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

schema = Table(
    "delivery_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Instant, nullable=False),
)
