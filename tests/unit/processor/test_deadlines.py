"""When a call is given up: by its own timeout, counted from where it was entered; none is kept for long."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from deliveries.processor.deadlines import LOOP_MARGIN_SECONDS, Deadlines
from support.ticking import Time


class Call:
    """What a deadline looks at."""

    def __init__(
        self, timeout: float = 10.0, *, entered_at: float | None = None, is_async: bool = False
    ) -> None:
        self.timeout, self.is_async = timeout, is_async
        self.entered, self.entered_at = entered_at is not None, entered_at or 0.0
        self.reported = self.returned = False


def watching(*calls: Any) -> Deadlines:
    made = Deadlines()
    made.add(calls)
    return made


def test_without_a_call_there_is_nothing_to_wait_for(time: Time) -> None:
    assert Deadlines().next() == float("inf")
    assert Deadlines().passed() == []


def test_calls_that_began_together_end_each_by_its_own_timeout(time: Time) -> None:
    quick, slow, also_slow = (Call(timeout, entered_at=time.at) for timeout in (1.0, 5.0, 5.0))
    deadlines = watching(slow, quick, also_slow)
    assert deadlines.next() == time.at + 1
    time.at += 1
    assert deadlines.passed() == [quick]
    assert deadlines.next() == time.at + 4
    time.at += 4
    assert deadlines.passed() == [slow, also_slow]
    assert deadlines.next() == float("inf")


@pytest.mark.parametrize("how", ["returned", "reported"])
@pytest.mark.parametrize("over", [0, 1, 2])
def test_who_is_over_is_not_given_up(time: Time, how: str, over: int) -> None:
    calls = [Call(entered_at=time.at) for _ in range(3)]
    deadlines = watching(*calls)
    setattr(calls[over], how, True)
    time.at += 10
    assert deadlines.passed() == [call for place, call in enumerate(calls) if place != over]


def test_nobody_waits_for_those_who_are_all_over(time: Time) -> None:
    calls = [Call(entered_at=time.at) for _ in range(3)]
    deadlines = watching(*calls)
    for call in calls:
        call.returned = True
    assert deadlines.next() == float("inf")


def test_the_time_counts_from_where_a_call_was_entered(time: Time) -> None:
    late, never = Call(), Call()
    deadlines = watching(late, never)
    time.at += 6
    late.entered, late.entered_at = True, time.at
    time.at += 4
    assert deadlines.passed() == []
    assert time.at < deadlines.next() < time.at + 1, "one that was never entered is looked at again soon"
    time.at += 6
    assert deadlines.passed() == [late]
    never.entered, never.entered_at = True, time.at
    time.at += 9.9
    assert deadlines.passed() == []
    time.at += 0.2
    assert deadlines.passed() == [never]


def test_a_loop_has_a_moment_to_end_its_call_itself(time: Time) -> None:
    deadlines = watching(call := Call(entered_at=time.at, is_async=True))
    time.at += 10
    assert deadlines.passed() == []
    time.at += LOOP_MARGIN_SECONDS
    assert deadlines.passed() == [call]


def test_one_that_lasts_keeps_no_others_alive(time: Time) -> None:
    """It stands last among those that began with it, which return, and more come."""
    deadlines, lasts = Deadlines(), Call(timeout=3_600.0, entered_at=time.at)
    known = weakref.WeakSet[Any]()
    for last in [[lasts], *([] for _ in range(9))]:
        calls = [Call(timeout=3_600.0, entered_at=time.at) for _ in range(100)]
        known |= weakref.WeakSet(calls)
        deadlines.add([*calls, *last])
        for call in calls:
            call.returned = True
        del calls, call
        gc.collect()
        assert len(known) <= 3 * 100
    time.at += 3_600
    assert deadlines.passed() == [lasts]
