"""Lives of deliveries, constructed rather than hoped for.

`ENDINGS` names every way a life can stand or end, `DETOURS` every way from pending back to
pending; `life` walks some detours and then to an ending, by commands alone. The strategies draw
from these: every example reaches what it was drawn for. Without Hypothesis `life` is
deterministic, so that another process can tell the same life.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, Union
from uuid import UUID

from hypothesis import strategies as st
from msgspec import Struct, structs

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import evolve
from deliveries.core.notes import Note

# -- one example of everything -----------------------------------------------------------------

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
ID = UUID("018cc4f5-7a00-7000-8000-00000000cafe")
DIGEST = "ab" * 32
NOTE = Note("a text beside the stream", b"salt")


def at(seconds: float) -> datetime:
    """So many seconds after `NOW`."""
    return NOW + timedelta(seconds=seconds)


def rules(**changes: Any) -> e.Rules:
    """Small budgets: 3 attempts, 2 crashes, 1 snooze; a minute between attempts."""
    return structs.replace(
        e.Rules(
            max_attempts=3,
            max_interruptions=2,
            max_snoozes=1,
            on_unknown="retry",
            timeout=30.0,
            retry_in=60.0,
        ),
        **changes,
    )


def scheduled(**changes: Any) -> e.Scheduled:
    return structs.replace(
        e.Scheduled(
            delivery_id=ID,
            channel="email",
            queue="email",
            scheduled_at=NOW,
            payload_digest=DIGEST,
        ),
        **changes,
    )


def attempted(attempt: int = 1, **limits: Any) -> e.Attempted:
    return e.Attempted(attempt=attempt, worker="w1", rules=rules(**limits))


def failed(attempt: int = 1) -> e.Failed:
    return e.Failed(attempt=attempt, due_at=at(60))


def crashed(attempt: int = 1) -> e.Interrupted:
    return e.Interrupted(attempt=attempt, due_at=at(60))


def snoozed(attempt: int = 1) -> e.Rescheduled:
    return e.Rescheduled(due_at=at(60), cause="snoozed", attempt=attempt)


def held(attempt: int = 1, cause: Any = "unknown", *, lookup: bool = False) -> e.Held:
    return e.Held(attempt=attempt, cause=cause, lookup=lookup)


def cancel_requested(attempt: int = 1, cause: str = "operator") -> e.CancelRequested:
    return e.CancelRequested(attempt=attempt, cause=cause)


def start(**limits: Any) -> c.Start:
    return c.Start(now=NOW, worker="w1", rules=rules(**limits))


def report(attempt: int, outcome: o.Outcome, **fields: Any) -> c.Report:
    return c.Report(now=NOW, attempt=attempt, outcome=outcome, **fields)


def resolve(outcome: o.Outcome, by: Literal["lookup", "operator"], **fields: Any) -> c.Resolve:
    return c.Resolve(now=NOW, outcome=outcome, by=by, **fields)


TABLE: dict[type[e.Event], tuple[set[Status | None], Status]] = {
    e.Scheduled: ({None}, Status.PENDING),
    e.Rescheduled: ({Status.PENDING, Status.ATTEMPTING, Status.HELD}, Status.PENDING),
    e.Attempted: ({Status.PENDING}, Status.ATTEMPTING),
    e.Failed: ({Status.ATTEMPTING}, Status.PENDING),
    e.Interrupted: ({Status.ATTEMPTING}, Status.PENDING),
    e.Held: ({Status.ATTEMPTING}, Status.HELD),
    e.CancelRequested: ({Status.ATTEMPTING}, Status.ATTEMPTING),
    e.Succeeded: ({Status.ATTEMPTING, Status.HELD}, Status.SUCCEEDED),
    e.Suppressed: ({Status.PENDING, Status.ATTEMPTING}, Status.SUPPRESSED),
    e.Cancelled: ({Status.PENDING, Status.ATTEMPTING, Status.HELD}, Status.CANCELLED),
    e.Exhausted: ({Status.PENDING, Status.ATTEMPTING, Status.HELD}, Status.EXHAUSTED),
}
"""The table of the architecture, by hand: event -> (states it may come from, state it leads to)."""

# -- lives, without chance ---------------------------------------------------------------------

PLENTY = {"max_attempts": 1_000, "max_interruptions": 1_000, "max_snoozes": 1_000}
DEADLINE = at(86_400)


@dataclass
class Life:
    """A delivery led from its schedule onwards; every command must lead to something."""

    scheduled: e.Scheduled
    now: datetime = NOW
    commands: list[c.Command] = field(default_factory=list)
    events: list[e.Event] = field(default_factory=list)
    delivery: Delivery | None = None

    def tell(self, command: c.Command) -> bool:
        """Do what `command` leads to, which may be nothing; True if something happened."""
        self.commands.append(command)
        happened = decide(command, self.delivery)
        for event in happened:
            self.delivery = evolve(self.delivery, event)
            self.events.append(event)
        return bool(happened)

    def ask(self, kind: type[c.Command], **fields: Any) -> None:
        self.now += timedelta(seconds=1)
        command = kind(now=self.now, **fields)
        if not self.tell(command):
            raise AssertionError(f"{command} led to nothing")

    def start(self, **limits: Any) -> None:
        """The next attempt, with budgets that cannot run out unless `limits` says so."""
        self.ask(c.Start, worker="w1", rules=rules(**(PLENTY | limits)))

    def report(self, outcome: o.Outcome, **fields: Any) -> None:
        self.ask(c.Report, attempt=self.delivery.attempt, outcome=outcome, **fields)

    def crash(self) -> None:
        self.ask(c.Interrupt, attempt=self.delivery.attempt)

    def hold(self, on_unknown: str = "hold", **limits: Any) -> None:
        self.start(on_unknown=on_unknown, **limits)
        self.report(o.Unknown("timed out"), cause="unknown")

    def resolve(self, outcome: o.Outcome, by: str = "operator", **fields: Any) -> None:
        self.ask(c.Resolve, outcome=outcome, by=by, **fields)

    # detours: from pending back to pending

    def fail(self) -> None:
        self.start()
        self.report(o.Retry("503", after=5), error_type="HTTPError")

    def time_out(self) -> None:
        self.start()
        self.report(o.Retry("too slow"), cause="timeout", not_before=self.now)

    def fail_unknown(self) -> None:
        self.start(on_unknown="retry")
        self.report(o.Unknown("reset"), cause="unknown", retry_in=7.0)

    def crash_and_retry(self) -> None:
        self.start(on_unknown="retry")
        self.crash()

    def give_back(self) -> None:
        self.start()
        self.ask(c.GiveBack, attempt=self.delivery.attempt)

    def snooze(self) -> None:
        self.start()
        self.report(o.Snooze(30))

    def defer(self) -> None:
        self.ask(c.Defer, until=self.now + timedelta(hours=1), note=NOTE)

    def move(self) -> None:
        self.ask(c.Reschedule, due_at=self.now + timedelta(hours=1), actor="ann")

    def hold_and_look_up(self) -> None:
        self.hold("lookup")
        self.resolve(o.NotDone(), by="lookup")

    def error_and_look_up(self) -> None:
        self.start(on_unknown="lookup")
        self.report(o.Unknown("reset"), cause="error", error_type="ConnectionError")
        self.resolve(o.Retry(after=3), by="lookup")

    def time_out_and_release(self) -> None:
        self.start(on_unknown="hold")
        self.report(o.Unknown("too slow"), cause="timeout")
        self.resolve(o.NotDone(), actor="ann")

    def crash_and_release(self) -> None:
        self.start(on_unknown="hold")
        self.crash()
        self.resolve(o.Retry(after=3), actor="ann")


DETOURS: dict[str, Callable[[Life], None]] = {
    detour.__name__: detour
    for detour in (
        Life.fail,
        Life.time_out,
        Life.fail_unknown,
        Life.crash_and_retry,
        Life.give_back,
        Life.snooze,
        Life.defer,
        Life.move,
        Life.hold_and_look_up,
        Life.error_and_look_up,
        Life.time_out_and_release,
        Life.crash_and_release,
    )
}


def _steps(*steps: Callable[[Life], None]) -> Callable[[Life], None]:
    def walk(life: Life) -> None:
        for step in steps:
            step(life)

    return walk


def _nothing(life: Life) -> None:
    pass


def _ask(kind: type[c.Command], **fields: Any) -> Callable[[Life], None]:
    return lambda life: life.ask(kind, **fields)


def _report(outcome: o.Outcome, **limits: Any) -> Callable[[Life], None]:
    """One attempt that ends with `outcome`."""

    def walk(life: Life) -> None:
        life.start(**limits)
        life.report(outcome, note=NOTE)

    return walk


def _resolve(outcome: o.Outcome, by: str) -> Callable[[Life], None]:
    """One attempt whose outcome is held, then found out."""

    def walk(life: Life) -> None:
        life.hold("lookup" if by == "lookup" else "hold")
        life.resolve(outcome, by)

    return walk


def _cancel_while_attempting(closing: Callable[[Life], None]) -> Callable[[Life], None]:
    return _steps(Life.start, _ask(c.Cancel, cause="superseded", actor="ann"), closing)


def _give_back(life: Life) -> None:
    life.ask(c.GiveBack, attempt=life.delivery.attempt)


def _late(life: Life) -> None:
    life.now = life.scheduled.expires_at


def _attempts_spent(life: Life) -> None:
    life.start(max_attempts=life.delivery.endings + 1)
    life.report(o.Retry("503"))


def _attempts_spent_by_a_crash(life: Life) -> None:
    life.start(max_attempts=life.delivery.endings + 1)
    life.crash()


def _attempts_spent_by_lookup(life: Life) -> None:
    life.hold("lookup", max_attempts=life.delivery.endings + 1)
    life.resolve(o.NotDone(), by="lookup")


def _interruptions_spent(life: Life) -> None:
    life.start(max_interruptions=life.delivery.interruptions + 1)
    life.crash()


def _interruptions_spent_by_lookup(life: Life) -> None:
    life.start(on_unknown="lookup", max_interruptions=life.delivery.interruptions + 1)
    life.crash()
    life.resolve(o.NotDone(), by="lookup")


def _snoozes_spent(life: Life) -> None:
    life.start(max_snoozes=life.delivery.snoozes)
    life.report(o.Snooze(30))


@dataclass(frozen=True)
class Ending:
    """Where a life shall stand, and the way there from pending."""

    status: Status
    reach: Callable[[Life], None]


_PENDING, _ATTEMPTING, _HELD = Status.PENDING, Status.ATTEMPTING, Status.HELD
_SUCCEEDED, _SUPPRESSED = Status.SUCCEEDED, Status.SUPPRESSED
_CANCELLED, _EXHAUSTED = Status.CANCELLED, Status.EXHAUSTED

ENDINGS: dict[str, Ending] = {
    "pending": Ending(_PENDING, _nothing),
    "attempting": Ending(_ATTEMPTING, Life.start),
    "attempting, to be cancelled": Ending(_ATTEMPTING, _cancel_while_attempting(_nothing)),
    "held for lookup": Ending(_HELD, lambda life: life.hold("lookup")),
    "held for a person": Ending(_HELD, Life.hold),
    "held after a crash": Ending(_HELD, _steps(lambda life: life.start(on_unknown="hold"), Life.crash)),
    "succeeded": Ending(_SUCCEEDED, _report(o.Delivered("250 ok"))),
    "succeeded by lookup": Ending(_SUCCEEDED, _resolve(o.Delivered(), "lookup")),
    "succeeded by operator": Ending(_SUCCEEDED, _resolve(o.Delivered(), "operator")),
    "succeeded in spite of a cancel": Ending(
        _SUCCEEDED, _cancel_while_attempting(lambda life: life.report(o.Delivered()))
    ),
    "suppressed by policy": Ending(_SUPPRESSED, _ask(c.Suppress, by="policy")),
    "suppressed by operator": Ending(_SUPPRESSED, _ask(c.Suppress, actor="ann")),
    "suppressed by adapter": Ending(_SUPPRESSED, _report(o.Suppress("opted out"))),
    "cancelled while pending": Ending(_CANCELLED, _ask(c.Cancel, cause="superseded")),
    "cancelled while held": Ending(_CANCELLED, _steps(Life.hold, _ask(c.Cancel, actor="ann"))),
    "permanent failure": Ending(_CANCELLED, _report(o.Cancel("no such list"))),
    "bounced": Ending(_CANCELLED, _report(o.Bounced("no such user"))),
    "bounced, said lookup": Ending(_CANCELLED, _resolve(o.Bounced(), "lookup")),
    "suppressed, said operator": Ending(_CANCELLED, _resolve(o.Suppress(), "operator")),
    "cancel, then failure": Ending(
        _CANCELLED, _cancel_while_attempting(lambda life: life.report(o.Retry("503")))
    ),
    "cancel, then unknown": Ending(
        _CANCELLED,
        _cancel_while_attempting(lambda life: life.report(o.Unknown(), cause="unknown")),
    ),
    "cancel, then crash": Ending(_CANCELLED, _cancel_while_attempting(Life.crash)),
    "cancel, then given back": Ending(_CANCELLED, _cancel_while_attempting(_give_back)),
    "attempts spent": Ending(_EXHAUSTED, _attempts_spent),
    "attempts spent by a crash": Ending(_EXHAUSTED, _attempts_spent_by_a_crash),
    "attempts spent, lookup says not done": Ending(_EXHAUSTED, _attempts_spent_by_lookup),
    "interruptions spent": Ending(_EXHAUSTED, _interruptions_spent),
    "interruptions spent, lookup says not done": Ending(_EXHAUSTED, _interruptions_spent_by_lookup),
    "snoozes spent": Ending(_EXHAUSTED, _snoozes_spent),
    "deadline met at a start": Ending(_EXHAUSTED, _steps(_late, Life.start)),
    "deadline met by the sweep": Ending(_EXHAUSTED, _steps(_late, _ask(c.Expire))),
    "discarded": Ending(_EXHAUSTED, _report(o.Discard("not worth it"))),
    "discarded by operator": Ending(_EXHAUSTED, _resolve(o.Discard(), "operator")),
}


def life(ending: str, detours: Iterable[str] = (), **changes: Any) -> Life:
    """A delivery, scheduled with a deadline, that took `detours` and stands at `ending`."""
    walked = Life(scheduled(**({"expires_at": DEADLINE} | changes)))
    walked.ask(c.Schedule, scheduled=walked.scheduled)
    for detour in detours:
        DETOURS[detour](walked)
    ENDINGS[ending].reach(walked)
    assert walked.delivery is not None
    assert walked.delivery.status is ENDINGS[ending].status
    return walked


def endings(*statuses: Status) -> list[str]:
    """The names of the endings that stand in one of `statuses`."""
    return [name for name, ending in ENDINGS.items() if ending.status in statuses]


# -- strategies --------------------------------------------------------------------------------

EVENT_KINDS = e.EVENTS
COMMAND_KINDS: tuple[type[c.Command], ...] = (
    c.Schedule,
    c.Start,
    c.Report,
    c.Interrupt,
    c.GiveBack,
    c.Defer,
    c.Cancel,
    c.Suppress,
    c.Reschedule,
    c.Resolve,
    c.Expire,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
"""Any text that UTF-8 can carry: NUL, quotes, other scripts; no lone surrogates."""
instants = st.integers(0, 10**16).map(lambda micros: EPOCH + timedelta(microseconds=micros))
durations = st.floats(0, 30 * 86_400)

outcomes: st.SearchStrategy[o.Outcome] = st.one_of(
    st.builds(o.Delivered, st.none() | texts),
    st.builds(o.Retry, texts, after=st.none() | st.floats(0, 1e12)),
    st.builds(o.Cancel, texts),
    st.builds(o.Bounced, texts),
    st.builds(o.Discard, texts),
    st.builds(o.Snooze, st.floats(0, 1e12)),
    st.builds(o.Snooze, until=instants),
    st.builds(o.Suppress, texts),
    st.builds(o.Unknown, texts),
    st.builds(o.NotDone, texts),
    st.builds(o.Outcome, texts),
)

_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(1, 5),
    float: durations,
    str: texts,
    UUID: st.uuids(),
    datetime: instants,
    o.Outcome: outcomes,
    Note: st.builds(Note, texts, st.binary(min_size=1, max_size=16)),
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
