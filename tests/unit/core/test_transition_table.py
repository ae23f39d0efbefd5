"""The table of the architecture, cell by cell: every event in every state."""

from __future__ import annotations

import pytest

from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import TERMINAL, TERMINAL_EVENTS, TRANSITIONS, diagram, evolve
from deliveries.errors import CorruptHistory
from deliveries.testing.examples import NOW, attempted, cancel_requested, crashed, failed, held, scheduled
from deliveries.testing.lives import endings, life
from deliveries.testing.strategies import fitting
from support.table import TABLE

SAMPLES: tuple[e.Event, ...] = (
    scheduled(),
    e.Rescheduled(due_at=NOW, cause="operator"),
    attempted(),
    failed(),
    crashed(),
    held(),
    cancel_requested(),
    e.Succeeded(attempt=1),
    e.Suppressed(),
    e.Cancelled(cause="operator"),
    e.Exhausted(cause="attempts"),
)

STATES: tuple[Status | None, ...] = (None, *Status)


def standing(status: Status | None) -> Delivery | None:
    """A delivery that a life of commands led to `status`."""
    return None if status is None else life(endings(status)[0], ["fail"]).delivery


def test_the_transitions_are_exactly_the_table() -> None:
    as_sets = {kind: (set(sources), target) for kind, (sources, target) in TRANSITIONS.items()}
    assert as_sets == TABLE


def test_no_source_is_named_twice() -> None:
    assert all(len(sources) == len(set(sources)) for sources, _ in TRANSITIONS.values())


def test_every_registered_event_has_its_row_and_its_sample() -> None:
    assert tuple(TRANSITIONS) == e.EVENTS == tuple(type(sample) for sample in SAMPLES)


def test_the_states_are_the_seven_words() -> None:
    assert [str(status) for status in Status] == [
        "pending",
        "attempting",
        "held",
        "succeeded",
        "suppressed",
        "cancelled",
        "exhausted",
    ]


def test_terminal_is_what_has_no_way_out() -> None:
    assert {Status.SUCCEEDED, Status.SUPPRESSED, Status.CANCELLED, Status.EXHAUSTED} == TERMINAL
    assert {e.Succeeded, e.Suppressed, e.Cancelled, e.Exhausted} == TERMINAL_EVENTS


@pytest.mark.parametrize("status", Status)
def test_is_terminal_agrees_with_the_table(status: Status) -> None:
    delivery = standing(status)
    assert delivery is not None
    assert delivery.status is status
    assert delivery.is_terminal is (status in TERMINAL)


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("status", STATES, ids=str)
def test_every_cell(status: Status | None, event: e.Event) -> None:
    delivery = standing(status)
    sources, target = TABLE[type(event)]
    event = fitting(delivery, event)
    if status in sources:
        after = evolve(delivery, event)
        assert after.status is target
        assert after.version == (1 if delivery is None else delivery.version + 1)
    else:
        forbidden = f"^{type(event).__name__} cannot follow {status or 'nothing'}$"
        with pytest.raises(CorruptHistory, match=forbidden):
            evolve(delivery, event)


def test_an_event_that_is_not_in_the_table_is_corrupt() -> None:
    class Invented(e.Event, frozen=True, kw_only=True):
        attempt: int | None = None

    for delivery in (None, *map(standing, Status)):
        with pytest.raises(CorruptHistory):
            evolve(delivery, Invented())


def test_a_subclass_of_an_event_is_not_that_event() -> None:
    class Forged(e.Scheduled, frozen=True, kw_only=True):
        pass

    with pytest.raises(CorruptHistory):
        evolve(None, Forged(**{name: getattr(scheduled(), name) for name in scheduled().__struct_fields__}))


def test_the_diagram_shows_every_cell_and_nothing_else() -> None:
    first, *lines = diagram().splitlines()
    assert first == "stateDiagram-v2"
    arrows = [
        f"{source or '[*]'} --> {target}: {kind.__name__}"
        for kind, (sources, target) in TABLE.items()
        for source in sources
    ]
    ends = [f"{status} --> [*]" for status in TERMINAL]
    assert sorted(line.strip() for line in lines) == sorted(arrows + ends)
