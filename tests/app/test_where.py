"""The filter that finding, operating, pruning and erasing share."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from deliveries import Deliveries, InvalidFilter, Where
from deliveries.store.schema import deliveries as rows
from deliveries.testing.examples import NOW, at
from support.apps import Apps, RunningClock, schedule

HOUR = timedelta(hours=1)


def ids(app: Deliveries, where: Any = None, **wanted: Any) -> list[UUID]:
    return [delivery.id for delivery in app.find(where, **wanted)]


@pytest.fixture
def some(timed: Deliveries, clock: RunningClock) -> list[UUID]:
    """Four deliveries, an hour apart, that differ in everything; the last one has succeeded."""
    timed.adapter("email", queue="mail")(lambda delivery, attempt: None)
    timed.adapter("sms")(lambda delivery, attempt: None)
    made = []
    for n, channel in enumerate(["email", "email", "sms", "sms"]):
        delivery = schedule(
            timed,
            channel,
            tenant=f"t{n % 2}",
            key=f"k{n}",
            tags=[f"g{n}", "all"],
            correlation_id=f"c{n}",
            causation_id=f"w{n}",
            due_at=at(3600 * (10 + n)) if n < 3 else None,
        )
        made.append(delivery.id)
        clock.advance(3600)
    timed.drain()
    return made


BY_VALUE: list[tuple[dict[str, Any], str]] = [
    ({}, "3210"),
    ({"status": "pending"}, "210"),
    ({"status": ["pending", "succeeded"]}, "3210"),
    ({"channel": "sms"}, "32"),
    ({"queue": "mail"}, "10"),
    ({"tenant": "t1"}, "31"),
    ({"key": ("k1", "k2")}, "21"),
    ({"tag": "g1"}, "1"),
    ({"tag": ["g1", "g3"]}, "31"),
    ({"tag": "all", "tenant": "t0"}, "20"),
    ({"tag": "g"}, ""),
    ({"correlation_id": "c2"}, "2"),
    ({"causation_id": "w2"}, "2"),
    ({"channel": "sms", "status": "pending", "key": None}, "2"),
    ({"scheduled_after": NOW + HOUR}, "321"),
    ({"scheduled_before": NOW + HOUR}, "0"),
    ({"scheduled_after": NOW + HOUR, "scheduled_before": NOW + 2 * HOUR}, "1"),
    ({"due_after": at(3600 * 11)}, "21"),
    ({"due_before": at(3600 * 11)}, "0"),
    ({"ended_after": NOW}, "3"),
    ({"ended_before": NOW + 90 * HOUR}, "3"),
    ({"ended_before": NOW}, ""),
]


@pytest.mark.parametrize(("wanted", "expected"), BY_VALUE, ids=str)
def test_each_field(timed: Deliveries, some: list[UUID], wanted: dict[str, Any], expected: str) -> None:
    due = [some[int(n)] for n in expected]
    assert ids(timed, **wanted) == ids(timed, wanted) == ids(timed, Where(**wanted)) == due


def test_by_id(timed: Deliveries, some: list[UUID]) -> None:
    assert ids(timed, id=some[1]) == ids(timed, id=str(some[1])) == [some[1]]
    assert ids(timed, id=[some[0], str(some[2]), uuid4()]) == [some[2], some[0]]


def test_times_are_half_open(timed: Deliveries, some: list[UUID]) -> None:
    moment = timed.get(some[1]).scheduled_at
    assert ids(timed, scheduled_after=moment) == [*reversed(some[1:])]
    assert ids(timed, scheduled_before=moment) == [some[0]]


def test_any_time_zone(timed: Deliveries, some: list[UUID]) -> None:
    elsewhere = (NOW + HOUR).astimezone(timezone(timedelta(hours=-7)))
    assert ids(timed, scheduled_before=elsewhere) == [some[0]]


TAGS = ["a", "A", ",", '"', "\\", "%", "_", "a,b", "ä", "é", "[", "/", 'x"y']


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_that_tag_and_no_part_of_another(app: Deliveries, tag: str) -> None:
    """Tags are one text in the database; no character of it may be taken for the text's own."""
    app.adapter("email")(lambda delivery, attempt: None)
    with_it = schedule(app, tags=[tag]).id
    without = schedule(app, tags=[*(f"{each}{other}" for each in TAGS for other in "z,")][:20]).id
    others = schedule(app, tags=[each for each in TAGS if each != tag]).id
    assert ids(app, tag=tag) == [with_it]
    assert set(ids(app)) == {with_it, without, others}


def test_tags_do_not_shorten_the_list(app: Deliveries) -> None:
    """What the database takes for a match and is none, is made up for from the next page."""
    app.adapter("email")(lambda delivery, attempt: None)
    wanted = schedule(app, tags=["a"]).id
    for _ in range(3):
        schedule(app, tags=["A"])
    assert ids(app, tag="a", limit=1) == [wanted]


def test_a_row_that_was_tampered_with_hides_no_other(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    good, bad = schedule(app, tags=["a"]).id, schedule(app, tags=["a"]).id
    with app.engine.begin() as connection:
        connection.execute(rows.update().where(rows.c.id == bad).values(tags='["a"'))
    assert ids(app, tag="a") == ids(app) == [good]


REFUSED: list[tuple[Any, str, str]] = [
    ({"colour": "red"}, "colour", "status, channel, queue"),
    ({"sta\x1btus": "red"}, "sta", "known are"),
    ({1: "red"}, "1", "known are"),
    ({"status": "ended"}, "status", "exhausted"),
    ({"status": ["pending", 5]}, "status", "exhausted"),
    ({"status": []}, "status", "1..1000"),
    ({"id": "none"}, "id", "UUID"),
    ({"id": 7}, "id", "UUID"),
    ({"channel": 7}, "channel", "string"),
    ({"channel": ["email", None]}, "channel", "string"),
    ({"tag": b"a"}, "tag", "string"),
    ({"key": "a\x00"}, "key", "NUL"),
    ({"key": "\ud800"}, "key", "surrogate"),
    ({"key": "k" * 2_049}, "key", "2048"),
    ({"key": ["k"] * 1_001}, "key", "1000"),
    ({"scheduled_after": "2024-01-01"}, "scheduled_after", "datetime"),
    ({"ended_before": datetime(2024, 1, 1)}, "ended_before", "naive"),  # noqa: DTZ001 - it is refused
    ({"due_before": datetime.min.replace(tzinfo=timezone(HOUR))}, "due_before", "range"),
    ("status=pending", "where", "mapping"),
    (7, "where", "mapping"),
]


@pytest.mark.parametrize(("where", "field", "said"), REFUSED, ids=lambda value: ascii(value)[:40])
def test_what_is_refused_before_any_sql(nowhere: Deliveries, where: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        nowhere.find(where)
    assert field in caught.value.field
    assert said in str(caught.value)


def test_a_field_given_twice_is_refused(nowhere: Deliveries) -> None:
    with pytest.raises(InvalidFilter, match="status: given twice"):
        nowhere.find(Where(status="held"), status="pending")


def test_a_filter_is_a_value() -> None:
    assert Where(status="held") == Where(status=["held"]) == Where(status={"held"})
    assert hash(Where(status="held")) == hash(Where(status=["held"]))
    assert Where(status="held").given() == {"status": ("held",)}
    with pytest.raises(AttributeError):
        Where().status = "held"  # type: ignore[misc]
