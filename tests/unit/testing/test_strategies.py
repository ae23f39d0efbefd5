"""What users draw from: it is what it says, reaches everything, and is known to `from_type`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from deliveries import Attempt, Delivery, Status
from deliveries.audit.invariants import findings
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.decide import decide
from deliveries.core.machine import TERMINAL, fold
from deliveries.core.notes import Note
from deliveries.payload import encode
from deliveries.testing import commands, deliveries_in, histories, payloads, terminal_deliveries
from deliveries.testing.lives import ENDINGS
from support.drawing import draw_until_nothing_is, drawing


@given(histories())
def test_histories_are_sound(history: tuple[e.Event, ...]) -> None:
    assert isinstance(history, tuple)
    assert findings(history) == []
    assert fold(history) is not None


@pytest.mark.parametrize("status", Status)
@given(data=st.data())
def test_histories_stand_where_they_are_asked_to(status: Status, data: Any) -> None:
    delivery = fold(data.draw(histories(str(status))))
    assert delivery is not None
    assert delivery.status is status


def test_histories_reach_every_kind_of_event() -> None:
    seen: set[type] = set()

    @drawing
    @given(histories())
    def look(history: tuple[e.Event, ...]) -> None:
        seen.update(map(type, history))

    draw_until_nothing_is(lambda: set(e.EVENTS) - seen, look)


@given(terminal_deliveries(), st.data())
def test_terminal_deliveries_are_deaf(delivery: Delivery, data: Any) -> None:
    assert delivery.status in TERMINAL
    assert decide(data.draw(commands(delivery)), delivery) == ()


def test_terminal_deliveries_reach_every_end() -> None:
    seen: set[Status] = set()

    @drawing
    @given(terminal_deliveries(max_detours=1))
    def look(delivery: Delivery) -> None:
        seen.add(delivery.status)

    draw_until_nothing_is(lambda: TERMINAL - seen, look)
    assert seen == TERMINAL == {end.status for end in ENDINGS.values()} & TERMINAL


def test_commands_reach_every_kind_and_often_mean_the_delivery() -> None:
    seen: set[type] = set()
    meant: list[bool] = []

    @drawing
    @given(deliveries_in(Status.ATTEMPTING), st.data())
    def look(delivery: Delivery, data: Any) -> None:
        command = data.draw(commands(delivery))
        seen.add(type(command))
        if hasattr(command, "attempt"):
            meant.append(command.attempt == delivery.attempt)

    draw_until_nothing_is(lambda: {*c.Command.__subclasses__(), True, False} - {*seen, *meant}, look)
    assert sum(meant) > len(meant) / 2


@given(payloads())
def test_payloads_are_accepted(payload: Any) -> None:
    encode(payload)


KNOWN = (
    Delivery,
    Attempt,
    Note,
    e.Rules,
    e.Event,
    *e.EVENTS,
    c.Command,
    *c.Command.__subclasses__(),
    o.Outcome,
    *(kind for kind in o.Outcome.__subclasses__() if kind.__module__ == o.__name__),
    o.Bounced,
)


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
@settings(max_examples=10)
@given(data=st.data())
def test_hypothesis_knows_our_types(kind: type, data: Any) -> None:
    assert isinstance(data.draw(st.from_type(kind)), kind)


def test_what_it_knows_is_ours_and_not_a_guess() -> None:
    """A guess from the annotations would not be a life: attempts without rules, ends with a due time."""
    with pytest.raises(NoSuchExample):
        find(
            st.from_type(Delivery),
            lambda delivery: (delivery.due_at is None) is (delivery.status is Status.PENDING),
            settings=drawing,
        )


@given(...)
def test_annotations_are_enough(delivery: Delivery, event: e.Event) -> None:
    assert delivery.version >= 1
    assert isinstance(event, e.EVENTS)
