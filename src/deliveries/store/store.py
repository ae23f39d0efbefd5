"""The store: transactions, whose time it is, and the domain's acts on streams and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Engine, bindparam, exists, select, text, update
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session, scoped_session

from deliveries import sqlite
from deliveries.clock import Clock
from deliveries.core import commands
from deliveries.core.delivery import Delivery
from deliveries.core.events import Held
from deliveries.core.stream import Change, advance, replay
from deliveries.errors import (
    CallerError,
    ConcurrentChange,
    ConcurrentSchedule,
    EngineNotConfigured,
)
from deliveries.store import migration
from deliveries.store.backend import Backend
from deliveries.store.borrowed import Plain, borrow, borrowed, is_plain
from deliveries.store.evidence import Entry, add
from deliveries.store.failures import is_serialization_failure
from deliveries.store.postgresql import PostgreSQL
from deliveries.store.reading import Reading
from deliveries.store.rows import CLAIM_COLUMNS, Birth, Claimed, Contents, Ready, Write, claimed_of
from deliveries.store.schema import READY, Id, Instant, contents, deliveries, evidence
from deliveries.store.sqlite import SQLite

Bind = Session | scoped_session[Session] | Connection | Plain
"""What a caller has of a transaction: SQLAlchemy's Session or Connection, or psycopg's connection."""

BACKENDS: dict[str, type[Backend]] = {"sqlite": SQLite, "postgresql": PostgreSQL}

_DATABASE_NOW = text("SELECT statement_timestamp() AS now").columns(now=Instant())

_REFER = text("""
INSERT INTO delivery_references (reference, delivery_id, channel) VALUES (:reference, :delivery_id, :channel)
ON CONFLICT DO NOTHING
""").bindparams(bindparam("delivery_id", type_=Id()))

_ANYTHING_DUE = select(
    exists().where(
        deliveries.c.status == "pending",
        deliveries.c.queue.in_(bindparam("queues", expanding=True)),
        text(f"{READY} <= :due_by").bindparams(bindparam("due_by", type_=Instant())),
    )
)


class Store(Reading):
    """One database: an engine, the statements of its dialect, and a clock."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        if engine.dialect.name not in BACKENDS:
            raise CallerError(f"deliveries works on SQLite and PostgreSQL, not {engine.dialect.name}")
        self.engine = engine
        self._own = engine
        if engine.dialect.name == "postgresql":  # the statements are written for it, whatever the default is
            self._own = engine.execution_options(isolation_level="READ COMMITTED")
        self.clock = clock
        self.backend: Backend = BACKENDS[engine.dialect.name]()
        self._clock_decides = clock.authoritative or engine.dialect.name == "sqlite"
        self.observer: Callable[[Connection, Sequence[Change]], None] | None = None
        """Told, in the transaction, of every event that was appended; None while nobody wants to know."""
        self._verified = False

    # -- transactions and time -----------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction of ours; commits at the end, rolls back on any exception."""
        with _telling_no_contents(), self._own.begin() as connection:
            self._check(connection)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.unchecked() as reader:
            self._check(reader)
            yield reader

    @contextmanager
    def unchecked(self) -> Iterator[Connection]:
        """The same, whatever the engine and the schema are: for whoever asks what is wrong with them."""
        with self._own.connect() as connection:
            reader = connection.execution_options(**{sqlite.READ_ONLY: True})
            reader.begin()
            yield reader

    def caller(self, bind: Bind) -> Connection:
        """The connection of the caller's own transaction, if it can keep our promises.

        Raises: EngineNotConfigured, CallerError, SchemaMissing, SchemaTooNew.
        """
        if isinstance(bind, Connection):
            connection = bind
        elif isinstance(bind, (Session, scoped_session)):
            connection = bind.connection(bind_arguments={"clause": deliveries})
        elif is_plain(bind):
            if not self._verified:  # on a connection of ours: SQLAlchemy gets to know the server there
                with self.reading():
                    pass
            connection = borrow(bind, self.engine)
        else:
            raise CallerError(f"a Session or a Connection is needed, not {type(bind).__name__}")
        if connection.dialect.name != self.engine.dialect.name:
            raise CallerError(
                f"this app is on {self.engine.dialect.name}, the connection on {connection.dialect.name}"
            )
        if not connection.in_transaction():
            connection.begin()
        if connection.dialect.name != "sqlite" and _commits_by_itself(connection):
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

    def create_schema(self) -> None:
        """Create what is missing. Idempotent, and safe to run from many processes at once.

        Raises: SchemaTooNew, StoreError.
        """
        with self._own.begin() as connection:
            migration.upgrade(connection, self.clock.now())
            migration.verify(connection)
        self._verified = True

    def verify(self, connection: Connection) -> None:
        """Check once that the schema is there and known.

        Raises: SchemaMissing, SchemaTooNew, StoreError.
        """
        if not self._verified:
            migration.verify(connection)
            self._verified = True

    # -- writing -------------------------------------------------------------------------------

    def schedule(self, connection: Connection, births: Sequence[Birth]) -> set[UUID]:
        """As `write_down`, without anything done beforehand."""
        return self.write_down(connection, self.backend.ready(births))

    def write_down(self, connection: Connection, ready: Ready) -> set[UUID]:
        """Insert deliveries whose key is free; returns the ids of those.

        Raises: ConcurrentSchedule where the isolation level hides who took a key.
        """
        try:
            created = self.backend.schedule(connection, ready, self.deciding_now)
        except DBAPIError as error:
            error.hide_parameters = True
            if is_serialization_failure(error):
                raise ConcurrentSchedule("a concurrent transaction took the same key") from error
            raise
        if self.observer is not None and created:
            self.observer(connection, [one.change for one in ready.births if one.change.after.id in created])
        return created

    def append(self, connection: Connection, writes: Sequence[Write]) -> set[UUID]:
        """Append events whose stream still is at the version before; returns the ids that were.

        The one way to an event after the first. See `Backend.append`.
        """
        if not writes:
            return set()
        written = self.backend.append(connection, writes, self.deciding_now)
        if self.observer is not None and written:
            firsts: dict[UUID, Change] = {}
            for change in sorted((write.change for write in writes), key=lambda one: one.after.version):
                firsts.setdefault(change.after.id, change)  # of several for one delivery the lowest counts
            self.observer(connection, [change for id, change in firsts.items() if id in written])
        return written

    def by_key(
        self, connection: Connection, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[Delivery, Contents | None]]:
        """Whose these keys are; see `Reading`.

        Raises: ConcurrentSchedule where a serializable transaction may not know.
        """
        try:
            return super().by_key(connection, keys)
        except DBAPIError as error:
            error.hide_parameters = True
            if is_serialization_failure(error):
                raise ConcurrentSchedule("a concurrent transaction changed what this one has read") from error
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
                raise self.missing(connection, id)
            stream = replay(self.histories(connection, [id])[id])
            change = advance(stream, make(self.deciding_now or locked[id]))
            if change is None:
                return None
            if not self.append(connection, [self.write_of(change)]):
                raise ConcurrentChange(f"delivery {id} changed meanwhile, or its row is out of step")
        except DBAPIError as error:
            error.hide_parameters = True
            if is_serialization_failure(error):
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

    def refer(self, connection: Connection, given: Mapping[UUID, tuple[str, str]]) -> None:
        """Note the providers' references of effects: delivery -> (channel, reference). Once each."""
        rows = [
            {"delivery_id": id, "channel": channel, "reference": reference}
            for id, (channel, reference) in given.items()
        ]
        if rows:
            connection.execute(_REFER, rows)

    def put_aside(self, connection: Connection, ids: Sequence[UUID], seconds: float) -> None:
        """Keep sweeps and claims away from these rows for `seconds`; not from those that others hold."""
        ids = list(self.backend.lock(connection, ids, skip_locked=True))
        until = self.now(connection) + timedelta(seconds=seconds)
        connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(lease_until=until))

    def add_evidence(self, connection: Connection, id: UUID, kind: str, fact: object, now: datetime) -> None:
        """Append a fact that decides nothing, chained to the delivery's other evidence.

        Once: the same fact of the same moment is there already where a commit's answer was lost.
        """
        body = msgspec.json.encode(fact)
        same = (evidence.c.kind == kind, evidence.c.recorded_at == now, evidence.c.body == body)
        if not connection.scalar(select(exists().where(evidence.c.delivery_id == id, *same))):
            add(connection, kind, [(id, Entry(body))], now)

    # -- claiming one --------------------------------------------------------------------------

    def claimed(self, connection: Connection, id: UUID) -> Claimed | None:
        """Lock one row, whatever its state; None where somebody else holds it.

        Raises: DeliveryNotFound.
        """
        if not self.backend.lock(connection, [id], skip_locked=True):
            if connection.scalar(select(deliveries.c.id).where(deliveries.c.id == id)) is None:
                raise self.missing(connection, id)
            return None
        statement = (
            select(*CLAIM_COLUMNS)
            .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
            .where(deliveries.c.id == id)
        )
        return claimed_of(connection.execute(statement).one(), self.now(connection))

    def anything_due(self, connection: Connection, queues: Sequence[str]) -> bool:
        """Whether a claim would find something; a question that takes no lock."""
        given = {"queues": list(queues), "due_by": self.now(connection)}
        return bool(connection.scalar(_ANYTHING_DUE, given))


def _commits_by_itself(connection: Connection) -> bool:
    """Whether each statement would be a transaction of its own."""
    lent = borrowed(connection)
    dbapi: Any = connection.connection.dbapi_connection
    return connection.dialect.detect_autocommit_setting(dbapi) and not (lent and lent.in_transaction)


@contextmanager
def _telling_no_contents() -> Iterator[None]:
    """A database error's text holds the statement's parameters: recipients, payloads, notes."""
    try:
        yield
    except StatementError as error:
        error.hide_parameters = True
        raise
