"""The audit of a whole database: quiet over honest work, and what is wrong has a name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, select, text

from deliveries import Bounced, Cancel, Deliveries, Draft, Retry, Snooze, Suppress, Unknown
from deliveries.audit import verify
from deliveries.errors import CallerError, InvalidFilter
from deliveries.store.schema import contents, deliveries, events, notes, references
from support.apps import schedule

OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def app(fresh_url: str) -> Iterator[Deliveries]:
    """Not one of `apps`: what is done to it here would fail their own verdict."""
    made = Deliveries(fresh_url)

    @made.adapter("email", max_attempts=2, on_unknown="hold")
    def email(delivery: Any, attempt: Any) -> Any:
        return {
            "again": Retry("later", after=0) if attempt.number == 1 else None,
            "never": Retry("no", after=0),
            "bounced": Bounced("gone"),
            "cancelled": Cancel("no"),
            "snoozed": Snooze(for_=3_600),
            "suppressed": Suppress("no"),
            "unknown": Unknown("who knows"),
        }.get(delivery.payload)

    yield made
    made.close()


WORK = ["fine", "again", "never", "bounced", "cancelled", "snoozed", "suppressed", "unknown", "fine"]


@pytest.fixture
def worked(app: Deliveries) -> dict[str, UUID]:
    """Lives of all kinds, evidence, an erasure, and what is still pending."""
    ids = {name: schedule(app, "email", name, recipient=f"{name}@example.org").id for name in WORK}
    for _ in range(3):
        app.drain()
    with app.engine.begin() as connection:
        app.record_evidence(connection, "bounced", id=ids["fine"], fact={"code": 550})
    app.erase(recipient="bounced@example.org", actor="dpo")
    ids["pending"] = schedule(app, "email", "later", delay=3_600, tags=("a",), priority=1).id
    return ids


def rules(report: Any) -> set[str]:
    return {finding.rule for finding in report.findings}


def test_honest_work_is_found_in_order(app: Deliveries, worked: dict[str, UUID]) -> None:
    report = app.audit()
    assert report.findings == ()
    assert (report.ok, report.found, report.deliveries) == (True, 0, 10)
    assert report.events == sum(len(app.history(one.id)) for one in app.find())
    assert "nothing is wrong" in str(report)


def test_nothing_at_all(app: Deliveries) -> None:
    report = app.audit()
    assert (report.ok, report.deliveries, report.events) == (True, 0, 0)


def test_what_was_pruned_is_in_order(app: Deliveries, worked: dict[str, UUID]) -> None:
    app.prune(older_than=0, actor="operator")
    report = app.audit()
    assert report.findings == ()


UNGUARDED = {
    "sqlite": ["DROP TRIGGER delivery_events_no_update", "DROP TRIGGER delivery_events_no_delete"],
    "postgresql": ["ALTER TABLE delivery_events DISABLE TRIGGER USER"],
}


@pytest.fixture
def unguarded(app: Deliveries, worked: dict[str, UUID]) -> Iterator[Connection]:
    """A connection of somebody who may do anything."""
    with app.engine.begin() as connection:
        for statement in UNGUARDED[app.engine.dialect.name]:
            connection.execute(text(statement))
    with app.engine.connect() as connection:
        yield connection


def changed(connection: Connection, table: Any, where: Any, column: str, value: Any) -> Any:
    """Put another value there, and return the one that was."""
    before = connection.scalar(select(table.c[column]).where(where))
    connection.execute(table.update().where(where).values({column: value}))
    connection.commit()
    return before


@pytest.mark.parametrize("name", ["fine", "snoozed", "unknown"])
def test_a_changed_column_of_an_event_is_found(
    app: Deliveries, unguarded: Connection, worked: dict[str, UUID], name: str
) -> None:
    position = unguarded.scalar(select(events.c.position).where(at(worked[name], 2)))
    where = events.c.position == position
    for column, value in (
        ("body", b'{"attempt":1}'),
        ("body", b"no JSON"),
        ("type", "Failed"),
        ("type", "Unheard"),
        ("schema_version", 2),
        ("recorded_at", OLD),
        ("digest", b"d" * 32),
        ("version", 7),
    ):
        before = changed(unguarded, events, where, column, value)
        report = app.audit()
        assert {finding.delivery_id for finding in report.findings} == {worked[name]}, column
        assert rules(report) & {"I1", "I9", "I10"}, column
        assert report.deliveries == 10
        changed(unguarded, events, where, column, before)
        assert app.audit().ok


def at(id: UUID, version: int) -> Any:
    return (events.c.delivery_id == id) & (events.c.version == version)


def test_a_removed_event_is_found(app: Deliveries, unguarded: Connection, worked: dict[str, UUID]) -> None:
    for name, version in (("fine", 2), ("again", 5), ("pending", 1)):
        unguarded.execute(events.delete().where(at(worked[name], version)))
    unguarded.commit()
    report = app.audit()
    found = {finding.delivery_id: finding for finding in report.findings}
    assert set(found) == {worked["fine"], worked["again"], worked["pending"]}
    assert found[worked["pending"]].text.endswith("no events")


TAMPERED = {
    "status": "held",
    "version": 9,
    "channel": "sms",
    "queue": "other",
    "priority": 9,
    "scheduled_at": OLD,
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
    "recorded_at": OLD,
    "digest": b"d" * 32,
}


@pytest.mark.parametrize("name", ["fine", "snoozed", "pending"])
def test_a_row_that_is_not_the_fold_is_found(app: Deliveries, worked: dict[str, UUID], name: str) -> None:
    where = deliveries.c.id == worked[name]
    with app.engine.connect() as connection:
        for column, value in TAMPERED.items():
            if (name, column) == ("pending", "status"):
                continue  # the database refuses it: what is due is pending
            before = changed(connection, deliveries, where, column, value)
            report = app.audit()
            assert {finding.delivery_id for finding in report.findings} == {worked[name]}, column
            assert rules(report) <= {"I8", "N4", "N7"}, column
            assert any(column in finding.text for finding in report.findings), column
            changed(connection, deliveries, where, column, before)
            assert app.audit().ok, column


def test_a_policy_that_thinks_is_no_fault_and_a_forgotten_lease_is(
    app: Deliveries, worked: dict[str, UUID]
) -> None:
    leased = {"lease_owner": "worker", "lease_until": datetime(2100, 1, 1, tzinfo=UTC)}
    for name, found in (("pending", set()), ("fine", {"N4"})):
        with app.engine.begin() as connection:
            connection.execute(deliveries.update().where(deliveries.c.id == worked[name]).values(leased))
        assert rules(app.audit()) == found


TEXTS = [(contents, "payload"), (contents, "recipient"), (notes, "text")]


@pytest.mark.parametrize(("table", "column"), TEXTS)
def test_an_exchanged_text_is_found(
    app: Deliveries, worked: dict[str, UUID], table: Any, column: str
) -> None:
    id = worked["never"]
    with app.engine.begin() as connection:
        connection.execute(table.update().where(table.c.delivery_id == id).values({column: "another"}))
    report = app.audit()
    assert {finding.delivery_id for finding in report.findings} == {id}
    assert "digest" in report.findings[0].text
    with app.engine.begin() as connection:
        connection.execute(table.update().where(table.c.delivery_id == id).values({column: None}))
    assert rules(app.audit()) == {"R6"}


def test_orphans(app: Deliveries, worked: dict[str, UUID]) -> None:
    nobody = UUID(int=7)
    with app.engine.begin() as connection:
        connection.execute(contents.insert().values(delivery_id=nobody, payload="null"))
        connection.execute(references.insert().values(reference="r", delivery_id=nobody, channel="email"))
        connection.execute(deliveries.delete().where(deliveries.c.id == worked["fine"]))
    report = app.audit()
    assert {(finding.delivery_id, finding.rule) for finding in report.findings} == {
        (nobody, "I2"),
        (worked["fine"], "I8"),
    }
    assert report.found == 3


def test_a_part_of_it(app: Deliveries, worked: dict[str, UUID]) -> None:
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == worked["fine"]).values(priority=9))
    assert app.audit(id=worked["again"]).ok
    assert app.audit(id=[worked["again"], worked["fine"]]).found == 1
    assert app.audit(status="succeeded").deliveries == 3
    assert app.audit(status="succeeded").found == 1
    assert app.audit({"channel": "sms"}).deliveries == 0
    assert app.audit(tag="a").deliveries == 1
    recent = datetime.now(UTC) - timedelta(hours=1)
    assert app.audit(scheduled_after=recent).deliveries == 10
    assert app.audit(scheduled_before=recent).deliveries == 0


def test_findings_are_bounded_and_counted(
    app: Deliveries, worked: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "KEPT", 3)
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().values(priority=9))
    report = app.audit()
    assert (report.found, len(report.findings)) == (10, 3)


def test_progress_is_told(app: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "STEP", 10)
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(n, delay=60) for n in range(25)])
    told: list[Any] = []
    app.audit(progress=lambda *seen: told.append(seen))
    assert told == [(10, 10, 25), (20, 20, 25), (25, 25, 25)]


def test_several_processes_see_the_same(app: Deliveries, worked: dict[str, UUID]) -> None:
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == worked["fine"]).values(priority=9))
    one, two = app.audit(), app.audit(jobs=2)
    assert (two.deliveries, two.events, two.found) == (one.deliveries, one.events, one.found)
    assert sorted(map(str, two.findings)) == sorted(map(str, one.findings))


@pytest.mark.parametrize("jobs", [0, -1, 65, True, 1.0])
def test_bad_numbers_of_jobs(app: Deliveries, jobs: Any) -> None:
    with pytest.raises(CallerError, match="jobs"):
        app.audit(jobs=jobs)


def test_a_database_in_memory_has_one_process() -> None:
    app = Deliveries("sqlite://")
    app.create_schema()
    assert app.audit().ok
    with pytest.raises(CallerError, match="memory"):
        app.audit(jobs=2)
    app.close()


def test_an_unknown_field_of_the_filter(app: Deliveries) -> None:
    with pytest.raises(InvalidFilter):
        app.audit(colour="red")
