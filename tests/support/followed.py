"""A projection that writes down what it got, in a table that would show what came twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, Text, insert, select

from deliveries import Deliveries, Entry, Projection
from deliveries.store.schema import events

own = MetaData()
followed = Table(
    "followed",
    own,
    Column("id", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("said", Text, nullable=False),
)
"""Nothing about a position is unique here."""


def note_down(entries: Sequence[Entry], connection: Connection) -> None:
    """One row for each."""
    rows = [{"position": one.position, "said": f"{one.type} {one.channel}"} for one in entries]
    connection.execute(insert(followed), rows)


def noting(app: Deliveries, name: str = "seen", **options: Any) -> Projection:
    """The projection, and its table."""
    own.create_all(app.engine)
    return Projection(name, note_down, **options)


def noted(app: Deliveries) -> list[tuple[int, str]]:
    """Position and what was said, in the order of writing."""
    with app.engine.connect() as connection:
        rows = connection.execute(select(followed.c.position, followed.c.said).order_by(followed.c.id))
        return [(position, said) for position, said in rows]


def seen(app: Deliveries) -> list[int]:
    """The positions, in the order of writing."""
    return [position for position, _ in noted(app)]


def logged(app: Deliveries) -> list[int]:
    """The positions of the log."""
    with app.engine.connect() as connection:
        return list(connection.scalars(select(events.c.position).order_by(events.c.position)))
