"""The judges are judged: known-bad streams, each found by the invariant that it breaks.

No state machine would let these happen, so they are written down by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from deliveries.audit.invariants import STREAM_RULES, entries, findings
from deliveries.core import events as e
from deliveries.testing.examples import (
    NOW,
    attempted,
    cancel_requested,
    crashed,
    failed,
    held,
    scheduled,
    snoozed,
)
from deliveries.testing.lives import DETOURS, ENDINGS, life

S = scheduled()
SUCCEEDED = e.Succeeded(attempt=1)
CANCELLED = e.Cancelled(cause="operator")
RELEASED = e.Rescheduled(due_at=NOW, cause="released", attempt=1)


@dataclass(frozen=True)
class At:
    """A recorded event, as little of it as the invariants ask for."""

    version: int
    event: e.Event


def broken(*stream: e.Event | At) -> set[str]:
    return {finding.rule for finding in findings(stream)}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_good_life_has_no_findings(ending: str) -> None:
    assert findings(life(ending, DETOURS).events) == []


def test_no_stream_has_no_findings() -> None:
    assert findings([]) == []


@pytest.mark.parametrize(
    "stream",
    [
        [At(2, S)],
        [At(0, S)],
        [At(1, S), At(3, attempted(1))],
        [At(1, S), At(1, attempted(1))],
        [At(2, S), At(1, attempted(1))],
    ],
    ids=["late", "zero", "hole", "duplicate", "swapped"],
)
def test_i1_finds_versions_that_are_not_a_count(stream: list[At]) -> None:
    assert "I1" in broken(*stream)


def test_i1_numbers_bare_events_by_their_place() -> None:
    assert entries([S, attempted(1)]) == [(1, S), (2, attempted(1))]
    assert entries([At(7, S)]) == [(7, S)]


@pytest.mark.parametrize(
    "stream", [[attempted(1)], [S, S], [S, attempted(1), failed(1), S]], ids=["missing", "twice", "later"]
)
def test_i2_finds_a_schedule_that_is_missing_or_not_first(stream: list[e.Event]) -> None:
    assert "I2" in broken(*stream)


@pytest.mark.parametrize(
    "stream",
    [
        [S, attempted(1), SUCCEEDED, CANCELLED],
        [S, attempted(1), SUCCEEDED, SUCCEEDED],
        [S, CANCELLED, attempted(1)],
        [S, e.Exhausted(cause="deadline"), e.Rescheduled(due_at=NOW, cause="operator")],
        [S, e.Suppressed(), e.Suppressed()],
    ],
    ids=["both ends", "same end", "attempt after the end", "revived", "suppressed twice"],
)
def test_i3_finds_what_follows_the_end(stream: list[e.Event]) -> None:
    assert "I3" in broken(*stream)


@pytest.mark.parametrize(
    "stream",
    [
        [S, attempted(2)],
        [S, attempted(0)],
        [S, attempted(1), failed(1), attempted(3)],
        [S, attempted(1), failed(1), attempted(1)],
    ],
    ids=["from two", "from zero", "hole", "again"],
)
def test_i4_finds_attempts_that_are_not_a_count(stream: list[e.Event]) -> None:
    assert "I4" in broken(*stream)


@pytest.mark.parametrize(
    "stream",
    [
        [S, attempted(1), failed(1), failed(1)],
        [S, attempted(1), crashed(1), SUCCEEDED],
        [S, attempted(1), snoozed(1), failed(1)],
        [S, attempted(1), failed(1), attempted(2), failed(1)],
        [S, attempted(1), held(1), RELEASED, RELEASED],
        [S, attempted(1), CANCELLED],
    ],
    ids=["twice", "late report", "after a snooze", "during the next", "released twice", "never"],
)
def test_i5_finds_attempts_that_are_not_closed_once(stream: list[e.Event]) -> None:
    assert "I5" in broken(*stream)


@pytest.mark.parametrize(
    "stream",
    [
        [S, attempted(1), attempted(2)],
        [S, attempted(1), cancel_requested(1), attempted(2)],
        [S, attempted(1), held(1), attempted(2)],
    ],
    ids=["two open", "after a cancel", "beside a held one"],
)
def test_i6_finds_a_second_open_attempt(stream: list[e.Event]) -> None:
    assert "I6" in broken(*stream)


@pytest.mark.parametrize(
    "stream",
    [
        [S, failed(1)],
        [S, SUCCEEDED],
        [S, attempted(1), failed(2)],
        [S, attempted(1), CANCELLED],
        [S, attempted(1), cancel_requested(2)],
        [S, cancel_requested(1)],
        [S, attempted(1), e.Rescheduled(due_at=NOW, cause="operator")],
        [S, attempted(1), failed(1), attempted(2), SUCCEEDED],
        [S, attempted(1), failed(1), e.Suppressed(attempt=1)],
        [S, attempted(1), held(1), CANCELLED],
        [S, attempted(1), held(1), failed(1)],
        [S, attempted(1), held(1), held(1)],
        [S, attempted(1), held(1), e.Suppressed(attempt=1)],
    ],
)
def test_i7_finds_outcomes_that_name_another_attempt(stream: list[e.Event]) -> None:
    assert "I7" in broken(*stream)


def test_a_finding_says_where() -> None:
    [finding] = findings([S, attempted(2)])
    assert (finding.rule, finding.version) == ("I4", 2)
    assert finding.text == "attempt 2 is the 1. to start"


def test_each_invariant_is_one_function_with_a_docstring() -> None:
    names = [check.__name__[:2].upper() for check in STREAM_RULES]
    assert names == ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "N6", "E3", "E4"]
    assert all(check.__doc__ for check in STREAM_RULES)
