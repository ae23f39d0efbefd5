"""stats: what was counted by the hour, as lines, as charts and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from deliveries import Deliveries, Delivery
from deliveries.audit.statistics import Hour
from deliveries.cli.chart import BAR, bar, by_channel, by_hour, span, spark
from unit.cli.commands import HOSTILE, Command, harmless

Schedule = Callable[..., Delivery]
FIRST = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def told(app: Deliveries, schedule: Schedule) -> Deliveries:
    """Three deliveries, of which nobody has counted anything."""
    for _ in range(3):
        schedule()
    app.drain()
    return app


def test_nothing_is_counted_until_somebody_does(
    deliveries: Command, told: Deliveries, sqlite_url: str
) -> None:
    before = deliveries("stats", "--url", sqlite_url)
    assert (before.code, before.out) == (0, "")
    assert "nothing was counted in the last 24 hours" in before.err
    assert "9 events are not counted yet: --catch-up counts them" in before.err
    after = deliveries("stats", "--url", sqlite_url, "--catch-up")
    assert (after.code, after.err) == (0, "")
    header, row = after.out.splitlines()
    assert header.split()[:5] == ["channel", "scheduled", "attempted", "succeeded", "failed"]
    assert row.split()[:5] == ["email", "3", "3", "3", "0"]
    assert deliveries("stats", "--url", sqlite_url).out == after.out, "and now it is"


def test_json_is_one_line_for_each_hour_of_a_channel(
    deliveries: Command, told: Deliveries, sqlite_url: str
) -> None:
    found = deliveries("stats", "--url", sqlite_url, "--catch-up", "--json").json
    assert sum(one["succeeded"] for one in found) == 3
    assert {one["channel"] for one in found} == {"email"}
    assert sum(one["wait"]["count"] for one in found) == 3
    for one in found:
        assert set(one["run"]) == {"count", "mean", "max", "p50", "p99", "histogram"}
        assert sum(one["run"]["histogram"]) == one["run"]["count"]


def test_one_channel_is_shown_hour_by_hour(deliveries: Command, told: Deliveries, sqlite_url: str) -> None:
    result = deliveries("stats", "--url", sqlite_url, "--catch-up", "--channel", "email", "--hours", 2)
    header, *rows = result.out.splitlines()
    assert header.split()[0] == "hour"
    assert sum(int(row.split()[2]) for row in rows) == 3
    other = deliveries("stats", "--url", sqlite_url, "--channel", "sms")
    assert (other.code, other.out) == (0, "")


def test_it_is_counted_anew(deliveries: Command, told: Deliveries, sqlite_url: str) -> None:
    told.follow("statistics", until_caught_up=True)
    with told.engine.begin() as connection:
        connection.execute(text("UPDATE delivery_statistics SET succeeded = 7"))
    assert " 7 " in deliveries("stats", "--url", sqlite_url).out
    assert " 7 " not in deliveries("stats", "--url", sqlite_url, "--rebuild").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hours", "0"], "--hours must be 1..8784"),
        (["--hours", "9000"], "--hours must be"),
        (["--follow", "--json"], "--follow draws"),
    ],
)
def test_what_makes_no_sense(deliveries: Command, sqlite_url: str, options: list[str], said: str) -> None:
    deliveries("stats", "--url", sqlite_url, *options).failed(2, said)


def test_what_strangers_wrote_does_nothing(deliveries: Command, told: Deliveries, sqlite_url: str) -> None:
    with told.engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET channel = :it"), {"it": HOSTILE})
    for options in ([], ["--json"]):
        result = deliveries("stats", "--url", sqlite_url, "--catch-up", *options)
        assert (result.code, result.err) == (0, "")
        assert result.out
        assert all(harmless(line) for line in result.out.splitlines())


# -- drawing -----------------------------------------------------------------------------------


def hour(at: int = 0, **counts: int) -> Hour:
    return Hour(channel="email", hour=FIRST + timedelta(hours=at), **counts)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([0, 0], "··"), ([0, 1, 8], "·▁█"), ([1, 1], "██"), ([1, 1_000_000], "▁█"), ([4, 8], "▄█")],
)
def test_a_spark_is_as_high_as_its_value_and_something_is_never_nothing(
    values: list[int], drawn: str
) -> None:
    assert spark(values) == drawn


@pytest.mark.parametrize(
    ("counts", "good", "bad"),
    [
        ({"attempted": 10, "succeeded": 10}, BAR, 0),
        ({"attempted": 10, "succeeded": 5, "failed": 5}, BAR // 2, BAR // 2),
        ({"attempted": 10}, 0, 0),
        ({"attempted": 5, "succeeded": 50, "failed": 50}, 8, 7),
    ],
)
def test_a_bar_is_green_and_red_and_never_longer_than_its_attempts(
    counts: dict[str, int], good: int, bad: int
) -> None:
    drawn = bar(hour(**counts), 10)
    assert len(drawn) == counts["attempted"] * BAR // 10
    lengths = {str(part.style): part.end - part.start for part in drawn.spans}
    assert (lengths.get("green", 0), lengths.get("red", 0)) == (good, bad)


def test_nothing_has_no_bar() -> None:
    assert len(bar(hour(), 0)) == len(bar(hour(), 10)) == 0
    assert len(bar(hour(attempted=1), 1_000)) == 1


def test_hours_without_anything_are_drawn_between_those_with_something() -> None:
    table: Any = by_hour([hour(2, attempted=1), hour(4, attempted=2)], FIRST, 6)
    assert [str(cell) for cell in table.columns[0]._cells] == [f"01-01 0{n}:00Z" for n in (2, 3, 4, 5)]


def test_columns_of_what_never_happened_are_left_out() -> None:
    def titles(**counts: int) -> list[str]:
        return [str(column.header) for column in by_channel([hour(**counts)], FIRST, 24).columns]

    assert set(titles(attempted=1, held=1)) - set(titles(attempted=1)) == {"held"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.0, "0 us"),
        (0.0005, "500 us"),
        (0.001, "1 ms"),
        (0.25, "250 ms"),
        (1.25, "1.2 s"),
        (59.0, "59 s"),
        (90.0, "1.5 min"),
        (7_200.0, "2 h"),
        (86_400.0 * 30, "30 d"),
    ],
)
def test_spans_are_said_in_the_unit_that_suits(seconds: float | None, said: str) -> None:
    assert span(seconds) == said
