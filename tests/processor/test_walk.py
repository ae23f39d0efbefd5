"""Claims after a long one begin where it ended; nothing is lost by it, and the way gets short."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from deliveries import Deliveries, Draft
from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Stream
from deliveries.processor import walk
from deliveries.processor.walk import LATE, LONG_SECONDS, MOST_SECONDS, SHARE, Walk
from deliveries.store.rows import Claimed
from deliveries.store.schema import deliveries
from deliveries.testing.examples import NOW, at, scheduled
from support.apps import Apps, Calls, Gate, eventually, schedule
from support.ticking import Time

LONG, SHORT = 0.2, LONG_SECONDS / 2


def found(priority: int = 5, due: float = -60.0, problem: str | None = None) -> Claimed:
    """One that was claimed at `NOW`, due so many seconds after that."""
    born = scheduled()
    one = Delivery(
        id=born.delivery_id,
        channel="email",
        queue="email",
        status=Status.PENDING,
        version=1,
        scheduled_at=NOW,
        due_at=at(due),
        priority=priority,
    )
    return Claimed(born.delivery_id, Stream(None if problem else one, b"", NOW), NOW, problem=problem)


# -- what it remembers -----------------------------------------------------------------------------


@pytest.mark.usefixtures("time")
def test_all_is_looked_at_as_long_as_that_is_quick() -> None:
    one = Walk()
    assert one.floors() is None
    one.walked([found()], True, SHORT, from_the_beginning=True)
    assert one.floors() is None


@pytest.mark.usefixtures("time")
def test_behind_the_last_one_where_there_may_be_more() -> None:
    one = Walk()
    one.walked([found(1), found(5, -60), found(5, -50)], True, LONG, from_the_beginning=True)
    assert one.floors() == [NOW - LATE] * 5 + [at(-50)] + [None] * 4


@pytest.mark.usefixtures("time")
def test_what_was_committed_just_now_is_never_passed_by() -> None:
    one = Walk()
    one.walked([found(5, -0.001)], True, LONG, from_the_beginning=True)
    assert one.floors() == [NOW - LATE] * 6 + [None] * 4
    one.walked([found(5)], False, SHORT, from_the_beginning=False)
    assert one.floors() == [NOW - LATE] * 10


@pytest.mark.usefixtures("time")
def test_what_a_walk_from_the_beginning_did_not_reach_is_not_known() -> None:
    one = Walk()
    one.walked([found(7)], False, LONG, from_the_beginning=True)
    one.walked([found(0)], True, LONG, from_the_beginning=True)
    assert one.floors() == [at(-60)] + [None] * 9


@pytest.mark.usefixtures("time")
def test_nothing_is_learnt_from_what_cannot_be_read() -> None:
    one = Walk()
    one.walked([found(problem="?")], True, LONG, from_the_beginning=True)
    assert one.floors() == [None] * 10
    one.walked([], False, SHORT, from_the_beginning=False)
    assert one.floors() == [None] * 10


@pytest.mark.parametrize(("seconds", "pause"), [(LONG, LONG * SHARE), (60.0, MOST_SECONDS)])
def test_all_is_looked_at_again_before_long(time: Time, seconds: float, pause: float) -> None:
    one = Walk()
    one.walked([found()], True, seconds, from_the_beginning=True)
    time.at += pause * 0.99
    one.walked([found(due=-40)], True, SHORT, from_the_beginning=False)
    assert one.floors() is not None
    time.at += pause * 0.02
    assert one.floors() is None
    one.walked([found()], True, SHORT, from_the_beginning=True)
    assert one.floors() is None


# -- what it does ----------------------------------------------------------------------------------


@pytest.fixture
def always_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim is a long one."""
    monkeypatch.setattr(walk, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(walk, "SHARE", 1_000_000)


def past(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


@pytest.mark.usefixtures("always_long")
def test_who_drains_leaves_nothing_behind(app: Deliveries, calls: Calls) -> None:
    """Whatever its priority and due time, and wherever the last claim ended."""

    def perform(delivery: Delivery, attempt: Any) -> None:
        if delivery.payload in (25, 119):  # between two claims, and behind the last: long due, too
            schedule(app, "sms", due_at=past(3))

    app.adapter("email", queue="mail")(calls(perform))
    app.adapter("sms", queue="mail")(calls(lambda delivery, attempt: None))
    with app.engine.begin() as connection:
        drafts = [Draft(n, priority=n % 10, due_at=past(n % 7 / 10)) for n in range(120)]
        app.schedule_many(connection, "email", drafts)
    summary = app.drain({"mail": 7})
    assert summary.succeeded == summary.attempted == len({id for id, _ in calls.made}) == 122


@pytest.mark.usefixtures("always_long")
def test_what_stands_further_back_is_found_before_long(
    app: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "MOST_SECONDS", 0.5)
    gate = Gate()
    gate.open()
    app.adapter("email")(gate)
    with app.running(poll=0.1):
        first = schedule(app, "email")
        eventually(lambda: app.get(first.id).is_terminal)
        late = schedule(app, "email", due_at=past(5))
        eventually(lambda: app.get(late.id).is_terminal)


@pytest.fixture
def held(postgresql_url: str, apps: Apps) -> Iterator[tuple[Deliveries, list[dict[str, Any]]]]:
    """An app whose claimed rows stay visible to somebody, and what its claims were given."""
    app = apps(postgresql_url)
    given: list[dict[str, Any]] = []

    def note(*execution: Any) -> None:
        if "floors" in execution[2]:
            given.append(dict(execution[3]))

    event.listen(app.engine, "before_cursor_execute", note)
    with app.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
        other.execute(deliveries.select())
        yield app, given


@pytest.mark.usefixtures("always_long")
def test_the_way_is_short_where_somebody_holds_a_snapshot(held: Any) -> None:
    """Pages of index and table that a claim looks at: from the beginning, and from its floors."""
    app, given = held
    app.adapter("email")(lambda delivery, attempt: None)
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft(n, due_at=past(1 - n / 9_000)) for n in range(3_000)])
    app.drain({"email": 500})
    last = next(values for values in reversed(given) if values["floors"] != "{}")

    def pages(**values: Any) -> int:
        statement = text("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + _claim())
        with app.engine.begin() as connection:
            (plan,) = connection.scalars(statement, last | values).one()
            return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])

    assert pages(floors="{}") > 5 * pages() > 0


def _claim() -> str:
    from deliveries.store.postgresql import CLAIM

    return CLAIM.text
