"""Periodic deliveries as a user meets them: ticks, what was missed, changes of the clocks, refusals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from deliveries import (
    Deliveries,
    Delivery,
    InvalidAdapter,
    InvalidPayload,
    InvalidSchedule,
    Unique,
    UnknownChannel,
)
from deliveries.periodic import ON_TIME, PAGE
from deliveries.store.schema import periodic
from support.apps import Apps, Calls, ManualClock, everything, schedule, statements

MONDAY = datetime(2026, 3, 16, 8, 0, tzinfo=UTC)
AppAt = Callable[..., tuple[Deliveries, ManualClock]]


@pytest.fixture
def at(database_url: str, apps: Apps) -> AppAt:
    """An application with an adapter, at a moment."""

    def made(start: datetime = MONDAY) -> tuple[Deliveries, ManualClock]:
        clock = ManualClock(start)
        app = apps(database_url, clock)
        app.adapter("report")(lambda delivery, attempt: None)
        return app, clock

    return made


def ticks(made: list[Delivery]) -> list[str]:
    return [f"{one.due_at:%m-%d %H:%M}" for one in made]


# -- ticks ---------------------------------------------------------------------------------------------


def test_a_tick_makes_a_delivery_once(at: AppAt) -> None:
    app, clock = at()
    app.periodic("0 9 * * MON", channel="report", payload={"week": 1})
    assert app.tick() == []
    clock.advance(3_599)
    assert app.tick() == []
    clock.advance(1)
    (made,) = app.tick()
    assert (made.channel, made.payload, made.due_at) == ("report", {"week": 1}, MONDAY + timedelta(hours=1))
    assert made.key == "periodic:report:2026-03-16T09:00:00Z"
    assert app.tick() == []
    clock.advance(7 * 86_400)
    assert ticks(app.tick()) == ["03-23 09:00"]
    assert app.drain().succeeded == 2


def test_what_a_draft_can_say(at: AppAt) -> None:
    app, clock = at()
    app.periodic(
        "@hourly",
        channel="report",
        name="hourly",
        recipient="ann@example.org",
        priority=1,
        max_attempts=3,
        tags=["a"],
        tenant="acme",
    )
    app.tick()
    clock.advance(3_600)
    (made,) = app.tick()
    assert (made.recipient, made.priority, made.max_attempts) == ("ann@example.org", 1, 3)
    assert (made.tags, made.tenant, made.key) == (("a",), "acme", "periodic:hourly:2026-03-16T09:00:00Z")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (lambda: {"n": 1}, {"n": 1}),
        (lambda tick: {"at": tick.isoformat()}, {"at": "2026-03-16T09:00:00+00:00"}),
        (lambda tick=None: tick, None),
        (dict, {}),
        (None, None),
    ],
)
def test_payloads(at: AppAt, payload: Any, expected: Any) -> None:
    app, clock = at()
    app.periodic("@hourly", channel="report", payload=payload)
    app.tick()
    clock.advance(3_600)
    assert [one.payload for one in app.tick()] == [expected]


def test_two_entries_of_one_channel(at: AppAt) -> None:
    app, clock = at()
    app.periodic("@hourly", channel="report", payload=1)
    app.periodic("30 * * * *", channel="report", payload=2, name="half")
    assert list(app.periodics) == ["report", "half"]
    app.tick()
    clock.advance(3_600)
    assert sorted((one.payload, f"{one.due_at:%H:%M}") for one in app.tick()) == [(1, "09:00"), (2, "08:30")]


def test_an_adapter_s_uniqueness_keeps_ticks_from_piling_up(at: AppAt) -> None:
    app, clock = at()
    app.adapter("slow", unique=Unique(period=None, states=("pending", "attempting")))(lambda d, a: None)
    app.periodic("@hourly", channel="slow")
    app.tick()
    clock.advance(3_600)
    assert len(app.tick()) == 1
    clock.advance(3_600)
    assert app.tick() == []
    app.drain()
    clock.advance(3_600)
    assert len(app.tick()) == 1
    assert len(app.find()) == 2


# -- as a decorator ------------------------------------------------------------------------------------


def test_it_decorates_an_adapter(at: AppAt, calls: Calls) -> None:
    app, clock = at()

    @app.periodic("@hourly", channel="weekly")
    @calls
    def weekly(delivery: Delivery, attempt: Any) -> None: ...

    assert app.channels["weekly"].function is weekly
    app.tick()
    clock.advance(3_600)
    app.tick()
    assert app.drain().succeeded == len(calls) == 1


def test_it_stands_above_an_adapter(at: AppAt) -> None:
    app, _ = at()

    @app.periodic("@hourly", channel="weekly")
    @app.adapter("weekly", max_attempts=2)
    def weekly(delivery: Delivery, attempt: Any) -> None: ...

    assert app.channels["weekly"].max_attempts == 2
    with pytest.raises(InvalidAdapter, match="another adapter"):
        app.periodic("@daily", channel="weekly", name="daily")(lambda delivery, attempt: None)


# -- what was missed -------------------------------------------------------------------------------------


def missing(at: AppAt, missed: Any, hours: float = 5, expression: str = "@hourly") -> list[Delivery]:
    """What is made after nobody has looked for so long."""
    app, clock = at()
    app.periodic(expression, channel="report", missed=missed)
    app.tick()
    clock.advance(hours * 3_600)
    return app.tick()


@pytest.mark.parametrize(
    ("missed", "made"),
    [
        ("skip", []),
        ("latest", ["03-16 13:00"]),
        ("all", ["03-16 09:00", "03-16 10:00", "03-16 11:00", "03-16 12:00", "03-16 13:00"]),
    ],
)
def test_what_was_missed(at: AppAt, missed: str, made: list[str]) -> None:
    assert ticks(missing(at, missed, 5.5)) == made


@pytest.mark.parametrize("missed", ["skip", "latest"])
def test_a_tick_on_time_is_made_whatever_was_missed(at: AppAt, missed: str) -> None:
    assert ticks(missing(at, missed, 5)) == ["03-16 13:00"]
    assert ON_TIME.total_seconds() == 60


@pytest.mark.parametrize("late", [0, 59, 60, 61])
def test_a_minute_is_on_time(at: AppAt, late: int) -> None:
    assert len(missing(at, "skip", (3_600 + late) / 3_600)) == (late < 60)


def test_what_was_skipped_stays_skipped(at: AppAt) -> None:
    app, clock = at()
    app.periodic("@hourly", channel="report", missed="skip")
    app.tick()
    clock.advance(2.5 * 3_600)
    assert app.tick() == []
    clock.advance(0.5 * 3_600)
    assert ticks(app.tick()) == ["03-16 11:00"]


def test_every_second_within_a_minute(at: AppAt) -> None:
    """Looking every few seconds is on time: no tick is taken for missed."""
    app, clock = at()
    app.periodic("* * * * * *", channel="report", missed="skip")
    app.tick()
    for _ in range(4):
        clock.advance(5)
        assert len(app.tick()) == 5


def test_making_up_for_a_long_time_goes_page_by_page(at: AppAt) -> None:
    app, clock = at()
    app.periodic("* * * * *", channel="report", missed="all")
    app.tick()
    clock.advance(250 * 60)
    pages = [app.tick() for _ in range(4)]
    assert [len(page) for page in pages] == [PAGE, PAGE, 50, 0]
    made = [one.due_at for page in pages for one in page]
    assert made == [MONDAY + timedelta(minutes=n) for n in range(1, 251)]


@pytest.mark.parametrize("missed", ["skip", "latest"])
def test_ten_years_later(at: AppAt, missed: str) -> None:
    made = missing(at, missed, 10 * 365 * 24 + 0.9, "0 9 * * *")
    assert ticks(made) == (["03-12 09:00"] if missed == "latest" else [])


def test_the_first_look_only_notes_the_time(at: AppAt) -> None:
    app, _ = at(MONDAY + timedelta(hours=1))
    app.periodic("0 9 * * *", channel="report", missed="all")
    assert app.tick() == []
    assert app.find() == []


def test_a_changed_entry_begins_anew(at: AppAt, database_url: str, apps: Apps) -> None:
    """A new hour that lies before now was not missed: nobody had promised it."""
    app, clock = at()
    app.periodic("0 9 * * *", channel="report", missed="all")
    app.tick()
    clock.advance(2 * 3_600)
    app.tick()
    changed = apps(database_url, clock)
    changed.adapter("report")(lambda delivery, attempt: None)
    changed.periodic("30 9 * * *", channel="report", missed="all")
    assert changed.tick() == []
    clock.advance(86_400)
    assert ticks(changed.tick()) == ["03-17 09:30"]
    assert ticks(app.tick()) == ["03-17 09:00"], "the old version runs beside it"


def test_a_clock_that_goes_back_makes_nothing_twice(at: AppAt) -> None:
    app, clock = at()
    app.periodic("@hourly", channel="report", missed="all")
    app.tick()
    clock.advance(3_600)
    assert len(app.tick()) == 1
    clock.advance(-3_600)
    assert app.tick() == []
    clock.advance(3_600)
    assert app.tick() == []


def test_a_lost_row_makes_nothing_twice(at: AppAt) -> None:
    """As after a restore of half a database: the key is the truth."""
    app, clock = at()
    app.periodic("@hourly", channel="report", missed="all", payload=lambda tick: app.find(limit=1) != [])
    app.tick()
    clock.advance(3_600)
    (made,) = app.tick()
    with app.engine.begin() as connection:
        connection.execute(periodic.update().values(seen_at=MONDAY))
    assert app.tick() == [], "also where the payload would be another one by now"
    assert [one.id for one in app.find()] == [made.id]
    with app.engine.connect() as connection:
        assert connection.scalar(select(periodic.c.seen_at)) == clock.now()


# -- changes of the clocks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "start", "expression", "expected"),
    [
        ("Europe/Berlin", "2026-03-28T12", "30 2 * * *", ["03-29 01:00", "03-30 00:30"]),
        ("Europe/Berlin", "2026-10-24T12", "30 2 * * *", ["10-25 00:30", "10-26 01:30"]),
        ("Australia/Lord_Howe", "2026-10-03T10", "15 2 * * *", ["10-03 15:30", "10-04 15:15"]),
        ("Asia/Kolkata", "2026-03-28T12", "0 9 * * *", ["03-29 03:30", "03-30 03:30"]),
    ],
)
@pytest.mark.parametrize("missed", ["skip", "latest", "all"])
def test_over_a_change_of_the_clocks(
    at: AppAt, zone: str, start: str, expression: str, expected: list[str], missed: Any
) -> None:
    """One delivery a tick, by every policy."""
    app, clock = at(datetime.fromisoformat(start).replace(tzinfo=UTC))
    app.periodic(expression, channel="report", timezone=zone, missed=missed)
    app.tick()
    made: list[Delivery] = []
    for _ in range(48 * 4):
        clock.advance(900)
        made += app.tick()
    assert ticks(made) == expected


# -- trouble ------------------------------------------------------------------------------------------------


def test_one_payload_that_fails_stops_no_other_and_is_made_later(at: AppAt) -> None:
    app, clock = at()
    broken = [True]

    def fails() -> int:
        if broken:
            raise SystemExit("not now")
        return 7

    app.periodic("@hourly", channel="report", payload=fails, name="a")
    app.periodic("@hourly", channel="report", payload=1, name="b")
    app.tick()
    clock.advance(3_600)
    with pytest.raises(SystemExit):
        app.tick()
    assert [app.get(one.id).payload for one in app.find()] == [1]
    broken.clear()
    assert [one.payload for one in app.tick()] == [7]


def test_a_payload_that_cannot_be_stored(at: AppAt) -> None:
    app, clock = at()
    app.periodic("@hourly", channel="report", payload=lambda: float("nan"))
    app.tick()
    before = everything(app)
    clock.advance(3_600)
    with pytest.raises(InvalidPayload):
        app.tick()
    assert everything(app) == before


def test_a_channel_without_an_adapter_is_named_when_it_is_due(at: AppAt) -> None:
    app, clock = at()
    app.periodic("@hourly", channel="fax")
    app.tick()
    clock.advance(3_600)
    with pytest.raises(UnknownChannel, match="fax"):
        app.tick()
    app.adapter("fax")(lambda delivery, attempt: None)
    assert len(app.tick()) == 1


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("expression", {"expression": "0 0 30 2 *"}),
        ("expression", {"expression": "whenever"}),
        ("timezone", {"timezone": "Mars/Olympus"}),
        ("missed", {"missed": "some"}),
        ("missed", {"missed": None}),
        ("name", {"name": "a b"}),
        ("name", {"name": ""}),
        ("name", {"name": "report"}),
        ("name", {"name": 5}),
        ("recipient", {"recipient": "x" * 3_000}),
        ("priority", {"priority": 10}),
        ("max_attempts", {"max_attempts": 0}),
        ("tags", {"tags": "a"}),
        ("tenant", {"tenant": "a\n"}),
        ("payload", {"payload": lambda one, two: None}),
    ],
)
def test_refusals_before_any_sql(nowhere: Deliveries, field: str, given: dict[str, Any]) -> None:
    nowhere.periodic("@hourly", channel="report")
    with pytest.raises(InvalidSchedule) as caught:
        nowhere.periodic(**{"expression": "@daily", "channel": "email", **given})
    assert caught.value.field == field
    assert list(nowhere.periodics) == ["report"]


def test_other_refusals(nowhere: Deliveries) -> None:
    async def waits() -> None: ...

    with pytest.raises(InvalidSchedule, match="async"):
        nowhere.periodic("@daily", channel="email", payload=waits)
    with pytest.raises(InvalidPayload):
        nowhere.periodic("@daily", channel="email", payload=float("nan"))
    with pytest.raises(InvalidPayload):
        nowhere.periodic("@daily", channel="email", payload="x" * 70_000)
    with pytest.raises(InvalidAdapter, match="channel"):
        nowhere.periodic("@daily", channel="e mail", name="x")
    nowhere.periodic("@daily", channel="email")
    with pytest.raises(InvalidSchedule, match="name each"):
        nowhere.periodic("@hourly", channel="email")


# -- what it costs -----------------------------------------------------------------------------------------


def test_without_entries_a_processor_has_no_ticker(app: Deliveries) -> None:
    import threading

    app.adapter("email")(lambda delivery, attempt: None)
    schedule(app)
    with statements(app.engine) as seen:
        app.drain()
    assert not any("delivery_periodic" in statement for statement in seen)
    others = set(threading.enumerate())
    with app.running():
        assert "deliveries-ticker" not in {thread.name for thread in set(threading.enumerate()) - others}


def test_a_look_without_a_tick_is_two_reads(at: AppAt) -> None:
    app, _ = at()
    app.periodic("@hourly", channel="report")
    app.tick()
    with statements(app.engine) as seen:
        assert app.tick() == []
    assert len(seen) <= 2
    assert all(statement.lstrip().startswith("SELECT") for statement in seen)


async def _twin(app: Deliveries) -> list[Delivery]:
    return await app.atick()


def test_the_asynchronous_twin(at: AppAt) -> None:
    import asyncio

    app, clock = at()
    app.periodic("@hourly", channel="report")
    assert asyncio.run(_twin(app)) == []
    clock.advance(3_600)
    assert len(asyncio.run(_twin(app))) == 1
