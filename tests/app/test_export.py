"""The log as a file: whole, in order, to be gone on with, and read again without a database."""

from __future__ import annotations

import gzip
import io
import json
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from sqlalchemy import text

from deliveries import Bounced, Deliveries, DeliveryNotFound, Draft, Retry
from deliveries.audit import export
from deliveries.audit.lines import Line, parsed, schema
from deliveries.audit.view import View
from deliveries.core.events import EVENTS
from deliveries.errors import CallerError, DeliveriesError
from support.apps import Apps, schedule


@pytest.fixture
def app(database_url: str, apps: Apps) -> Deliveries:
    made = apps(database_url)

    @made.adapter("email")
    def email(delivery: Any, attempt: Any) -> Any:
        return {"again": Retry("greylisted"), "no": Bounced("nobody here")}.get(delivery.payload)

    return made


@pytest.fixture
def ids(app: Deliveries) -> dict[str, UUID]:
    found = {
        name: schedule(app, "email", name, recipient="ann@example.org").id for name in ("fine", "again", "no")
    }
    app.drain()
    return found


def lines(path: Path) -> list[Line]:
    return [line for one in path.read_bytes().splitlines(keepends=True) for line in parsed(one)]


def test_all_events_as_they_are_stored(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    done = app.export(path)
    found = lines(path)
    assert (done.events, done.position) == (len(found), found[-1].position)
    assert [line.position for line in found] == sorted(line.position for line in found)
    for id in ids.values():
        exported = [line.recorded() for line in found if line.delivery_id == id]
        stored = app.history(id)
        assert [(one.body, one.digest, one.recorded_at) for one in exported] == [
            (one.body, one.digest, one.recorded_at) for one in stored
        ]
    assert b"ann@" not in path.read_bytes()
    assert b"greylisted" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


def test_with_contents_as_far_as_they_are_there(
    app: Deliveries, ids: dict[str, UUID], tmp_path: Path
) -> None:
    app.erase(recipient="nobody@example.org")
    app.export(tmp_path / "told.jsonl", contents=True)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    first = next(one for one in told if one["delivery_id"] == str(ids["again"]))
    assert (first["recipient"], first["payload"]) == ("ann@example.org", "again")
    assert {one["note"] for one in told if "note" in one} == {"greylisted", "nobody here"}
    app.erase(recipient="ann@example.org")
    app.export(tmp_path / "erased.jsonl", contents=True)
    assert "ann@" not in (tmp_path / "erased.jsonl").read_text()
    assert "greylisted" not in (tmp_path / "erased.jsonl").read_text()


def test_pages_do_not_show(
    app: Deliveries, ids: dict[str, UUID], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.export(tmp_path / "one")
    monkeypatch.setattr(export, "PAGE", 2)
    app.export(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_on_from_where_it_ended(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    path, whole = tmp_path / "events.jsonl", tmp_path / "whole.jsonl"
    first = app.export(path, resume=True)  # there is none yet
    schedule(app, "email", "later", delay=60)
    assert app.export(path, resume=True).events == 1
    assert app.export(path, resume=True).events == 0
    app.export(whole)
    assert path.read_bytes() == whole.read_bytes()
    stream = io.BytesIO()
    assert app.export(stream, after=first.position).events == 1
    assert whole.read_bytes().endswith(stream.getvalue())


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_line_that_a_crash_has_cut(app: Deliveries, ids: dict[str, UUID], tmp_path: Path, cut: int) -> None:
    path, whole = tmp_path / "events.jsonl", tmp_path / "whole.jsonl"
    app.export(whole)
    path.write_bytes(whole.read_bytes()[:-cut])
    assert app.export(path, resume=True).events >= 1
    assert path.read_bytes() == whole.read_bytes()
    path.write_bytes(whole.read_bytes()[:20])
    app.export(path, resume=True)
    assert path.read_bytes() == whole.read_bytes()


def test_on_after_its_last_delivery_was_pruned(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    app.export(path)
    before = path.read_bytes()
    app.prune(0)
    later = schedule(app, "email", "later", delay=60).id
    app.export(path, resume=True)
    assert path.read_bytes().startswith(before)
    assert lines(path)[-1].delivery_id == later


@pytest.mark.parametrize("whole", ["It was a dark and stormy night", "x", '{"other": 1}'])
def test_a_file_that_is_none_of_ours_is_not_emptied(app: Deliveries, tmp_path: Path, whole: str) -> None:
    (tmp_path / "theirs").write_text(whole)
    with pytest.raises(CallerError, match="does not begin"):
        app.export(tmp_path / "theirs", resume=True)
    assert (tmp_path / "theirs").read_text() == whole


def test_what_cannot_be_gone_on_with(
    app: Deliveries, ids: dict[str, UUID], tmp_path: Path, sqlite_url: str, apps: Apps
) -> None:
    path = tmp_path / "events.jsonl"
    app.export(path)
    with pytest.raises(CallerError, match="exists"):
        app.export(path)
    with pytest.raises(CallerError, match="by itself"):
        app.export(path, resume=True, after=3)
    foreign = path.read_text().replace('"digest":"', '"digest":"00')
    (tmp_path / "foreign.jsonl").write_text(foreign + "its tail")
    with pytest.raises(CallerError, match="none of this database"):
        app.export(tmp_path / "foreign.jsonl", resume=True)
    assert (tmp_path / "foreign.jsonl").read_text() == foreign + "its tail"
    (tmp_path / "prose.txt").write_text("It was a dark and stormy night.\n")
    with pytest.raises(CallerError, match="no line of an export"):
        app.export(tmp_path / "prose.txt", resume=True)
    assert (tmp_path / "prose.txt").read_text() == "It was a dark and stormy night.\n"
    for bad in ({"resume": True, "format": "parquet"}, {"format": "csv"}, {"after": -1}, {"after": True}):
        with pytest.raises(CallerError):
            app.export(tmp_path / "new", **bad)
    with pytest.raises(CallerError, match="plain lines"):
        app.export(tmp_path / "new.gz", resume=True)
    with pytest.raises(CallerError, match="No such file"):
        app.export(tmp_path / "no" / "folder")
    assert not (tmp_path / "new").exists()


def test_no_late_commit_is_missed(postgresql_url: str, apps: Apps, tmp_path: Path) -> None:
    app, path = apps(postgresql_url), tmp_path / "events.jsonl"
    app.adapter("email")(lambda delivery, attempt: None)
    schedule(app, "email", "first")
    with app.engine.connect() as late:
        slow = app.schedule(late, "email", "slow")
        quick = schedule(app, "email", "quick")
        app.export(path, resume=True)
        assert quick.id not in {line.delivery_id for line in lines(path)}  # it waits for who is open
        late.commit()
    app.export(path, resume=True)
    assert [line.delivery_id for line in lines(path)][1:] == [slow.id, quick.id]


# -- other forms -------------------------------------------------------------------------------


def test_cloud_events(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    app.export(tmp_path / "plain")
    app.export(tmp_path / "cloud", format="cloudevents", source="https://shop.example/deliveries")
    told = [json.loads(line) for line in (tmp_path / "cloud").read_text().splitlines()]
    for one, line in zip(told, lines(tmp_path / "plain"), strict=True):
        assert {"specversion", "id", "source", "type"} <= one.keys()  # REQUIRED, CloudEvents 1.0 section 3.1
        assert all(name.isalnum() and name.islower() for name in one if name != "data_base64")
        assert one["specversion"] == "1.0"
        assert one["source"] == "https://shop.example/deliveries"
        assert one["type"] == f"deliveries.{line.type}.v1"
        assert datetime.fromisoformat(one["time"]) == line.recorded_at
    assert len({(one["source"], one["id"]) for one in told}) == len(told)
    assert lines(tmp_path / "cloud") == lines(tmp_path / "plain")


@pytest.mark.parametrize("contents", [False, True])
def test_every_form_is_read_as_the_same(
    app: Deliveries, ids: dict[str, UUID], tmp_path: Path, contents: bool
) -> None:
    app.export(tmp_path / "plain", contents=contents)
    app.export(tmp_path / "packed.gz", contents=contents)
    app.export(tmp_path / "columns", format="parquet", contents=contents)
    app.export(tmp_path / "cloud", format="cloudevents")
    assert gzip.decompress((tmp_path / "packed.gz").read_bytes()) == (tmp_path / "plain").read_bytes()
    plain = [line for _, line in View(tmp_path / "plain").lines()]
    assert [line for _, line in View(tmp_path / "packed.gz").lines()] == plain
    assert [line for _, line in View(tmp_path / "columns").lines()] == plain
    for name in ("plain", "packed.gz", "columns", "cloud"):
        report = View(tmp_path / name).audit()
        assert (report.ok, report.deliveries, report.events) == (True, 3, len(plain))


def test_the_schema_is_true_of_what_is_written(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    app.export(tmp_path / "plain")
    made = app.event_schema()
    assert made == schema()
    jsonschema.Draft202012Validator.check_schema(made)
    assert {one["title"] for one in made["oneOf"]} == {f"{kind.__name__}.v1" for kind in EVENTS}
    for line in (tmp_path / "plain").read_text().splitlines():
        one = json.loads(line)
        validator = jsonschema.Draft202012Validator({**made["$defs"][one["type"]], "$defs": made["$defs"]})
        validator.validate(one["event"])
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**one["event"], "attempt": "many", "channel": 5})


# -- without a database ------------------------------------------------------------------------


def test_answers_from_a_file(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    app.export(tmp_path / "events")
    view, id = View(tmp_path / "events"), ids["again"]
    assert view.replay(id) == app.replay(id, version=3)
    assert view.replay(id, version=2) == app.replay(id, version=2)
    assert view.explain(id, datetime.now(UTC)).status == app.explain(id).status
    assert [one.digest for one in view.history(id)] == [one.digest for one in app.history(id)]
    with pytest.raises(DeliveryNotFound):
        view.history(UUID(int=1))
    with pytest.raises(CallerError, match="no such file"):
        View(tmp_path / "none")


def test_what_prune_exported(app: Deliveries, ids: dict[str, UUID], tmp_path: Path) -> None:
    path = tmp_path / "pruned.jsonl"
    before = app.history(ids["fine"])
    app.prune(0, status="succeeded", export=path)
    view = View(path)
    assert [one.digest for one in view.history(ids["fine"])] == [one.digest for one in before]
    assert view.audit().ok


def spoiled(whole: list[bytes], how: str) -> list[bytes]:
    first, second = whole[3], whole[4]
    match how:
        case "changed":
            return [*whole[:3], first.replace(b'"attempt":1', b'"attempt":2'), *whole[4:]]
        case "time":
            return [*whole[:3], first.replace(b'"recorded_at":"20', b'"recorded_at":"19'), *whole[4:]]
        case "removed":
            return [*whole[:3], *whole[4:]]
        case "twice":
            return [*whole[:4], first, *whole[4:]]
        case "swapped":
            return [*whole[:3], second, first, *whole[5:]]
        case "cut":
            return [*whole[:-1], whole[-1][:-30]]
        case "prose":
            return [*whole, b"It was a dark and stormy night.\n"]
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["changed", "time", "removed", "twice", "swapped", "cut", "prose"])
def test_an_export_that_was_tampered_with(
    app: Deliveries, ids: dict[str, UUID], tmp_path: Path, how: str
) -> None:
    app.export(tmp_path / "events")
    whole = (tmp_path / "events").read_bytes().splitlines(keepends=True)
    (tmp_path / "spoiled").write_bytes(b"".join(spoiled(whole, how)))
    report = View(tmp_path / "spoiled").audit()
    assert not report.ok
    named = {finding.delivery_id for finding in report.findings}
    assert named - {None} or any("line" in finding.text for finding in report.findings)


@pytest.mark.parametrize("form", ["plain", "packed.gz", "columns"])
def test_no_damage_is_a_crash(app: Deliveries, ids: dict[str, UUID], tmp_path: Path, form: str) -> None:
    app.export(tmp_path / form, format="parquet" if form == "columns" else "jsonl")
    whole, chance = (tmp_path / form).read_bytes(), random.Random(7)
    for _ in range(40):
        place, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        (tmp_path / "damaged").write_bytes(
            whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :][: chance.choice([None, 50])]
        )
        assert View(tmp_path / "damaged").audit().found >= 0


@pytest.mark.parametrize("form", ["jsonl", "cloudevents"])
def test_a_line_with_values_that_no_event_has(app: Deliveries, tmp_path: Path, form: Any) -> None:
    id = schedule(app, "email", "one").id
    app.export(tmp_path / "events", format=form)
    first = json.loads((tmp_path / "events").read_text())
    hostile = (
        10**30,
        str(10**30),
        -(10**30),
        1e300,
        None,
        [],
        True,
        "2026-01-01T00:00:00",
        "a/1",
        "\0",
        "\ud800",
    )
    for member in first:
        for value in (*hostile, "deliveries.Scheduled.v" + "9" * 30):
            (tmp_path / "hostile").write_text(json.dumps(first | {member: value}) + "\n")
            view = View(tmp_path / "hostile")
            assert view.audit().found >= 0
            with suppress(DeliveriesError):
                assert view.replay(id).id == id


def test_hostile_rows_stop_nothing(fresh_url: str, tmp_path: Path) -> None:
    app = Deliveries(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    good, bad, worse = (schedule(app, "email", n, delay=60).id for n in range(3))
    guard = {
        "sqlite": "DROP TRIGGER delivery_events_no_update",
        "postgresql": "ALTER TABLE delivery_events DISABLE TRIGGER USER",
    }
    with app.engine.begin() as connection:
        connection.exec_driver_sql(guard[app.engine.dialect.name])
        for position, body in ((2, b'{"a":\n1}'), (3, b"\xff\xfe")):
            connection.execute(
                text("UPDATE delivery_events SET body = :body WHERE position = :position"),
                {"body": body, "position": position},
            )
    assert app.export(tmp_path / "events").events == 3
    app.close()
    bodies = [line.recorded().body for line in lines(tmp_path / "events")]
    assert bodies[1:] == [b'{"a":\n1}', b"\xff\xfe"]
    report = View(tmp_path / "events").audit()
    assert {finding.delivery_id for finding in report.findings} == {bad, worse}
    assert View(tmp_path / "events").replay(good).status == "pending"


def test_memory_is_flat(app: Deliveries, tmp_path: Path) -> None:
    import tracemalloc

    def peak(n: int) -> int:
        with app.engine.begin() as connection:
            app.schedule_many(connection, "email", [Draft(i, delay=timedelta(hours=1)) for i in range(n)])
        tracemalloc.start()
        try:
            app.export(tmp_path / f"{n}")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(10_000) < peak(3_000) * 1.5 + 500_000
