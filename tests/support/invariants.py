"""The stream invariants I1 to I7, each one function from a stream to its findings.

A stream is what has happened to one delivery, oldest first: bare events, numbered by their place,
or recorded events (anything with `.version` and `.event`). Nothing here asks the state machine:
these functions are its judges, and read the stream by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from deliveries.core import events as e


class RecordedEvent(Protocol):
    """An event with its place in the stream."""

    @property
    def version(self) -> int: ...

    @property
    def event(self) -> e.Event: ...


Stream = Iterable[e.Event | RecordedEvent]
Entries = list[tuple[int, e.Event]]

TERMINAL = (e.Succeeded, e.Suppressed, e.Cancelled, e.Exhausted)
CLOSING = (e.Rescheduled, e.Failed, e.Interrupted, e.Held, *TERMINAL)
"""What can close an attempt, when it names one."""
RESOLVING = (e.Rescheduled, e.Succeeded, e.Cancelled, e.Exhausted)
"""What can lead out of held."""


@dataclass(frozen=True)
class Finding:
    """A broken invariant, and the version at which it shows."""

    invariant: str
    version: int
    text: str


Check = Callable[[Entries], Iterator[Finding]]


def i1_versions_have_no_hole(stream: Entries) -> Iterator[Finding]:
    """Versions are 1..n without hole or duplicate."""
    for place, (version, _) in enumerate(stream, start=1):
        if version != place:
            yield Finding("I1", version, f"version {version} stands at place {place}")


def i2_scheduled_is_first_and_only_first(stream: Entries) -> Iterator[Finding]:
    """The first event is `Scheduled`, and only the first."""
    for place, (version, event) in enumerate(stream, start=1):
        if isinstance(event, e.Scheduled) != (place == 1):
            yield Finding("I2", version, f"{_name(event)} at place {place}")


def i3_the_end_is_single_and_last(stream: Entries) -> Iterator[Finding]:
    """At most one terminal event, and it is the last."""
    ended: e.Event | None = None
    for version, event in stream:
        if ended is not None:
            yield Finding("I3", version, f"{_name(event)} after {_name(ended)}")
        elif isinstance(event, TERMINAL):
            ended = event


def i4_attempts_are_numbered(stream: Entries) -> Iterator[Finding]:
    """Attempts are numbered 1..k without hole, in the order of `Attempted`."""
    attempts = [(version, event) for version, event in stream if isinstance(event, e.Attempted)]
    for number, (version, event) in enumerate(attempts, start=1):
        if event.attempt != number:
            yield Finding("I4", version, f"attempt {event.attempt} is the {number}. to start")


def i5_attempts_are_closed_once(stream: Entries) -> Iterator[Finding]:
    """Each attempt is closed once, or is open and no terminal event follows.

    Held closes an attempt and leaves its outcome open: one resolution may follow.
    """
    for version, event in stream:
        if not isinstance(event, e.Attempted):
            continue
        closings = [
            (at, closing)
            for at, closing in stream
            if at > version
            and isinstance(closing, CLOSING)
            and getattr(closing, "attempt", None) == event.attempt
        ]
        held = bool(closings) and isinstance(closings[0][1], e.Held)
        for at, closing in closings[2 if held else 1 :]:
            yield Finding("I5", at, f"{_name(closing)} closes attempt {event.attempt} again")
        if not closings and any(isinstance(later, TERMINAL) for _, later in stream):
            yield Finding("I5", version, f"attempt {event.attempt} is open after the end")


def i6_one_attempt_is_open(stream: Entries) -> Iterator[Finding]:
    """One open attempt at most, and none starts while an outcome is held."""
    for version, event, standing in _standings(stream):
        if isinstance(event, e.Attempted) and standing.named is not None:
            yield Finding("I6", version, f"attempt {event.attempt} starts beside {standing.named}")


def i7_outcomes_name_their_attempt(stream: Entries) -> Iterator[Finding]:
    """An outcome names the open attempt or, from held, the attempt that `Held` names."""
    for version, event, standing in _standings(stream):
        if not isinstance(event, (*CLOSING, e.CancelRequested)):
            continue
        named = getattr(event, "attempt", None)
        if named != standing.named:
            yield Finding("I7", version, f"{_name(event)} names {named}, not {standing.named}")
        elif standing.held is not None and not isinstance(event, RESOLVING):
            yield Finding("I7", version, f"{_name(event)} for the held attempt {standing.held}")


INVARIANTS: tuple[Check, ...] = (
    i1_versions_have_no_hole,
    i2_scheduled_is_first_and_only_first,
    i3_the_end_is_single_and_last,
    i4_attempts_are_numbered,
    i5_attempts_are_closed_once,
    i6_one_attempt_is_open,
    i7_outcomes_name_their_attempt,
)


def entries(stream: Stream) -> Entries:
    """(version, event) pairs of bare or recorded events."""
    return [
        (place, item) if isinstance(item, e.Event) else (item.version, item.event)
        for place, item in enumerate(stream, start=1)
    ]


def findings(stream: Stream) -> list[Finding]:
    """Everything that is wrong with `stream`; empty is good."""
    listed = entries(stream)
    return [finding for check in INVARIANTS for finding in check(listed)]


@dataclass(frozen=True)
class _Standing:
    open: int | None = None
    held: int | None = None

    @property
    def named(self) -> int | None:
        """The attempt that an outcome must name now; None: no attempt is in question."""
        return self.held if self.open is None else self.open


def _standings(stream: Entries) -> Iterator[tuple[int, e.Event, _Standing]]:
    """Each event with how the attempts stood before it."""
    standing = _Standing()
    for version, event in stream:
        yield version, event, standing
        if isinstance(event, e.Attempted):
            standing = _Standing(open=event.attempt)
        elif isinstance(event, e.Held):
            standing = _Standing(held=event.attempt)
        elif isinstance(event, CLOSING):
            standing = _Standing()


def _name(event: e.Event) -> str:
    return type(event).__name__
