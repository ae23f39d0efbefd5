"""The verdict: every rule, over everything in a database and what was seen of it from outside.

assert broken(engine) == []
assert broken(engine, calls=witnessed, effects=receiver.effects, ended=True) == []
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, select

from deliveries import Evidence, Status
from deliveries.audit.beside import (
    contents_findings,
    evidence_findings,
    notes_findings,
    tombstone_findings,
)
from deliveries.audit.invariants import (
    Called,
    Finding,
    call_findings,
    e2_one_effect_per_key,
    record_findings,
    row_findings,
    t2_a_key_names_one_delivery,
)
from deliveries.core.stream import Recorded
from deliveries.store.evidence import gathered
from deliveries.store.reading import Reading
from deliveries.store.schema import contents, deliveries, events, notes, tombstones

PAGE = 500
STANDING_STILL = {Status.PENDING: "N5", Status.ATTEMPTING: "N4"}
"""What is broken where a delivery stays so, though processors had the time that they need."""


def broken(
    engine: Engine,
    *,
    calls: Iterable[Called] = (),
    effects: Mapping[str, int] | None = None,
    ended: bool = False,
) -> list[Finding]:
    """Everything that is wrong; empty is good.

    `calls`: entries of adapters. `effects`: idempotency key -> effects at a receiver that honours keys.
    `ended`: nothing may be left to do.
    """
    with engine.connect() as connection:
        rows = connection.execute(select(deliveries).order_by(deliveries.c.id)).all()
        histories = _histories(connection, [row.id for row in rows])
        orphans = set(connection.scalars(select(events.c.delivery_id).distinct())) - histories.keys()
        found = [Finding("T1", 1, "events without a row", id) for id in orphans]
        found += besides(connection, histories)
    for row in rows:
        found += verdict(histories[row.id], row)
        if ended and row.status in STANDING_STILL:
            found.append(Finding(STANDING_STILL[row.status], row.version, f"still {row.status}", row.id))
    found += t2_a_key_names_one_delivery(rows)
    found += call_findings(histories, calls)
    found += e2_one_effect_per_key(effects or {})
    return found


def verdict(record: Sequence[Recorded], row: Any) -> list[Finding]:
    """One delivery: its stream, its record and its row."""
    if not record:
        return [Finding("I2", 0, "a row without events", row.id)]
    found = record_findings(record)
    return found or row_findings(record, row)  # a stream that makes no sense has no fold to compare


def besides(connection: Connection, histories: Mapping[UUID, Sequence[Recorded]]) -> list[Finding]:
    """What stands beside the streams, and what is left of those that were pruned."""
    beside = {row.delivery_id: row for row in connection.execute(select(contents))}
    texts: dict[UUID, list[Any]] = {}
    for row in connection.execute(select(notes)):
        texts.setdefault(row.delivery_id, []).append(row)
    ids = list(histories)
    pieces: dict[UUID, list[Evidence]] = {}
    for start in range(0, len(ids), PAGE):
        for one in gathered(connection, *ids[start : start + PAGE]):
            pieces.setdefault(one.delivery_id, []).append(one)
    found: list[Finding] = []
    for tombstone in connection.execute(select(tombstones)):
        found += tombstone_findings(tombstone, histories.get(tombstone.delivery_id, ()))
    for id, record in histories.items():
        if record:
            found += evidence_findings(pieces.get(id, []))
            found += contents_findings(record, beside.get(id), pieces.get(id, []))
            found += notes_findings(record, texts.get(id, ()), pieces.get(id, []))
    return found


def _histories(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, list[Recorded]]:
    histories: dict[UUID, list[Recorded]] = {}
    for start in range(0, len(ids), PAGE):
        histories |= Reading().histories(connection, ids[start : start + PAGE])
    return histories
