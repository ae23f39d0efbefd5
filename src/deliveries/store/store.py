"""The store: transactions, reading streams, and the domain's acts on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Engine, insert, inspect, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session

from deliveries import sqlite
from deliveries.clock import Clock
from deliveries.core import commands
from deliveries.core.delivery import Delivery
from deliveries.core.stream import Change, Recorded, advance, replay
from deliveries.errors import (
    CallerError,
    ConcurrentChange,
    ConcurrentSchedule,
    DeliveryNotFound,
    EngineNotConfigured,
    SchemaMissing,
    SchemaTooNew,
    StoreError,
)
from deliveries.store.ddl import install
from deliveries.store.postgresql import PostgreSQL
from deliveries.store.rows import Backend, Birth, Contents, Write, with_contents
from deliveries.store.schema import (
    SCHEMA_VERSION,
    contents,
    deliveries,
    events,
    metadata,
    notes,
    schema,
)
from deliveries.store.sqlite import SQLite

BACKENDS: dict[str, type[Backend]] = {"sqlite": SQLite, "postgresql": PostgreSQL}

_SCHEMA_LOCK = 0x64656C69  # "deli": serialises create_schema on PostgreSQL
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
            self.verify(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            reader = connection.execution_options(**{sqlite.READ_ONLY: True})
            self.verify(reader)
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
        if connection.dialect.name == "sqlite":
            if not connection.in_transaction():
                connection.begin()
            sqlite.check(connection)
        elif connection.dialect.detect_autocommit_setting(connection.connection.dbapi_connection):  # type: ignore[arg-type]
            raise EngineNotConfigured("this connection is in autocommit mode: begin a transaction")
        self.verify(connection)
        return connection

    @property
    def deciding_now(self) -> datetime | None:
        """The instant that statements use; None where the database's clock counts."""
        return self.clock.now() if self._clock_decides else None

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

    def command(self, connection: Connection, id: UUID, command: commands.Command) -> Change | None:
        """Do `command` to one delivery in this transaction: lock, read, decide, append.

        Returns None where it came too late. Raises: DeliveryNotFound, ConcurrentChange, CorruptHistory.
        """
        try:
            if not self.backend.lock(connection, [id], skip_locked=False):
                raise DeliveryNotFound(id)
            stream = replay(self.histories(connection, [id])[id])
            change = advance(stream, command)
            if change is None:
                return None
            if not self.backend.append(connection, [Write(change)], self.deciding_now):
                raise ConcurrentChange(f"delivery {id} changed meanwhile, or its row is out of step")
        except DBAPIError as error:
            if _is_serialization_failure(error):
                raise ConcurrentChange(f"delivery {id} changed meanwhile") from error
            raise
        return change

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
                found[row.delivery_id] = Contents(
                    recipient=row.recipient, payload=row.payload, salt=row.salt
                )
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
    ) -> dict[tuple[str, str], UUID]:
        """(tenant, key) -> the delivery it belongs to."""
        statement = select(deliveries.c.tenant, deliveries.c.key, deliveries.c.id).where(
            tuple_(deliveries.c.tenant, deliveries.c.key).in_(keys)
        )
        return {(row.tenant, row.key): row.id for row in connection.execute(statement)}


def _is_serialization_failure(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state in _SERIALIZATION_FAILURES
