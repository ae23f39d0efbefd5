"""Retry policies: seconds after each ending that counts."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from deliveries.core.backoff import MAX_DELAY, Backoff, jitter
from deliveries.testing.examples import ID


def waits(backoff: Backoff, count: int, jitter: float = 1.0) -> list[float]:
    return [backoff.delay(endings, jitter) for endings in range(1, count + 1)]


def test_exponential_doubles_up_to_its_cap() -> None:
    backoff = Backoff.exponential(base=10, cap=100, full_jitter=False)
    assert waits(backoff, 6) == [10, 20, 40, 80, 100, 100]


def test_exponential_takes_another_factor() -> None:
    assert waits(Backoff.exponential(base=1, factor=3, full_jitter=False), 4) == [1, 3, 9, 27]
    assert waits(Backoff.exponential(base=5, factor=1, full_jitter=False), 3) == [5, 5, 5]


def test_exponential_by_default_starts_at_ten_seconds_and_ends_at_six_hours() -> None:
    assert waits(Backoff.exponential(), 13) == [10 * 2**n for n in range(12)] + [21_600]


def test_full_jitter_draws_below_the_exponential() -> None:
    backoff = Backoff.exponential(base=10, cap=100)
    assert waits(backoff, 5, jitter=0.5) == [5, 10, 20, 40, 50]
    assert waits(backoff, 5, jitter=0.0) == [0, 0, 0, 0, 0]


def test_without_full_jitter_the_jitter_is_ignored() -> None:
    for backoff in (
        Backoff.exponential(full_jitter=False),
        Backoff.linear(5),
        Backoff.schedule([1, 2, 3]),
        Backoff.custom(lambda endings, error: endings),
    ):
        assert waits(backoff, 5, jitter=0.0) == waits(backoff, 5, jitter=0.9)


def test_with_no_draw_full_jitter_waits_its_longest() -> None:
    assert Backoff.exponential(base=10).delay(3) == 40


def test_linear_grows_by_a_step_up_to_its_cap() -> None:
    assert waits(Backoff.linear(5, cap=18), 5) == [5, 10, 15, 18, 18]


def test_linear_by_default_ends_at_six_hours() -> None:
    assert waits(Backoff.linear(10_000), 3) == [10_000, 20_000, 21_600]


def test_a_schedule_is_followed_exactly_and_its_last_wait_repeats() -> None:
    assert waits(Backoff.schedule([1, 60, 5]), 5) == [1, 60, 5, 5, 5]


def test_durations_may_be_timedeltas() -> None:
    minute = timedelta(minutes=1)
    assert Backoff.exponential(base=minute, cap=10 * minute) == Backoff.exponential(base=60, cap=600)
    assert Backoff.linear(minute, cap=10 * minute) == Backoff.linear(60, cap=600)
    assert Backoff.schedule([minute, 5]) == Backoff.schedule([60, 5])


def test_a_custom_policy_sees_the_ending_and_the_error() -> None:
    seen: list[tuple[int, BaseException | None]] = []

    def function(endings: int, error: BaseException | None) -> timedelta:
        seen.append((endings, error))
        return timedelta(seconds=endings * 2)

    error = ValueError("503")
    backoff = Backoff.custom(function)
    assert backoff.delay(3, 0.5, error) == 6
    assert backoff.delay(4) == 8
    assert seen == [(3, error), (4, None)]


@pytest.mark.parametrize("answer", [-1, float("nan"), float("inf"), None, "5", True, timedelta(-1), 10**400])
def test_a_custom_policy_that_answers_no_duration_is_told_so(answer: object) -> None:
    backoff = Backoff.custom(lambda endings, error: answer)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match=r"^backoff "):
        backoff.delay(1)


@pytest.mark.parametrize(
    "backoff",
    [
        Backoff.exponential(base=1, cap=1e300, full_jitter=False),
        Backoff.exponential(base=1e300, cap=1e300, factor=1e300, full_jitter=False),
        Backoff.linear(1e300, cap=1e300),
        Backoff.schedule([1e300]),
        Backoff.custom(lambda endings, error: 1e300),
    ],
    ids=["exponential", "overflowing", "linear", "schedule", "custom"],
)
@pytest.mark.parametrize("endings", [1_000, 5_000, 2**31])
def test_no_policy_waits_longer_than_thirty_days(backoff: Backoff, endings: int) -> None:
    assert backoff.delay(endings) == MAX_DELAY == 30 * 86_400


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "5", None, True, timedelta(seconds=-1)])
def test_durations_that_are_none_are_refused_by_name(bad: object) -> None:
    for name, make in (
        ("base", lambda: Backoff.exponential(base=bad)),  # type: ignore[arg-type]
        ("cap", lambda: Backoff.exponential(cap=bad)),  # type: ignore[arg-type]
        ("step", lambda: Backoff.linear(bad)),  # type: ignore[arg-type]
        ("cap", lambda: Backoff.linear(1, cap=bad)),  # type: ignore[arg-type]
        ("delays", lambda: Backoff.schedule([1, bad])),  # type: ignore[list-item]
    ):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            make()


@pytest.mark.parametrize("factor", [0.99, 0, -2, float("nan"), float("inf")])
def test_a_factor_that_would_shrink_or_explode_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"^factor must be"):
        Backoff.exponential(factor=factor)


def test_an_empty_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a backoff schedule needs at least one"):
        Backoff.schedule([])


def test_jitter_replays() -> None:
    """Pinned: a change would move every retry that is already written down."""
    assert jitter(ID, 1) == jitter(UUID(str(ID)), 1)
    assert [round(jitter(ID, attempt), 6) for attempt in (1, 2, 3)] == [0.307107, 0.0401, 0.902907]


def test_jitter_differs_between_attempts_and_between_deliveries() -> None:
    draws = {jitter(UUID(int=number), attempt) for number in range(50) for attempt in range(50)}
    assert len(draws) == 2_500


def test_jitter_is_spread_evenly() -> None:
    draws = [jitter(UUID(int=number), 1) for number in range(4_000)]
    tenths = [sum(1 for draw in draws if int(draw * 10) == tenth) for tenth in range(10)]
    assert sum(tenths) == 4_000
    assert all(300 < count < 500 for count in tenths)
