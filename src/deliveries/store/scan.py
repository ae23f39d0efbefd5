"""Reading everything, stream by stream: what an audit, a replay and an export of a whole database use.

Each table is read once, in the order of its deliveries' ids, through a cursor of its own at one snapshot,
and the tables are merged on the way: memory does not grow with what there is. Rows are the driver's own
tuples, with ids and instants as they are stored; what SQLAlchemy does for each of them would cost more
than all that is done with it here. On PostgreSQL the next page of each table is asked for before this one
is used, so that the server and who reads work at the same time.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Table

from deliveries.core import codec
from deliveries.core.stream import Recorded
from deliveries.store.schema import (
    contents,
    deliveries,
    events,
    evidence,
    facts,
    notes,
    tombstones,
)
from deliveries.store.store import Store

PAGE = 500
"""Rows of one table that come together; so many more are on their way. They fit in a socket's buffer."""

T = TypeVar("T")

EventRow = tuple[bytes, int, str, int, int, bytes, bytes, int]
"""Delivery, version, type, schema version, recorded at, body, digest, position."""

EVENT_COLUMNS = (
    *("delivery_id", "version", "type", "schema_version", "recorded_at", "body", "digest", "position"),
)


class Whole(Struct, frozen=True, gc=False):
    """All that a database holds of one delivery. Rows are tuples in the order of their table's columns."""

    id: bytes
    events: Sequence[EventRow]
    """By version."""
    row: tuple[Any, ...] | None
    """Of `deliveries`."""
    contents: tuple[Any, ...] | None
    notes: Sequence[tuple[Any, ...]]
    evidence: Sequence[tuple[Any, ...]]
    """Columns of `delivery_evidence`, then text and salt of `delivery_facts`."""
    tombstone: tuple[Any, ...] | None


class Snapshot:
    """A database at one moment. In its rows an id is 16 bytes, and an instant is a number: see `instant`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._postgresql = connection.dialect.name == "postgresql"
        self.epoch = _SINCE_2000 if self._postgresql else 0
        """What to add to an instant, to have microseconds since 1970."""
        self._scans = 0
        self._open: weakref.WeakSet[Generator[Any]] = weakref.WeakSet()

    def instant(self, value: int) -> datetime:
        """The instant of a row, UTC."""
        return codec.instant(value + self.epoch)

    def recorded(self, row: EventRow, note: str | None = None) -> Recorded:
        """An event with its envelope."""
        return Recorded(
            delivery_id=UUID(bytes=row[0]),
            version=row[1],
            type=row[2],
            schema_version=row[3],
            recorded_at=self.instant(row[4]),
            body=row[5],
            digest=row[6],
            position=row[7],
            note=note,
        )

    def streams(
        self, after: UUID | None = None, until: UUID | None = None, ids: Sequence[UUID] | None = None
    ) -> Iterator[tuple[bytes, Sequence[EventRow]]]:
        """Each delivery's events by version; deliveries by id, above `after` and up to `until`."""
        return self._reading(_grouped(self._rows(_EVENTS, _Span(after, until, ids))))

    def wholes(
        self,
        after: UUID | None = None,
        until: UUID | None = None,
        ids: Sequence[UUID] | None = None,
        *,
        of: Collection[Table] | None = None,
    ) -> Iterator[Whole]:
        """All that there is of each delivery, by id, above `after` and up to `until`, or of these `ids`.

        One of which only a part is there comes too. `of`: look at these tables only.
        """
        return self._reading(self._merged(_Span(after, until, ids), of))

    def close(self) -> None:
        """Leave whatever was not read to its end."""
        for one in list(self._open):
            one.close()

    def _merged(self, span: _Span, of: Collection[Table] | None) -> Iterator[Whole]:
        heads = [
            _Head(source.group(self._rows(source, span)) if of is None or source.table in of else iter(()))
            for source in _SOURCES
        ]
        log, rows, beside, texts, pieces, stones = heads
        while True:
            id = log.id
            for head in heads:
                if head.id < id:
                    id = head.id
            if id == _END:
                return
            yield Whole(
                id,
                log.take() if log.id == id else _NOTHING,
                rows.take() if rows.id == id else None,
                beside.take() if beside.id == id else None,
                texts.take() if texts.id == id else _NOTHING,
                pieces.take() if pieces.id == id else _NOTHING,
                stones.take() if stones.id == id else None,
            )

    def _rows(self, source: _Source, span: _Span) -> Iterator[list[Any]]:
        """Pages of a table's rows, by delivery."""
        condition, given = span.condition(source.id, self._postgresql)
        sql = f"{source.sql} WHERE {condition} ORDER BY {source.order}"
        raw: Any = self.connection.connection.driver_connection
        if self._postgresql:
            yield from self._fetched(raw, sql, given)
            return
        cursor = raw.cursor()
        try:
            cursor.execute(sql, given)
            while page := cursor.fetchmany(PAGE):
                yield [(bytes.fromhex(row[0]), *row[1:]) for row in page]
        finally:
            cursor.close()

    def _fetched(self, raw: Any, sql: str, given: dict[str, Any]) -> Iterator[list[Any]]:
        self._scans += 1
        name = f"deliveries_scan_{self._scans}"
        raw.execute(f"DECLARE {name} NO SCROLL CURSOR FOR {sql}", given)
        with raw.cursor(binary=True) as cursor:
            _load_as_stored(cursor)
            cursor.execute(f"FETCH {PAGE} FROM {name}")
            while page := cursor.fetchall():
                cursor.execute(f"FETCH {PAGE} FROM {name}")
                yield page
        raw.execute(f"CLOSE {name}")  # one that is read no further ends with its transaction

    def _reading(self, found: Iterator[T]) -> Iterator[T]:
        reading = self._ahead(found)
        self._open.add(reading)
        return reading

    def _ahead(self, found: Iterator[T]) -> Generator[T]:
        """Meanwhile no statement waits for its result; a libpq before 14 cannot do that, and waits."""
        with contextlib.ExitStack() as stack:
            if self._postgresql:
                import psycopg

                raw: Any = self.connection.connection.driver_connection
                if psycopg.Pipeline.is_supported():
                    stack.enter_context(raw.pipeline())
            yield from found


@contextmanager
def snapshot(store: Store) -> Iterator[Snapshot]:
    """The database as it is now, and as it stays for whoever reads it here."""
    with contextlib.ExitStack() as stack:
        if store.engine.dialect.name == "sqlite":
            connection = stack.enter_context(store.reading())
        else:
            level = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            connection = stack.enter_context(store.engine.execution_options(**level).connect())
            store.verify(connection)
        yield stack.enter_context(contextlib.closing(Snapshot(connection)))


def _load_as_stored(cursor: Any) -> None:
    """Ids as bytes and instants as numbers: half of what loading a row costs is making objects of them."""
    from psycopg.types.numeric import Int8BinaryLoader
    from psycopg.types.string import ByteaBinaryLoader

    cursor.adapters.register_loader("uuid", ByteaBinaryLoader)
    cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)


# -- merging -----------------------------------------------------------------------------------

_END = b"\xff" * 17
"""Behind every id."""
_NOTHING: Sequence[Any] = ()
_SINCE_2000 = 946_684_800_000_000
"""Microseconds from 1970 to the year 2000, from which PostgreSQL counts."""


class _Head:
    """Where one table stands: the next delivery that it has rows of."""

    __slots__ = ("_groups", "_rows", "id")

    def __init__(self, groups: Iterator[tuple[bytes, Any]]) -> None:
        self._groups = groups
        self._rows: Any
        self.id, self._rows = next(groups, (_END, None))

    def take(self) -> Any:
        """The rows of that delivery."""
        rows = self._rows
        self.id, self._rows = next(self._groups, (_END, None))
        return rows


def _grouped(pages: Iterator[list[Any]]) -> Iterator[tuple[bytes, list[Any]]]:
    """Consecutive rows of one delivery, whose id is their first column."""
    id, group = b"", []
    for page in pages:
        for row in page:
            if row[0] == id:
                group.append(row)
            else:
                if group:
                    yield id, group
                id, group = row[0], [row]
    if group:
        yield id, group


def _single(pages: Iterator[list[Any]]) -> Iterator[tuple[bytes, Any]]:
    """Rows of which a delivery has one."""
    for page in pages:
        for row in page:
            yield row[0], row


# -- reading -----------------------------------------------------------------------------------


class _Source(Struct, frozen=True):
    """One table, and how its rows belong together."""

    table: Table
    sql: str
    id: str
    order: str
    group: Callable[[Iterator[list[Any]]], Iterator[tuple[bytes, Any]]]


class _Span(Struct, frozen=True):
    """Which deliveries."""

    after: UUID | None = None
    until: UUID | None = None
    ids: Sequence[UUID] | None = None

    def condition(self, id: str, postgresql: bool) -> tuple[str, dict[str, Any]]:
        """SQL, and its parameters."""
        mark = "%({})s" if postgresql else ":{}"
        given: dict[str, Any] = {}
        parts = []
        for name, sign, value in (("after", ">", self.after), ("until", "<=", self.until)):
            if value is not None:
                parts.append(f"{id} {sign} {mark.format(name)}")
                given[name] = value if postgresql else value.hex
        if self.ids is not None and postgresql:
            parts.append(f"{id} = ANY({mark.format('ids')})")
            given["ids"] = list(self.ids)
        elif self.ids is not None:
            parts.append(f"{id} IN (SELECT value FROM json_each(:ids))")
            given["ids"] = msgspec.json.encode([each.hex for each in self.ids]).decode()
        return " AND ".join(parts) or "1 = 1", given


def _source(table: Table, columns: Sequence[Any], order: str, join: str = "") -> _Source:
    """`order`: what tells a delivery's rows apart; empty where it has one."""
    id = f"{table.name}.{columns[0].name}"
    names = ", ".join(f"{column.table.name}.{column.name}" for column in columns)
    by = f"{id}, {table.name}.{order}" if order else id
    return _Source(table, f"SELECT {names} FROM {table.name} {join}", id, by, _grouped if order else _single)


_EVENTS = _source(events, [events.c[name] for name in EVENT_COLUMNS], "version")
_SOURCES = (
    _EVENTS,
    _source(deliveries, list(deliveries.c), ""),
    _source(contents, list(contents.c), ""),
    _source(notes, list(notes.c), "version"),
    _source(
        evidence,
        [*evidence.c, facts.c.text, facts.c.salt],
        "sequence",
        f"LEFT JOIN {facts.name} USING (delivery_id, sequence)",
    ),
    _source(tombstones, list(tombstones.c), ""),
)
