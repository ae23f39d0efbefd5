"""`app.queues`: what is wanted of queues, by all processors, while they run.

It is kept in the database and holds until somebody says otherwise, also for processors that start
later. `Queues` only writes it down; `processor.limits` honours it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from msgspec import Struct, structs
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from deliveries.core.notes import clean
from deliveries.core.outcomes import seconds
from deliveries.errors import ConcurrentChange, InvalidQueue, InvalidSchedule, shown
from deliveries.processor.wakeup import Wakeup
from deliveries.registration import Registration, is_name
from deliveries.scheduling import name, text
from deliveries.store import queues as rows
from deliveries.store.failures import is_serialization_failure
from deliveries.store.queues import RateBy, Wanted
from deliveries.store.store import Bind, Store
from deliveries.twins import AsyncBind, in_session, read_in

MAX_CONCURRENCY = 10_000
MAX_LIMIT = 1_000_000
MAX_PER_SECONDS = 86_400.0
MAX_REASON = 1_000

UNITS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}

Per = float | timedelta | Literal["second", "minute", "hour", "day"]

_log = logging.getLogger("deliveries")


class Queue(Struct, frozen=True, kw_only=True):
    """What is wanted of one queue."""

    name: str
    paused_at: datetime | None = None
    """Since when no attempt starts; None: it is not paused."""
    concurrency: int | None = None
    """Calls at a time in each processor; None: what each processor was started with."""
    total: int | None = None
    """Open attempts at a time in all processors together; None: no bound."""
    rate: int | None = None
    """Attempts that start within any `per` seconds, in all processors together; None: no bound."""
    per: float | None = None
    """Seconds."""
    by: RateBy | None = None
    """What the rate is counted for: each tenant, each recipient, or (None) the whole queue."""
    fair: bool = False
    """Whether tenants take turns."""
    changed_at: datetime | None = None
    """When somebody last said something of it; None: nobody did."""
    actor: str | None = None
    """Who did."""
    reason: str | None = None
    """Why, in the words of the last change."""

    @property
    def is_paused(self) -> bool:
        """True while no attempt starts."""
        return self.paused_at is not None


Listed = list[Queue]
"""Named outside the class, in which `list` is a verb."""


class Queues:
    """Pause, resume, scale and limit queues, for all processors, at run time.

    Every writing method takes the caller's Session or Connection first, works inside its transaction
    and never commits it; it returns what is wanted of the queue from then on. Processors learn of it
    within one `poll`, with a hint at once. Asynchronous twins have an `a` in front.
    """

    def __init__(self, store: Store, wakeup: Wakeup, registrations: Mapping[str, Registration]) -> None:
        self._store, self._wakeup, self._registrations = store, wakeup, registrations

    # -- reading -------------------------------------------------------------------------------

    def list(self, *, session: Bind | None = None) -> Listed:
        """All queues by name: those of which something is wanted, and those that are served."""
        with self._reading(session) as connection:
            said = rows.read(connection)
            served = rows.known(connection) | {one.queue for one in self._registrations.values()}
        return [_queue(said.get(name) or Wanted(queue=name)) for name in sorted(served | set(said))]

    # -- changing ------------------------------------------------------------------------------

    def pause(
        self, session: Bind, queue: str, *, reason: str | None = None, actor: str | None = None
    ) -> Queue:
        """No attempt starts in this queue until `resume`; what runs goes on and is recorded.

        Scheduling goes on too. Claims that begin after the commit find it paused; a processor that
        knows of nothing that is wanted of this queue learns it within one poll.
        Raises: InvalidQueue, before any SQL; ConcurrentChange.
        """

        def paused(wanted: Wanted) -> Wanted:
            return structs.replace(wanted, paused_at=wanted.paused_at or wanted.changed_at)

        return self._change(session, queue, reason, actor, paused)

    def resume(
        self, session: Bind, queue: str, *, reason: str | None = None, actor: str | None = None
    ) -> Queue:
        """End a pause; waiting processors are woken by the commit. Raises: as `pause`."""
        return self._set(session, queue, reason, actor, paused_at=None)

    def scale(
        self,
        session: Bind,
        queue: str,
        concurrency: int | None,
        *,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Queue:
        """So many calls at a time (1..10000) in each processor that serves this queue.

        None: what each processor was started with. Calls that run are never stopped. Raises: as `pause`.
        """
        chosen = _count(concurrency, "concurrency", MAX_CONCURRENCY)
        return self._set(session, queue, reason, actor, concurrency=chosen)

    def limit(
        self,
        session: Bind,
        queue: str,
        total: int | None,
        *,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Queue:
        """So many open attempts at a time (1..1000000) in all processors together; None: no bound.

        An attempt whose worker died counts until a sweep has closed it. Raises: as `pause`.
        """
        return self._set(session, queue, reason, actor, total=_count(total, "total", MAX_LIMIT))

    def rate(
        self,
        session: Bind,
        queue: str,
        amount: int | None,
        per: Per = "second",
        *,
        by: RateBy | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Queue:
        """At most `amount` attempts (1..1000000) start within any window of `per`; None: no bound.

        `per`: second, minute, hour or day, or seconds or a timedelta, up to a day. `by`: `tenant` or
        `recipient` for a rate of each; tenants with a rate take turns. Raises: as `pause`.
        """
        chosen = _count(amount, "amount", MAX_LIMIT)
        if by is not None and by not in get_args(RateBy):
            raise InvalidQueue("by", f"one of {', '.join(get_args(RateBy))} is needed, not {shown(by)}")
        if chosen is None and by is not None:
            raise InvalidQueue("by", "without an amount there is nothing to count")
        span = None if chosen is None else _per(per)

        def rated(wanted: Wanted) -> Wanted:
            salt = wanted.salt if by == wanted.rate_by else os.urandom(16) if by == "recipient" else b""
            return structs.replace(wanted, rate_amount=chosen, rate_seconds=span, rate_by=by, salt=salt)

        return self._change(session, queue, reason, actor, rated)

    def fair(
        self,
        session: Bind,
        queue: str,
        on: bool = True,
        *,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Queue:
        """Let tenants take turns: one delivery of each, the most urgent it has, then another of each.

        So priorities order what one tenant owes, not tenants. `on` False: by priority and due time
        again. Raises: as `pause`.
        """
        if not isinstance(on, bool):
            raise InvalidQueue("on", f"True or False is needed, not {shown(on)}")
        return self._set(session, queue, reason, actor, fair=on)

    def clear(
        self, session: Bind, queue: str, *, reason: str | None = None, actor: str | None = None
    ) -> Queue:
        """Want nothing of this queue any more: no pause, no limits. Raises: as `pause`."""
        return self._change(session, queue, reason, actor, lambda wanted: Wanted(queue=wanted.queue))

    # -- asynchronous twins --------------------------------------------------------------------

    async def alist(self, *, session: AsyncBind | None = None) -> Listed:
        """`list`."""
        return await read_in(session, lambda bind: self.list(session=bind))

    async def apause(self, session: AsyncBind, queue: str, **options: Any) -> Queue:
        """`pause`."""
        return await in_session(session, lambda bind: self.pause(bind, queue, **options))

    async def aresume(self, session: AsyncBind, queue: str, **options: Any) -> Queue:
        """`resume`."""
        return await in_session(session, lambda bind: self.resume(bind, queue, **options))

    async def ascale(self, session: AsyncBind, queue: str, concurrency: int | None, **options: Any) -> Queue:
        """`scale`."""
        return await in_session(session, lambda bind: self.scale(bind, queue, concurrency, **options))

    async def alimit(self, session: AsyncBind, queue: str, total: int | None, **options: Any) -> Queue:
        """`limit`."""
        return await in_session(session, lambda bind: self.limit(bind, queue, total, **options))

    async def arate(
        self, session: AsyncBind, queue: str, amount: int | None, per: Per = "second", **options: Any
    ) -> Queue:
        """`rate`."""
        return await in_session(session, lambda bind: self.rate(bind, queue, amount, per, **options))

    async def afair(self, session: AsyncBind, queue: str, on: bool = True, **options: Any) -> Queue:
        """`fair`."""
        return await in_session(session, lambda bind: self.fair(bind, queue, on, **options))

    async def aclear(self, session: AsyncBind, queue: str, **options: Any) -> Queue:
        """`clear`."""
        return await in_session(session, lambda bind: self.clear(bind, queue, **options))

    # -- behind them ---------------------------------------------------------------------------

    def _set(self, session: Bind, queue: str, reason: str | None, actor: str | None, **values: Any) -> Queue:
        return self._change(session, queue, reason, actor, lambda wanted: structs.replace(wanted, **values))

    def _change(
        self,
        session: Bind,
        queue: str,
        reason: str | None,
        actor: str | None,
        make: Callable[[Wanted], Wanted],
    ) -> Queue:
        """Lock the queue's row, change it, and let everybody know once that is committed.

        `make` gets what was wanted, with the present as `changed_at`.
        """
        if not is_name(queue):
            raise InvalidQueue("queue", f"{shown(queue)} is no name of a queue")
        try:
            why = None if reason is None else clean(text(reason, "reason", MAX_REASON))
            who = name(actor, "actor")
        except InvalidSchedule as error:
            raise InvalidQueue(error.field, str(error).partition(": ")[2]) from None
        connection = self._store.caller(session)
        try:
            said: dict[str, Any] = {"changed_at": self._store.now(connection), "actor": who, "reason": why}
            before = rows.hold(connection, queue, said["changed_at"])
            after = structs.replace(make(structs.replace(before, **said)), **said)
            rows.write(connection, after)
            if after.rate_by != before.rate_by or after.rate is None:
                rows.forget(connection, queue)
            if before.rate_by == "recipient" and after.rate != before.rate:
                rows.look_again(connection, queue)
        except DBAPIError as error:
            error.hide_parameters = True
            if is_serialization_failure(error):
                raise ConcurrentChange(f"queue {queue!r} changed meanwhile") from error
            raise
        self._warn(connection, queue)
        self._wakeup.after_commit(connection, queues=True)
        return _queue(after)

    def _warn(self, connection: Connection, queue: str) -> None:
        if queue in {one.queue for one in self._registrations.values()}:
            return
        if queue not in rows.known(connection) and not rows.is_used(connection, queue):
            _log.warning("queue %r: no channel works in it, no processor serves it, nothing waits", queue)

    @contextmanager
    def _reading(self, session: Bind | None) -> Iterator[Connection]:
        if session is not None:
            yield self._store.caller(session)
        else:
            with self._store.reading() as connection:
                yield connection


def _queue(wanted: Wanted) -> Queue:
    return Queue(
        name=wanted.queue,
        paused_at=wanted.paused_at,
        concurrency=wanted.concurrency,
        total=wanted.total,
        rate=wanted.rate_amount,
        per=wanted.rate_seconds,
        by=wanted.rate_by,
        fair=wanted.fair,
        changed_at=wanted.changed_at,
        actor=wanted.actor,
        reason=wanted.reason,
    )


def _count(value: int | None, field: str, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        what = "; to let nothing start, pause the queue" if value == 0 else ""
        raise InvalidQueue(field, f"an integer from 1 to {most} is needed, not {shown(value)}{what}")
    return int(value)


def _per(value: Per) -> float:
    if isinstance(value, str):
        if value not in UNITS:
            raise InvalidQueue("per", f"one of {', '.join(UNITS)}, or seconds, not {shown(value)}")
        return UNITS[value]
    try:
        span = seconds(value, "per")
    except ValueError as error:
        raise InvalidQueue("per", str(error)) from None
    if not 0.001 <= span <= MAX_PER_SECONDS:
        raise InvalidQueue("per", f"0.001 to {MAX_PER_SECONDS:g} seconds are needed, not {span:g}")
    return span
