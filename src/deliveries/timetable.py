"""What `Deliveries` offers of deliveries that recur, and how their ticks become deliveries.

No leader: a tick is an idempotency key, so that any number of processors makes one delivery of it.
The row of an entry says up to when somebody looked, so that what was missed is known and a tick
costs the others no more than finding the row moved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import Struct
from sqlalchemy import Connection

from deliveries import scheduling
from deliveries.core.delivery import Delivery
from deliveries.cron import Cron
from deliveries.errors import IdempotencyConflict, InvalidAdapter, InvalidSchedule
from deliveries.periodic import Missed, Periodic
from deliveries.registration import AdapterFunction, Registration
from deliveries.scheduling import Draft
from deliveries.store import periodic as rows
from deliveries.store.store import Store

if TYPE_CHECKING:
    from deliveries.app import Deliveries

F = TypeVar("F", bound=AdapterFunction)
Bear = Callable[[Connection, str, Draft], Delivery]

LONGEST_WAIT = 10.0
"""Seconds between two looks at most: clocks jump, and so do entries' rows after a restore."""

SHORTEST_WAIT = 0.05
"""Seconds between two looks at least: whoever wakes a moment early looks again."""

_log = logging.getLogger("deliveries")


class Look(Struct, frozen=True):
    """What one look at the timetable made."""

    made: list[Delivery]
    errors: dict[str, BaseException]
    """Entry's name -> why its ticks could not be made; they are made as soon as they can be."""
    wait: float
    """Seconds until the next tick, between `SHORTEST_WAIT` and `LONGEST_WAIT`."""


class Timetable:
    """The part of `Deliveries` that is about periodic deliveries."""

    _entries: dict[str, Periodic]

    @property
    def periodics(self) -> Mapping[str, Periodic]:
        """Name -> what recurs: `.expression`, `.timezone`, `.channel`, `.missed`, `.next(after, count)`."""
        return MappingProxyType(self._entries)

    def periodic(
        self,
        expression: str,
        *,
        channel: str,
        payload: Any = None,
        timezone: str = "UTC",
        missed: Missed = "latest",
        name: str | None = None,
        recipient: str | None = None,
        priority: int = 5,
        max_attempts: int | None = None,
        tags: Sequence[str] = (),
        tenant: str = "",
    ) -> Callable[[F], F]:
        """Make a delivery through `channel` at every tick of a cron expression: five fields, or six.

        `timezone` is an IANA name. `payload`: a value, or a function of nothing or of the tick (an
        aware UTC datetime), called for each tick. `missed` says what becomes of ticks for which no
        processor was there within a minute: `skip`, only the `latest`, or `all` of them. `name` (the
        channel's if unsaid) and tick are the delivery's key, so keep it. The rest is as in `Draft`.

        Processors make the ticks, and `tick`. Returns a decorator for the channel's adapter: a
        function that is no adapter yet becomes it. Raises: InvalidSchedule, naming the field;
        CallerError without `deliveries[cron]`.
        """
        app = cast("Deliveries", self)
        now = app._store.clock.now()
        entry = Periodic(
            name=channel if name is None else name,
            cron=Cron(expression, timezone, now),
            channel=channel,
            payload=payload,
            missed=missed,
            recipient=recipient,
            priority=priority,
            max_attempts=max_attempts,
            tags=tags,
            tenant=tenant,
        )
        if entry.name in self._entries:
            raise InvalidSchedule("name", f"{entry.name!r} is taken: give entries of one channel a name each")
        _check(entry, now, app._max_payload_bytes)
        self._entries[entry.name] = entry
        return lambda function: self._adapted(channel, function)

    def _adapted(self, channel: str, function: F) -> F:
        app = cast("Deliveries", self)
        registration = app.channels.get(channel)
        if registration is None:
            return app.adapter(channel)(function)
        if registration.function is not function:
            raise InvalidAdapter(f"channel {channel!r} has another adapter already")
        return function

    def tick(self) -> list[Delivery]:
        """Make the ticks that are due, in transactions of our own; returns the deliveries that are new.

        At most 100 for an entry, the oldest first; call again for more. The first look at an entry
        only notes the time: what recurs begins then. Raises: the first error, after all were tried.
        """
        look = self._timekeeper().look()
        for error in look.errors.values():
            raise error
        return look.made

    def _timekeeper(self) -> Timekeeper:
        app = cast("Deliveries", self)
        return Timekeeper(app._store, self._entries, self._tick_born)

    def _tick_born(self, connection: Connection, channel: str, draft: Draft) -> Delivery:
        app = cast("Deliveries", self)
        births, wanted = app._prepare(channel, draft)
        return app._bear(connection, births, wanted)[0]


class Timekeeper:
    """Looks at the timetable, and makes what is due."""

    def __init__(self, store: Store, entries: Mapping[str, Periodic], bear: Bear) -> None:
        self._store, self._entries, self._bear = store, entries, bear

    def look(self) -> Look:
        """Make the ticks that are due, each entry in a transaction of its own: one stops no other."""
        with self._store.reading() as connection:
            now = self._store.now(connection)
            seen = rows.seen(connection)
        entries = list(self._entries.values())
        if fresh := [entry.entry for entry in entries if entry.entry not in seen]:
            with self._store.transaction() as connection:
                rows.begin(connection, fresh, now)
        made: list[Delivery] = []
        errors: dict[str, BaseException] = {}
        again = False
        for entry in entries:
            if entry.entry not in seen:
                continue
            try:
                ticks, upto = entry.due(seen[entry.entry], now)
                made += self._make(entry, ticks, seen[entry.entry], upto) if ticks else []
                again = again or upto < now
            except (Exception, SystemExit) as error:  # of a payload function, which may say anything
                errors[entry.name] = error
        return Look(made, errors, SHORTEST_WAIT if again else _wait(entries, now))

    def _make(
        self, entry: Periodic, ticks: Sequence[datetime], seen: datetime, upto: datetime
    ) -> list[Delivery]:
        drafts = [entry.draft(tick) for tick in ticks]  # a payload function is user code: no lock is held
        with self._store.transaction() as connection:
            if rows.lock(connection, entry.entry) != seen:
                return []  # somebody else has made them meanwhile
            made = [self._made(connection, entry, draft) for draft in drafts]
            rows.move(connection, entry.entry, upto)
        return [delivery for delivery in made if delivery is not None and delivery.created]

    def _made(self, connection: Connection, entry: Periodic, draft: Draft) -> Delivery | None:
        try:
            with connection.begin_nested():
                return self._bear(connection, entry.channel, draft)
        except IdempotencyConflict as conflict:  # it is made already, only not as we would by now
            _log.warning("periodic %s: %s", entry.name, conflict)
            return None


def _wait(entries: Sequence[Periodic], now: datetime) -> float:
    coming = [tick for entry in entries for tick in entry.next(now)]
    wait = min(((tick - now).total_seconds() for tick in coming), default=LONGEST_WAIT)
    return min(max(wait, SHORTEST_WAIT), LONGEST_WAIT)


def _check(entry: Periodic, now: datetime, max_payload_bytes: int) -> None:
    """Refuse at once what no tick could make; of a payload function only its ticks can tell."""
    registration = Registration(channel=entry.channel, function=_check)
    draft = Draft(
        payload=None if callable(entry.payload) else entry.payload,
        recipient=entry.recipient,
        key=entry.key(now),
        priority=entry.priority,
        max_attempts=entry.max_attempts,
        tags=entry.tags,
        tenant=entry.tenant,
    )
    scheduling.prepare(draft, registration, now, max_payload_bytes)
