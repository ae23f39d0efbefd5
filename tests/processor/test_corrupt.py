"""One delivery whose row or stream was tampered with stops nobody else."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update

from deliveries import CorruptHistory, Deliveries, Status
from deliveries.store.schema import contents, deliveries, events
from support.apps import Apps, Calls, Gate, RunningClock, eventually, kinds, row, schedule, stopped


@pytest.fixture
def app(fresh_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    apps.damaged = True
    return apps(fresh_url, clock)


def unguarded(app: Deliveries) -> None:
    """Take the guards away that forbid to change events."""
    on = " ON delivery_events" if app.engine.dialect.name == "postgresql" else ""
    names = {
        "sqlite": ["delivery_events_no_update", "delivery_events_no_delete"],
        "postgresql": ["delivery_events_immutable"],
    }[app.engine.dialect.name]
    with app.engine.begin() as connection:
        for name in names:
            connection.execute(text(f"DROP TRIGGER {name}{on}"))


def tamper(app: Deliveries, table: Any, id: UUID, **values: Any) -> None:
    key = table.c.id if table is deliveries else table.c.delivery_id
    with app.engine.begin() as connection:
        statement = update(table).where(key == id)
        if table is events:
            statement = statement.where(table.c.version == values.pop("version"))
        assert connection.execute(statement.values(**values)).rowcount == 1


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (contents, {"payload": "{broken"}),
        (contents, {"payload": ""}),
        (contents, {"payload": '{"a":1e400x'}),
        (deliveries, {"tags": "nonsense"}),
        (deliveries, {"tags": "[1, 2]"}),
    ],
    ids=["payload", "no payload", "half a payload", "tags", "tags of numbers"],
)
def test_a_row_that_cannot_be_read_is_put_aside(
    app: Deliveries, clock: RunningClock, calls: Calls, table: Any, values: dict[str, Any]
) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    ids = [schedule(app, "email", {"n": n}, priority=n).id for n in range(5)]
    tamper(app, table, ids[0], **values)
    for _ in range(2):
        app.drain(queues={"email": 1})
    assert [row(app, id).status for id in ids] == ["pending"] + ["succeeded"] * 4
    assert len(calls) == 4
    assert row(app, ids[0]).lease_until > clock.now()
    assert kinds(app, ids[0]) == ["Scheduled"]


def test_a_row_that_was_mended_is_performed_after_all(
    app: Deliveries, clock: RunningClock, calls: Calls
) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    id = schedule(app, "email", {"n": 1}).id
    tamper(app, contents, id, payload="{broken")
    app.drain()
    tamper(app, contents, id, payload='{"n":1}')
    clock.advance(4_000)
    assert app.drain().succeeded == 1


def crashed(app: Deliveries, n: int) -> list[UUID]:
    """Attempts that nobody reports any more."""
    gate = Gate()
    app.adapter("email", max_attempts=1)(lambda delivery, attempt: gate())
    ids = [schedule(app).id for _ in range(n)]
    processor = app.processor()
    processor.start()
    gate.wait_for(n)
    processor.stop(0)
    stopped(processor)
    gate.open()
    return ids


@pytest.mark.parametrize(
    "values",
    [
        {"version": 2, "body": b'{"attempt": 1'},
        {"version": 2, "body": b"\xff\xfe"},
        {"version": 2, "body": b'{"attempt":7,"worker":"w","rules":null}'},
        {"version": 1, "body": b"{}"},
        {"version": 1, "body": b"[" * 100_000},
        {"version": 2, "schema_version": 99},
        {"version": 2, "schema_version": 0},
        {"version": 1, "type": "os.system"},
        {"version": 1, "type": "Cancelled"},
    ],
    ids=lambda values: repr(values)[:40],
)
def test_a_stream_that_makes_no_sense_stops_no_sweep(
    app: Deliveries, clock: RunningClock, values: dict[str, Any]
) -> None:
    ids = crashed(app, 3)
    unguarded(app)
    tamper(app, events, ids[1], **values)
    clock.advance(31)
    app.drain()
    app.drain()
    assert [row(app, id).status for id in ids] == ["exhausted", "attempting", "exhausted"]
    assert row(app, ids[1]).lease_until > clock.now()
    with pytest.raises(CorruptHistory, match="version"):
        app.get(ids[1])
    with pytest.raises(CorruptHistory):
        app.explain(ids[1])
    assert app.get(ids[0]).status is Status.EXHAUSTED


@pytest.mark.parametrize("name", ["Nonsense", "Succeeded"])
def test_a_guard_that_refuses_one_start_refuses_no_other(app: Deliveries, calls: Calls, name: str) -> None:
    """The row says pending, the stream does not: the database refuses the next event."""
    app.adapter("email")(calls(lambda delivery, attempt: None))
    ids = [schedule(app).id for _ in range(5)]
    unguarded(app)
    tamper(app, events, ids[2], version=1, type=name)
    app.drain()
    app.drain()
    assert [row(app, id).status for id in ids] == [
        *("succeeded", "succeeded", "pending", "succeeded", "succeeded")
    ]
    assert len(calls) == 4


def test_a_guard_that_refuses_one_outcome_refuses_no_other(app: Deliveries, calls: Calls) -> None:
    gate = Gate()
    app.adapter("email")(calls(lambda delivery, attempt: gate()))
    ids = [schedule(app).id for _ in range(5)]
    unguarded(app)
    with app.running():
        gate.wait_for(5)
        tamper(app, events, ids[2], version=2, type="Nonsense")
        gate.open()
        eventually(lambda: [row(app, id).status for id in ids].count("succeeded") == 4)
    assert row(app, ids[2]).status == "attempting"
    assert len(calls) == 5


def test_a_row_that_is_ahead_of_its_stream(app: Deliveries, calls: Calls) -> None:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    ids = [schedule(app).id for _ in range(3)]
    tamper(app, deliveries, ids[1], version=7)
    app.drain()
    app.drain()
    assert [row(app, id).status for id in ids] == ["succeeded", "pending", "succeeded"]
    assert len(calls) == 2


def test_no_error_text_in_the_log_when_a_guard_refuses_an_outcome(
    app: Deliveries, caplog: pytest.LogCaptureFixture
) -> None:
    """R6: a database error's text quotes the parameters of its statement, a note's text among them."""
    gate = Gate()

    @app.adapter("email")
    def email(delivery: Any, attempt: Any) -> None:
        gate()
        raise ValueError("no such user ann@example.org")

    id = schedule(app).id
    unguarded(app)
    with caplog.at_level(logging.DEBUG), app.running():
        gate.wait_for()
        tamper(app, events, id, version=2, type="Nonsense")
        gate.open()
        eventually(lambda: "put aside" in caplog.text)
    assert "ann@example.org" not in caplog.text
