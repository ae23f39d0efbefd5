"""Facts that decide nothing: once each, and chained to the delivery's other facts."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select

from deliveries.core.codec import GENESIS, digest
from deliveries.store.schema import evidence
from deliveries.testing.examples import NOW, at
from store.acts import Acts


def tell(acts: Acts, id: UUID, kind: str, fact: Any, now: datetime = NOW) -> None:
    with acts.store.transaction() as connection:
        acts.store.add_evidence(connection, id, kind, fact, now)


def told(acts: Acts, id: UUID) -> list[Any]:
    with acts.store.reading() as connection:
        statement = select(evidence).where(evidence.c.delivery_id == id).order_by(evidence.c.sequence)
        return list(connection.execute(statement))


def test_facts_are_a_chain_of_each_delivery(acts: Acts) -> None:
    one, other = acts.schedule(), acts.schedule()
    facts = [("late_report", {"attempt": 1}, at(1)), ("bounce", "gone", at(2)), ("bounce", [7], at(3))]
    for kind, fact, now in facts:
        tell(acts, one, kind, fact, now)
        tell(acts, other, kind, fact, now)
    for id in (one, other):
        previous, rows = GENESIS, told(acts, id)
        assert len(rows) == 3
        for number, (row, (kind, fact, now)) in enumerate(zip(rows, facts, strict=True), start=1):
            assert (row.sequence, row.kind, row.recorded_at) == (number, kind, now)
            assert msgspec.json.decode(row.body) == fact
            assert row.digest == digest(previous, id, number, kind, 1, now, row.body)
            previous = row.digest
    with acts.store.reading() as connection:
        read = acts.store.evidence(connection, one)
    assert read == [(kind, now, fact) for kind, fact, now in facts]


def test_the_same_fact_of_the_same_moment_is_told_once(acts: Acts) -> None:
    """Where a commit's answer was lost it is told again."""
    id, other = acts.schedule(), acts.schedule()
    for _ in range(2):
        tell(acts, id, "bounce", "gone")
        tell(acts, id, "bounce", "moved")
    assert [row.sequence for row in told(acts, id)] == [1, 2]
    for kind, fact, now in (("report", "gone", NOW), ("bounce", "left", NOW), ("bounce", "gone", at(1))):
        tell(acts, id, kind, fact, now)
    assert [row.sequence for row in told(acts, id)] == [1, 2, 3, 4, 5]
    tell(acts, other, "bounce", "gone")
    assert len(told(acts, other)) == 1, "what is known of one is not known of another"
