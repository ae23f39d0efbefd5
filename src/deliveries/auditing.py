"""Auditing: all of a database, or a part of it, held to the rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from msgspec import structs
from sqlalchemy import Connection, func, select

from deliveries.audit import verify as v
from deliveries.audit.verify import AuditReport, Told
from deliveries.errors import CallerError, shown
from deliveries.store import scan
from deliveries.store.schema import deliveries
from deliveries.store.store import Store
from deliveries.where import Filter, Where, where_of

if TYPE_CHECKING:
    from deliveries.app import Deliveries

PAGE = 500
"""Deliveries that are looked up at a time where only some are wanted."""

PARTS = 8
"""Parts for each process: who is done early takes another."""

MAX_JOBS = 64

Progress = Callable[[int, int, int | None], None]
"""Told how many deliveries and events are verified, and of how many deliveries; None: nobody knows."""


class Auditing:
    """The part of `Deliveries` that audits."""

    def audit(
        self,
        where: Filter | None = None,
        *,
        jobs: int = 1,
        progress: Progress | None = None,
        **wanted: Any,
    ) -> AuditReport:
        """Hold every delivery to every rule: its events, its row, what stands beside it, and orphans.

        At one snapshot, in flat memory. With a filter (see `Where`) only deliveries whose row fits,
        and no orphans. `jobs`: processes, 1..64, each with a snapshot of its own; the database must have
        a URL. `progress(deliveries, events, of)` is told after every thousand how many were verified, and of
        how many deliveries, None with a filter. Raises: InvalidFilter, CallerError.
        """
        if isinstance(jobs, bool) or not isinstance(jobs, int) or not 1 <= jobs <= MAX_JOBS:
            raise CallerError(f"jobs must be 1..{MAX_JOBS}, not {shown(jobs)}")
        store = cast("Deliveries", self)._store
        fitting = where_of(where, wanted)
        if fitting.given():
            with scan.snapshot(store) as snapshot:
                return v.verify(snapshot, _fitting(snapshot, fitting), _counting(progress, None))
        began = time.monotonic()
        with store.reading() as connection:
            total = connection.scalar(select(func.count()).select_from(deliveries)) or 0
            edges = _edges(connection, total, jobs * PARTS) if jobs > 1 else []
        told = _counting(progress, total)
        if jobs == 1:
            with scan.snapshot(store) as snapshot:
                report = v.verify(snapshot, snapshot.wholes(), told)
        else:
            report = v.together(list(_in_processes(store, jobs, edges, told)), time.monotonic() - began)
        with store.reading() as connection:
            loose = v.orphans(connection)
        return structs.replace(
            report,
            found=report.found + len(loose),
            findings=(*report.findings, *loose)[: v.KEPT],
            seconds=time.monotonic() - began,
        )


def _counting(progress: Progress | None, total: int | None) -> Told | None:
    if progress is None:
        return None
    seen = events = 0

    def told(more: int, further: int) -> None:
        nonlocal seen, events
        seen, events = seen + more, events + further
        progress(seen, events, total)

    return told


def _fitting(snapshot: scan.Snapshot, where: Where) -> Iterator[scan.Whole]:
    """The deliveries whose rows fit, a page of ids at a time; of tags, all that may."""
    wanted = select(deliveries.c.id).where(*where.conditions()).order_by(deliveries.c.id).limit(PAGE)
    page = list(snapshot.connection.scalars(wanted))
    while page:
        yield from snapshot.wholes(ids=page)
        page = list(snapshot.connection.scalars(wanted.where(deliveries.c.id > page[-1])))


# -- several processes -------------------------------------------------------------------------


def _in_processes(store: Store, jobs: int, edges: Sequence[UUID], told: Told | None) -> Iterator[AuditReport]:
    if store.engine.dialect.name == "sqlite" and store.engine.url.database in (None, "", ":memory:"):
        raise CallerError("a database in memory is one process's: audit it with jobs=1")
    url = store.engine.url.render_as_string(hide_password=False)
    spans = list(zip([None, *edges], [*edges, None], strict=True))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_part, url, after, until) for after, until in spans]):
            report = done.result()
            if told is not None:
                told(report.deliveries, report.events)
            yield report


def _part(url: str, after: UUID | None, until: UUID | None) -> AuditReport:
    """In a process of its own."""
    from deliveries.app import Deliveries

    app = Deliveries(url)
    try:
        with scan.snapshot(app._store) as snapshot:
            return v.verify(snapshot, snapshot.wholes(after, until))
    finally:
        app.close()


def _edges(connection: Connection, total: int, parts: int) -> list[UUID]:
    """Ids that cut `total` deliveries into parts of about the same number."""
    size = max(1, -(-total // parts))
    edges: list[UUID] = []
    last: UUID | None = None
    while True:
        beyond = select(deliveries.c.id).order_by(deliveries.c.id).offset(size - 1).limit(1)
        if last is not None:
            beyond = beyond.where(deliveries.c.id > last)
        last = connection.scalar(beyond)
        if last is None:
            return edges
        edges.append(last)
