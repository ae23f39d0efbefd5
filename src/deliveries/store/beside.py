"""What stands beside a stream, table by table, and what becomes of it when it must go.

A table that holds something of single deliveries has its line in `BESIDE`; a test finds out who was
forgotten. Erasing a recipient empties the columns that may tell of people, or deletes rows whose
very existence does. Pruning a delivery deletes all its rows; only its tombstone stays, and what limits
others for a while yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Column, Connection, Table, delete, or_, update

from deliveries.store.schema import (
    cap_slots,
    contents,
    deliveries,
    events,
    evidence,
    facts,
    notes,
    references,
    tombstones,
    uniques,
)


class Beside(Struct, frozen=True):
    """One table whose rows belong to deliveries."""

    table: Table
    emptied: tuple[str, ...] = ()
    """Columns that erasing sets to NULL."""
    erased: bool = False
    """True where erasing deletes the rows."""
    outlives: bool = False
    """True where pruning leaves the rows: they go by themselves when their time is over."""
    column: str = "delivery_id"

    @property
    def id(self) -> Column[UUID]:
        """The delivery that a row belongs to."""
        return self.table.c[self.column]


BESIDE: tuple[Beside, ...] = (
    Beside(contents, emptied=("recipient", "payload", "salt")),
    Beside(notes, emptied=("text", "salt")),
    Beside(facts, emptied=("text", "salt")),
    Beside(references, erased=True),
    Beside(uniques, erased=True),
    Beside(cap_slots, erased=True, outlives=True),
    Beside(evidence),
    Beside(events),
    Beside(deliveries, column="id"),
)
"""In the order in which pruning deletes from them: the projection's row, which was locked, last."""

KEPT = (tombstones,)
"""What outlives its delivery."""


def wipe(connection: Connection, ids: Sequence[UUID]) -> None:
    """Take out of the database all that may tell of people in these deliveries; salts too."""
    for one in BESIDE:
        if one.erased:
            connection.execute(delete(one.table).where(one.id.in_(ids)))
        elif one.emptied:
            filled = or_(*(one.table.c[name].is_not(None) for name in one.emptied))
            nothing = dict.fromkeys(one.emptied)
            connection.execute(update(one.table).where(one.id.in_(ids), filled).values(nothing))


def bury(connection: Connection, ids: Sequence[UUID]) -> None:
    """Delete everything of these deliveries; the database lets only those go that have a tombstone."""
    for one in BESIDE:
        if not one.outlives:
            connection.execute(delete(one.table).where(one.id.in_(ids)))
