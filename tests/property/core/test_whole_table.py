"""Status x Event and Status x Command, every cell, in states that lives of commands led to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import TERMINAL, evolve
from deliveries.errors import CorruptHistory
from deliveries.testing.lives import Life
from deliveries.testing.strategies import COMMAND_KINDS, EVENT_KINDS, asked_of, fitting, lives, structs_of
from support.table import TABLE

STATES: tuple[Status | None, ...] = (None, *Status)
AFTER_A_CANCEL = (e.Succeeded, e.Cancelled)

one_of_each_event = st.tuples(*map(structs_of, EVENT_KINDS))
one_of_each_command = st.tuples(*map(structs_of, COMMAND_KINDS))


def standing(status: Status | None) -> st.SearchStrategy[Delivery | None]:
    if status is None:
        return st.none()
    return lives(status, max_detours=3).map(lambda life: life.delivery)


def legal(delivery: Delivery | None, kind: type[e.Event]) -> bool:
    sources, _ = TABLE[kind]
    if delivery is None:
        return None in sources
    return delivery.status in sources and (delivery.cancel_requested is None or kind in AFTER_A_CANCEL)


@pytest.mark.parametrize("status", STATES, ids=str)
@given(data=st.data(), events=one_of_each_event)
def test_every_event_in_every_state(status: Status | None, data: Any, events: tuple[e.Event, ...]) -> None:
    delivery = data.draw(standing(status))
    for event in (fitting(delivery, event) for event in events):
        if legal(delivery, type(event)):
            after = evolve(delivery, event)
            assert after.status is TABLE[type(event)][1]
            assert after.version == (1 if delivery is None else delivery.version + 1)
            assert (after.due_at is not None) is (after.status is Status.PENDING)
            assert after.attempt >= after.endings >= after.interruptions >= 0
        else:
            with pytest.raises(CorruptHistory):
                evolve(delivery, event)


@pytest.mark.parametrize("status", [status for status in Status if status not in TERMINAL])
@given(data=st.data(), events=one_of_each_event, other=st.none() | st.integers(-2, 20))
def test_no_event_may_name_another_attempt(
    status: Status, data: Any, events: tuple[e.Event, ...], other: int | None
) -> None:
    delivery = data.draw(standing(status))
    for event in events:
        right = getattr(fitting(delivery, event), "attempt", other)
        if right == other:
            continue
        wrong = structs.replace(event, attempt=other)
        with pytest.raises(CorruptHistory):
            evolve(delivery, wrong)


@pytest.mark.parametrize("status", STATES, ids=str)
@given(data=st.data(), commands=one_of_each_command, to_the_point=st.booleans())
def test_every_command_in_every_state(
    status: Status | None, data: Any, commands: tuple[Any, ...], to_the_point: bool
) -> None:
    """`decide` never raises, yields one event at most, and that event is storable and acceptable."""
    delivery = data.draw(standing(status))
    for command in commands:
        events = decide(asked_of(delivery, command) if to_the_point else command, delivery)
        assert len(events) <= 1
        for event in events:
            assert legal(delivery, type(event))
            evolve(delivery, event)
            assert codec.decode(type(event).__name__, event.schema_version, codec.encode(event)) == event


@pytest.mark.parametrize("status", [Status.ATTEMPTING, Status.HELD])
@given(data=st.data(), commands=one_of_each_command, other=st.integers(-2, 20))
def test_no_command_closes_another_attempt_than_it_names(
    status: Status, data: Any, commands: tuple[Any, ...], other: int
) -> None:
    """The fence: a late worker, sweep or lookup can neither end nor revive what runs now."""
    delivery = data.draw(standing(status))
    assume(other != delivery.attempt)
    for command in commands:
        if hasattr(command, "attempt"):
            assert decide(structs.replace(command, attempt=other), delivery) == ()


@pytest.mark.parametrize("status", [Status.ATTEMPTING, Status.HELD])
@given(data=st.data(), commands=one_of_each_command)
def test_a_cancel_says_whether_the_outcome_is_unknown(
    status: Status, data: Any, commands: tuple[Any, ...]
) -> None:
    delivery = data.draw(standing(status))
    for command in (asked_of(delivery, command) for command in commands):
        for event in decide(command, delivery):
            if not isinstance(event, e.Cancelled):
                continue
            unknown = isinstance(getattr(command, "outcome", None), o.Unknown)
            if unknown or isinstance(command, (c.Interrupt, c.Cancel)):
                assert event.outcome_unknown
            elif isinstance(command, (c.GiveBack, c.Resolve)):
                assert not event.outcome_unknown


@given(life=lives(), commands=one_of_each_command)
def test_deciding_is_pure(life: Life, commands: tuple[Any, ...]) -> None:
    for command in (asked_of(life.delivery, command) for command in commands):
        assert decide(command, life.delivery) == decide(command, life.delivery)
