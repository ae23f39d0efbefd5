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

DOMAINS = {
    "delivery_instant": ("timestamptz", f"VALUE BETWEEN '{_FIRST:%F %TZ}' AND '{_LAST:%F %TZ}'"),
    "delivery_digest": ("bytea", "length(VALUE) = 32"),
    "delivery_count": ("int", f"VALUE BETWEEN 0 AND {MOST}"),
    "delivery_version": ("int", f"VALUE BETWEEN 1 AND {MOST}"),
    "delivery_priority": ("int", "VALUE BETWEEN 0 AND 9"),
}
"""PostgreSQL's types that hold no value a reader could not take: name -> (base type, condition).

A CHECK of the table would say the same, but is parsed anew by every statement that writes a row: 17 of
them were half of what scheduling one delivery cost the server. `ddl` turns columns into domains.
"""
_COUNTS = {"version", "attempt", "endings", "interruptions", "snoozes", "lookups"}


def domain_of(column: Column[Any]) -> str | None:
    """The name of the domain that `column` has on PostgreSQL; None: it keeps its own type."""
    if isinstance(column.type, Instant):
        return "delivery_instant"
    if column.table is deliveries and column.name == "version":  # the log may hold others' version 0
        return "delivery_version"
    if column.name in _COUNTS and column.table is not schema:
        return "delivery_count"
    named = {"digest": "delivery_digest", "priority": "delivery_priority"}
    return named.get(column.name)


def _readable(table: Table) -> None:
    """SQLite: let no value in that a reader could not take, since it would fail for all the rows it reads."""
    for column in table.c:
        domain = domain_of(column)
        if domain == "delivery_instant":
            condition = f"{column.name} BETWEEN {codec.micros(_FIRST)} AND {codec.micros(_LAST)}"
        elif domain is not None:
            condition = DOMAINS[domain][1].replace("VALUE", column.name)
        elif isinstance(column.type, Id):
            condition = f"length({column.name}) = 32 AND {column.name} NOT GLOB '*[^0-9a-f]*'"
        else:
            continue
        name = f"{table.name}_{column.name}_readable"
        table.append_constraint(CheckConstraint(condition, name=name).ddl_if(dialect="sqlite"))


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
    CheckConstraint("position > 0", name="delivery_events_position").ddl_if(dialect="sqlite"),
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
    # N7: whatever else goes wrong, a pending delivery has a time at which it is due; N4: whoever works
    # on it, the open attempt can be taken over. One condition: each is parsed by every statement.
    CheckConstraint(
        "CASE status WHEN 'pending' THEN due_at WHEN 'attempting' THEN lease_until ELSE recorded_at END"
        " IS NOT NULL",
        name="deliveries_live_has_a_time",
    ),
    # room for the two updates of a life on the same page
    postgresql_with={"fillfactor": 50},
    sqlite_strict=True,
)

READY = "CASE WHEN lease_until > due_at THEN lease_until ELSE due_at END"
"""When a pending row may be claimed: due, and put aside no more. As indexed, in both dialects' words,
so that a claim never walks what is put aside."""

_partial = {
    "deliveries_key": (("tenant", "key"), "key IS NOT NULL"),
    "deliveries_due": (("queue", "priority", READY), "status = 'pending'"),
    "deliveries_tenant": (("queue", "tenant", "priority", READY), "status = 'pending'"),
    "deliveries_lease": (("lease_until",), "status = 'attempting'"),
    "deliveries_asked": (("lease_owner",), "status = 'pending' AND lease_owner IS NOT NULL"),
    "deliveries_lookup": (("lookup_at",), "lookup_at IS NOT NULL"),
    "deliveries_deadline": (("expires_at",), "status = 'pending' AND expires_at IS NOT NULL"),
}
for _name, (_columns, _where) in _partial.items():
    Index(
        _name,
        *(text(f"({READY})") if column == READY else deliveries.c[column] for column in _columns),
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

# Not rebuildable from the events, and no part of the truth: without a row a kind is merely free.
uniques = Table(
    "delivery_uniques",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("delivery_id", Id, nullable=False),
    Column("taken_at", Instant, nullable=False),
    sqlite_strict=True,
)
Index("delivery_uniques_delivery", uniques.c.delivery_id)

periodic = Table(
    "delivery_periodic",
    metadata,
    Column("name", Text, primary_key=True),
    Column("expression", Text, primary_key=True),
    Column("seen_at", Instant, nullable=False),
    sqlite_strict=True,
)

# What a piece of evidence says beyond its kind and time, in the provider's words: erasable, like notes
facts = Table(
    "delivery_facts",
    metadata,
    Column("delivery_id", Id, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("text", Text),
    Column("salt", LargeBinary),
    sqlite_strict=True,
)

# The provider's ids of effects. Deliveries that share an idempotency key may share one.
references = Table(
    "delivery_references",
    metadata,
    Column("reference", Text, primary_key=True),
    Column("delivery_id", Id, primary_key=True, index=True),
    Column("channel", Text, nullable=False),
    sqlite_strict=True,
)

# What is left of a pruned stream: how many events it had, and the digest of the last.
tombstones = Table(
    "delivery_tombstones",
    metadata,
    Column("delivery_id", Id, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("pruned_at", Instant, nullable=False),
    Column("actor", Text),
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

queues = Table(
    "delivery_queues",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("paused_at", Instant),
    Column("concurrency", Integer),
    Column("total", Integer),
    Column("rate_amount", Integer),
    Column("rate_seconds", Float().with_variant(REAL(), "sqlite")),
    Column("rate_by", Text),
    Column("fair", Integer, nullable=False),
    Column("turn", Text, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("actor", Text),
    Column("reason", Text),
    CheckConstraint(
        "concurrency BETWEEN 1 AND 10000 AND total >= 1 AND rate_amount >= 1 AND rate_seconds > 0"
        " AND fair BETWEEN 0 AND 1 AND rate_by IN ('tenant', 'recipient')",
        name="delivery_queues_sensible",
    ),
    CheckConstraint(
        "(rate_amount IS NULL) = (rate_seconds IS NULL) AND (rate_by IS NULL OR rate_amount IS NOT NULL)",
        name="delivery_queues_whole",
    ),
    sqlite_strict=True,
)
"""What is wanted of queues; one of which nothing is said has no row. `turn`: the tenant served last."""

shares = Table(
    "delivery_shares",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("share", Text, primary_key=True),
    Column("state", LargeBinary, nullable=False),
    Column("over_at", Instant, nullable=False),
    sqlite_strict=True,
)
"""The starts that rates count, for each share of a queue: all of it, a tenant, a digest of a recipient."""

positions = Table(
    "delivery_positions",
    metadata,
    Column("application", Text, primary_key=True),
    Column("position", _LONG, nullable=False),
    sqlite_strict=True,
)

statistics = Table(
    "delivery_statistics",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("hour", Instant, primary_key=True),
    *(
        Column(name, _LONG, nullable=False)
        for name in (
            *("scheduled", "rescheduled", "attempted", "failed", "interrupted", "held"),
            *("succeeded", "suppressed", "cancelled", "exhausted"),
        )
    ),
    Column("waits", _LONG, nullable=False),
    Column("wait_total", _LONG, nullable=False),
    Column("wait_longest", _LONG, nullable=False),
    Column("wait_histogram", Text, nullable=False),
    Column("runs", _LONG, nullable=False),
    Column("run_total", _LONG, nullable=False),
    Column("run_longest", _LONG, nullable=False),
    Column("run_histogram", Text, nullable=False),
    sqlite_strict=True,
)
"""What a projection of the log has counted, for each channel and hour (UTC). Times are microseconds."""

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
    Column("went_at", Instant),
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
