"""Replaying: deliveries as they were, what happened between two moments, and rows made anew from events."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast
from uuid import UUID

from msgspec import Struct, field
from sqlalchemy import exists, select

from deliveries import scheduling
from deliveries.audit.past import Difference, Unreadable, differences, moment, state_at, states
from deliveries.core.delivery import Delivery
from deliveries.store import scan
from deliveries.store.rebuild import Page, rebuild, streams_after
from deliveries.store.schema import deliveries, events
from deliveries.store.store import Bind, Store

if TYPE_CHECKING:
    from deliveries.app import Deliveries

_log = logging.getLogger("deliveries")

BATCH = 500
"""Deliveries in one transaction of a rebuild."""

KEPT = 1_000
"""Deliveries that a report names of each kind; all are counted."""


class Rebuilt(Struct):
    """What a rebuild found, and corrected unless it was a dry run."""

    dry_run: bool
    seen: int = 0
    corrected: int = 0
    remade: int = 0
    """Rows that were missing."""
    unreadable: int = 0
    """Streams that make no sense, or whose key another row has by right; those are left."""
    without_events: int = 0
    """Rows of no stream; they are left."""
    columns: dict[str, int] = field(default_factory=dict)
    """Column -> how many rows had a wrong one."""
    named: list[tuple[UUID, str]] = field(default_factory=list)
    """(delivery, what was wrong), at most `KEPT`."""

    @property
    def ok(self) -> bool:
        """Every row was what its stream amounts to."""
        return not (self.corrected or self.remade or self.unreadable or self.without_events)

    def add(self, page: Page) -> None:
        """Count a page."""
        self.corrected += len(page.corrected)
        self.remade += len(page.remade)
        self.unreadable += len(page.unreadable)
        for columns in page.corrected.values():
            for name in columns:
                self.columns[name] = self.columns.get(name, 0) + 1
        said = [(id, ", ".join(columns)) for id, columns in page.corrected.items()]
        said += [(id, "its row was missing") for id in page.remade]
        self.name([*said, *page.unreadable.items()])

    def name(self, said: Sequence[tuple[UUID, str]]) -> None:
        """Keep the first of those."""
        self.named += said[: KEPT - len(self.named)]


class Replaying:
    """The part of `Deliveries` that replays."""

    @property
    def _ours(self) -> Deliveries:
        return cast("Deliveries", self)

    def replay(
        self,
        id: UUID | str,
        *,
        at: datetime | None = None,
        version: int | None = None,
        session: Bind | None = None,
    ) -> Delivery:
        """The delivery as it was, without contents: after `version` events (from 1 on), or at a moment.

        An event counts from the moment at which it was recorded. Raises: DeliveryNotFound, NotThen
        where it was not there yet or has no such version, InvalidMoment, CorruptHistory.
        """
        if at is not None:
            moment(at)
        delivery_id = scheduling.parse_id(id)
        with self._ours._reading(session) as connection:
            history = self._ours._store.history(connection, delivery_id)
        return state_at(history, at=at, version=version)

    def replay_all(self, at: datetime | None = None) -> Iterator[Delivery]:
        """All deliveries as they were at that moment, by id, without contents; None: as they are.

        Computed from events alone, at one snapshot, in flat memory. A stream that cannot be read is
        logged and left out. Raises: InvalidMoment.
        """
        if at is not None:
            moment(at)
        return self._states(at)

    def _states(self, at: datetime | None) -> Iterator[Delivery]:
        with scan.snapshot(self._ours._store) as snapshot:
            for one in states(snapshot, at):
                if isinstance(one, Unreadable):
                    _log.error("delivery %s is left out: %s", one.id, one.text)
                else:
                    yield one

    def diff(self, a: datetime, b: datetime) -> Iterator[Difference]:
        """What happened after `a` and up to `b`, by delivery: how it was before, and after.

        As `replay_all`. Raises: InvalidMoment.
        """
        moment(a, "a")
        moment(b, "b")
        return self._differences(a, b)

    def _differences(self, a: datetime, b: datetime) -> Iterator[Difference]:
        with scan.snapshot(self._ours._store) as snapshot:
            for one in differences(snapshot, a, b):
                if isinstance(one, Unreadable):
                    _log.error("delivery %s is left out: %s", one.id, one.text)
                else:
                    yield one

    def rebuild(self, id: UUID | str | None = None, *, dry_run: bool = False) -> Rebuilt:
        """Make the rows of all deliveries, or of one, what their events amount to. Returns what was wrong.

        While processors run: page by page, each in a transaction of its own. Leases stay. A row that
        was missing is made; a row without events is counted and left. Raises: DeliveryNotFound.
        """
        store, report = self._ours._store, Rebuilt(dry_run)
        if id is not None:
            delivery_id = scheduling.parse_id(id)
            with store.reading() as connection:
                store.history(connection, delivery_id)
            _last(store, _page(store, [delivery_id], report, wait=True), report)
            return report
        left: list[UUID] = []
        after: UUID | None = None
        while True:
            with store.reading() as connection:
                ids = streams_after(connection, after, BATCH)
            if not ids:
                break
            after = ids[-1]
            left += _page(store, ids, report, wait=False)
        _last(store, left, report)
        with store.reading() as connection:
            gone = ~exists().where(events.c.delivery_id == deliveries.c.id)
            for found in connection.scalars(select(deliveries.c.id).where(gone)).partitions(BATCH):
                report.without_events += len(found)
                report.name([(one, "a row without events") for one in found])
        return report


def _page(store: Store, ids: Sequence[UUID], report: Rebuilt, *, wait: bool) -> tuple[UUID, ...]:
    """Rebuild some; returns those that somebody holds, or whose key another row has."""
    with store.transaction() as connection:
        page = rebuild(store, connection, ids, wait=wait, dry_run=report.dry_run)
    left = (*page.busy, *page.taken)
    report.seen += len(ids) - len(left)
    report.add(page)
    return left


def _last(store: Store, ids: Sequence[UUID], report: Rebuilt) -> None:
    """Those that were held, or in whose way another row was, when all others are as they should be."""
    for _ in range(2):
        ids = [left for id in ids for left in _page(store, [id], report, wait=True)]
    report.seen += len(ids)
    report.unreadable += len(ids)
    report.name([(id, "its key is also that of another delivery") for id in ids])
