"""Deleting events, guarded: a tombstone first, for a whole stream that has ended, and for ever."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from deliveries.core import outcomes as o
from deliveries.store.beside import BESIDE, KEPT, bury, wipe
from deliveries.store.schema import (
    cap_slots,
    deliveries,
    events,
    evidence,
    facts,
    metadata,
    notes,
    tombstones,
    uniques,
)
from deliveries.testing.examples import NOW, report
from store.acts import Acts, event_row


def ended(acts: Acts) -> UUID:
    """A delivery that succeeded at version 3."""
    id = acts.schedule()
    acts.attempt(id)
    acts.do(id, report(1, o.Delivered()))
    return id


def tombstone(acts: Acts, id: UUID, **columns: Any) -> dict[str, Any]:
    """The one that is due for a delivery as it stands."""
    last = acts.history(id)[-1]
    due = {"delivery_id": id, "version": last.version, "digest": last.digest, "status": "succeeded"}
    return due | {"pruned_at": NOW} | columns


def set_up(acts: Acts, row: dict[str, Any]) -> None:
    with acts.store.transaction() as connection:
        connection.execute(insert(tombstones), row)


def refused(acts: Acts, statement: Any, *values: Any) -> None:
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(statement, *values)


def test_a_stream_goes_under_its_tombstone_alone(acts: Acts) -> None:
    id, other = ended(acts), ended(acts)
    set_up(acts, tombstone(acts, id))
    with acts.store.transaction() as connection:
        connection.execute(delete(events).where(events.c.delivery_id == id))
    assert acts.history(id) == []
    refused(acts, delete(events).where(events.c.delivery_id == other))
    assert len(acts.history(other)) == 3


def test_one_statement_that_deletes_too_much_deletes_nothing(acts: Acts) -> None:
    id, other = ended(acts), ended(acts)
    set_up(acts, tombstone(acts, id))
    refused(acts, delete(events))
    assert len(acts.history(id)) == len(acts.history(other)) == 3


@pytest.mark.parametrize("wrong", [{"version": 2}, {"version": 4}, {"digest": bytes(32)}])
def test_a_tombstone_tells_the_truth(acts: Acts, wrong: dict[str, Any]) -> None:
    id = ended(acts)
    refused(acts, insert(tombstones), tombstone(acts, id, **wrong))


def test_a_living_stream_gets_no_tombstone(acts: Acts) -> None:
    id = acts.schedule()
    refused(acts, insert(tombstones), tombstone(acts, id))
    acts.attempt(id)
    refused(acts, insert(tombstones), tombstone(acts, id))


def test_nobody_gets_a_tombstone_who_never_lived(acts: Acts) -> None:
    id = ended(acts)
    stranger = UUID("00000000-0000-7000-8000-000000000000")
    refused(acts, insert(tombstones), tombstone(acts, id, delivery_id=stranger))


def test_a_stream_with_a_hole_gets_no_tombstone(acts: Acts, dialect: str) -> None:
    """Whoever took an event away, past the guards, cannot have the rest deleted as if it were whole."""
    id = ended(acts)
    row = tombstone(acts, id)
    with acts.store.transaction() as connection:
        if dialect == "sqlite":
            connection.execute(text("DROP TRIGGER delivery_events_no_delete"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(delete(events).where(events.c.delivery_id == id, events.c.version == 2))
    refused(acts, insert(tombstones), row)


@pytest.mark.parametrize("change", ["update", "delete", "replace"])
def test_tombstones_stay(acts: Acts, dialect: str, change: str) -> None:
    id = ended(acts)
    row = tombstone(acts, id)
    set_up(acts, row)
    if change == "update":
        refused(acts, update(tombstones).values(version=7))
    elif change == "delete":
        refused(acts, delete(tombstones))
    else:
        statement = insert(tombstones).prefix_with("OR REPLACE", dialect="sqlite")
        refused(acts, statement, row | {"actor": "mallory"})
    with acts.store.reading() as connection:
        (found,) = connection.execute(select(tombstones)).all()
    assert (found.version, found.actor) == (3, None)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["delivery_tombstones", "delivery_evidence"])
def test_they_are_not_truncated(acts: Acts, table: str) -> None:
    refused(acts, text(f"TRUNCATE {table}"))


@pytest.mark.parametrize("buried", [False, True], ids=["still there", "gone"])
@pytest.mark.parametrize("version", [1, 4])
@pytest.mark.parametrize("kind", ["Scheduled", "Cancelled", "Noise"])
def test_nothing_is_written_under_the_id_again(acts: Acts, buried: bool, version: int, kind: str) -> None:
    id = ended(acts)
    set_up(acts, tombstone(acts, id))
    if buried:
        with acts.store.transaction() as connection:
            bury(connection, [id])
    refused(acts, insert(events), event_row(id, version, kind))


# -- evidence --------------------------------------------------------------------------------------


def test_evidence_is_appended_and_nothing_else(acts: Acts) -> None:
    id = ended(acts)
    with acts.store.transaction() as connection:
        acts.store.add_evidence(connection, id, "late_report", {"attempt": 1}, NOW)
    refused(acts, update(evidence).values(kind="bounced"))
    refused(acts, delete(evidence))
    set_up(acts, tombstone(acts, id))
    with acts.store.transaction() as connection:
        connection.execute(delete(evidence))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_evidence_is_not_replaced(acts: Acts) -> None:
    id = ended(acts)
    with acts.store.transaction() as connection:
        acts.store.add_evidence(connection, id, "late_report", {"attempt": 1}, NOW)
    refused(acts, text("INSERT OR REPLACE INTO delivery_evidence SELECT * FROM delivery_evidence"))


# -- what goes with a delivery ---------------------------------------------------------------------


def test_every_table_of_deliveries_is_known_to_pruning_and_erasing() -> None:
    """A new table that holds something of a delivery: say in `beside` what becomes of it."""
    known = {one.table.name for one in BESIDE} | {table.name for table in KEPT}
    belongs = {name for name, table in metadata.tables.items() if "delivery_id" in table.c}
    assert belongs | {deliveries.name} == known
    assert BESIDE[-1].table is deliveries


def surrounded(acts: Acts) -> UUID:
    """A delivery that ended, with a row in every table that can have one."""
    id = ended(acts)
    text = {"delivery_id": id, "text": "of a person", "salt": b"salt"}
    digest = id.bytes * 2
    with acts.store.transaction() as connection:
        acts.store.add_evidence(connection, id, "late_report", {"attempt": 1}, NOW)
        acts.store.refer(connection, {id: ("email", f"m-{id}")})
        connection.execute(insert(notes), text | {"version": 3})
        connection.execute(insert(facts), text | {"sequence": 1})
        connection.execute(insert(uniques), {"digest": digest, "delivery_id": id, "taken_at": NOW})
        slot = {"cap": "weekly", "digest": digest, "delivery_id": id, "taken_at": NOW, "free_at": NOW}
        connection.execute(insert(cap_slots), slot)
    return id


def tables_of(acts: Acts, id: UUID) -> set[str]:
    """Where the delivery has rows."""
    with acts.store.reading() as connection:
        return {one.table.name for one in BESIDE if id in connection.scalars(select(one.id)).all()}


EVERYWHERE = {one.table.name for one in BESIDE}


def test_burying_leaves_nothing_of_a_delivery(acts: Acts) -> None:
    id, other = surrounded(acts), surrounded(acts)
    set_up(acts, tombstone(acts, id))
    with acts.store.transaction() as connection:
        bury(connection, [id])
    assert tables_of(acts, other) == EVERYWHERE
    assert tables_of(acts, id) == {one.table.name for one in BESIDE if one.outlives}


def test_wiping_leaves_rows_that_tell_of_nobody(acts: Acts) -> None:
    id, other = surrounded(acts), surrounded(acts)
    with acts.store.transaction() as connection:
        wipe(connection, [id])
    assert tables_of(acts, other) == EVERYWHERE
    assert tables_of(acts, id) == {one.table.name for one in BESIDE if not one.erased}
    with acts.store.reading() as connection:
        for one in BESIDE:
            for column in one.emptied:
                found = dict(connection.execute(select(one.id, one.table.c[column])).all())
                assert (found[id], found[other] is None) == (None, False), (one.table.name, column)
