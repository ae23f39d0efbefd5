"""The fields of a draft: their ranges, and who is told what is wrong with which."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.orm import Session

from deliveries import Deliveries, InvalidSchedule, UnknownChannel
from deliveries.errors import CallerError
from deliveries.testing.examples import NOW, at
from support.apps import RunningClock, eventually, schedule

BERLIN = ZoneInfo("Europe/Berlin")
TEN_YEARS = timedelta(days=3_653)


@pytest.fixture
def timed(timed: Deliveries) -> Deliveries:
    timed.adapter("email")(lambda delivery, attempt: None)
    return timed


def test_all_that_can_be_said(timed: Deliveries) -> None:
    said: dict[str, Any] = {
        "recipient": "ann@example.org",
        "key": "order:7",
        "due_at": at(60),
        "expires_at": at(120),
        "priority": 0,
        "max_attempts": 2**31 - 1,
        "tags": ("a", "b"),
        "correlation_id": "c",
        "causation_id": "d",
        "tenant": "t",
    }
    delivery = schedule(timed, "email", {"order": 7}, **said)
    found = timed.get(delivery.id)
    assert found == delivery
    assert {name: getattr(found, name) for name in said} == said
    assert found.idempotency_key == str(found.id)
    assert (found.queue, found.attempt, found.version) == ("email", 0, 1)


def test_what_holds_when_nothing_is_said(timed: Deliveries) -> None:
    found = timed.get(schedule(timed).id)
    assert (found.payload, found.recipient, found.key, found.tenant, found.tags) == (None, None, None, "", ())
    assert (found.priority, found.max_attempts, found.expires_at) == (5, None, None)
    assert found.due_at == found.scheduled_at


def test_due_at_once_is_by_the_databases_clock(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    schedule(app)
    assert app.drain().succeeded == 1


# -- times ---------------------------------------------------------------------------------------------


def test_delays(timed: Deliveries) -> None:
    for delay, seconds in [(0, 0), (1.5, 1.5), (timedelta(minutes=1), 60), (TEN_YEARS, 315_619_200)]:
        found = timed.get(schedule(timed, delay=delay).id)
        assert found.due_at == found.scheduled_at + timedelta(seconds=seconds)


INSTANTS = [
    (datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN), datetime(2024, 3, 31, 1, 30, tzinfo=UTC)),
    (datetime(2024, 3, 31, 2, 30, fold=1, tzinfo=BERLIN), datetime(2024, 3, 31, 0, 30, tzinfo=UTC)),
    (datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), datetime(2024, 10, 27, 0, 30, tzinfo=UTC)),
    (datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN), datetime(2024, 10, 27, 1, 30, tzinfo=UTC)),
    (
        datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=-12))),
        datetime(2024, 5, 2, tzinfo=UTC),
    ),
    (at(0.000001), at(0.000001)),
    (at(-3_600), at(-3_600)),
]


def test_aware_times_are_kept_in_utc_to_the_microsecond(timed: Deliveries) -> None:
    """In a gap of a time zone the standard library's reading counts, `fold` included."""
    for due_at, utc in INSTANTS:
        found = timed.get(schedule(timed, due_at=due_at).id)
        assert found.due_at == utc
        assert found.due_at.tzinfo is UTC


def test_what_is_due_later_is_performed_later(timed: Deliveries, clock: RunningClock) -> None:
    delivery = schedule(timed, delay=60)
    assert timed.drain().attempted == 0
    clock.advance(59)
    assert timed.drain().attempted == 0
    clock.advance(2)
    assert timed.drain().succeeded == 1
    assert timed.get(delivery.id).is_terminal


def test_after_its_deadline_nothing_starts(timed: Deliveries, clock: RunningClock) -> None:
    delivery = schedule(timed, expires_at=at(60))
    clock.advance(60)
    summary = timed.drain()
    assert (summary.attempted, summary.exhausted) == (0, 1)
    assert [recorded.type for recorded in timed.history(delivery.id)] == ["Scheduled", "Exhausted"]


def test_a_deadline_in_the_past_is_the_end_at_once(timed: Deliveries) -> None:
    delivery = schedule(timed, expires_at=at(-1))
    timed.drain()
    assert timed.get(delivery.id).status == "exhausted"


# -- refused -------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Any]] = [
    ("due_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - a naive one is meant
    ("due_at", "2026-01-01T00:00:00Z"),
    ("due_at", 0),
    ("due_at", NOW + TEN_YEARS + timedelta(seconds=1)),
    ("due_at", datetime.max.replace(tzinfo=UTC)),
    ("due_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))),
    ("due_at", datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))),
    ("expires_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - a naive one is meant
    ("expires_at", "tomorrow"),
    ("expires_at", NOW + timedelta(days=300 * 365)),
    ("delay", -1),
    ("delay", -0.001),
    ("delay", timedelta(seconds=-1)),
    ("delay", timedelta(days=300 * 365)),
    ("delay", timedelta.max),
    ("delay", float("nan")),
    ("delay", float("inf")),
    ("delay", 1e300),
    ("delay", 10**400),
    ("delay", "5"),
    ("delay", True),
    ("priority", -1),
    ("priority", 10),
    ("priority", 5.0),
    ("priority", True),
    ("priority", "5"),
    ("priority", None),
    ("max_attempts", 0),
    ("max_attempts", -1),
    ("max_attempts", 2**31),
    ("max_attempts", 1.0),
    ("max_attempts", True),
    ("recipient", ""[:0] + "x" * 2_049),
    ("recipient", "a\x00b"),
    ("recipient", "\ud800"),
    ("recipient", b"ann"),
    ("recipient", ["ann"]),
    ("tenant", "t" * 256),
    ("tenant", "a\nb"),
    ("tenant", 7),
    ("tags", "abc"),
    ("tags", ["a"] * 21),
    ("tags", ["a" * 101]),
    ("tags", [""]),
    ("tags", ["a\x1b[31m"]),
    ("tags", [7]),
    ("tags", {"a": 1}),
    ("tags", None),
    ("correlation_id", ""),
    ("correlation_id", "c" * 256),
    ("correlation_id", "\x7f"),
    ("correlation_id", UUID(int=1)),
    ("causation_id", ""),
    ("causation_id", "c" * 256),
    ("causation_id", "\ud800"),
]


@pytest.mark.parametrize(
    ("field", "value"), REFUSED, ids=[f"{field}-{value!r:.30}" for field, value in REFUSED]
)
def test_what_is_refused_before_any_sql_naming_the_field(nowhere: Deliveries, field: str, value: Any) -> None:
    with Session(nowhere.engine) as session, pytest.raises(InvalidSchedule) as caught:
        nowhere.schedule(session, "email", **{field: value})
    assert isinstance(caught.value, CallerError)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 500


def test_due_at_and_delay_together_are_refused(nowhere: Deliveries) -> None:
    with Session(nowhere.engine) as session, pytest.raises(InvalidSchedule, match="not both"):
        nowhere.schedule(session, "email", due_at=at(1), delay=1)


BORDERS: list[dict[str, Any]] = [
    {"tags": ["t" * 100] * 20},
    {"tags": {"b", "a"}},
    {"recipient": "r" * 2_048},
    {"recipient": "a\nb"},
    {"tenant": "t" * 255},
    {"correlation_id": "c" * 255},
    {"priority": 9},
    {"max_attempts": 1},
    {"due_at": NOW + TEN_YEARS},
]


def test_borders_that_are_accepted(timed: Deliveries) -> None:
    for accepted in BORDERS:
        ((field, value),) = accepted.items()
        found = timed.get(schedule(timed, **accepted).id)
        assert getattr(found, field) == (tuple(sorted(value)) if field == "tags" else value)


def test_an_unknown_channel_is_refused_before_any_sql(nowhere: Deliveries) -> None:
    with Session(nowhere.engine) as session, pytest.raises(UnknownChannel) as caught:
        nowhere.schedule(session, "fax")
    assert caught.value.channel == "fax"
    assert "email" in str(caught.value)


def test_a_channels_own_queue(timed: Deliveries) -> None:
    timed.adapter("sms", queue="slow")(lambda delivery, attempt: None)
    found = timed.get(schedule(timed, "sms").id)
    assert (found.channel, found.queue) == ("sms", "slow")
    assert [one.id for one in timed.find(queue="slow")] == [found.id]


def test_a_hint_is_given_to_who_waits(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    with app.running(poll=30) as processor:
        eventually(lambda: processor.is_alive)
        delivery = schedule(app)
        eventually(lambda: app.get(delivery.id).is_terminal)
