"""What was is the fold of what had happened by then, for every life, version and moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveries.audit.past import state_at
from deliveries.core.machine import fold
from deliveries.core.stream import START, Recorded, advance
from deliveries.errors import InvalidMoment, NotThen
from deliveries.testing.lives import Life
from deliveries.testing.strategies import lives, rambles


def recorded(life: Life) -> list[Recorded]:
    stream, history = START, []
    for command in life.commands:
        change = advance(stream, command)
        if change is not None:
            history.append(change.recorded)
            stream = change.stream
    return history


@given(lives() | rambles())
def test_at_a_version(life: Life) -> None:
    history = recorded(life)
    for version in range(1, len(history) + 1):
        assert state_at(history, version=version) == fold(life.events[:version])
    with pytest.raises(NotThen):
        state_at(history, version=len(history) + 1)


@given(lives() | rambles(), st.data())
def test_at_a_moment(life: Life, data: st.DataObject) -> None:
    history = recorded(life)
    at = data.draw(st.sampled_from(history)).recorded_at + timedelta(
        microseconds=data.draw(st.sampled_from([-1, 0, 1]))
    )
    known = [one.event for one in history if one.recorded_at <= at]
    if known:
        assert state_at(history, at=at) == fold(known)
    else:
        with pytest.raises(NotThen):
            state_at(history, at=at)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"version": 0}, {"version": -1}, {"version": True}, {"version": "1"}, {"at": "now"}, {"at": 5}],
)
def test_no_moment(wrong: dict[str, Any]) -> None:
    history = recorded(_a_life())
    with pytest.raises(InvalidMoment):
        state_at(history, **wrong)


def test_one_or_the_other() -> None:
    history = recorded(_a_life())
    with pytest.raises(InvalidMoment, match="exactly one"):
        state_at(history, at=history[0].recorded_at, version=1)
    with pytest.raises(InvalidMoment, match="naive"):
        state_at(history, at=history[0].recorded_at.replace(tzinfo=None))


def _a_life() -> Life:
    from deliveries.testing.lives import life

    return life("succeeded")
