"""Outcomes are values that may be raised."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from deliveries.core import outcomes as o
from support.histories import NOW, at

KINDS = [
    o.Delivered("250 ok"),
    o.Retry("503", after=5),
    o.Cancel("no such list"),
    o.Bounced("no such user"),
    o.Discard("not worth it"),
    o.Snooze(5, reason="closed"),
    o.Suppress("opted out"),
    o.Unknown("reset"),
    o.NotDone("404"),
]


@pytest.mark.parametrize("outcome", KINDS, ids=repr)
def test_returned_or_raised_is_the_same_outcome(outcome: o.Outcome) -> None:
    with pytest.raises(o.Outcome) as caught:
        raise outcome
    assert caught.value is outcome
    assert o.outcome_of(outcome) is outcome


@pytest.mark.parametrize("value", [None, 0, False, "Retry", [], ValueError("returned, not raised")])
def test_anything_else_that_is_returned_means_delivered(value: object) -> None:
    assert o.outcome_of(value) == o.Delivered()


def test_outcomes_are_equal_by_kind_and_content() -> None:
    assert o.Cancel("a") == o.Cancel("a")
    assert o.Cancel("a") != o.Cancel("b")
    assert o.Cancel("a") != o.Bounced("a")
    assert o.Retry(after=1) != o.Retry(after=2)
    assert hash(o.Cancel("a")) == hash(o.Cancel("a"))
    assert o.Cancel("a") != "a"


@pytest.mark.parametrize("outcome", KINDS, ids=repr)
def test_every_outcome_keeps_its_text(outcome: o.Outcome) -> None:
    assert outcome.text == str(outcome)
    assert str(outcome) in repr(outcome)


def test_saying_nothing_keeps_nothing() -> None:
    assert o.Cancel().text is None
    assert str(o.Cancel()) == ""


def test_a_bounce_is_a_cancel_with_its_own_cause() -> None:
    assert isinstance(o.Bounced(), o.Cancel)
    assert (o.Cancel.cause, o.Bounced.cause) == ("permanent_failure", "bounced")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, None),
        (0, 0.0),
        (1.5, 1.5),
        (timedelta(minutes=1), 60.0),
        (timedelta.max, 30 * 86_400),
        (10**300, 30 * 86_400),
    ],
)
def test_after_is_seconds_and_capped(after: float | timedelta | None, expected: float | None) -> None:
    assert o.Retry(after=after).after == expected


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "5", True, timedelta(-1), 10**400])
def test_a_wait_that_is_no_duration_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"^after "):
        o.Retry(after=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^for_ "):
        o.Snooze(bad)  # type: ignore[arg-type]


def test_a_snooze_takes_exactly_one_time() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        o.Snooze()
    with pytest.raises(ValueError, match="exactly one"):
        o.Snooze(5, until=NOW)


def test_a_snooze_until_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        o.Snooze(until=NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("snooze", "due"),
    [
        (o.Snooze(0), NOW),
        (o.Snooze(90), at(90)),
        (o.Snooze(timedelta.max), at(30 * 86_400)),
        (o.Snooze(until=at(90)), at(90)),
        (o.Snooze(until=at(-90)), NOW),
        (o.Snooze(until=datetime.max.replace(tzinfo=NOW.tzinfo)), at(30 * 86_400)),
        (o.Snooze(until=datetime.min.replace(tzinfo=NOW.tzinfo)), NOW),
    ],
    ids=repr,
)
def test_when_a_snooze_is_due(snooze: o.Snooze, due: datetime) -> None:
    assert snooze.due_at(NOW) == due
