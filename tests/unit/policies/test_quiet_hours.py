"""Quiet hours, on the days on which clocks move too."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from deliveries import Delivery, InvalidPolicy, Proceed, policies
from deliveries.core.machine import fold
from deliveries.core.policy import Defer
from deliveries.testing.examples import scheduled

BERLIN = ZoneInfo("Europe/Berlin")
SINCE = datetime(2020, 1, 1, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")


def moment(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


def until(start: str, end: str, at: datetime, zone: ZoneInfo = BERLIN) -> datetime | None:
    return policies.QuietHours(start, end).quiet_until(at, zone)


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2026-06-10T21:59:59", None),
        ("2026-06-10T22:00", "2026-06-11T07:00"),
        ("2026-06-10T23:59:59.999999", "2026-06-11T07:00"),
        ("2026-06-11T00:00", "2026-06-11T07:00"),
        ("2026-06-11T06:59:59.999999", "2026-06-11T07:00"),
        ("2026-06-11T07:00", None),
    ],
)
def test_over_midnight(at: str, end: str | None) -> None:
    assert until("22:00", "07:00", moment(at)) == (end and moment(end))


def test_within_a_day() -> None:
    assert until("12:00", "14:00", moment("2026-06-10T13:00")) == moment("2026-06-10T14:00")
    assert until("12:00", "14:00", moment("2026-06-10T14:00")) is None
    assert until("12:00", "14:00", moment("2026-06-10T11:59")) is None


def test_the_night_that_is_an_hour_short() -> None:
    """29 March 2026: 02:00 is 03:00."""
    found = until("22:00", "07:00", moment("2026-03-28T23:00"))
    assert found == moment("2026-03-29T07:00") == datetime(2026, 3, 29, 5, tzinfo=UTC)


def test_the_night_that_is_an_hour_long() -> None:
    """25 October 2026: 03:00 is 02:00."""
    found = until("22:00", "07:00", moment("2026-10-24T23:00"))
    assert found == datetime(2026, 10, 25, 6, tzinfo=UTC)


@pytest.mark.parametrize("at", ["2026-03-29T00:30", "2026-03-29T01:59:59.5"])
@pytest.mark.parametrize("end", ["02:00", "02:30", "02:59:59"])
def test_an_end_that_is_skipped(at: str, end: str) -> None:
    """Quiet hours end with the jump, when the clock on the wall says 03:00."""
    assert until("23:00", end, moment(at)) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_quiet_hours_that_begin_just_before_the_jump() -> None:
    assert until("01:45", "02:30", moment("2026-03-29T01:50")) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_an_end_that_comes_twice() -> None:
    """Once is enough: what is asked for between the two is quiet again until the second."""
    first, second = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert until("23:00", "02:30", moment("2026-10-25T01:00")) == first
    assert until("23:00", "02:30", first) is None
    assert until("23:00", "02:30", moment("2026-10-25T02:15", fold=1)) == second
    assert until("23:00", "02:30", second) is None


@given(
    at=st.timedeltas(timedelta(0), timedelta(days=3_650)).map(lambda since: SINCE + since),
    start=st.times().map(lambda at: at.replace(microsecond=0)),
    end=st.times().map(lambda at: at.replace(microsecond=0)),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
)
def test_the_end_is_later_and_not_quiet(at: datetime, start: time, end: time, zone: ZoneInfo) -> None:
    if start == end:
        return
    quiet = policies.QuietHours(start, end)
    found = quiet.quiet_until(at, zone)
    local = at.astimezone(zone).time()
    inside = start <= local < end if start < end else local >= start or local < end
    assert (found is not None) is inside
    if found is not None:
        assert at < found <= at + timedelta(hours=26)
        assert quiet.quiet_until(found, zone) is None
        assert quiet.quiet_until(max(at, found - timedelta(seconds=1)), zone) == found


# -- the policy --------------------------------------------------------------------------------


def delivery(**changes: Any) -> Delivery:
    found = fold([scheduled()])
    assert found is not None
    return structs.replace(found, due_at=None, **changes)


def test_the_decision_names_the_end() -> None:
    quiet, at = policies.QuietHours("22:00", "07:00", "Europe/Berlin"), moment("2026-06-10T23:00")
    decision = quiet.at(delivery(), at)
    assert decision == Defer(moment("2026-06-11T07:00"), "quiet hours until 07:00")
    assert quiet.at(delivery(), moment("2026-06-10T12:00")) == Proceed()


def test_what_is_due_later_is_judged_by_then() -> None:
    quiet, noon = policies.QuietHours("22:00", "07:00", BERLIN), moment("2026-06-10T12:00")
    late = structs.replace(delivery(), due_at=moment("2026-06-10T23:00"))
    assert quiet.at(late, noon) == Defer(moment("2026-06-11T07:00"), "quiet hours until 07:00")
    assert quiet.at(late, moment("2026-06-12T12:00")) == Proceed()


def test_a_time_zone_for_each_delivery() -> None:
    quiet = policies.QuietHours("22:00", "07:00", lambda delivery: delivery.tenant)
    at = datetime(2026, 6, 10, 21, tzinfo=UTC)
    assert isinstance(quiet.at(delivery(tenant="Europe/Berlin"), at), Defer)
    assert quiet.at(delivery(tenant="America/New_York"), at) == Proceed()
    with pytest.raises(Exception, match="Nowhere"):
        quiet.at(delivery(tenant="Nowhere/At-All"), at)


def test_called_with_a_delivery_alone() -> None:
    now = datetime.now(UTC)
    around = [(now + timedelta(hours=hours)).strftime("%H:%M") for hours in (-2, 2, 4)]
    assert isinstance(policies.QuietHours(around[0], around[1])(delivery()), Defer)
    assert policies.QuietHours(around[1], around[2])(delivery()) == Proceed()


@pytest.mark.parametrize(
    "arguments",
    [
        ("25:00", "07:00"),
        ("22:00", "x"),
        (22, 7),
        ("22:00", None),
        ("22:00", "22:00"),
        (time(22, tzinfo=UTC), "07:00"),
        ("22:00+01:00", "07:00"),
        ("22:00", "07:00", "Nowhere/At-All"),
        ("22:00", "07:00", "../../etc/passwd"),
        ("22:00", "07:00", None),
        ("22:00", "07:00", 3),
    ],
)
def test_what_are_no_quiet_hours(arguments: Any) -> None:
    with pytest.raises(InvalidPolicy):
        policies.QuietHours(*arguments)
