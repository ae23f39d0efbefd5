"""The store: transactions, reading streams, and the domain's acts on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import structs
from sqlalchemy import Connection, Engine, exists, insert, inspect, select, text, tuple_, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session

from deliveries import sqlite
from deliveries.clock import Clock
from deliveries.core import commands
from deliveries.core.codec import GENESIS, digest
from deliveries.core.delivery import Delivery
from deliveries.core.events import Held
from deliveries.core.stream import Change, Recorded, Stream, advance, replay
from deliveries.errors import (
    CallerError,
    ConcurrentChange,
    ConcurrentSchedule,
    CorruptHistory,
    DeliveryNotFound,
    EngineNotConfigured,
    SchemaMissing,
    SchemaTooNew,
    StoreError,
)
from deliveries.store.ddl import install
from deliveries.store.postgresql import PostgreSQL
from deliveries.store.rows import (
    CLAIM_COLUMNS,
    DELIVERY_COLUMNS,
    Backend,
    Birth,
    Claimed,
    Contents,
    Write,
    claimed_of,
    delivery_of,
    with_contents,
)
from deliveries.store.schema import (
    SCHEMA_VERSION,
    Instant,
    contents,
    deliveries,
    events,
    evidence,
    metadata,
    notes,
    schema,
)
from deliveries.store.sqlite import SQLite

BACKENDS: dict[str, type[Backend]] = {"sqlite": SQLite, "postgresql": PostgreSQL}

_log = logging.getLogger("deliveries")

KEYS_PER_STATEMENT = 500
"""Pairs of tenant and key in one look-up."""

_SCHEMA_LOCK = 0x64656C69  # "deli": serialises create_schema on PostgreSQL
_DATABASE_NOW = text("SELECT statement_timestamp() AS now").columns(now=Instant())
_SERIALIZATION_FAILURES = {"40001", "40P01"}


class Store:
    """One database: an engine, the statements of its dialect, and a clock."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        if engine.dialect.name not in BACKENDS:
            raise CallerError(f"deliveries works on SQLite and PostgreSQL, not {engine.dialect.name}")
        self.engine = engine
        self.clock = clock
        self.backend: Backend = BACKENDS[engine.dialect.name]()
        self._clock_decides = clock.authoritative or engine.dialect.name == "sqlite"
        self._verified = False

    # -- transactions and time -----------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction of ours; commits at the end, rolls back on any exception."""
        with self.engine.begin() as connection:
            self._check(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            reader = connection.execution_options(**{sqlite.READ_ONLY: True})
            reader.begin()
            self._check(reader)
            yield reader

    def caller(self, bind: Session | scoped_session[Session] | Connection) -> Connection:
        """The connection of the caller's own transaction, if it can keep our promises.

        Raises: EngineNotConfigured, CallerError, SchemaMissing, SchemaTooNew.
        """
        if isinstance(bind, Connection):
            connection = bind
        elif isinstance(bind, (Session, scoped_session)):
            connection = bind.connection(bind_arguments={"clause": deliveries})
        else:
            raise CallerError(f"a Session or a Connection is needed, not {type(bind).__name__}")
        if connection.dialect.name != self.engine.dialect.name:
            raise CallerError(
                f"this app is on {self.engine.dialect.name}, the connection on {connection.dialect.name}"
            )
        if not connection.in_transaction():
            connection.begin()
        dbapi: Any = connection.connection.dbapi_connection
        if connection.dialect.name != "sqlite" and connection.dialect.detect_autocommit_setting(dbapi):
            raise EngineNotConfigured("this connection is in autocommit mode: begin a transaction")
        self._check(connection)
        return connection

    def _check(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            sqlite.check(connection)
        self.verify(connection)

    @property
    def deciding_now(self) -> datetime | None:
        """The instant that statements use; None where the database's clock counts."""
        return self.clock.now() if self._clock_decides else None

    def now(self, connection: Connection) -> datetime:
        """The present, by the clock that decides."""
        if self._clock_decides:
            return self.clock.now()
        now: datetime = connection.execute(_DATABASE_NOW).scalar_one()
        return now

    # -- schema --------------------------------------------------------------------------------

    def create_schema(self) -> None:
        """Create what is missing. Idempotent, and safe to run from many processes at once.

        Raises: SchemaTooNew.
        """
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            if self._schema_version(connection) == SCHEMA_VERSION:
                return
            metadata.create_all(connection)
            install(connection)
            row = {"version": SCHEMA_VERSION, "created_at": self.clock.now()}
            connection.execute(insert(schema), row)

    def verify(self, connection: Connection) -> None:
        """Check once that the schema is there and known.

        Raises: SchemaMissing, SchemaTooNew, StoreError.
        """
        if self._verified:
            return
        if self._schema_version(connection) is None:
            raise SchemaMissing
        if connection.dialect.name == "postgresql":
            cached = connection.exec_driver_sql(
                "SELECT seqcache FROM pg_sequence WHERE seqrelid = "
                "pg_get_serial_sequence('delivery_events', 'position')::regclass"
            ).scalar()
            if cached != 1:
                raise StoreError(
                    "the sequence of delivery_events.position must keep CACHE 1, or readers of the "
                    f"event log would miss events; it has CACHE {cached}"
                )
        self._verified = True

    def _schema_version(self, connection: Connection) -> int | None:
        if not inspect(connection).has_table(schema.name):
            return None
        version = connection.scalar(select(schema.c.version).order_by(schema.c.version.desc()))
        if version is not None and version > SCHEMA_VERSION:
            raise SchemaTooNew(version, SCHEMA_VERSION)
        return version

    # -- writing -------------------------------------------------------------------------------

    def schedule(self, connection: Connection, births: Sequence[Birth]) -> set[UUID]:
        """Insert deliveries whose key is free; returns the ids of those.

        Raises: ConcurrentSchedule where the isolation level hides who took a key.
        """
        try:
            return self.backend.schedule(connection, births, self.deciding_now)
        except DBAPIError as error:
            if _is_serialization_failure(error):
                raise ConcurrentSchedule("a concurrent transaction took the same key") from error
            raise

    def command(
        self, connection: Connection, id: UUID, make: Callable[[datetime], commands.Command]
    ) -> Change | None:
        """Do a command to one delivery in this transaction: lock, read, decide, append.

        `make` gets the deciding clock's present. Returns None where the command came too late.
        Raises: DeliveryNotFound, ConcurrentChange, CorruptHistory.
        """
        try:
            locked = self.backend.lock(connection, [id], skip_locked=False)
            if id not in locked:
                raise DeliveryNotFound(id)
            stream = replay(self.histories(connection, [id])[id])
            change = advance(stream, make(self.deciding_now or locked[id]))
            if change is None:
                return None
            if not self.backend.append(connection, [self.write_of(change)], self.deciding_now):
                raise ConcurrentChange(f"delivery {id} changed meanwhile, or its row is out of step")
        except DBAPIError as error:
            if _is_serialization_failure(error):
                raise ConcurrentChange(f"delivery {id} changed meanwhile") from error
            raise
        return change

    def write_of(
        self, change: Change, *, lease_owner: str | None = None, lease_seconds: float | None = None
    ) -> Write:
        """`change` with its operational columns: a held delivery's lookup is asked after its backoff."""
        event, rules = change.event, change.after.rules
        asked = isinstance(event, Held) and event.lookup and rules is not None
        return Write(change, lease_owner, lease_seconds, rules.retry_in if asked and rules else None)

    def put_aside(self, connection: Connection, ids: Sequence[UUID], seconds: float) -> None:
        """Keep sweeps away from these rows for `seconds`."""
        until = self.now(connection) + timedelta(seconds=seconds)
        connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(lease_until=until))

    def add_evidence(self, connection: Connection, id: UUID, kind: str, fact: object, now: datetime) -> None:
        """Append a fact that decides nothing, chained to the delivery's other evidence."""
        last = connection.execute(
            select(evidence.c.sequence, evidence.c.digest)
            .where(evidence.c.delivery_id == id)
            .order_by(evidence.c.sequence.desc())
            .limit(1)
        ).one_or_none()
        sequence, previous = (last.sequence + 1, last.digest) if last else (1, GENESIS)
        body = msgspec.json.encode(fact)
        row = {
            "delivery_id": id,
            "sequence": sequence,
            "kind": kind,
            "recorded_at": now,
            "body": body,
            "digest": digest(previous, id, sequence, kind, 1, now, body),
        }
        connection.execute(insert(evidence), row)

    # -- claiming one --------------------------------------------------------------------------

    def claimed(self, connection: Connection, id: UUID) -> Claimed | None:
        """Lock one row, whatever its state; None where somebody else holds it.

        Raises: DeliveryNotFound.
        """
        if not self.backend.lock(connection, [id], skip_locked=True):
            if connection.scalar(select(deliveries.c.id).where(deliveries.c.id == id)) is None:
                raise DeliveryNotFound(id)
            return None
        statement = (
            select(*CLAIM_COLUMNS)
            .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
            .where(deliveries.c.id == id)
        )
        return claimed_of(connection.execute(statement).one(), self.now(connection))

    def lease_until(self, connection: Connection, id: UUID) -> datetime | None:
        """When the lease of an open attempt ends."""
        until: datetime | None = connection.scalar(
            select(deliveries.c.lease_until).where(deliveries.c.id == id)
        )
        return until

    def owned(self, connection: Connection, worker: str) -> list[UUID]:
        """The open attempts that carry this worker's lease."""
        statement = select(deliveries.c.id).where(
            deliveries.c.lease_owner == worker,
            deliveries.c.status == "attempting",
            deliveries.c.lease_until.is_not(None),
        )
        return list(connection.scalars(statement))

    def anything_due(self, connection: Connection, queues: Sequence[str]) -> bool:
        """Whether a claim would find something; a question that takes no lock."""
        statement = select(
            exists().where(
                deliveries.c.status == "pending",
                deliveries.c.queue.in_(queues),
                deliveries.c.due_at <= self.now(connection),
            )
        )
        return bool(connection.scalar(statement))

    # -- reading -------------------------------------------------------------------------------

    def histories(self, connection: Connection, ids: Sequence[UUID]) -> dict[UUID, list[Recorded]]:
        """The streams of `ids`, oldest event first; an unknown id has an empty one."""
        found: dict[UUID, list[Recorded]] = {id: [] for id in ids}
        statement = (
            select(events, notes.c.text)
            .outerjoin(
                notes,
                (notes.c.delivery_id == events.c.delivery_id) & (notes.c.version == events.c.version),
            )
            .where(events.c.delivery_id.in_(ids))
            .order_by(events.c.delivery_id, events.c.version)
        )
        for row in connection.execute(statement):
            found[row.delivery_id].append(
                Recorded(
                    delivery_id=row.delivery_id,
                    version=row.version,
                    type=row.type,
                    schema_version=row.schema_version,
                    recorded_at=row.recorded_at,
                    body=row.body,
                    digest=row.digest,
                    position=row.position,
                    note=row.text,
                )
            )
        return found

    def streams(self, connection: Connection, found: Sequence[Claimed]) -> list[tuple[Claimed, Stream]]:
        """The streams behind claimed rows, with their contents; those that make no sense left out."""
        histories = self.histories(connection, [one.id for one in found])
        streams = []
        for one in found:
            try:
                stream = replay(histories[one.id])
            except CorruptHistory as error:
                _log.error("delivery %s: its history is corrupt: %s", one.id, error)
                continue
            if stream.delivery is not None:
                delivery = structs.replace(
                    stream.delivery, recipient=one.delivery.recipient, payload=one.delivery.payload
                )
                streams.append((one, structs.replace(stream, delivery=delivery)))
        return streams

    def history(self, connection: Connection, id: UUID) -> list[Recorded]:
        """The stream of one delivery. Raises: DeliveryNotFound."""
        history = self.histories(connection, [id])[id]
        if not history:
            raise DeliveryNotFound(id)
        return history

    def contents(self, connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Contents | None]:
        """What stands beside these deliveries; None where it was erased."""
        found: dict[UUID, Contents | None] = dict.fromkeys(ids)
        statement = select(contents).where(contents.c.delivery_id.in_(ids))
        for row in connection.execute(statement):
            if row.salt is not None:
                found[row.delivery_id] = Contents(recipient=row.recipient, payload=row.payload, salt=row.salt)
        return found

    def get(self, connection: Connection, id: UUID) -> Delivery:
        """The delivery, folded from its events, with its contents. Raises: DeliveryNotFound."""
        delivery = replay(self.history(connection, id)).delivery
        assert delivery is not None
        return self.furnished(connection, delivery)

    def furnished(self, connection: Connection, delivery: Delivery) -> Delivery:
        """`delivery` with its contents."""
        beside = self.contents(connection, [delivery.id])[delivery.id]
        if beside is None:
            return delivery
        return with_contents(delivery, beside.recipient, beside.payload)

    def by_key(
        self, connection: Connection, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[Delivery, Contents | None]]:
        """(tenant, key) -> the delivery it belongs to and what stands beside it, None once erased."""
        found: dict[tuple[str, str], tuple[Delivery, Contents | None]] = {}
        for start in range(0, len(keys), KEYS_PER_STATEMENT):
            statement = (
                select(*DELIVERY_COLUMNS, contents.c.recipient, contents.c.payload, contents.c.salt)
                .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
                .where(
                    tuple_(deliveries.c.tenant, deliveries.c.key).in_(
                        keys[start : start + KEYS_PER_STATEMENT]
                    )
                )
            )
            for row in connection.execute(statement):
                delivery = with_contents(delivery_of(row), row.recipient, row.payload)
                beside = Contents(recipient=row.recipient, payload=row.payload, salt=row.salt)
                found[row.tenant, row.key] = (delivery, None if row.salt is None else beside)
        return found

    def find(self, connection: Connection, limit: int, **wanted: str | None) -> list[Delivery]:
        """Deliveries whose columns have these values (None: any), newest first, from the projection."""
        statement = select(*DELIVERY_COLUMNS).order_by(deliveries.c.id.desc()).limit(limit)
        for name, value in wanted.items():
            if value is not None:
                statement = statement.where(deliveries.c[name] == value)
        return [delivery_of(row) for row in connection.execute(statement)]

    def evidence(self, connection: Connection, id: UUID) -> list[tuple[str, datetime, Any]]:
        """(kind, recorded at, fact) of one delivery, oldest first."""
        statement = (
            select(evidence.c.kind, evidence.c.recorded_at, evidence.c.body)
            .where(evidence.c.delivery_id == id)
            .order_by(evidence.c.sequence)
        )
        return [
            (row.kind, row.recorded_at, msgspec.json.decode(row.body))
            for row in connection.execute(statement)
        ]


def _is_serialization_failure(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state in _SERIALIZATION_FAILURES
