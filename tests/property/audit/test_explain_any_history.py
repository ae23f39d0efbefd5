"""Explain answers for every history there can be, and never says otherwise than the fold."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from deliveries.audit.explain import Explanation, explain
from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import fold
from deliveries.errors import CorruptHistory
from deliveries.testing.examples import at
from deliveries.testing.strategies import EVENT_KINDS, fitting, histories, rambles, structs_of
from support.records import record


@st.composite
def walks(draw: st.DrawFn) -> tuple[e.Event, ...]:
    """Whatever the table allows, also what no command of ours leads to."""
    told: list[e.Event] = [draw(structs_of(e.Scheduled))]
    for kind in draw(st.lists(st.sampled_from((*EVENT_KINDS, *(e.Attempted,) * 6)), max_size=12)):
        event = fitting(fold(told), draw(structs_of(kind)))
        with suppress(CorruptHistory):
            fold([*told, event])
            told.append(event)
    return tuple(told)


HISTORIES = histories() | rambles().map(lambda told: tuple(told.events))
LATER = st.floats(0, 10**6)


def answer(told: tuple[e.Event, ...], later: float = 0) -> tuple[Explanation, Delivery]:
    """The explanation, so many seconds after the last event, and the fold that it must agree with."""
    delivery = fold(told)
    assert delivery is not None
    chain = record(*told, id=delivery.id)
    return explain(chain, chain[-1].recorded_at + timedelta(seconds=later)), delivery


@given(HISTORIES, LATER)
def test_it_answers_in_every_form(told: tuple[e.Event, ...], later: float) -> None:
    said, _ = answer(told, later)
    assert all((said.status, said.why, said.next, said.sentence, said.rule))
    assert len(said.timeline) == len(told)
    for form in (str(said), said.to_html(), said.to_markdown()):
        assert str(said.delivery.id) in form


@given(HISTORIES, LATER)
def test_it_agrees_with_the_fold(told: tuple[e.Event, ...], later: float) -> None:
    said, delivery = answer(told, later)
    assert said.delivery == delivery
    assert said.status == delivery.status.value
    assert said.sentence.startswith(f"{delivery.status}: ")
    assert (said.next == "nothing: this is the end") is delivery.is_terminal
    assert said.rule.startswith(f"{type(told[-1]).__name__}, event {len(told)}: ")
    used = {one.name: one.used for one in said.budgets}
    assert used == {
        "attempts": delivery.endings,
        "interruptions": delivery.interruptions,
        "snoozes": delivery.snoozes,
    }
    assert [run.number for run in said.runs] == list(range(1, delivery.attempt + 1))
    assert [run.number for run in said.runs if run.ended_at is None] == (
        [delivery.attempt] if delivery.status is Status.ATTEMPTING else []
    )


@given(HISTORIES, LATER)
def test_it_names_the_attempt_in_question(told: tuple[e.Event, ...], later: float) -> None:
    said, delivery = answer(told, later)
    if delivery.status is Status.PENDING:
        assert f"attempt {delivery.attempt + 1} " in said.sentence
        assert f"attempt {delivery.attempt + 1} " in said.next or "its deadline" in said.next
    elif delivery.status in (Status.ATTEMPTING, Status.HELD):
        assert f"attempt {delivery.attempt}" in said.sentence
        assert f"attempt {delivery.attempt}" in said.next + said.why
    elif delivery.status is Status.SUCCEEDED:
        assert f"attempt {delivery.attempt}," in said.sentence


@given(HISTORIES)
def test_effects_are_as_the_events_say(told: tuple[e.Event, ...]) -> None:
    said, delivery = answer(told)
    happened = [run.number for run in said.runs if run.effect == "happened"]
    assert happened == ([delivery.attempt] if delivery.status is Status.SUCCEEDED else [])
    doubtful = {
        getattr(event, "attempt", None)
        for event in told
        if getattr(event, "outcome_unknown", False)
        or (isinstance(event, e.Failed) and event.cause != "error")
        or (isinstance(event, e.Interrupted) and event.cause == "crashed")
        or (isinstance(event, e.Held) and delivery.status is Status.HELD and event is told[-1])
    }
    assert {run.number for run in said.runs if run.effect == "unknown"} == doubtful
    assert any(one.startswith("delivered twice") for one in said.conflicts) is (
        len(doubtful) + len(happened) > 1
    )


@given(HISTORIES)
def test_times_are_told_where_there_are_some(told: tuple[e.Event, ...]) -> None:
    said, _ = answer(told)
    for entry, event in zip(said.timeline, told, strict=True):
        assert (entry.waited is not None) is isinstance(event, e.Attempted)
        assert all(taken is None or taken >= 0 for taken in (entry.waited, entry.ran, entry.held))
    closed = [run for run in said.runs if run.ended_at is not None]
    assert len(closed) == sum(entry.ran is not None for entry in said.timeline)


@given(walks(), LATER)
def test_it_answers_for_whatever_the_table_allows(told: tuple[e.Event, ...], later: float) -> None:
    said, delivery = answer(told, later)
    assert (said.delivery, said.status) == (delivery, delivery.status.value)
    assert all((str(said), said.to_html(), said.to_markdown()))
    assert [run.number for run in said.runs] == list(range(1, delivery.attempt + 1))


@given(HISTORIES)
def test_it_is_the_same_each_time(told: tuple[e.Event, ...]) -> None:
    assert answer(told)[0] == answer(told)[0]
    assert explain(record(*told, id=answer(told)[1].id), at(10**6)).timeline == answer(told)[0].timeline
