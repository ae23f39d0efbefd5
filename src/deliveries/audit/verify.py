"""Verification: every delivery held to every rule, from its events, its row and what stands beside it.

Ordinary lives are known at a glance (`ordinary`); all others are judged, so that what is wrong has a name.
One that cannot be read stops none of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection, Table, and_, exists, select

from deliveries.audit.beside import (
    contents_findings,
    evidence_findings,
    notes_findings,
    tombstone_findings,
)
from deliveries.audit.invariants import Finding, record_findings, row_findings
from deliveries.audit.ordinary import is_sound
from deliveries.core.stream import Recorded
from deliveries.errors import CorruptHistory
from deliveries.store.evidence import Evidence
from deliveries.store.scan import Snapshot, Whole
from deliveries.store.schema import (
    Instant,
    contents,
    deliveries,
    evidence,
    facts,
    notes,
    references,
    tombstones,
    uniques,
)

KEPT = 1_000
"""Findings that a report keeps; all are counted."""

Told = Callable[[int, int], None]
"""Told, now and then, how many deliveries and events more have been verified."""

STEP = 1_000
"""Deliveries between two words of progress."""


class AuditReport(Struct, frozen=True, kw_only=True):
    """What a verification saw."""

    deliveries: int
    events: int
    found: int
    """Findings in all."""
    findings: tuple[Finding, ...]
    """The first of them, at most `KEPT`."""
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return self.found == 0

    def __str__(self) -> str:
        rate = self.events / self.seconds if self.seconds else 0.0
        verdict = "nothing is wrong" if self.ok else f"{self.found} findings"
        return f"{self.deliveries} deliveries, {self.events} events, {rate:,.0f} events/s: {verdict}"


class Findings:
    """The first of them, and how many there were."""

    def __init__(self) -> None:
        self.number, self.kept = 0, list[Finding]()

    def add(self, *findings: Finding) -> None:
        """Some more."""
        self.number += len(findings)
        self.kept += findings[: KEPT - len(self.kept)]


def verify(snapshot: Snapshot, wholes: Iterable[Whole], progress: Told | None = None) -> AuditReport:
    """Hold these deliveries to all rules. Memory does not grow with their number."""
    began, seen, events, found = time.monotonic(), 0, 0, Findings()
    told = (0, 0)
    for whole in wholes:
        seen += 1
        events += len(whole.events)
        if not is_sound(whole, snapshot.epoch):
            found.add(*verdict(snapshot, whole))
        if progress is not None and not seen % STEP:
            progress(seen - told[0], events - told[1])
            told = (seen, events)
    if progress is not None:
        progress(seen - told[0], events - told[1])
    return AuditReport(
        deliveries=seen,
        events=events,
        found=found.number,
        findings=tuple(found.kept),
        seconds=time.monotonic() - began,
    )


def together(reports: Sequence[AuditReport], seconds: float) -> AuditReport:
    """What several verifications saw, of parts that do not overlap."""
    findings = [finding for report in reports for finding in report.findings]
    return AuditReport(
        deliveries=sum(report.deliveries for report in reports),
        events=sum(report.events for report in reports),
        found=sum(report.found for report in reports),
        findings=tuple(findings[:KEPT]),
        seconds=seconds,
    )


# -- one delivery ------------------------------------------------------------------------------


def verdict(snapshot: Snapshot, whole: Whole) -> list[Finding]:
    """Everything that is wrong with one delivery; empty is good."""
    id = UUID(bytes=whole.id)
    try:
        record = [snapshot.recorded(row) for row in whole.events]
        pieces = [_evidence(snapshot, id, row) for row in whole.evidence]
        found = [*_parts(snapshot, id, whole, record), *positions_findings(record)]
        if record:
            found += _stream(snapshot, whole, record, pieces)
        return [*found, *evidence_findings(pieces)]
    except CorruptHistory as error:  # it cannot be read: nothing further can be said of it
        return [Finding("I9", 0, str(error), id)]
    except Exception as error:  # what a stranger wrote may break a judge, and must stop no other
        return [Finding("I9", 0, f"cannot be judged: {type(error).__name__}: {error}"[:200], id)]


def _stream(
    snapshot: Snapshot, whole: Whole, record: Sequence[Recorded], pieces: Sequence[Evidence]
) -> Iterator[Finding]:
    wrong = record_findings(record)
    yield from wrong
    if not wrong and whole.row is not None:  # a stream that makes no sense has no fold to compare
        yield from row_findings(record, _named(snapshot, deliveries, whole.row))
    beside = None if whole.contents is None else _named(snapshot, contents, whole.contents)
    yield from contents_findings(record, beside, pieces)
    yield from notes_findings(record, [_named(snapshot, notes, row) for row in whole.notes], pieces)


def _parts(snapshot: Snapshot, id: UUID, whole: Whole, record: Sequence[Recorded]) -> Iterator[Finding]:
    """Orphans: a part of a delivery without the others."""
    if whole.tombstone is not None:
        yield from tombstone_findings(_named(snapshot, tombstones, whole.tombstone), record)
    if record:
        if whole.row is None:
            yield Finding("I8", record[-1].version, f"{len(record)} events, and no row", id)
        return
    parts = {
        deliveries.name: whole.row is not None,
        contents.name: whole.contents is not None,
        notes.name: bool(whole.notes),
        evidence.name: bool(whole.evidence) and whole.tombstone is None,
    }
    for name, there in parts.items():
        if there:
            yield Finding("I2", 0, f"a row of {name}, and no events", id)


def positions_findings(record: Sequence[Recorded]) -> Iterator[Finding]:
    """R1: later events stand later in the log."""
    for before, one in pairwise(record):
        if (one.position or 0) <= (before.position or 0):
            text = f"at position {one.position}, its predecessor at {before.position}"
            yield Finding("R1", one.version, text, one.delivery_id)


def _evidence(snapshot: Snapshot, id: UUID, row: tuple[Any, ...]) -> Evidence:
    _, sequence, kind, recorded_at, body, digest, told, salt = row
    return Evidence(
        delivery_id=id,
        sequence=sequence,
        kind=kind,
        recorded_at=snapshot.instant(recorded_at),
        body=body,
        digest=digest,
        told=told,
        salt=salt,
    )


def _named(snapshot: Snapshot, table: Table, row: tuple[Any, ...]) -> Any:
    """A row with names, ids and instants, as judges read it."""
    values = []
    for column, value in zip(table.c, row, strict=True):
        if isinstance(value, bytes) and _is_id(column):
            value = UUID(bytes=value)  # noqa: PLW2901 - the same value, read
        elif isinstance(value, str) and _is_id(column):
            value = UUID(value)  # noqa: PLW2901
        elif value is not None and isinstance(column.type, Instant):
            value = snapshot.instant(value)  # noqa: PLW2901
        values.append(value)
    return _row_type(table)(*values)


def _is_id(column: Any) -> bool:
    return column.name in ("id", "delivery_id", "root_id")


_ROW_TYPES: dict[str, Any] = {}


def _row_type(table: Table) -> Any:
    if table.name not in _ROW_TYPES:
        fields = [(name, Any) for name in table.c.keys()]  # noqa: SIM118 - columns, by name
        _ROW_TYPES[table.name] = NamedTuple(table.name, fields)
    return _ROW_TYPES[table.name]


# -- what belongs to no delivery ---------------------------------------------------------------


def orphans(connection: Connection, most: int = KEPT) -> list[Finding]:
    """Rows beside deliveries that are not there, at most so many of each table."""
    found = []
    for table in (references, uniques):
        gone = ~exists().where(deliveries.c.id == table.c.delivery_id)
        found += [
            Finding("I2", 0, f"a row of {table.name}, and no delivery", id)
            for id in connection.scalars(select(table.c.delivery_id).where(gone).limit(most))
        ]
    same = and_(evidence.c.delivery_id == facts.c.delivery_id, evidence.c.sequence == facts.c.sequence)
    loose = select(facts.c.delivery_id, facts.c.sequence).where(~exists().where(same)).limit(most)
    found += [
        Finding("I2", row.sequence, "a fact, and no evidence", row.delivery_id)
        for row in connection.execute(loose)
    ]
    return found
