"""Deliveries as they were, and rows made anew from their events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from deliveries import Backoff, Deliveries, DeliveryNotFound, Draft, Retry, Status, Unknown, replaying
from deliveries.errors import InvalidMoment, NotThen
from deliveries.store.schema import deliveries
from support.apps import Apps, RunningClock, eventually, schedule

HOUR = timedelta(hours=1)


@pytest.fixture
def timed(database_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    made = apps(database_url, clock)

    @made.adapter("email", backoff=Backoff.linear(60), on_unknown="hold")
    def email(delivery: Any, attempt: Any) -> Any:
        again = Retry("later") if attempt.number == 1 else None
        return {"again": again, "unknown": Unknown("who knows")}.get(delivery.payload)

    return made


def test_one_as_it_was(timed: Deliveries, clock: RunningClock) -> None:
    id = schedule(timed, "email", "again", recipient="ann").id
    born = clock.now()
    clock.advance(3_600)
    timed.drain()
    failed = clock.now()
    clock.advance(3_600)
    timed.drain()
    for at, status, version in ((born, "pending", 1), (failed, "pending", 3), (clock.now(), "succeeded", 5)):
        then = timed.replay(id, at=at)
        assert (then.status, then.version) == (status, version)
        assert then == timed.replay(id, version=version)
        assert (then.recipient, then.payload) == (None, None)
    assert timed.replay(id, version=2).status is Status.ATTEMPTING
    assert asyncio.run(timed.areplay(id, version=2)).attempt == 1
    with pytest.raises(NotThen, match="was not there before"):
        timed.replay(id, at=born - HOUR)
    with pytest.raises(NotThen, match="has 5 events"):
        timed.replay(id, version=6)
    with pytest.raises(DeliveryNotFound):
        timed.replay(UUID(int=1), version=1)
    with pytest.raises(InvalidMoment):
        timed.replay(id)
    with timed.engine.begin() as connection:
        fresh = timed.schedule(connection, "email", "uncommitted")
        assert timed.replay(fresh.id, version=1, session=connection).status is Status.PENDING
        connection.rollback()


def test_all_as_they_were(timed: Deliveries, clock: RunningClock) -> None:
    first = schedule(timed, "email", "fine").id
    early = clock.now()
    clock.advance(60)
    timed.drain()
    second = schedule(timed, "email", "unknown").id
    middle = clock.now()
    clock.advance(60)
    timed.drain()
    assert {one.id: one.status for one in timed.replay_all(early)} == {first: "pending"}
    assert {one.id: one.status for one in timed.replay_all(middle)} == {first: "succeeded", second: "pending"}
    assert {one.id: one.status for one in timed.replay_all()} == {first: "succeeded", second: "held"}
    assert list(timed.replay_all(early - HOUR)) == []
    with pytest.raises(InvalidMoment):
        timed.replay_all(datetime(2026, 1, 1))  # noqa: DTZ001 - naive, which is refused

    found = {one.id: one for one in timed.diff(early, clock.now())}
    assert (found[first].before.status, found[first].after.status) == ("pending", "succeeded")
    assert found[first].changes["status"] == ("pending", "succeeded")
    assert set(found[first].changes) == {"status", "version", "due_at", "attempt", "rules"}
    assert found[second].before is None
    assert found[second].changes["channel"] == (None, "email")
    assert list(timed.diff(clock.now(), clock.now() + HOUR)) == []
    with pytest.raises(InvalidMoment, match="before the first"):
        list(timed.diff(middle, early))


# -- rebuilding --------------------------------------------------------------------------------

TAMPERED = {
    "status": "held",
    "version": 9,
    "channel": "sms",
    "queue": "other",
    "priority": 9,
    "scheduled_at": datetime(2020, 1, 1, tzinfo=UTC),
    "expires_at": datetime(2100, 1, 1, tzinfo=UTC),
    "attempt": 5,
    "endings": 5,
    "interruptions": 1,
    "snoozes": 3,
    "cancel_requested": "operator",
    "tenant": "other",
    "key": "k",
    "tags": '["x"]',
    "correlation_id": "c",
    "causation_id": "c",
    "root_id": UUID(int=5),
    "max_attempts": 3,
    "recorded_at": datetime(2020, 1, 1, tzinfo=UTC),
    "digest": b"d" * 32,
}


@pytest.fixture
def app(database_url: str, apps: Apps) -> Iterator[Deliveries]:
    made = apps(database_url)
    made.adapter("email", on_unknown="hold")(
        lambda delivery, attempt: Unknown("?") if delivery.payload == "unknown" else None
    )
    return made


def test_each_column_is_made_anew(app: Deliveries) -> None:
    ids = [schedule(app, "email", payload).id for payload in ("fine", "unknown")]
    app.drain()
    ids.append(schedule(app, "email", "later", delay=3_600, key="k0", tags=("a",)).id)
    assert app.rebuild().ok
    for column, value in TAMPERED.items():
        with app.engine.begin() as connection:
            wrong = select(deliveries.c.id).where(deliveries.c[column].is_distinct_from(value))
            touched = set(connection.scalars(wrong))
            for number, id in enumerate(sorted(touched)):
                given = f"k{number + 1}" if column == "key" else value
                row = deliveries.update().where(deliveries.c.id == id)
                connection.execute(row.values({column: given}))
        looked = app.rebuild(dry_run=True)
        assert (looked.corrected, looked.columns) == (len(touched), {column: len(touched)}), column
        assert not app.audit().ok
        assert app.rebuild().columns == {column: len(touched)}
        assert app.rebuild().ok
        assert app.audit().ok
    assert app.rebuild().seen == 3
    assert [app.find(status=status)[0].id for status in ("succeeded", "held", "pending")] == ids


def test_a_due_time_that_an_event_told(app: Deliveries) -> None:
    id = schedule(app, "email", "later", delay=3_600).id
    due = app.get(id).due_at
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().values(due_at=datetime(2100, 1, 1, tzinfo=UTC)))
    assert not app.audit().ok
    assert app.rebuild().columns == {"due_at": 1}
    assert app.get(id).due_at == due
    assert app.audit().ok


@pytest.mark.parametrize("batch", [1, 500])
def test_keys_that_changed_places(app: Deliveries, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row has a key that is due to another one, so that none can be written first."""
    monkeypatch.setattr(replaying, "BATCH", batch)
    ids = [schedule(app, "email", n, key=f"k{n}", delay=60).id for n in range(3)]
    with app.engine.begin() as connection:
        for n, id in enumerate(ids):
            row = deliveries.update().where(deliveries.c.id == id)
            connection.execute(row.values(key=f"x{n}", priority=9))
        for n, id in enumerate(ids):
            row = deliveries.update().where(deliveries.c.id == id)
            connection.execute(row.values(key=f"k{(n + 1) % 3}"))
    looked = app.rebuild(dry_run=True)
    assert (looked.corrected, looked.columns) == (3, {"key": 3, "priority": 3})
    report = app.rebuild()
    assert (report.corrected, report.columns, report.seen) == (3, {"key": 3, "priority": 3}, 3)
    assert app.audit().ok
    assert [app.find(id=id)[0].key for id in ids] == ["k0", "k1", "k2"]


def test_a_key_that_another_delivery_has_by_right(app: Deliveries, apps: Apps) -> None:
    """While the row was wrong, or lost, its key was free, and was taken."""
    apps.damaged = True
    lost, wrong = (schedule(app, "email", n, key=f"k{n}", delay=60).id for n in range(2))
    with app.engine.begin() as connection:
        connection.execute(deliveries.delete().where(deliveries.c.id == lost))
        connection.execute(deliveries.update().where(deliveries.c.id == wrong).values(key=None))
    others = [schedule(app, "email", n, key=f"k{n}", delay=60).id for n in range(2)]
    report = app.rebuild()
    assert (report.unreadable, report.seen, report.corrected, report.remade) == (2, 4, 0, 0)
    said = {(id, "its key is also that of another delivery") for id in (lost, wrong)}
    assert set(report.named) == said
    assert [app.find(key=f"k{n}")[0].id for n in range(2)] == others
    alone = app.rebuild(wrong)
    assert (alone.unreadable, alone.seen, alone.ok) == (1, 1, False)


def test_a_row_that_was_lost_is_remade(app: Deliveries) -> None:
    ids = [schedule(app, "email", payload).id for payload in ("fine", "unknown")]
    app.drain()
    ids.append(schedule(app, "email", "soon").id)
    with app.engine.begin() as connection:
        connection.execute(deliveries.delete())
    report = app.rebuild()
    assert (report.remade, report.corrected, len(report.named)) == (3, 0, 3)
    assert app.audit().ok
    assert app.drain().succeeded == 1
    assert [app.get(id).status for id in ids] == ["succeeded", "held", "succeeded"]


def test_a_running_attempt_keeps_its_lease_and_lands(app: Deliveries) -> None:
    entered, gate = threading.Event(), threading.Event()

    @app.adapter("slow", queue="email")
    def slow(delivery: Any, attempt: Any) -> None:
        entered.set()
        assert gate.wait(30)

    id = schedule(app, "slow").id
    with app.running():
        assert entered.wait(30)
        with app.engine.begin() as connection:
            lease = connection.execute(select(deliveries.c.lease_owner, deliveries.c.lease_until)).one()
            connection.execute(deliveries.update().values(priority=9, snoozes=7))
        report = app.rebuild(id)
        assert report.columns == {"priority": 1, "snoozes": 1}
        with app.engine.connect() as connection:
            kept = connection.execute(select(deliveries.c.lease_owner, deliveries.c.lease_until)).one()
        gate.set()
        eventually(lambda: app.get(id).is_terminal)
    assert kept.lease_owner == lease.lease_owner
    assert kept.lease_until >= lease.lease_until
    assert app.get(id).status is Status.SUCCEEDED


def test_an_open_attempt_whose_row_was_lost_is_taken_over(app: Deliveries) -> None:
    entered, gate = threading.Event(), threading.Event()

    @app.adapter("slow", queue="email")
    def slow(delivery: Any, attempt: Any) -> None:
        entered.set()
        gate.wait(30)

    id = schedule(app, "slow").id
    with app.running(lease=30.0):
        assert entered.wait(30)
        with app.engine.begin() as connection:
            connection.execute(deliveries.delete())
        assert app.rebuild().remade == 1
        gate.set()
        eventually(lambda: app.get(id).is_terminal or app.get(id).status is Status.PENDING)
    assert app.audit().ok


def test_while_processors_work(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(n) for n in range(300)])
    with app.running(poll=0.05):
        reports = [app.rebuild() for _ in range(5)]
        eventually(lambda: len(app.find(status="succeeded", limit=1_000)) == 300)
    assert all(report.ok for report in reports)


def test_who_is_held_comes_last(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    ids = [schedule(app, "email", n, delay=60).id for n in range(3)]
    done: list[Any] = []
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().values(priority=9))
    with app.engine.connect() as connection:
        app.cancel(connection, ids[1])
        thread = threading.Thread(target=lambda: done.append(app.rebuild()))
        thread.start()
        eventually(lambda: [app.find(id=id)[0].priority for id in ids] == [5, 9, 5])
        connection.commit()
        thread.join(30)
    assert (done[0].corrected, done[0].seen) == (3, 3)
    assert app.get(ids[1]).status is Status.CANCELLED


def test_keys_that_changed_places_while_somebody_holds_both(postgresql_url: str, apps: Apps) -> None:
    """So both come last, and neither can be the first of them."""
    app = apps(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    ids = [schedule(app, "email", n, key=f"k{n}", delay=60).id for n in range(3)]
    done: list[Any] = []
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().values(priority=9))
        for id, key in ((ids[0], None), (ids[1], "k0"), (ids[0], "k1")):
            connection.execute(deliveries.update().where(deliveries.c.id == id).values(key=key))
    with app.engine.connect() as connection:
        connection.execute(select(deliveries).where(deliveries.c.id.in_(ids[:2])).with_for_update())
        thread = threading.Thread(target=lambda: done.append(app.rebuild()))
        thread.start()
        eventually(lambda: app.find(id=ids[2])[0].priority == 5)
        connection.commit()
        thread.join(30)
    assert (done[0].corrected, done[0].unreadable, done[0].seen) == (3, 0, 3)
    assert [app.find(id=id)[0].key for id in ids] == ["k0", "k1", "k2"]


def test_what_cannot_be_rebuilt_is_told(fresh_url: str) -> None:
    app = Deliveries(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    good, gone = (schedule(app, "email", n, delay=60).id for n in range(2))
    guard = {
        "sqlite": "DROP TRIGGER delivery_events_no_update",
        "postgresql": "ALTER TABLE delivery_events DISABLE TRIGGER USER",
    }
    with app.engine.begin() as connection:
        connection.exec_driver_sql(guard[app.engine.dialect.name])
        connection.exec_driver_sql("UPDATE delivery_events SET schema_version = 9 WHERE position = 2")
        row = connection.execute(select(deliveries).where(deliveries.c.id == good)).one()._mapping
        connection.execute(deliveries.insert().values({**row, "id": UUID(int=1)}))
    report = app.rebuild()
    app.close()
    assert (report.unreadable, report.without_events, report.seen) == (1, 1, 2)
    assert {id for id, _ in report.named} == {gone, UUID(int=1)}
