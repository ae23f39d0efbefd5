"""What the database itself refuses, whoever writes: every refusal is an IntegrityError."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import IntegrityError

from deliveries.core import outcomes as o
from deliveries.core.codec import REGISTERED
from deliveries.core.machine import TERMINAL_EVENTS
from deliveries.store.schema import events
from deliveries.store.store import Store
from deliveries.testing.examples import report
from store.acts import Acts, StoppedClock, event_row

ENDS = sorted(kind.__name__ for kind in TERMINAL_EVENTS)

UPSERT = """
INSERT INTO delivery_events (delivery_id, version, type, schema_version, recorded_at, body, digest)
SELECT delivery_id, version, type, schema_version, recorded_at, body, digest FROM delivery_events WHERE true
ON CONFLICT (delivery_id, version) DO UPDATE SET body = excluded.body
"""
REPLACE = """
INSERT OR REPLACE INTO delivery_events
  (position, delivery_id, version, type, schema_version, recorded_at, body, digest)
SELECT {position}, {id}, version, 'Noise', schema_version, recorded_at, body, digest FROM delivery_events
"""


def everything(acts: Acts) -> list[Any]:
    with acts.store.reading() as connection:
        return list(connection.execute(select(events).order_by(events.c.position)))


def refused(acts: Acts, *rows: dict[str, Any]) -> None:
    """These events, in one statement, are refused and leave nothing."""
    before = everything(acts)
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(insert(events), list(rows))
    assert everything(acts) == before


def accepted(acts: Acts, *rows: dict[str, Any]) -> None:
    with acts.store.transaction() as connection:
        connection.execute(insert(events), list(rows))


# -- events are never changed ------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    ["UPDATE delivery_events SET body = body", "DELETE FROM delivery_events", UPSERT],
    ids=["update", "delete", "upsert"],
)
def test_events_are_not_changed(acts: Acts, statement: str) -> None:
    acts.schedule()
    before = everything(acts)
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(text(statement))
    assert everything(acts) == before


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "tables", ["delivery_events", "deliveries, delivery_events", "delivery_events CASCADE"]
)
def test_events_are_not_truncated(acts: Acts, tables: str) -> None:
    acts.schedule()
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(text(f"TRUNCATE {tables}"))
    assert len(everything(acts)) == 1


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("position", "id"),
    [("position", "randomblob(16)"), ("position + 1", "delivery_id")],
    ids=["by position", "by stream"],
)
def test_events_are_not_replaced(acts: Acts, position: str, id: str) -> None:
    """INSERT OR REPLACE deletes what stands in its way without firing a delete trigger."""
    acts.schedule()
    before = everything(acts)
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(text(REPLACE.format(position=position, id=id)))
    assert everything(acts) == before


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("conflict", ["REPLACE", "IGNORE"])
def test_an_end_is_not_replaced(acts: Acts, conflict: str) -> None:
    id = ended(acts)
    before = everything(acts)
    statement = insert(events).prefix_with(f"OR {conflict}", dialect="sqlite")
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(statement, event_row(id, 4, "Cancelled"))
    assert everything(acts) == before


# -- a live predecessor ------------------------------------------------------------------------


def ended(acts: Acts) -> UUID:
    """A delivery that succeeded at version 3."""
    id = acts.schedule()
    acts.attempt(id)
    acts.do(id, report(1, o.Delivered()))
    return id


@pytest.mark.parametrize("end", ENDS)
def test_nothing_follows_an_end(acts: Acts, end: str) -> None:
    id = uuid4()
    accepted(acts, event_row(id, 1, "Scheduled"), event_row(id, 2, end))
    for kind in sorted(REGISTERED):
        refused(acts, event_row(id, 3, kind))


@pytest.mark.parametrize("kind", sorted(REGISTERED - {"Scheduled"}))
def test_an_event_needs_its_predecessor(acts: Acts, kind: str) -> None:
    id = acts.schedule()
    refused(acts, event_row(uuid4(), 2, kind))
    refused(acts, event_row(id, 3, kind))
    refused(acts, event_row(uuid4(), 1, kind))
    refused(acts, event_row(uuid4(), 0, kind))
    accepted(acts, event_row(id, 2, kind))


def test_scheduled_is_version_1_and_only_there(acts: Acts) -> None:
    id = acts.schedule()
    refused(acts, event_row(id, 2, "Scheduled"))
    refused(acts, event_row(uuid4(), 0, "Scheduled"))


def test_an_event_of_ours_follows_no_foreign_one(acts: Acts) -> None:
    id = acts.schedule()
    accepted(acts, event_row(id, 2, "Noise"))
    refused(acts, event_row(id, 3, "Cancelled"))


def test_foreign_events_are_nobodys_business(acts: Acts) -> None:
    accepted(acts, event_row(version=0), event_row(version=7, body=b"\xff", schema_version=0))


def test_one_statement_may_hold_event_and_predecessor(acts: Acts) -> None:
    id, other = uuid4(), uuid4()
    accepted(acts, event_row(id, 1, "Scheduled"), event_row(id, 2, "Attempted"), event_row(id, 3, "Failed"))
    refused(
        acts,
        event_row(other, 1, "Scheduled"),
        event_row(other, 2, "Cancelled"),
        event_row(other, 3, "Exhausted"),
    )


def test_one_bad_event_refuses_its_statement(acts: Acts) -> None:
    refused(acts, event_row(uuid4(), 1, "Scheduled"), event_row(uuid4(), 1, "Attempted"))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_copy_is_guarded_too(acts: Acts) -> None:
    columns = "delivery_id, version, type, schema_version, recorded_at, body, digest"
    with acts.store.transaction() as connection:
        cursor: Any = connection.connection.cursor()
        copying = cursor.copy(f"COPY delivery_events ({columns}) FROM STDIN")
        with pytest.raises(psycopg.IntegrityError), copying as copy:
            copy.write_row(tuple(event_row(uuid4(), 2, "Succeeded").values()))
    assert everything(acts) == []


# -- unique indexes, also without the triggers ---------------------------------------------------


def without_predecessor_guard(acts: Acts, dialect: str) -> None:
    name = "delivery_events_predecessor"
    with acts.store.transaction() as connection:
        if dialect == "sqlite":
            connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text(f"ALTER TABLE delivery_events DISABLE TRIGGER {name}"))


@pytest.mark.parametrize("first", ENDS)
def test_a_delivery_ends_once(acts: Acts, dialect: str, first: str) -> None:
    without_predecessor_guard(acts, dialect)
    id = acts.schedule()
    accepted(acts, event_row(id, 2, first))
    for second in ENDS:
        refused(acts, event_row(id, 3, second))


def test_a_version_is_taken_once(acts: Acts) -> None:
    id = uuid4()
    accepted(acts, event_row(id, 1))
    refused(acts, event_row(id, 1))
    refused(acts, event_row(id, 2), event_row(id, 2))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_of_two_ends_at_once_one_wins(
    database_url: str, acts: Acts, engines: Callable[..., Engine], level: str
) -> None:
    """Check-then-insert lets both commit at every level below SERIALIZABLE; an index does not."""
    id = acts.schedule()
    engine = engines(database_url, isolation_level=level)
    errors: list[BaseException] = []

    def cancel() -> None:
        try:
            with engine.begin() as connection:
                connection.execute(insert(events), event_row(id, 2, "Cancelled"))
        except IntegrityError as error:
            errors.append(error)

    with engine.begin() as winner:
        winner.execute(insert(events), event_row(id, 2, "Suppressed"))
        loser = threading.Thread(target=cancel)
        loser.start()
    loser.join(30)
    assert len(errors) == 1
    assert [row.type for row in everything(acts)] == ["Scheduled", "Suppressed"]


def test_a_pending_delivery_is_due_at_some_time(acts: Acts) -> None:
    id = acts.schedule()
    with pytest.raises(IntegrityError), acts.store.transaction() as connection:
        connection.execute(text("UPDATE deliveries SET due_at = NULL"))
    acts.attempt(id)
    assert acts.row(id).due_at is None


# -- wherever the tables are ---------------------------------------------------------------------


def test_guards_work_in_a_schema_of_their_own(
    empty_postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    """Trigger functions name their schema, so they work whatever the writer's search_path says."""
    with engines(empty_postgresql_url).begin() as connection:
        connection.execute(text("CREATE SCHEMA ours"))
    inside = engines(empty_postgresql_url, connect_args={"options": "-csearch_path=ours"})
    Store(inside, StoppedClock()).create_schema()
    outside = engines(empty_postgresql_url).execution_options(schema_translate_map={None: "ours"})
    with outside.begin() as connection:
        connection.execute(insert(events), event_row(version=1, kind="Scheduled"))
    with pytest.raises(IntegrityError), outside.begin() as connection:
        connection.execute(insert(events), event_row(version=1, kind="Succeeded"))
    with pytest.raises(IntegrityError), outside.begin() as connection:
        connection.execute(events.delete())
