"""Evidence: facts beside a stream that decide nothing, in a chain of their own.

A row is never changed. What it says of itself is free of personal data, like an event. What a provider
or a person told is a text in `delivery_facts`, erasable; the row holds its salted digest, as an event
holds its note's.

Whoever appends has locked the delivery's row before, so that two chain one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, insert, select

from deliveries.core.codec import GENESIS, digest
from deliveries.core.notes import Note
from deliveries.store.schema import evidence, facts

SCHEMA_VERSION = 1
"""Of the bodies; part of what the digest is over."""


class Entry(Struct, frozen=True):
    """One piece about to be appended."""

    body: bytes
    """JSON, without personal data."""
    told: Note | None = None
    """What was told, as JSON, with its salt; its digest is in the body."""


class Evidence(Struct, frozen=True, kw_only=True):
    """One fact beside a stream, as it is stored. It decides nothing."""

    delivery_id: UUID
    sequence: int
    """Place in the delivery's evidence; starts at 1."""
    kind: str
    recorded_at: datetime
    """UTC."""
    body: bytes
    """JSON, exactly as stored."""
    digest: bytes
    """SHA-256, 32 bytes, over the predecessor's digest and this row."""
    told: str | None = None
    """What a provider or a person told, as JSON; None where nothing was, or it was erased."""
    salt: bytes | None = None
    """Of the digest of `told`, which the body holds."""

    @property
    def said(self) -> Any:
        """The body. What cannot be read hides neither the stream nor the other pieces."""
        return _decoded(self.body)

    @property
    def fact(self) -> Any:
        """The body, with what was told in the place of its digest; `erased` in it where it is gone."""
        said = self.said
        if not isinstance(said, Mapping) or "told" not in said:
            return said
        rest = {name: value for name, value in said.items() if name != "told"}
        return rest | ({"erased": True} if self.told is None else {"told": _decoded(self.told.encode())})


_ends = (
    select(evidence.c.delivery_id, func.max(evidence.c.sequence).label("sequence"))
    .where(evidence.c.delivery_id.in_(bindparam("ids", expanding=True)))
    .group_by(evidence.c.delivery_id)
    .subquery()
)
_LAST = select(evidence.c.delivery_id, evidence.c.sequence, evidence.c.digest).join(
    _ends, (evidence.c.delivery_id == _ends.c.delivery_id) & (evidence.c.sequence == _ends.c.sequence)
)
_GATHERED = (
    select(evidence, facts.c.text.label("told"), facts.c.salt)
    .outerjoin(
        facts, (facts.c.delivery_id == evidence.c.delivery_id) & (facts.c.sequence == evidence.c.sequence)
    )
    .where(evidence.c.delivery_id.in_(bindparam("ids", expanding=True)))
    .order_by(evidence.c.delivery_id, evidence.c.sequence)
)


def add(connection: Connection, kind: str, entries: Sequence[tuple[UUID, Entry]], now: datetime) -> None:
    """Append one piece to each of these deliveries, chained to its other evidence."""
    ends = {
        row.delivery_id: (row.sequence, row.digest)
        for row in connection.execute(_LAST, {"ids": [id for id, _ in entries]})
    }
    rows, told = [], []
    for id, entry in entries:
        last, previous = ends.get(id, (0, GENESIS))
        sequence = last + 1
        chained = digest(previous, id, sequence, kind, SCHEMA_VERSION, now, entry.body)
        row = {"delivery_id": id, "sequence": sequence, "kind": kind, "recorded_at": now}
        rows.append(row | {"body": entry.body, "digest": chained})
        if entry.told is not None:
            fact = {"text": entry.told.text, "salt": entry.told.salt}
            told.append({"delivery_id": id, "sequence": sequence} | fact)
    if rows:
        connection.execute(insert(evidence), rows)
    if told:
        connection.execute(insert(facts), told)


def gathered(connection: Connection, *ids: UUID) -> list[Evidence]:
    """All evidence of these deliveries, each delivery's oldest first."""
    return [Evidence(**row._mapping) for row in connection.execute(_GATHERED, {"ids": ids})]


def marked(connection: Connection, kind: str, ids: Sequence[UUID]) -> dict[UUID, Any]:
    """Delivery -> body of its last piece of this kind; those without one are left out."""
    statement = (
        select(evidence.c.delivery_id, evidence.c.body)
        .where(evidence.c.delivery_id.in_(ids), evidence.c.kind == kind)
        .order_by(evidence.c.sequence)
    )
    return {row.delivery_id: _decoded(row.body) for row in connection.execute(statement)}


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, TypeError, RecursionError) as error:
        return f"<unreadable: {type(error).__name__}>"
