"""Everything, stream by stream: the same as reading it one by one, at one moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select, text

from deliveries import Bounced, Deliveries, Draft, Retry
from deliveries.store import scan
from deliveries.store.schema import contents, deliveries, evidence, notes
from support.apps import Apps, RunningClock, apps, calls, clock, everything, schedule  # noqa: F401 - fixtures


@pytest.fixture
def app(database_url: str, apps: Apps) -> Deliveries:  # noqa: F811 - it is a fixture
    made = apps(database_url)

    @made.adapter("email")
    def email(delivery: Any, attempt: Any) -> Any:
        return {"again": Retry("later"), "no": Bounced("never")}.get(delivery.payload)

    for payload in ("fine", "again", "no"):
        schedule(made, "email", payload, recipient="ann@example.org")
    made.drain()
    schedule(made, "email", "pending", recipient="ann@example.org", delay=60)
    return made


def test_streams_are_the_histories(app: Deliveries) -> None:
    with scan.snapshot(app._store) as snapshot:
        found = {UUID(bytes=id): list(map(snapshot.recorded, rows)) for id, rows in snapshot.streams()}
    assert list(found) == sorted(found)
    assert len(found) == 4
    for id, history in found.items():
        assert [one.note for one in history] == [None] * len(history)
        bare = [type(one)(**{**_fields(one), "note": None}) for one in app.history(id)]
        assert history == bare


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def test_wholes_have_all_that_there_is(app: Deliveries) -> None:
    bounced = next(one.id for one in app.find(status="cancelled"))
    with app.engine.begin() as connection:
        app.record_evidence(connection, "bounced", id=bounced, fact={"code": 550})
    with scan.snapshot(app._store) as snapshot:
        wholes = list(snapshot.wholes())
        instant = snapshot.instant
    assert [UUID(bytes=whole.id) for whole in wholes] == sorted(one.id for one in app.find())
    for whole in wholes:
        row = dict(zip(deliveries.c.keys(), whole.row or (), strict=True))
        known = app.get(UUID(bytes=whole.id))
        assert (row["status"], row["version"]) == (known.status, len(whole.events))
        assert instant(row["scheduled_at"]) == known.scheduled_at
        assert whole.contents is not None
        assert whole.contents[contents.c.keys().index("recipient")] == "ann@example.org"
        assert whole.tombstone is None
    (last,) = [whole for whole in wholes if UUID(bytes=whole.id) == bounced]
    assert len(last.evidence) == 1
    assert last.evidence[0][evidence.c.keys().index("kind")] == "bounced"
    assert [one[notes.c.keys().index("version")] for one in last.notes] == [3]


def test_ranges_and_ids(app: Deliveries) -> None:
    ids = sorted(one.id for one in app.find())
    with scan.snapshot(app._store) as snapshot:

        def seen(**wanted: Any) -> list[UUID]:
            streams = [UUID(bytes=id) for id, _ in snapshot.streams(**wanted)]
            assert streams == [UUID(bytes=whole.id) for whole in snapshot.wholes(**wanted)]
            return streams

        assert seen(after=ids[0]) == ids[1:]
        assert seen(until=ids[1]) == ids[:2]
        assert seen(after=ids[0], until=ids[2]) == ids[1:3]
        assert seen(ids=[ids[3], ids[1]]) == [ids[1], ids[3]]
        assert seen(ids=[]) == []


def test_it_is_one_moment(app: Deliveries) -> None:
    with scan.snapshot(app._store) as snapshot:
        before = [id for id, _ in snapshot.streams()]
        if app.engine.dialect.name == "postgresql" or app.engine.url.database:
            schedule(app, "email", "meanwhile", delay=60)
        assert [id for id, _ in snapshot.streams()] == before
    with scan.snapshot(app._store) as snapshot:
        assert len(list(snapshot.streams())) == len(before) + 1


def test_pages_do_not_show(app: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(n, delay=60) for n in range(20)])
    with scan.snapshot(app._store) as snapshot:
        whole = list(snapshot.wholes())
        monkeypatch.setattr(scan, "PAGE", 3)
        assert list(snapshot.wholes()) == whole
    assert len(whole) == 24


def test_two_readings_do_not_meet(app: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "PAGE", 2)
    with scan.snapshot(app._store) as snapshot:
        both = list(zip(snapshot.streams(), snapshot.wholes(), strict=True))
    assert len(both) == 4
    assert all(events == whole.events for (_, events), whole in both)


def test_what_is_not_read_to_its_end_leaves_the_connection_as_it_was(
    app: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that were asked for and never used are nobody else's results."""
    monkeypatch.setattr(scan, "PAGE", 1)
    with scan.snapshot(app._store) as snapshot:
        kept = [snapshot.streams(), snapshot.wholes()]
        assert [next(one) for one in kept]
        raw: Any = snapshot.connection.connection.driver_connection
    assert list(kept[0]) == []
    if app.engine.dialect.name == "postgresql":
        assert raw.pgconn.pipeline_status == raw.pgconn.transaction_status == 0
    assert len(app.find()) == 4
    states = app.replay_all()
    assert next(states)
    del states
    assert app.audit().ok


def test_what_goes_wrong_meanwhile_is_told(postgresql_url: str, apps: Apps) -> None:  # noqa: F811
    app = apps(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    schedule(app, "email")
    with app.engine.connect() as other, scan.snapshot(app._store) as snapshot:
        raw: Any = snapshot.connection.connection.driver_connection
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": raw.info.backend_pid})
        with pytest.raises(psycopg.OperationalError):
            list(snapshot.streams())
    assert app.audit().deliveries == 1


def test_what_only_a_part_is_left_of(database_url: str) -> None:
    """Contents without a delivery, events without a row: they come too, each in its place."""
    app = Deliveries(database_url)
    app.adapter("email")(lambda delivery, attempt: None)
    ids = sorted(schedule(app, "email", n, recipient="ann").id for n in range(3))
    with app.engine.begin() as connection:
        connection.execute(deliveries.delete().where(deliveries.c.id == ids[1]))
        connection.execute(contents.insert().values(delivery_id=UUID(int=1), payload="null"))
    with scan.snapshot(app._store) as snapshot:
        wholes = list(snapshot.wholes())
    app.close()
    assert (wholes[0].id, wholes[0].events, wholes[0].row) == (UUID(int=1).bytes, (), None)
    assert [len(whole.events) for whole in wholes] == [0, 1, 1, 1]
    assert [whole.row is None for whole in wholes] == [True, False, True, False]


def test_a_text_that_is_none(sqlite_url: str, apps: Apps) -> None:  # noqa: F811 - it is a fixture
    app = apps(sqlite_url)
    app.adapter("email")(lambda delivery, attempt: None)
    good, bad = (schedule(app, "email", n, recipient="ann").id for n in range(2))
    with app.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE delivery_contents SET recipient = CAST(x'ff41' AS TEXT) WHERE delivery_id = ?", (bad.hex,)
        )
    with scan.snapshot(app._store) as snapshot:
        found = {whole.id: whole.contents for whole in snapshot.wholes()}
    assert found[good.bytes] is not None
    assert found[bad.bytes][1] == "\udcffA"  # type: ignore[index]
    with app.engine.begin() as connection:
        connection.execute(contents.update().values(recipient="ann"))
        assert connection.scalar(select(contents.c.recipient).limit(1)) == "ann"
    assert isinstance(app.get(good).scheduled_at, datetime)
