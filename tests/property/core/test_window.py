"""A rate holds in every window, wherever it begins, and never keeps anybody waiting for good."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from deliveries.core.window import CELLS, HORIZON_SECONDS, Rate, Window
from deliveries.testing.examples import NOW

rates = st.builds(
    Rate, st.integers(1, 40), st.sampled_from([0.001, 0.5, 1.0, 60.0, 3_600.0]) | st.floats(0.001, 100.0)
)
steps = st.lists(st.tuples(st.floats(0, 0.6), st.integers(1, 30)), min_size=1, max_size=60)
"""(periods that pass, how many want to start then)"""


def greedy(rate: Rate, steps: list[tuple[float, int]]) -> tuple[Window, list[int]]:
    """What starts if at each step as many start as may; the starts in microseconds."""
    window, now, starts = Window(), NOW, []
    for periods, wanted in steps:
        now += timedelta(microseconds=int(periods * rate.period))
        count = min(wanted, rate.room(window, now))
        if count:
            window = rate.take(window, count, now)
        starts += [(now - NOW) // timedelta(microseconds=1)] * count
    return window, starts


@given(rates, steps)
def test_never_more_than_the_amount_in_any_window(rate: Rate, steps: list[tuple[float, int]]) -> None:
    _, starts = greedy(rate, steps)
    for first, start in enumerate(starts):
        within = sum(1 for other in starts[first:] if other < start + rate.period)
        assert within <= rate.amount


@given(rates, steps)
def test_what_is_kept_is_bounded(rate: Rate, steps: list[tuple[float, int]]) -> None:
    window, _ = greedy(rate, steps)
    assert len(window.starts) <= min(CELLS, rate.period) + 1
    assert sum(count for _, count in window.starts) <= rate.amount


@given(rates, steps)
def test_it_opens_when_it_says_so_and_no_later_than_a_period_from_now(
    rate: Rate, steps: list[tuple[float, int]]
) -> None:
    window, starts = greedy(rate, steps)
    now = NOW + timedelta(microseconds=starts[-1])
    opens = rate.opens(window, now)
    assert now <= opens <= now + timedelta(microseconds=rate.period)
    assert rate.room(window, opens) >= 1
    if opens > now:
        assert rate.room(window, opens - timedelta(microseconds=1)) == 0
    over = rate.over(window)
    assert rate.room(window, over) == rate.amount


@given(rates, st.integers(1, 5))
def test_the_whole_amount_may_start_at_once_and_again_a_period_later(rate: Rate, times: int) -> None:
    window, now = Window(), NOW
    for _ in range(times):
        assert rate.room(window, now) == rate.amount
        window = rate.take(window, rate.amount, now)
        assert rate.room(window, now) == 0
        now += timedelta(microseconds=rate.period)


@given(rates, st.floats(1, 1_000_000))
def test_a_clock_that_was_ahead_costs_one_period_at_most(rate: Rate, ahead: float) -> None:
    window = rate.take(Window(), rate.amount, NOW + timedelta(seconds=ahead))
    assert rate.room(window, NOW) == 0
    assert rate.opens(window, NOW) == NOW + timedelta(microseconds=rate.period)


@given(rates, st.integers(1, 300))
def test_those_who_wait_are_spread(rate: Rate, waiting: int) -> None:
    """No more are told one moment than may start then, but for the last one that is looked at."""
    window = rate.take(Window(), rate.amount, NOW)
    opening = rate.opens(window, NOW)
    last = max(opening, NOW + timedelta(seconds=HORIZON_SECONDS))
    told: list[object] = []
    for ahead in range(waiting):
        window, at = rate.wait(window, NOW, ahead)
        assert opening <= at <= last
        told.append(at)
    assert all(told.count(at) <= rate.amount for at in set(told) - {last})


@given(rates)
def test_a_second_page_of_those_who_wait_goes_on_behind_the_first(rate: Rate) -> None:
    window = rate.take(Window(), rate.amount, NOW)
    for ahead in range(2 * rate.amount):
        window, first = rate.wait(window, NOW, ahead)
    window, second = rate.wait(window, NOW, rate.amount)
    last = NOW + timedelta(seconds=HORIZON_SECONDS)
    assert second > first or second >= last
