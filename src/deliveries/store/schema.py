"""The tables. One `MetaData` for both databases; hand it to Alembic if you use it.

`delivery_events` is the truth. `deliveries` is its projection and the queue, written in the same
transaction and rebuildable from the events, `lease_*` and `lookup*` aside. Contents, notes and
evidence stand beside the stream. Triggers, which `MetaData` cannot express, are in `ddl`; they are
attached to the tables, so that `create_all` makes them too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    REAL,
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


_UUID, _DIGITS = Uuid(), Text()  # made once: SQLAlchemy asks for them with every list of values
_TIMESTAMP, _MICROSECONDS = postgresql.TIMESTAMP(timezone=True), Integer()


class Instant(TypeDecorator[datetime]):
    """A UTC instant: `timestamptz` on PostgreSQL, microseconds since 1970 on SQLite.

    SQLite has no time type; whole microseconds compare, sort and index exactly.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return _TIMESTAMP if dialect.name == "postgresql" else _MICROSECONDS

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return codec.micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(_UTC) if dialect.name == "postgresql" else codec.instant(value)


class Id(TypeDecorator[UUID]):
    """A delivery's id: `uuid` on PostgreSQL, 32 hexadecimal digits on SQLite."""

    impl = Uuid
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return _UUID if dialect.name == "postgresql" else _DIGITS

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        return value if value is None or dialect.name == "postgresql" else UUID(value)


_UTC = codec.instant(0).tzinfo
_LONG = BigInteger().with_variant(Integer(), "sqlite")
MOST = 1_000_000_000
"""No delivery has so many events; a count beyond would overflow its column, and fail a whole batch."""
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _readable(table: Table) -> None:
    """Let no value in that a reader could not take, since it would fail for all the rows it reads.

    PostgreSQL's times know infinity and the year 294276; SQLite's numbers and texts hold anything.
    """
    for column in table.c:
        if isinstance(column.type, Instant):
            conditions = {
                "postgresql": f"{column.name} BETWEEN '{_FIRST:%F %TZ}' AND '{_LAST:%F %TZ}'",
                "sqlite": f"{column.name} BETWEEN {codec.micros(_FIRST)} AND {codec.micros(_LAST)}",
            }
        elif isinstance(column.type, Id):
            digits = f"{column.name} NOT GLOB '*[^0-9a-f]*'"
            conditions = {"sqlite": f"length({column.name}) = 32 AND {digits}"}
        elif column.name == "digest":
            conditions = dict.fromkeys(("postgresql", "sqlite"), "length(digest) = 32")
        else:
            continue
        for dialect, condition in conditions.items():
            name = f"{table.name}_{column.name}_readable"
            table.append_constraint(CheckConstraint(condition, name=name).ddl_if(dialect=dialect))


metadata = MetaData()
"""All tables of this library, for `create_all` or a user's Alembic."""

events = Table(
    "delivery_events",
    metadata,
    Column("position", _LONG, Identity(always=True), primary_key=True),
    Column("delivery_id", Id, nullable=False),
    Column("version", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    UniqueConstraint("delivery_id", "version", name="delivery_events_version"),
    # SQLite's triggers see -1 where no position is given: a row there would refuse every insert
    CheckConstraint("position > 0", name="delivery_events_position"),
    CheckConstraint(f"version BETWEEN 0 AND {MOST}", name="delivery_events_counted"),
    sqlite_autoincrement=True,
    sqlite_strict=True,
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
    Column("id", Id, primary_key=True),
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
    Column("root_id", Id),
    Column("max_attempts", Integer),
    Column("recorded_at", Instant, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", Instant),
    Column("lookup_at", Instant),
    Column("lookups", Integer, nullable=False, server_default="0"),
    # N7: whatever else goes wrong, a pending delivery has a time at which it is due
    CheckConstraint("status <> 'pending' OR due_at IS NOT NULL", name="deliveries_pending_is_due"),
    # N4: whoever works on it, the open attempt can be taken over
    CheckConstraint("status <> 'attempting' OR lease_until IS NOT NULL", name="deliveries_open_is_leased"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="deliveries_priority"),
    CheckConstraint(
        " AND ".join(
            f"{count} BETWEEN {least} AND {MOST}"
            for count, least in {
                "version": 1,
                "attempt": 0,
                "endings": 0,
                "interruptions": 0,
                "snoozes": 0,
                "lookups": 0,
            }.items()
        ),
        name="deliveries_counted",
    ),
    # room for the two updates of a life on the same page
    postgresql_with={"fillfactor": 50},
    sqlite_strict=True,
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
    Column("delivery_id", Id, primary_key=True),
    Column("recipient", Text),
    Column("payload", Text),
    Column("salt", LargeBinary),
    sqlite_strict=True,
)

notes = Table(
    "delivery_notes",
    metadata,
    Column("delivery_id", Id, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text),
    Column("salt", LargeBinary),
    sqlite_strict=True,
)

evidence = Table(
    "delivery_evidence",
    metadata,
    Column("delivery_id", Id, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    sqlite_strict=True,
)

workers = Table(
    "delivery_workers",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("queues", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("lease_seconds", Float().with_variant(REAL(), "sqlite"), nullable=False),
    sqlite_strict=True,
)

positions = Table(
    "delivery_positions",
    metadata,
    Column("application", Text, primary_key=True),
    Column("position", _LONG, nullable=False),
    sqlite_strict=True,
)

suppressions = Table(
    "delivery_suppressions",
    metadata,
    # nothing is unique: who writes an entry waits for nobody who is writing the same one
    Column("id", Id, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("reason", Text),
    Column("actor", Text),
    Column("since", Instant, nullable=False),
    sqlite_strict=True,
)
Index("delivery_suppressions_digest", suppressions.c.digest, suppressions.c.tenant)

cap_slots = Table(
    "delivery_cap_slots",
    metadata,
    Column("cap", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("delivery_id", Id, primary_key=True),
    Column("taken_at", Instant, nullable=False),
    Column("free_at", Instant, nullable=False),
    sqlite_strict=True,
)
Index("delivery_cap_slots_free", cap_slots.c.free_at)
Index("delivery_cap_slots_delivery", cap_slots.c.delivery_id)

secrets = Table(
    "delivery_secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    sqlite_strict=True,
)

schema = Table(
    "delivery_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Instant, nullable=False),
    sqlite_strict=True,
)

for _table in metadata.tables.values():
    _readable(_table)
