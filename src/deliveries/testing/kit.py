"""The kit: an application under test, on a virtual clock, and what tests do with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from msgspec.structs import asdict
from sqlalchemy import Engine

from deliveries.app import Deliveries, Id
from deliveries.audit.invariants import Finding
from deliveries.core.delivery import Delivery
from deliveries.core.outcomes import Outcome
from deliveries.processor.ledger import Summary
from deliveries.scheduling import parse_id
from deliveries.store.store import Bind
from deliveries.testing import direct, moments, performing, scheduled
from deliveries.testing.clock import VirtualClock
from deliveries.testing.moving import moved
from deliveries.testing.performing import AdapterCall, Stage
from deliveries.testing.places import OneConnection, Place, place
from deliveries.testing.proof import broken
from deliveries.testing.scripts import Fate, Script

Mode = Literal["manual", "inline"]

MAX_JUMPS = 10_000
"""Moments at which one drain travels on; whoever needs more moves its due time for ever."""


class Kit:
    """An application under test. Made by `under_test`, or asked for as the fixture `deliveries_kit`.

    `app`: the application, on `engine`, until the test is over. `clock`: its time, which stands still.
    """

    TIMEOUT: Final = Fate.TIMEOUT
    """In a script: the call takes longer than it may."""
    CRASH: Final = Fate.CRASH
    """In a script: the process dies in the call."""

    def __init__(self, app: Deliveries, clock: VirtualClock) -> None:
        self.app, self.clock = app, clock
        self._mode: Mode = "manual"
        self._stage = Stage(clock)
        self._performing = threading.Lock()
        self._again = False

    @property
    def engine(self) -> Engine:
        """The engine under test: bind your sessions to it, and create your own tables on it."""
        return self.app.engine

    @property
    def calls(self) -> Sequence[AdapterCall]:
        """The calls of adapters that drains of this kit made, in order."""
        return self._stage.calls

    # -- scheduling ----------------------------------------------------------------------------

    def schedule(self, channel: str, payload: Any = None, **options: Any) -> Delivery:
        """One delivery, in a transaction of its own; see `Deliveries.schedule`."""
        with self.engine.begin() as connection:
            return self.app.schedule(connection, channel, payload, **options)

    def all_scheduled(
        self, channel: str | None = None, payload: Any = ..., *, session: Bind | None = None, **fields: Any
    ) -> list[Delivery]:
        """Every delivery with these fields, in the order of scheduling, whatever became of it since.

        `fields`: any of a `Delivery`. Of a payload that is a mapping, and of tags, what is named must
        be there beside anything else; all else must be equal. `...` is any payload. Without `session`,
        what is committed.
        """
        wanted = _wanted(channel, payload, fields)
        return [one for one in self._everything(session) if not scheduled.differences(one, wanted)]

    def assert_scheduled(
        self, channel: str | None = None, payload: Any = ..., *, session: Bind | None = None, **fields: Any
    ) -> Delivery:
        """Such a delivery is scheduled; returns the last one. Fields as in `all_scheduled`.

        Raises: AssertionError, with the nearest that there are.
        """
        wanted = _wanted(channel, payload, fields)
        found = self._everything(session)
        for delivery in reversed(found):
            if not scheduled.differences(delivery, wanted):
                return delivery
        raise AssertionError(scheduled.nothing_like(wanted, found, list(self.app.channels)))

    def refute_scheduled(
        self, channel: str | None = None, payload: Any = ..., *, session: Bind | None = None, **fields: Any
    ) -> None:
        """No such delivery is scheduled. Fields as in `all_scheduled`.

        Raises: AssertionError, with those that are.
        """
        if found := self.all_scheduled(channel, payload, session=session, **fields):
            raise AssertionError(scheduled.something_like(_wanted(channel, payload, fields), found))

    def _everything(self, session: Bind | None) -> list[Delivery]:
        with self.app._reading(session) as connection:
            return scheduled.everything(connection)

    # -- performing ----------------------------------------------------------------------------

    def perform_delivery(
        self, channel: str, payload: Any = None, *, attempt: int = 1, **options: Any
    ) -> Outcome:
        """What the channel's adapter says to such a delivery, without a database.

        `attempt`: its number, from 1; those before failed. `options`: the fields of a `Draft`. A value
        that is no outcome is `Delivered`. Raises: what the adapter raises, outcomes aside; TypeError
        where it returned an outcome's class; InvalidPayload and its kin, as `schedule` does.
        """
        return direct.perform(self.app, self._stage.aside(), channel, payload, attempt, **options)

    def drain(
        self,
        until: datetime | float | timedelta | Literal["end"] | None = None,
        *,
        queues: Mapping[str, int] | None = None,
    ) -> Summary:
        """Perform what is due, in this thread, and travel on to what is due next.

        `until`: a moment, or for how long (seconds or a timedelta); the clock stands there afterwards.
        None: now, and no further. `"end"`: until all have ended or wait for a person. What becomes due
        on the way, retries and what adapters schedule included, is performed at its time; so are the
        ticks of what recurs, but for those of the end, which has none. `queues` as in
        `Deliveries.drain`. Raises: AssertionError where there is no end to it.
        """
        latest = None if until == "end" else self._moment(until)
        total = self._perform(queues)
        if until is None:
            return total
        for _ in range(MAX_JUMPS):
            moment = moments.following(self.app, self._stage, ticks=latest is not None)
            if moment is None or (latest is not None and moment > latest):
                break
            self.clock.travel(moment)
            _add(total, self._perform(queues))
        else:
            raise AssertionError(f"after {MAX_JUMPS} moments something is still due, at {self.next_due()}")
        if latest is not None and latest > self.clock.now():
            self.clock.travel(latest)
        return total

    def advance(self, by: float | timedelta | None = None) -> datetime:
        """Let `by` (seconds or a timedelta) pass, or None: the time until something is due next.

        Performs nothing. Returns the present. Raises: AssertionError where nothing is due any more.
        """
        if by is not None:
            return self.clock.advance(by)
        moment = self.next_due()
        if moment is None:
            raise AssertionError("nothing is due later")
        return self.clock.travel(moment)

    def next_due(self) -> datetime | None:
        """The next moment, after the present, at which something happens by itself; None: never.

        A delivery is due, or too late; a lease is over, so that its attempt is closed; a lookup is
        asked; a queue has room again; what recurs does.
        """
        return moments.following(self.app, self._stage)

    def perform(self, id: Id) -> Summary:
        """Attempt one delivery now, in this thread, if it is due and nobody else attempts it."""
        with self._performing:
            return performing.perform(self.app, self._stage, parse_id(id))

    def _moment(self, until: datetime | float | timedelta | None) -> datetime:
        if isinstance(until, datetime):
            return until
        span = until if isinstance(until, timedelta) else timedelta(seconds=until or 0)
        return self.clock.now() + span

    def _perform(self, queues: Mapping[str, int] | None = None) -> Summary:
        """What is due now, and what adapters and hooks commit meanwhile."""
        total = Summary()
        with self._performing:
            self._again, self._stage.left = True, performing.MAX_CALLS
            while self._again:
                self._again = False
                if self.app.periodics:
                    self.app.tick()
                _add(total, performing.drain(self.app, self._stage, queues))
        return total

    def _committed(self) -> None:
        """A hint: something was scheduled or changed, and its connection is about to be back."""
        self._again = True
        if self._mode == "manual":
            return
        if isinstance(self.engine.pool, OneConnection):
            self.engine.pool.afterwards = self._inline
        else:
            self._inline()

    def _inline(self) -> None:
        """Perform what a commit left, unless that happens already."""
        if not self._performing.locked():
            self._perform()

    # -- what adapters do ----------------------------------------------------------------------

    def script(self, channel: str, *says: Any, then: Any = None, **options: Any) -> Script:
        """Let the adapter of `channel` say these things, one a call, and `then` (success) ever after.

        Things are outcomes, exceptions, functions of (delivery, attempt), `kit.TIMEOUT` and `kit.CRASH`.
        The channel keeps its rules, but for `options` (those of `Deliveries.adapter`); one that is not
        registered gets an adapter. Returns the script, whose `calls` tell who was called.
        """
        script = Script(self.clock, says, then)
        known = self.app._registrations.get(channel)
        if known is None:
            self.app.adapter(channel, **options)(script)
        else:
            self.app._registrations[channel] = replace(known, function=script, **options)
        return script

    def crash_next(self, *, before_call: bool = False) -> None:
        """Let the next attempt's process die: after the effect, before it is reported.

        `before_call`: after the attempt was recorded, before its adapter is called. The lease runs out
        half a minute later, and the next drain then closes the attempt.
        """
        self._stage.crashes.append("before" if before_call else "after")

    @contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """For the length of the `with`: `manual`, or `inline`, which performs what is due at each commit."""
        if mode not in ("manual", "inline"):
            raise ValueError(f"mode {mode!r}: manual or inline")
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    # -- what must hold ------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """Every broken rule over all deliveries and the calls of this kit; empty is good."""
        return broken(self.engine, calls=[one.called for one in self.calls if not one.is_lookup])


@contextmanager
def under_test(
    app: Deliveries | None = None,
    *,
    database: Place = "sqlite://",
    clock: VirtualClock | None = None,
    mode: Mode = "manual",
) -> Iterator[Kit]:
    """Put `app` (None: a new one, without adapters) on `database` and on a virtual clock; then back.

    The object stays the same, so code that imported it is under test too. Its adapters may be
    replaced and added to meanwhile. `database` as in `places.place`. `clock`: None is a new one.
    """
    clock = clock or VirtualClock()
    with place(database, clock) as engine:
        app = app or Deliveries(engine, clock=clock)
        with moved(app, engine, clock):
            kit = Kit(app, clock)
            app._wakeup.subscribe(kit._committed)
            try:
                with kit.mode(mode):
                    yield kit
            finally:
                kit._stage.close()


def _wanted(channel: str | None, payload: Any, fields: dict[str, Any]) -> dict[str, Any]:
    scheduled.check(fields)
    wanted = {} if channel is None else {"channel": channel}
    return wanted | ({} if payload is ... else {"payload": payload}) | fields


def _add(total: Summary, more: Summary) -> None:
    for name, count in asdict(more).items():
        setattr(total, name, getattr(total, name) + count)
