"""Hypothesis strategies: histories, deliveries, commands, outcomes and payloads. Needs `hypothesis`.

They draw from constructed lives (`lives`), so that every example reaches what it was drawn for: a
naive list of commands exhausts a delivery in 5 of 500 examples, a constructed one in 189.
`rambles` is the opposite, commands from everywhere, for what nobody thought of.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, Union
from uuid import UUID

from hypothesis import strategies as st
from msgspec import Struct, structs

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.delivery import Attempt, Delivery, Status
from deliveries.core.machine import TERMINAL
from deliveries.testing.lives import DEADLINE, DETOURS, Life, endings, life

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

EVENT_KINDS = e.EVENTS
"""Every type of event."""
COMMAND_KINDS: tuple[type[c.Command], ...] = tuple(c.Command.__subclasses__())
"""Every type of command."""

texts = st.text(st.characters(codec="utf-8"), max_size=20)
"""Any text that UTF-8 can carry: NUL, quotes, other scripts; no lone surrogates."""
instants = st.integers(0, 10**16).map(lambda micros: _EPOCH + timedelta(microseconds=micros))
durations = st.floats(0, 30 * 86_400)

OUTCOMES: dict[type[o.Outcome], st.SearchStrategy[Any]] = {
    o.Delivered: st.builds(o.Delivered, st.none() | texts),
    o.Retry: st.builds(o.Retry, texts, after=st.none() | st.floats(0, 1e12)),
    o.Cancel: st.builds(o.Cancel, texts),
    o.Bounced: st.builds(o.Bounced, texts),
    o.Discard: st.builds(o.Discard, texts),
    o.Snooze: st.builds(o.Snooze, st.floats(0, 1e12)) | st.builds(o.Snooze, until=instants),
    o.Suppress: st.builds(o.Suppress, texts),
    o.Unknown: st.builds(o.Unknown, texts),
    o.NotDone: st.builds(o.NotDone, texts),
}
"""Every kind of outcome."""

outcomes: st.SearchStrategy[o.Outcome] = st.one_of(*OUTCOMES.values(), st.builds(o.Outcome, texts))
"""Any outcome, and one of no kind that is known."""

_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(1, 5),
    float: durations,
    str: texts,
    bytes: st.binary(min_size=1, max_size=16),
    UUID: st.uuids(),
    datetime: instants,
    o.Outcome: outcomes,
}
_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "priority": st.integers(0, 9),
    "max_snoozes": st.integers(0, 3),
}


@cache
def structs_of(kind: type[Struct]) -> st.SearchStrategy[Any]:
    """Any value of a struct, each field drawn from what its annotation allows."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: _allowed(hints[name], name) for name in kind.__struct_fields__})


def _allowed(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    if name in _BY_NAME:
        return _BY_NAME[name]
    if hint in _BY_TYPE:
        return _BY_TYPE[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(_allowed, arguments))
    if origin is tuple:  # tuple[X, ...] is the only kind in use
        return st.lists(_allowed(arguments[0]), max_size=3).map(tuple)
    if origin is typing.Annotated:
        return _allowed(arguments[0])
    return structs_of(hint)


# -- lives -------------------------------------------------------------------------------------


@st.composite
def lives(draw: st.DrawFn, *statuses: Status, max_detours: int = 5) -> Life:
    """A life that stands in one of `statuses` (default: any), by every way there is."""
    ending = draw(st.sampled_from(endings(*(statuses or Status))))
    detours = draw(st.lists(st.sampled_from(sorted(DETOURS)), max_size=max_detours))
    return life(
        ending,
        detours,
        delivery_id=draw(st.uuids()),
        priority=draw(st.integers(0, 9)),
        key=draw(st.none() | texts),
        tags=draw(st.lists(texts, max_size=2).map(tuple)),
    )


def asked_of(delivery: Delivery | None, command: Any) -> Any:
    """`command`, if it names an attempt, naming the last one of `delivery`."""
    if delivery is None or not hasattr(command, "attempt"):
        return command
    return structs.replace(command, attempt=delivery.attempt)


def fitting(delivery: Delivery | None, event: Any) -> Any:
    """`event`, if it names an attempt, naming the one that it has to name after `delivery`."""
    if delivery is None or not hasattr(event, "attempt"):
        return event
    if isinstance(event, e.Attempted):
        return structs.replace(event, attempt=delivery.attempt + 1)
    in_question = None if delivery.status is Status.PENDING else delivery.attempt
    return structs.replace(event, attempt=in_question)


@st.composite
def rambles(draw: st.DrawFn) -> Life:
    """A life under commands from everywhere, late ones and nonsense included."""
    walked = life("pending", expires_at=draw(st.none() | st.just(DEADLINE)))
    for kind in draw(st.lists(st.sampled_from(_LIKELY), max_size=25)):
        command = draw(structs_of(kind))
        if draw(st.integers(0, 3)):  # one in four names any attempt
            command = asked_of(walked.delivery, command)
        walked.tell(command)
    return walked


_LIKELY = (*COMMAND_KINDS, *(c.Start,) * 8, *(c.Report,) * 6, *(c.Interrupt, c.Resolve) * 3)
"""Every command, those that lead on more often."""


# -- for everybody -----------------------------------------------------------------------------

kept_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
"""Any text that both databases keep: no NUL, no lone surrogates."""


def payloads() -> st.SearchStrategy[Any]:
    """Any small payload that `schedule` accepts."""
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | kept_texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(kept_texts, inner, max_size=3),
        max_leaves=6,
    )


def histories(*statuses: Status | str, max_detours: int = 5) -> st.SearchStrategy[tuple[e.Event, ...]]:
    """The events of a delivery that stands in one of `statuses` (default: any), oldest first.

    At most `max_detours` ways back to pending are walked before.
    """
    return lives(*map(Status, statuses), max_detours=max_detours).map(lambda told: tuple(told.events))


@st.composite
def deliveries_in(draw: st.DrawFn, *statuses: Status | str, max_detours: int = 5) -> Delivery:
    """A delivery that stands in one of `statuses` (default: any), with a recipient and a payload."""
    told = draw(lives(*map(Status, statuses), max_detours=max_detours))
    return structs.replace(told.stands, recipient=draw(st.none() | kept_texts), payload=draw(payloads()))


def terminal_deliveries(max_detours: int = 5) -> st.SearchStrategy[Delivery]:
    """A delivery that has ended, by every way there is."""
    return deliveries_in(*(status for status in Status if status in TERMINAL), max_detours=max_detours)


def attempts() -> st.SearchStrategy[Attempt]:
    """An attempt, as an adapter sees it."""
    return st.builds(
        Attempt,
        number=st.integers(1, 20),
        is_last=st.booleans(),
        timeout=st.floats(0.001, 86_400),
        started_at=instants,
    )


def commands(
    delivery: Delivery | None = None, kinds: Iterable[type[c.Command]] = COMMAND_KINDS
) -> st.SearchStrategy[Any]:
    """Any command of these `kinds`. With a `delivery`, three in four name its last attempt."""
    any_command = st.one_of(*map(structs_of, kinds))
    if delivery is None:
        return any_command
    to_the_point = any_command.map(lambda command: asked_of(delivery, command))
    return st.one_of(to_the_point, to_the_point, to_the_point, any_command)
