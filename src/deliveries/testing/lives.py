"""Lives of deliveries, constructed rather than hoped for.

`ENDINGS` names every way a life can stand or end, `DETOURS` every way from pending back to
pending; `life` walks some detours and then to an ending, by commands alone. Deterministic, so that
another process can tell the same life; the strategies draw from these, and so every example
reaches what it was drawn for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import evolve
from deliveries.testing.examples import NOTE, NOW, at, rules, scheduled

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

    @property
    def stands(self) -> Delivery:
        """The delivery, once it is scheduled."""
        assert self.delivery is not None, "not scheduled yet"
        return self.delivery

    @property
    def attempt(self) -> int:
        """The number of the last attempt."""
        return self.stands.attempt

    def tell(self, command: c.Command) -> bool:
        """Do what `command` leads to, which may be nothing; True if something happened."""
        self.commands.append(command)
        happened = decide(command, self.delivery)
        for event in happened:
            self.delivery = evolve(self.delivery, event)
            self.events.append(event)
        return bool(happened)

    def ask(self, kind: type[c.Command], **fields: Any) -> None:
        """Do what such a command leads to, a second later. Raises: AssertionError where that is nothing."""
        self.now += timedelta(seconds=1)
        command = kind(now=self.now, **fields)
        if not self.tell(command):
            raise AssertionError(f"{command} led to nothing")

    def start(self, **limits: Any) -> None:
        """The next attempt, with budgets that cannot run out unless `limits` says so."""
        self.ask(c.Start, worker="w1", rules=rules(**(PLENTY | limits)))

    def report(self, outcome: o.Outcome, **fields: Any) -> None:
        """The adapter speaks."""
        self.ask(c.Report, attempt=self.attempt, outcome=outcome, **fields)

    def crash(self) -> None:
        """Nobody reports the attempt."""
        self.ask(c.Interrupt, attempt=self.attempt)

    def hold(self, on_unknown: str = "hold", **limits: Any) -> None:
        """An attempt whose outcome nobody knows."""
        self.start(on_unknown=on_unknown, **limits)
        self.report(o.Unknown("timed out"), cause="unknown")

    def resolve(self, outcome: o.Outcome, by: str = "operator", **fields: Any) -> None:
        """Somebody says what became of the held attempt."""
        self.ask(c.Resolve, outcome=outcome, by=by, **fields)

    # detours: from pending back to pending

    def fail(self) -> None:
        """An attempt that fails."""
        self.start()
        self.report(o.Retry("503", after=5), error_type="HTTPError")

    def time_out(self) -> None:
        """An attempt that takes too long, and still runs."""
        self.start()
        self.report(o.Retry("too slow"), cause="timeout", not_before=self.now)

    def fail_unknown(self) -> None:
        """An attempt of unknown outcome, where that means another one."""
        self.start(on_unknown="retry")
        self.report(o.Unknown("reset"), cause="unknown", retry_in=7.0)

    def crash_and_retry(self) -> None:
        """An attempt that dies with its process."""
        self.start(on_unknown="retry")
        self.crash()

    def give_back(self) -> None:
        """An attempt that a shutdown gave back before its adapter was entered."""
        self.start()
        self.ask(c.GiveBack, attempt=self.attempt)

    def snooze(self) -> None:
        """An attempt that says: not now."""
        self.start()
        self.report(o.Snooze(30))

    def defer(self) -> None:
        """A policy says: not yet."""
        self.ask(c.Defer, until=self.now + timedelta(hours=1), note=NOTE)

    def move(self) -> None:
        """An operator moves the due time."""
        self.ask(c.Reschedule, due_at=self.now + timedelta(hours=1), actor="ann")

    def hold_and_look_up(self) -> None:
        """An unknown outcome; the lookup says that nothing happened."""
        self.hold("lookup")
        self.resolve(o.NotDone(), by="lookup")

    def error_and_look_up(self) -> None:
        """An error of unknown outcome; the lookup says when to try again."""
        self.start(on_unknown="lookup")
        self.report(o.Unknown("reset"), cause="error", error_type="ConnectionError")
        self.resolve(o.Retry(after=3), by="lookup")

    def time_out_and_release(self) -> None:
        """A timeout of unknown outcome; a person says that nothing happened."""
        self.start(on_unknown="hold")
        self.report(o.Unknown("too slow"), cause="timeout")
        self.resolve(o.NotDone(), actor="ann")

    def crash_and_release(self) -> None:
        """A crash of unknown outcome; a person says when to try again."""
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
    life.ask(c.GiveBack, attempt=life.attempt)


def _late(life: Life) -> None:
    assert life.scheduled.expires_at is not None
    life.now = life.scheduled.expires_at


def _attempts_spent(life: Life) -> None:
    life.start(max_attempts=life.stands.endings + 1)
    life.report(o.Retry("503"))


def _attempts_spent_by_a_crash(life: Life) -> None:
    life.start(max_attempts=life.stands.endings + 1)
    life.crash()


def _attempts_spent_by_lookup(life: Life) -> None:
    life.hold("lookup", max_attempts=life.stands.endings + 1)
    life.resolve(o.NotDone(), by="lookup")


def _interruptions_spent(life: Life) -> None:
    life.start(max_interruptions=life.stands.interruptions + 1)
    life.crash()


def _interruptions_spent_by_lookup(life: Life) -> None:
    life.start(on_unknown="lookup", max_interruptions=life.stands.interruptions + 1)
    life.crash()
    life.resolve(o.NotDone(), by="lookup")


def _snoozes_spent(life: Life) -> None:
    life.start(max_snoozes=life.stands.snoozes)
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
