"""Pruning: what ended long ago goes, exported first if asked, and leaves a tombstone."""

from __future__ import annotations

import json
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select, text

from deliveries import (
    Delivered,
    Deliveries,
    DeliveriesError,
    DeliveryNotFound,
    DeliveryPruned,
    Discard,
    Draft,
    InvalidFilter,
    Status,
)
from deliveries.core import codec
from deliveries.errors import CallerError
from deliveries.retention import Export, Pruning
from deliveries.store.beside import BESIDE
from deliveries.store.schema import deliveries, events, tombstones
from deliveries.testing.lives import ENDINGS, endings
from deliveries.testing.proof import broken
from support.apps import Apps, RunningClock, everything, schedule
from support.lives import lead

HOUR = 3_600.0
FULL = len(BESIDE) - len({"delivery_uniques", "delivery_cap_slots"})
"""Tables in which `done` leaves rows."""
TERMINAL = (Status.SUCCEEDED, Status.SUPPRESSED, Status.CANCELLED, Status.EXHAUSTED)


def done(app: Deliveries, count: int = 1, **options: Any) -> list[UUID]:
    """Deliveries that succeeded, with all that can stand beside one."""
    if "email" not in app.channels:
        app.adapter("email")(lambda delivery, attempt: Delivered("ok", reference=f"m-{delivery.id}"))
    ids = [schedule(app, "email", 1, recipient="ann@example.org", **options).id for _ in range(count)]
    app.drain()
    with app.engine.begin() as connection:
        for id in ids:
            app.record_evidence(connection, "bounced", id=id, fact={"said": "no such mailbox"})
    return ids


def rows_of(app: Deliveries, id: UUID) -> dict[str, int]:
    """Table -> rows of this delivery, of those tables that have some."""
    with app.engine.connect() as connection:
        found = {
            one.table.name: len(connection.execute(select(one.table).where(one.id == id)).all())
            for one in BESIDE
        }
    return {name: number for name, number in found.items() if number}


def left(app: Deliveries) -> list[Any]:
    with app.engine.connect() as connection:
        return list(connection.execute(select(tombstones).order_by(tombstones.c.delivery_id)))


# -- which ----------------------------------------------------------------------------------------


def test_what_ended_before_goes_and_leaves_its_head(timed: Deliveries, clock: RunningClock) -> None:
    (old,) = done(timed)
    heads = timed.history(old)
    clock.advance(2 * HOUR)
    (young,) = done(timed)
    report = timed.prune(timedelta(hours=1), actor="ops:ann")
    assert (report.act, report.done, report.left, report.sample) == ("prune", 1, {}, (old,))
    assert rows_of(timed, old) == {}
    assert len(rows_of(timed, young)) == FULL
    (stone,) = left(timed)
    assert (stone.delivery_id, stone.version, stone.digest) == (old, 3, heads[-1].digest)
    assert (stone.status, stone.actor) == ("succeeded", "ops:ann")
    assert broken(timed.engine) == []


def test_the_age_is_counted_from_the_end(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    id = schedule(timed, delay=5 * HOUR).id
    clock.advance(5 * HOUR)
    timed.drain()
    clock.advance(HOUR)
    assert timed.prune(HOUR + 60).matched == 0
    clock.advance(61)
    assert timed.prune(HOUR + 60).sample == (id,)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_end_and_nothing_else(timed: Deliveries, clock: RunningClock, ending: str) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    id = lead(timed, clock, ending)
    ended = ENDINGS[ending].status in TERMINAL
    clock.advance(30 * 24 * HOUR)
    report = timed.prune(0)
    assert (report.done, report.matched) == (int(ended), int(ended))
    assert (rows_of(timed, id) == {}) == ended
    assert [stone.status for stone in left(timed)] == ([ENDINGS[ending].status.value] if ended else [])


def test_each_status_has_an_age_of_its_own(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email")(lambda delivery, attempt: Discard() if delivery.payload else None)
    good, bad = schedule(timed, "email", 0).id, schedule(timed, "email", 1).id
    timed.drain()
    clock.advance(HOUR)
    assert timed.prune(60, status="succeeded").sample == (good,)
    assert timed.prune(60, status=["succeeded", "cancelled"]).matched == 0
    assert timed.prune(60, status=Status.EXHAUSTED).sample == (bad,)


def test_a_filter_narrows_it(timed: Deliveries, clock: RunningClock) -> None:
    (mine,), (theirs,) = done(timed, tenant="a", tags=["x"]), done(timed, tenant="b", tags=["y"])
    clock.advance(HOUR)
    assert timed.prune(0, where={"tag": "x"}).sample == (mine,)
    assert timed.prune(0, where={"tenant": "a"}).matched == 0
    past = timed.get(theirs).scheduled_at
    assert timed.prune(0, where={"ended_before": past}).matched == 0
    assert timed.prune(0, where={"ended_before": clock.now() + timedelta(days=9)}).matched == 1


def test_a_dry_run_tells_the_same_and_writes_nothing(
    timed: Deliveries, clock: RunningClock, tmp_path: Path
) -> None:
    ids = done(timed, 5)
    clock.advance(HOUR)
    before = everything(timed)
    dry = timed.prune(60, dry_run=True, export=tmp_path / "export", batch=2)
    assert everything(timed) == before
    assert not (tmp_path / "export").exists()
    report = timed.prune(60, batch=2)
    assert (
        (dry.done, dry.left, dry.sample) == (report.done, report.left, report.sample) == (5, {}, tuple(ids))
    )
    assert timed.prune(60).matched == 0


def test_many_pages(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    with timed.engine.begin() as connection:
        timed.schedule_many(connection, "email", [Draft(payload=n) for n in range(50)])
    timed.drain()
    clock.advance(HOUR)
    assert timed.prune(60, batch=7).done == 50
    assert len(left(timed)) == 50
    with timed.engine.connect() as connection:
        assert connection.execute(select(events)).all() == []


# -- afterwards -----------------------------------------------------------------------------------


@pytest.fixture
def pruned(timed: Deliveries, clock: RunningClock) -> UUID:
    (id,) = done(timed, key="k")
    clock.advance(HOUR)
    assert timed.prune(60).done == 1
    return id


def test_a_pruned_delivery_is_told_from_one_that_never_was(timed: Deliveries, pruned: UUID) -> None:
    reads: list[Any] = [timed.get, timed.history, timed.explain, timed.evidence, timed.perform]
    for read in reads:
        with pytest.raises(DeliveryPruned, match="3 events") as caught:
            read(pruned)
        assert isinstance(caught.value, DeliveryNotFound)
        assert caught.value.version == 3
    with timed.engine.connect() as connection:
        acts: list[Any] = [timed.cancel, timed.suppress, timed.redrive]
        for act in acts:
            with pytest.raises(DeliveryPruned):
                act(connection, pruned)
        with pytest.raises(DeliveryPruned):
            timed.record_evidence(connection, "bounced", id=pruned)
    assert timed.find(id=pruned) == []


def test_its_key_is_free_again(timed: Deliveries, pruned: UUID) -> None:
    again = schedule(timed, "email", 2, recipient="cleo@example.org", key="k")
    assert again.created
    assert again.id != pruned


def test_positions_are_not_used_again(timed: Deliveries, pruned: UUID) -> None:
    """A reader of the log that has seen position n never meets another event there."""
    id = schedule(timed).id
    assert [one.position for one in timed.history(id)] == [4]
    assert [entry.id for entry in timed.event_log.notification_log.select(start=1, limit=9)] == [4]


def test_the_successor_of_a_pruned_one_keeps_its_key(timed: Deliveries, clock: RunningClock) -> None:
    (source,) = done(timed)
    with timed.engine.begin() as connection:
        made = timed.redrive(connection, source)
    clock.advance(HOUR)
    assert timed.prune(60).sample == (source,)
    assert timed.get(made.id).idempotency_key == str(source)
    assert timed.drain().succeeded == 1


# -- what stays -----------------------------------------------------------------------------------


def damage(app: Deliveries, statement: Any) -> None:
    with app.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER IF EXISTS delivery_events_no_update"))
            connection.execute(text("DROP TRIGGER IF EXISTS delivery_events_no_delete"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(statement)


DAMAGES: dict[str, Any] = {
    "no first event": events.delete().where(events.c.version == 1),
    "no middle": events.delete().where(events.c.version == 2),
    "no end": events.delete().where(events.c.version == 3),
    "another digest": events.update().where(events.c.version == 3).values(digest=bytes(32)),
    "another body": events.update().where(events.c.version == 3).values(body=b'{"attempt":1,"by":"lookup"}'),
    "nothing left": events.delete(),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_stream_with_anything_wrong_stays(fresh_url: str, apps: Apps, what: str) -> None:
    """Deleting it would delete the proof that somebody has tampered with it."""
    app = apps(fresh_url)
    apps.damaged = True
    bad, good = done(app, 2)
    damage(app, DAMAGES[what].where(events.c.delivery_id == bad))
    before = rows_of(app, bad)
    report = app.prune(0)
    assert (report.done, report.left, report.sample) == (1, {"corrupt": 1}, (good,))
    assert rows_of(app, bad) == before


def test_a_row_that_lies_about_its_end_stays(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app).id
    with app.engine.begin() as connection:
        connection.execute(deliveries.update().values(status="succeeded", due_at=None))
    assert app.prune(0).left == {"corrupt": 1}
    assert len(app.history(id)) == 1


# -- export ---------------------------------------------------------------------------------------


def test_the_export_proves_what_was_there(timed: Deliveries, clock: RunningClock, tmp_path: Path) -> None:
    ids = done(timed, 3)
    histories = {id: timed.history(id) for id in ids}
    clock.advance(HOUR)
    path = tmp_path / "export.jsonl"
    assert timed.prune(60, export=path, batch=2).done == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["delivery_id"] for line in lines] == [str(id) for id in ids]
    stones = {str(stone.delivery_id): stone for stone in left(timed)}
    for line, id in zip(lines, ids, strict=True):
        previous = codec.GENESIS
        for one, was in zip(line["events"], histories[id], strict=True):
            recorded_at = datetime.fromisoformat(one["recorded_at"])
            body = one["body"].encode()
            assert (body, recorded_at, one["position"]) == (was.body, was.recorded_at, was.position)
            version, schema_version = one["version"], one["schema_version"]
            previous = codec.digest(previous, id, version, one["type"], schema_version, recorded_at, body)
            assert one["digest"] == previous.hex()
        stone = stones[str(id)]
        assert (stone.version, stone.digest) == (len(line["events"]), previous)
        assert [piece["kind"] for piece in line["evidence"]] == ["bounced"]


def test_the_export_holds_nothing_personal(timed: Deliveries, clock: RunningClock, tmp_path: Path) -> None:
    done(timed)
    clock.advance(HOUR)
    path = tmp_path / "export.jsonl"
    timed.prune(60, export=path)
    exported = path.read_text()
    assert "ann@example.org" not in exported
    assert "no such mailbox" not in exported


def test_what_was_not_exported_is_not_deleted(timed: Deliveries, clock: RunningClock, tmp_path: Path) -> None:
    """The disk is full: the page stays, those before it are gone and in the file."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.fail("this test needs /dev/full")
    ids = done(timed, 2)
    clock.advance(HOUR)
    export = Export(tmp_path / "export")
    export._file.close()
    export._file = full.open("wb", buffering=0)
    with pytest.raises(OSError, match="space"), timed._store.transaction() as connection:
        Pruning(timed._store, None, export).handle(connection, ids, True)
    export.close()
    assert left(timed) == []
    assert all(len(rows_of(timed, id)) == FULL for id in ids)


def test_the_export_comes_before_the_delete(timed: Deliveries, clock: RunningClock, tmp_path: Path) -> None:
    done(timed, 1)
    clock.advance(HOUR)
    path, seen = tmp_path / "export", []

    def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "delivery_tombstones" in statement or statement.startswith("DELETE"):
            seen.append(len(path.read_text().splitlines()))

    event.listen(timed.engine, "before_cursor_execute", before)
    timed.prune(60, export=path)
    event.remove(timed.engine, "before_cursor_execute", before)
    assert len(seen) == 1 + sum(not one.outlives for one in BESIDE)
    assert set(seen) == {1}


def test_an_export_that_is_there_is_not_overwritten(
    timed: Deliveries, clock: RunningClock, tmp_path: Path
) -> None:
    done(timed)
    clock.advance(HOUR)
    path = tmp_path / "export"
    path.write_text("precious")
    with pytest.raises(CallerError, match="export"):
        timed.prune(60, export=path)
    with pytest.raises(CallerError, match="export"):
        timed.prune(60, export=tmp_path / "no" / "such")
    assert path.read_text() == "precious"
    assert left(timed) == []


# -- at the same time -----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_at_once_prune_each_once(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(payload=n) for n in range(100)])
    app.drain()
    together, reports = threading.Barrier(2), []

    def prune() -> None:
        together.wait(30)
        reports.append(app.prune(0, batch=5))

    threads = [threading.Thread(target=prune) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(report.done for report in reports) == 100
    assert len(left(app)) == 100


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"older_than": -1}, DeliveriesError),
        ({"older_than": float("nan")}, DeliveriesError),
        ({"older_than": "30d"}, DeliveriesError),
        ({"older_than": None}, DeliveriesError),
        ({"older_than": 10.0**12}, DeliveriesError),
        ({"status": "pending"}, InvalidFilter),
        ({"status": ["succeeded", "held"]}, InvalidFilter),
        ({"status": "old"}, InvalidFilter),
        ({"where": {"status": "attempting"}}, InvalidFilter),
        ({"where": {"colour": "red"}}, InvalidFilter),
        ({"status": "succeeded", "where": {"status": "exhausted"}}, InvalidFilter),
        ({"actor": "a\nb"}, DeliveriesError),
    ],
    ids=str,
)
def test_what_is_refused_before_any_sql(
    nowhere: Deliveries, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        nowhere.prune(**{"older_than": 60, **options})


@pytest.mark.parametrize("batch", [0, 10_001, True, "5"])
def test_batches_that_are_refused(app: Deliveries, batch: Any, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="batch"):
        app.prune(60, batch=batch, export=tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_ends_are_known() -> None:
    assert {ENDINGS[name].status for name in endings(*TERMINAL)} == set(TERMINAL)
