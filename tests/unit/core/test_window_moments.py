"""`Rate`: which starts share a cell, and which moments those who wait are given."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deliveries.core.codec import micros
from deliveries.core.window import CELLS, HORIZON_SECONDS, Rate, Window
from deliveries.testing.examples import NOW, at

MICROSECOND = timedelta(microseconds=1)


def test_starts_of_a_fiftieth_of_a_period_are_kept_as_one() -> None:
    rate, window = Rate(10, 1.0 * CELLS), Window()
    for seconds, count in [(0.2, 3), (0.4, 2), (0.9, 1), (1.0, 1), (1.1, 3)]:
        window = rate.take(window, count, at(seconds))
    assert window.starts == ((micros(at(0.9)), 6), (micros(at(1.1)), 4))


@pytest.mark.parametrize("micros_long", [1, CELLS, 2 * CELLS - 1])
def test_no_cell_is_shorter_than_a_microsecond(micros_long: int) -> None:
    rate, window = Rate(9, micros_long / 1_000_000), Window()
    for passed in range(3):
        window = rate.take(window, 1, NOW + passed * MICROSECOND)
    assert [count for _, count in window.starts] == [1] * min(3, micros_long)


def test_a_window_in_which_nothing_started_is_over() -> None:
    rate = Rate(2, 10.0)
    assert rate.over(Window()) < NOW
    assert rate.over(rate.take(Window(), 1, NOW)) == at(10)
    assert rate.over(Window(given_at=micros(at(60)))) == at(60)


def waiting(rate: Rate, window: Window, now: float, ahead: range) -> tuple[Window, list[float]]:
    """When each of those is to look again, in seconds."""
    told = []
    for one in ahead:
        window, moment = rate.wait(window, at(now), one)
        told.append((moment - NOW).total_seconds())
    return window, told


def test_as_many_are_given_a_moment_as_may_start_then() -> None:
    rate = Rate(2, 10.0)
    window = rate.take(Window(), 2, NOW)
    window, told = waiting(rate, window, 0, range(7))
    assert told == [10, 10, 20, 20, 30, 30, 40]
    assert (window.given_at, window.given) == (micros(at(40)), 1)


def test_a_moment_that_was_given_is_no_good_when_what_opens_has_moved_beyond() -> None:
    rate = Rate(2, 10.0)
    window, told = waiting(rate, rate.take(Window(), 2, NOW), 0, range(2, 3))
    assert told == [20]
    window, told = waiting(rate, rate.take(window, 2, at(10)), 10, range(2, 3))
    assert told == [30]


def test_nobody_is_told_to_wait_beyond_the_horizon() -> None:
    half = HORIZON_SECONDS / 2
    rate = Rate(1, half)
    window = rate.take(Window(), 1, NOW)
    window, told = waiting(rate, window, 0, range(4))
    assert told == [half, 2 * half, 2 * half, 2 * half]
    assert (window.given_at, window.given) == (micros(at(2 * half)), 1)
