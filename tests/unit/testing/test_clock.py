"""The virtual clock."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from deliveries.testing import VirtualClock

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def test_it_stands_still() -> None:
    clock = VirtualClock(NOON)
    assert clock.now() == clock.now() == NOON
    assert clock.authoritative


def test_it_begins_at_the_present() -> None:
    before = datetime.now(UTC)
    assert before <= VirtualClock().now() <= datetime.now(UTC)


def test_it_moves_when_it_is_told_to() -> None:
    clock = VirtualClock(NOON)
    assert clock.advance(1.5) == NOON + timedelta(seconds=1.5)
    assert clock.advance(timedelta(hours=1)) == NOON + timedelta(hours=1, seconds=1.5)
    assert clock.advance(-3_600) == NOON + timedelta(seconds=1.5)
    assert clock.travel(NOON) == clock.now() == NOON


def test_moments_are_utc_whatever_offset_they_have() -> None:
    clock = VirtualClock(NOON.astimezone(timezone(timedelta(hours=5))))
    assert clock.now().tzinfo is UTC
    assert clock.travel((NOON + timedelta(days=1)).astimezone(timezone(timedelta(hours=-8)))).tzinfo is UTC


@pytest.mark.parametrize("act", [VirtualClock, VirtualClock(NOON).travel])
def test_naive_moments_are_refused(act: object) -> None:
    with pytest.raises(ValueError, match="naive"):
        act(datetime(2024, 1, 1))  # type: ignore[operator]  # noqa: DTZ001


def test_each_look_may_take_a_moment() -> None:
    clock = VirtualClock(NOON, tick=0.001)
    assert [clock.now() - NOON for _ in range(2)] == [timedelta(milliseconds=1), timedelta(milliseconds=2)]


def test_no_look_is_lost_between_threads() -> None:
    clock = VirtualClock(NOON, tick=1)
    threads = [threading.Thread(target=lambda: [clock.now() for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == NOON + timedelta(seconds=2_001)
