"""The strategies reach what they were built for; a harness that has gone blind fails here."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args, get_type_hints

from hypothesis import given

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core.delivery import Status
from deliveries.core.machine import TERMINAL
from deliveries.testing.lives import DETOURS, ENDINGS, Life, life
from deliveries.testing.strategies import COMMAND_KINDS, EVENT_KINDS, lives, rambles
from support.drawing import draw_until_nothing_is, drawing


def every_event() -> list[e.Event]:
    return [event for ending in ENDINGS for event in life(ending, DETOURS).events]


def values_of(kind: type[e.Event], field: str) -> set[Any]:
    return {getattr(event, field) for event in every_event() if type(event) is kind}


def allowed(kind: type[e.Event], field: str) -> set[Any]:
    return set(get_args(get_type_hints(kind)[field]))


WAYS = {
    Status.EXHAUSTED: allowed(e.Exhausted, "cause"),
    Status.SUCCEEDED: allowed(e.Succeeded, "by"),
    Status.SUPPRESSED: allowed(e.Suppressed, "by"),
    Status.CANCELLED: {"operator", "permanent_failure", "bounced", "superseded", "suppressed"},
}
"""Terminal status -> why a delivery may be in it."""


def test_every_command_is_known_to_the_strategies() -> None:
    defined = {kind for kind in vars(c).values() if isinstance(kind, type) and issubclass(kind, c.Command)}
    assert defined - {c.Command} == set(COMMAND_KINDS)


def test_every_command_takes_part_in_some_life() -> None:
    asked = {type(command) for ending in ENDINGS for command in life(ending, DETOURS).commands}
    assert asked == set(COMMAND_KINDS)


def test_every_event_takes_part_in_some_life() -> None:
    assert {type(event) for event in every_event()} == set(EVENT_KINDS)


def test_every_status_is_reached() -> None:
    assert {life(ending).delivery.status for ending in ENDINGS} == set(Status)


def test_every_cause_is_reached() -> None:
    for kind in (e.Rescheduled, e.Failed, e.Interrupted, e.Held, e.Exhausted):
        assert values_of(kind, "cause") == allowed(kind, "cause")
    for kind in (e.Succeeded, e.Suppressed):
        assert values_of(kind, "by") == allowed(kind, "by")
    assert values_of(e.Cancelled, "cause") == WAYS[Status.CANCELLED]
    assert values_of(e.Cancelled, "outcome_unknown") == {True, False}
    assert values_of(e.Held, "lookup") == {True, False}


def test_every_detour_leads_back_to_pending_and_moves_the_version() -> None:
    for detour in DETOURS:
        walked = life("pending", [detour])
        assert walked.delivery.status is Status.PENDING
        assert walked.delivery.version > 1


def test_drawn_lives_reach_every_ending_often() -> None:
    reached: Counter[str] = Counter()
    statuses: Counter[Status] = Counter()
    wanted = {f"{status} {why}" for status, whys in WAYS.items() for why in whys}

    @drawing
    @given(lives())
    def draw(life: Life) -> None:
        last = life.events[-1]
        why = getattr(last, "cause", None) or getattr(last, "by", None)
        reached[f"{life.delivery.status} {why}"] += 1
        statuses[life.delivery.status] += 1

    def missing() -> set[str]:
        return (wanted - reached.keys()) | {status for status in Status if statuses[status] < 3}

    draw_until_nothing_is(missing, draw)


def test_rambles_reach_most_states_and_events_and_come_too_late_too() -> None:
    statuses: Counter[Status] = Counter()
    kinds: Counter[type[e.Event]] = Counter()
    late = 0

    @drawing
    @given(rambles())
    def draw(life: Life) -> None:
        nonlocal late
        statuses[life.delivery.status] += 1
        kinds.update(map(type, life.events))
        late += len(life.commands) - len(life.events)

    draw_until_nothing_is(lambda: {*Status, *EVENT_KINDS} - statuses.keys() - kinds.keys(), draw)
    assert sum(statuses[status] for status in TERMINAL) >= statuses.total() / 10, statuses
    assert late > statuses.total()
