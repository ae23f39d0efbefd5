"""Whatever the policy: never negative, never above its cap, the same answer twice."""

from __future__ import annotations

import math
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from deliveries.core.backoff import MAX_DELAY, Backoff, jitter
from deliveries.core.outcomes import Retry, Snooze, seconds
from deliveries.testing.examples import NOW

durations = st.one_of(
    st.floats(0, allow_infinity=False),
    st.integers(0, 10**300),
    st.timedeltas(min_value=timedelta(0)),
)
factors = st.floats(1, 1e300)
jitters = st.floats(0, 1, exclude_max=True)
endings = st.integers(1, 2**31)

policies = st.one_of(
    st.builds(Backoff.exponential, durations, durations, factors, full_jitter=st.booleans()),
    st.builds(Backoff.linear, durations, durations),
    st.builds(Backoff.schedule, st.lists(durations, min_size=1, max_size=8)),
    durations.map(lambda answer: Backoff.custom(lambda endings, error: answer)),
)


@given(policies, endings, jitters)
def test_a_wait_is_finite_not_negative_and_within_the_cap(
    policy: Backoff, ending: int, chance: float
) -> None:
    wait = policy.delay(ending, chance)
    assert math.isfinite(wait)
    assert 0 <= wait <= policy.cap <= MAX_DELAY
    timedelta(seconds=wait)


@given(policies, endings, jitters)
def test_a_wait_replays(policy: Backoff, ending: int, chance: float) -> None:
    assert policy.delay(ending, chance) == policy.delay(ending, chance)


@given(durations, durations, factors, st.integers(1, 10_000))
def test_growing_policies_never_shrink(
    base: float | timedelta, cap: float | timedelta, factor: float, ending: int
) -> None:
    for policy in (Backoff.exponential(base, cap, factor, full_jitter=False), Backoff.linear(base, cap)):
        assert policy.delay(ending) <= policy.delay(ending + 1)


@given(durations, durations, factors, endings, jitters)
def test_full_jitter_draws_below_the_wait_without_it(
    base: float | timedelta, cap: float | timedelta, factor: float, ending: int, chance: float
) -> None:
    plain = Backoff.exponential(base, cap, factor, full_jitter=False).delay(ending, chance)
    jittered = Backoff.exponential(base, cap, factor).delay(ending, chance)
    assert jittered == plain * chance


@given(st.lists(durations, min_size=1, max_size=8), endings)
def test_a_schedule_answers_its_own_waits(delays: list[float | timedelta], ending: int) -> None:
    wait = Backoff.schedule(delays).delay(ending)
    assert wait == min(seconds(delays[min(ending, len(delays)) - 1], "delays"), MAX_DELAY)


@given(st.uuids(), st.integers(1, 2**31))
def test_jitter_is_in_its_range_and_replays(delivery_id: object, attempt: int) -> None:
    assert 0 <= jitter(delivery_id, attempt) < 1  # type: ignore[arg-type]
    assert jitter(delivery_id, attempt) == jitter(delivery_id, attempt)  # type: ignore[arg-type]


@given(durations)
def test_what_adapters_ask_for_is_capped_at_thirty_days(wait: float | timedelta) -> None:
    after = Retry(after=wait).after
    assert after is not None
    assert 0 <= after <= MAX_DELAY
    assert NOW <= Snooze(wait).due_at(NOW) <= NOW + timedelta(days=30)
