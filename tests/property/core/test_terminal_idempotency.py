"""I11: at the end nothing happens any more, whatever is asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveries.audit.invariants import i11_the_end_is_deaf
from deliveries.core import stream
from deliveries.core.decide import decide
from deliveries.core.delivery import Status
from deliveries.core.machine import TERMINAL, evolve, fold
from deliveries.errors import CorruptHistory
from deliveries.testing.lives import ENDINGS, Life, life
from deliveries.testing.strategies import COMMAND_KINDS, EVENT_KINDS, asked_of, fitting, lives, structs_of

ENDS = [status for status in Status if status in TERMINAL]

one_of_each_command = st.tuples(*map(structs_of, COMMAND_KINDS))
one_of_each_event = st.tuples(*map(structs_of, EVENT_KINDS))


@pytest.mark.parametrize("status", ENDS)
@given(data=st.data(), commands=one_of_each_command, to_the_point=st.booleans())
def test_no_command_does_anything_at_the_end(
    status: Status, data: Any, commands: tuple[Any, ...], to_the_point: bool
) -> None:
    told: Life = data.draw(lives(status))
    assert told.delivery is not None
    assert told.delivery.is_terminal
    before = msgspec.json.encode(told.delivery)
    for command in commands:
        assert decide(asked_of(told.delivery, command) if to_the_point else command, told.delivery) == ()
    assert msgspec.json.encode(told.delivery) == before
    assert fold(told.events) == told.delivery


@given(lives(*ENDS, max_detours=2))
def test_every_command_of_a_life_can_be_repeated_after_its_end(told: Life) -> None:
    assert told.delivery is not None
    assert list(i11_the_end_is_deaf(told.delivery, told.commands)) == []


@pytest.mark.parametrize("ending", [name for name, end in ENDINGS.items() if end.status in TERMINAL])
@given(data=st.data())
def test_no_way_to_an_end_leads_on(ending: str, data: Any) -> None:
    """For every ending, not only every terminal state; with one command of any kind."""
    told = life(ending)
    command = data.draw(st.one_of(*map(structs_of, COMMAND_KINDS)))
    assert decide(asked_of(told.delivery, command), told.delivery) == ()


@pytest.mark.parametrize("status", ENDS)
@given(data=st.data(), events=one_of_each_event)
def test_no_event_can_follow_the_end(status: Status, data: Any, events: tuple[Any, ...]) -> None:
    told: Life = data.draw(lives(status, max_detours=2))
    for event in events:
        with pytest.raises(CorruptHistory):
            evolve(told.delivery, fitting(told.delivery, event))


@given(lives(*ENDS, max_detours=2), one_of_each_command)
def test_nothing_is_recorded_after_the_end(told: Life, commands: tuple[Any, ...]) -> None:
    end = stream.Stream(told.delivery, bytes(32), told.now)
    for command in commands:
        assert stream.advance(end, asked_of(told.delivery, command)) is None
