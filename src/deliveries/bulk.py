"""One act on many deliveries: page by page, each page in a transaction of its own.

A page locks the rows that nobody else holds; the others are tried again at the end, a few times, and
counted as busy if they stay so. Under the lock the filter is asked again, since what fitted may have
moved on. A row that a guard of the database refuses is left out alone. A dry run goes the same way,
decides the same, takes no lock and writes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.exc import DataError, IntegrityError

from deliveries.core.delivery import Delivery
from deliveries.errors import CallerError, shown
from deliveries.store.failures import cause
from deliveries.store.schema import deliveries
from deliveries.store.store import Store

BATCH = 500
"""Deliveries in one transaction, unless told otherwise."""

MAX_BATCH = 10_000

SAMPLE = 20
"""Ids that a report names."""

PAUSES = (0.1, 0.4, 1.5)
"""Seconds before each new try of rows that others hold."""

_log = logging.getLogger("deliveries")


class Report(Struct, frozen=True, kw_only=True):
    """What an act on many deliveries did, or in a dry run would have done."""

    act: str
    dry_run: bool
    matched: int
    """Deliveries that fitted the filter."""
    done: int
    """Those that were changed."""
    left: dict[str, int]
    """Why the others were left as they are -> how many; a status means: not from there."""
    sample: tuple[UUID, ...] = ()
    """The first ids of `done`; at most 20."""

    def __str__(self) -> str:
        told = "".join(f", {number} left: {why}" for why, number in self.left.items())
        return f"{self.act}{' (dry run)' if self.dry_run else ''}: {self.done} of {self.matched}{told}"


Pages = Callable[[Connection, UUID | None], tuple[list[UUID], UUID | None]]
"""The next page of ids after one, and the id to go on from; None at the end."""

Handle = Callable[[Connection, Sequence[UUID], bool], Mapping[UUID, str | None]]
"""Acts on these deliveries, writing if told to: id -> None where it was done, or why it was not."""


def batch_of(value: object) -> int:
    """A number of deliveries in one transaction. Raises: CallerError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_BATCH:
        raise CallerError(f"batch must be 1..{MAX_BATCH}, not {shown(value)}")
    return value


def pages_of(
    store: Store,
    conditions: Sequence[ColumnElement[bool]],
    fits: Callable[[Delivery], bool],
    batch: int,
) -> Pages:
    """Pages of the deliveries that are there now; not of those that the act itself makes."""
    with store.reading() as connection:
        newest = store.newest(connection)

    def pages(connection: Connection, after: UUID | None) -> tuple[list[UUID], UUID | None]:
        if newest is None:
            return [], None
        bounds = [deliveries.c.id <= newest] + ([] if after is None else [deliveries.c.id > after])
        found, last = store.page(connection, [*conditions, *bounds], batch)
        return [one.id for one in found if fits(one)], last

    return pages


class Bulk:
    """One act under way."""

    def __init__(
        self,
        store: Store,
        act: str,
        handle: Handle,
        conditions: Sequence[ColumnElement[bool]],
        *,
        dry_run: bool,
        written: Callable[[Connection], None],
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """`written` is called in each transaction that has changed something."""
        self._store, self._act, self._handle = store, act, handle
        self._conditions, self._dry_run, self._written = conditions, dry_run, written
        self._pauses = pauses
        self._done = 0
        self._left: Counter[str] = Counter()
        self._sample: list[UUID] = []

    def run(self, pages: Pages) -> Report:
        """Act on page after page."""
        after: UUID | None = None
        busy: list[UUID] = []
        while True:
            with self._store.reading() as connection:
                ids, after = pages(connection, after)
            busy += self._page(ids)
            if after is None:
                break
        for pause in self._pauses:
            if busy:
                threading.Event().wait(pause)
                busy = [id for start in range(0, len(busy), BATCH) for id in self._page(busy[start:][:BATCH])]
        self._left["busy"] += len(busy)
        left = {why: number for why, number in sorted(self._left.items()) if number}
        return Report(
            act=self._act,
            dry_run=self._dry_run,
            matched=self._done + sum(left.values()),
            done=self._done,
            left=left,
            sample=tuple(self._sample),
        )

    def _page(self, ids: Sequence[UUID]) -> list[UUID]:
        """Act on these; returns those that somebody else holds."""
        if not ids:
            return []
        if self._dry_run:
            with self._store.reading() as connection:
                self._count(self._handle(connection, ids, False))
            return []
        try:
            with self._store.transaction() as connection:
                free = list(self._store.backend.lock(connection, ids, skip_locked=True))
                there = self._fitting(connection, ids)
                fitting = [id for id in free if id in there]
                verdicts = self._handle(connection, fitting, True) if fitting else {}
                if None in verdicts.values():
                    self._written(connection)
        except (IntegrityError, DataError, OverflowError) as error:
            if len(ids) > 1:
                return [busy for id in ids for busy in self._page([id])]
            _log.error("delivery %s is left out of %s: %s", ids[0], self._act, cause(error))
            self._left["refused by the database"] += 1
            return []
        self._count(verdicts)
        locked = set(free)
        busy = [id for id in ids if id in there and id not in locked]
        self._left["changed meanwhile"] += len(ids) - len(fitting) - len(busy)
        return busy

    def _fitting(self, connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
        """Which of these meet the conditions now."""
        return set(
            connection.scalars(select(deliveries.c.id).where(deliveries.c.id.in_(ids), *self._conditions))
        )

    def _count(self, verdicts: Mapping[UUID, str | None]) -> None:
        for id, why in verdicts.items():
            if why is not None:
                self._left[why] += 1
                continue
            self._done += 1
            if len(self._sample) < SAMPLE:
                self._sample.append(id)
