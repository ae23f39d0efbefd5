"""Instants of a cron expression: over changes of the clocks, from wherever one begins to look."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from deliveries.cron import NICKNAMES, Cron
from deliveries.errors import CallerError, InvalidSchedule

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def cron(expression: str, zone: str = "UTC") -> Cron:
    return Cron(expression, zone, NEW_YEAR)


def local(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The next ticks, each with the offset that holds then."""
    at = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    found = islice(cron(expression, zone).after(at), count)
    return [tick.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M %z") for tick in found]


def test_mondays_at_nine() -> None:
    assert local("0 9 * * MON", "Europe/Berlin", "2026-03-17 00:00", 3) == [
        "03-23 09:00 +0100",
        "03-30 09:00 +0200",
        "04-06 09:00 +0200",
    ]


def test_instants_are_utc_and_whole_seconds() -> None:
    start = datetime(2026, 5, 1, 8, 59, 59, 700_000, tzinfo=timezone(timedelta(hours=2)))
    first = next(cron("0 9 * * *", "Europe/Berlin").after(start))
    assert (first, first.tzinfo, first.microsecond) == (datetime(2026, 5, 1, 7, tzinfo=UTC), UTC, 0)
    assert next(cron("0 9 * * *", "Europe/Berlin").after(first)) == first + timedelta(days=1)


# -- changes of the clocks ---------------------------------------------------------------------------
#
# Berlin 2026: forward on 29 March at 2:00, back on 25 October at 3:00. Lord Howe moves by half an hour:
# back on 5 April at 2:00, forward on 4 October at 2:00. St John's is half an hour off; Kolkata too, and
# never moves.


def test_a_time_that_is_skipped_comes_at_once_and_once() -> None:
    assert local("30 2 * * *", "Europe/Berlin", "2026-03-28 00:00", 4) == [
        "03-28 02:30 +0100",
        "03-29 03:00 +0200",
        "03-30 02:30 +0200",
        "03-31 02:30 +0200",
    ]


def test_a_time_that_is_repeated_comes_once() -> None:
    assert local("30 2 * * *", "Europe/Berlin", "2026-10-24 00:00", 3) == [
        "10-24 02:30 +0200",
        "10-25 02:30 +0200",
        "10-26 02:30 +0100",
    ]


@pytest.mark.parametrize("minutes", range(0, 180, 10))
def test_nobody_who_looks_in_the_repeated_hour_makes_it_again(minutes: int) -> None:
    """Known bad: cronsim's own answer lies an hour in the past then."""
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    start = datetime(2026, 10, 25, 0, 30, tzinfo=UTC) + timedelta(minutes=minutes)
    assert next(cron("30 2 * * *", "Europe/Berlin").after(start)) == first + timedelta(hours=25)


def test_every_hour_goes_by_elapsed_time() -> None:
    assert local("0 * * * *", "Europe/Berlin", "2026-03-29 00:30", 3) == [
        "03-29 01:00 +0100",
        "03-29 03:00 +0200",
        "03-29 04:00 +0200",
    ]
    assert local("0 * * * *", "Europe/Berlin", "2026-10-25 01:30", 3) == [
        "10-25 02:00 +0200",
        "10-25 02:00 +0100",
        "10-25 03:00 +0100",
    ]


def test_a_zone_that_moves_by_half_an_hour() -> None:
    assert local("45 * * * *", "Australia/Lord_Howe", "2026-04-05 00:50", 4) == [
        "04-05 01:45 +1100",
        "04-05 01:45 +1030",
        "04-05 02:45 +1030",
        "04-05 03:45 +1030",
    ]
    assert local("45 * * * *", "Australia/Lord_Howe", "2026-10-04 01:30", 3) == [
        "10-04 01:45 +1030",
        "10-04 02:45 +1100",
        "10-04 03:45 +1100",
    ]
    assert local("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", 3) == [
        "10-03 02:15 +1030",
        "10-04 02:30 +1100",
        "10-05 02:15 +1100",
    ]


def test_a_zone_that_is_half_an_hour_off() -> None:
    assert next(cron("0 9 * * *", "Asia/Kolkata").after(NEW_YEAR)) == datetime(2026, 1, 1, 3, 30, tzinfo=UTC)


CHANGES = {
    "Europe/Berlin": ("2026-03-28T20", "2026-10-24T20"),
    "Australia/Lord_Howe": ("2026-04-04T10", "2026-10-03T10"),
    "America/St_Johns": ("2026-03-07T22", "2026-10-31T22"),
    "Asia/Kolkata": ("2026-03-28T10",),
}
EXPRESSIONS = [
    "30 2 * * *",
    "0 2 * * *",
    "45 1 * * *",
    "0 2,3 * * *",
    "0 * * * *",
    "45 * * * *",
    "*/15 * * * *",
    "*/15 2 * * *",
    "30 */2 * * *",
]


def until(end: datetime, ticks: Iterator[datetime]) -> list[datetime]:
    return list(takewhile(lambda tick: tick <= end, ticks))


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("zone", CHANGES)
def test_ticks_are_the_same_from_wherever_one_looks(zone: str, expression: str) -> None:
    """Processors look at different moments: one that looks later must not find another timetable."""
    found = cron(expression, zone)
    for begin in CHANGES[zone]:
        start = datetime.fromisoformat(begin).replace(tzinfo=UTC)
        end = start + timedelta(hours=30)
        whole = until(end, found.after(start - timedelta(days=1)))
        assert whole == sorted(set(whole))
        for minutes in range(0, 12 * 60, 15):
            moment = start + timedelta(minutes=minutes, seconds=0.5)
            later = [tick for tick in whole if tick > moment]
            assert until(end, found.after(moment)) == later, moment
            earlier = [tick for tick in whole if tick <= moment]
            assert found.latest(start - timedelta(days=1), moment) == (earlier[-1] if earlier else None)


# -- the last one ---------------------------------------------------------------------------------------


def test_the_last_of_many_years() -> None:
    until = datetime(2036, 1, 1, tzinfo=UTC)
    assert cron("0 0 29 2 *").latest(NEW_YEAR, until) == datetime(2032, 2, 29, tzinfo=UTC)
    assert cron("* * * * *").latest(NEW_YEAR, until) == until
    assert cron("0 0 29 2 *").latest(NEW_YEAR, datetime(2028, 1, 1, tzinfo=UTC)) is None


def test_the_last_one_is_after_where_one_begins() -> None:
    nine = datetime(2026, 1, 5, 9, tzinfo=UTC)
    assert cron("0 9 * * *").latest(nine, nine + timedelta(hours=23)) is None
    assert cron("0 9 * * *").latest(nine - timedelta(microseconds=1), nine) == nine


# -- what it refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "0 0 * 2 MON#5/9",
        "60 * * * *",
        "* * * *",
        "* * * * * * *",
        "",
        "@reboot",
        "every monday",
        "0 9 * * MOO",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 L/2 2 1#6",
        "٣ * * * *",
        "\x00 * * * *",
        "1," * 200 + "1 * * * *",
        None,
        5,
        b"0 9 * * *",
    ],
)
def test_an_expression_that_is_none_or_never_comes(expression: Any) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        cron(expression)
    assert caught.value.field == "expression"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "zone",
    ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/passwd", "Europe/Berlin\x00", None, UTC, "CET+1"],
)
def test_a_zone_that_is_none(zone: Any) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        cron("0 9 * * *", zone)
    assert caught.value.field == "timezone"


@pytest.mark.parametrize("nickname", NICKNAMES)
def test_nicknames(nickname: str) -> None:
    found = list(islice(cron(nickname.upper()).after(NEW_YEAR), 3))
    assert found == list(islice(cron(NICKNAMES[nickname]).after(NEW_YEAR), 3))


def test_the_rare_is_found() -> None:
    assert next(cron("0 0 29 2 *").after(NEW_YEAR)) == datetime(2028, 2, 29, tzinfo=UTC)
    assert next(cron("59 59 23 31 12 *").after(NEW_YEAR)) == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_without_cronsim_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(CallerError, match=r"deliveries\[cron\]"):
        cron("0 9 * * *")
