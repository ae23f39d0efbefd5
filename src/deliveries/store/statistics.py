"""What the projection of statistics has counted: rows for hours, and the events it must look back at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from deliveries.core.stream import Recorded
from deliveries.store.rows import recorded_of
from deliveries.store.schema import events, statistics

PLACES_PER_STATEMENT = 500
"""Pairs of delivery and version in one look-up."""

_UPSERT: dict[str, Any] = {}
for _dialect in (postgresql, sqlite):
    _insert = _dialect.insert(statistics)
    _key = {column.name for column in statistics.primary_key}
    _UPSERT[_dialect.__name__.rpartition(".")[2]] = _insert.on_conflict_do_update(
        index_elements=sorted(_key),
        set_={one.name: _insert.excluded[one.name] for one in statistics.c if one.name not in _key},
    )


def earlier(connection: Connection, places: Collection[tuple[UUID, int]]) -> dict[tuple[UUID, int], Recorded]:
    """The events at these places, (delivery, version); those that are not there are left out."""
    found: dict[tuple[UUID, int], Recorded] = {}
    wanted = list(places)
    at = tuple_(events.c.delivery_id, events.c.version)
    for start in range(0, len(wanted), PLACES_PER_STATEMENT):
        statement = select(events).where(at.in_(wanted[start : start + PLACES_PER_STATEMENT]))
        for row in connection.execute(statement):
            found[row.delivery_id, row.version] = recorded_of(row)
    return found


def rows_of(connection: Connection, keys: Sequence[tuple[str, Any]]) -> Sequence[Any]:
    """The rows of these hours, (channel, hour)."""
    at = tuple_(statistics.c.channel, statistics.c.hour)
    return connection.execute(select(statistics).where(at.in_(keys))).all()


def rows_where(connection: Connection, conditions: Iterable[ColumnElement[bool]]) -> Sequence[Any]:
    """The rows that meet these conditions, the oldest hour first."""
    order = (statistics.c.hour, statistics.c.channel)
    return connection.execute(select(statistics).where(*conditions).order_by(*order)).all()


def write(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Set these hours to what `rows` say; only the follower that holds the position does so."""
    if rows:
        connection.execute(_UPSERT[connection.dialect.name], rows)


def empty(connection: Connection) -> None:
    """Take all hours out."""
    connection.execute(delete(statistics))
