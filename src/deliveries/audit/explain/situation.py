"""What stands beside the events: leases, heartbeats, and what is wanted of the queue.

None of it is part of the truth. Processors and operators write it, nothing can rebuild it, and it is
true of one moment only; so an explanation keeps it apart from what it says of events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from deliveries.audit.explain.sayings import counted, when
from deliveries.core.delivery import Delivery, Status
from deliveries.core.events import Rules
from deliveries.store import queues, workers
from deliveries.store.failures import cause
from deliveries.store.queues import Wanted
from deliveries.store.schema import deliveries
from deliveries.store.workers import Worker


class Registered(Protocol):
    """What must be known of a channel's adapter."""

    @property
    def max_lookups(self) -> int:
        """Questions before a person must tell."""

    def rules(self, delivery: Delivery) -> Rules:
        """What its next attempt would freeze."""


class Situation(Struct, frozen=True, kw_only=True):
    """Rows of one moment."""

    at: datetime
    problem: str | None = None
    """Why the rows cannot be read; None: they were."""
    queue: str | None = None
    """As the row has it, by which claims go."""
    status: str | None = None
    """What the projection says; None: there is no row."""
    version: int | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    lookup_at: datetime | None = None
    lookups: int = 0
    """Questions asked of the provider since the delivery was held."""
    wanted: Wanted | None = None
    """What is wanted of its queue; None: nothing is."""
    open_attempts: int = 0
    """In its queue, counted up to the queue's total where it has one."""
    holder: Worker | None = None
    """The row of the worker that holds the lease; None: it has none, or there is no lease."""
    serving: int = 0
    """Live workers of its queue."""
    is_registered: bool | None = None
    """Whether this program has an adapter for its channel; None: it has none for any."""
    registered: Rules | None = None
    """What the adapter's next attempt would freeze."""
    max_lookups: int | None = None

    def aside_until(self, now: datetime) -> datetime | None:
        """Until when a pending row is kept from claims; None: it is not."""
        return self.lease_until if self.lease_until is not None and self.lease_until > now else None

    def held_back(self, queue: str) -> str:
        """What keeps deliveries of the queue waiting, to be added to a sentence."""
        said = [] if self.wanted is None else list(_limits(self.wanted, self.open_attempts))
        return f"; queue {queue!r} {', '.join(said)}" if said else ""


def situation(
    connection: Connection, delivery: Delivery, now: datetime, channels: Mapping[str, Registered]
) -> Situation:
    """What stands beside a delivery at `now`; `channels` are the adapters that this program knows.

    Where it cannot be read, events answer all the same: `problem` says why.
    """
    try:
        with connection.begin_nested():
            return _read(connection, delivery, now, channels)
    except SQLAlchemyError as error:
        return Situation(at=now, problem=ascii(cause(error))[1:-1])


def _read(
    connection: Connection, delivery: Delivery, now: datetime, channels: Mapping[str, Registered]
) -> Situation:
    row = connection.execute(select(*_ROW).where(deliveries.c.id == delivery.id)).one_or_none()
    known = channels.get(delivery.channel)
    found = {} if row is None else dict(row._mapping)
    found |= {"is_registered": known is not None if channels else None}
    if known is not None:
        found |= {"registered": known.rules(delivery), "max_lookups": known.max_lookups}
    if row is None or delivery.is_terminal:
        return Situation(at=now, **found)
    queue = row.queue
    wanted = queues.read(connection, queue).get(queue)
    if wanted is not None and wanted.total is not None:
        found["open_attempts"] = queues.open_attempts(connection, queue, wanted.total, now)
    there = workers.read(connection)
    alive = [one for one in there if queue in one.queues and one.is_alive(now)]
    holder = next((one for one in there if one.name == row.lease_owner), None)
    return Situation(at=now, wanted=wanted, serving=len(alive), holder=holder, **found)


_ROW = tuple(
    deliveries.c[name]
    for name in ("queue", "status", "version", "lease_owner", "lease_until", "lookup_at", "lookups")
)


def beside(delivery: Delivery, found: Situation) -> Iterator[str]:
    """The same in words, for a delivery that is as its events say."""
    if found.problem is not None:
        yield f"it cannot be read: {found.problem}"
        return
    if found.version != delivery.version or found.status != delivery.status.value:
        row = "no row" if found.status is None else f"{found.status} at version {found.version}"
        said = f"{delivery.status} at version {delivery.version}"
        yield f"the projection is out of step: it has {row}, the events say {said}"
    if delivery.is_terminal:
        return
    if found.lease_until is not None and delivery.status is Status.ATTEMPTING:
        yield _lease(found, found.lease_until)
    if delivery.status is Status.HELD:
        yield f"the provider was asked {counted(found.lookups, 'time')}"
    elif found.held_back(delivery.queue):
        yield found.held_back(delivery.queue).removeprefix("; ")
    serving = "1 live worker serves" if found.serving == 1 else f"{found.serving or 'no'} live workers serve"
    yield f"{serving} queue {delivery.queue!r}"
    if found.is_registered is False:
        yield f"this program has no adapter for channel {delivery.channel!r}"


def _lease(found: Situation, until: datetime) -> str:
    over = "ended" if until <= found.at else "ends"
    text = f"the lease of {found.lease_owner} {over} at {when(until)}"
    if found.holder is None:
        return f"{text}; that worker has no heartbeat: it is gone, or works without one, as a drain does"
    life = "alive" if found.holder.is_alive(found.at) else "silent for longer than a lease"
    return f"{text}; that worker is {life}, last seen at {when(found.holder.seen_at)}"


def _limits(wanted: Wanted, open_attempts: int) -> Iterator[str]:
    if wanted.paused_at is not None:
        by = f" by {wanted.actor}" if wanted.actor else ""
        why = f" ({wanted.reason})" if wanted.reason else ""
        yield f"is paused since {wanted.paused_at:%Y-%m-%d %H:%M:%S}Z{by}{why}"
    if wanted.total is not None:
        full = ", and is at that now" if open_attempts >= wanted.total else ""
        yield f"runs at most {wanted.total} attempts at a time{full}"
    if wanted.rate is not None:
        each = f" for each {wanted.rate_by}" if wanted.rate_by else ""
        yield f"starts at most {wanted.rate.amount} attempts in {wanted.rate.seconds:g} s{each}"
