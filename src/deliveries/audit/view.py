"""Reading an export without its database: list, replay, explain, audit.

One pass over the file; of it only what is asked for is kept. An audit sorts what it reads by delivery in a
file of its own, which is gone afterwards, so that memory stays flat there too.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO
from uuid import UUID

from deliveries.audit.explain import Explanation, explain
from deliveries.audit.invariants import Finding, record_findings
from deliveries.audit.lines import Line, parsed
from deliveries.audit.past import state_at
from deliveries.audit.verify import AuditReport, Findings, positions_findings
from deliveries.core import codec
from deliveries.core.delivery import Delivery
from deliveries.core.stream import Recorded
from deliveries.errors import CallerError, CorruptHistory, DeliveryNotFound

PARQUET = b"PAR1"


class View:
    """An export, opened for reading: JSON lines (`.gz` too), CloudEvents, Parquet, or what was pruned."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises: CallerError where there is no such file."""
        self._path = Path(path)
        if not self._path.is_file():
            raise CallerError(f"{self._path}: no such file")

    def history(self, id: UUID) -> list[Recorded]:
        """The recorded events of one delivery, oldest first. Raises: DeliveryNotFound."""
        found = [one for one in self._events() if one.delivery_id == id]
        if not found:
            raise DeliveryNotFound(id)
        return sorted(found, key=lambda one: one.version)

    def explain(self, id: UUID, now: datetime) -> Explanation:
        """What the events of one delivery amount to at `now`. Raises: DeliveryNotFound, CorruptHistory."""
        return explain(self.history(id), now)

    def replay(self, id: UUID, *, at: datetime | None = None, version: int | None = None) -> Delivery:
        """As `Deliveries.replay`; as it is at the end of the file if neither is given."""
        history = self.history(id)
        if at is None and version is None:
            version = len(history)
        return state_at(history, at=at, version=version)

    def audit(self) -> AuditReport:
        """Hold each stream to the rules for streams and their digests, and the file to its order."""
        with tempfile.TemporaryDirectory(prefix="deliveries-") as folder:
            database = sqlite3.connect(Path(folder) / "sorted.db", isolation_level=None)
            try:
                return self._audited(database)
            finally:
                database.close()

    # -- lines ---------------------------------------------------------------------------------

    def lines(self) -> Iterator[tuple[int, Line | str]]:
        """(number of the line, an event of it, or what is wrong with it)."""
        with open(self._path, "rb") as file:
            kind = file.read(4)
        if kind == PARQUET:
            from deliveries.audit.parquet import lines

            try:
                yield from enumerate(lines(self._path), start=1)
            except ValueError as error:
                yield 0, str(error)
            return
        with self._opened(kind) as text:
            yield from _told(text)

    def _opened(self, kind: bytes) -> IO[bytes]:
        packed = kind[:2] == b"\x1f\x8b"
        return gzip.open(self._path, "rb") if packed else open(self._path, "rb")  # type: ignore[return-value]

    def _events(self) -> Iterator[Recorded]:
        """Events that can be read. Raises: CallerError where there is none in the file."""
        some = False
        for _, line in self.lines():
            if isinstance(line, Line):
                try:
                    yield line.recorded()
                except ValueError:
                    continue
                some = True
        if not some:
            raise CallerError(f"{self._path}: there is no event in it that can be read")

    # -- auditing ------------------------------------------------------------------------------

    def _audited(self, database: sqlite3.Connection) -> AuditReport:
        began, found = time.monotonic(), Findings()
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"CREATE TABLE sorted ({', '.join(_COLUMNS)})")
        database.execute("BEGIN")
        events = position = 0
        for number, line in self.lines():
            try:
                one = line if isinstance(line, str) else line.recorded()
            except ValueError as error:
                one = str(error)
            if isinstance(one, str):
                found.add(Finding("R3", 0, f"line {number}: {one}"))
                continue
            place = one.position or 0
            if place <= position:
                text = f"line {number}: position {place} after {position}"
                found.add(Finding("R1", one.version, text, one.delivery_id))
            events, position = events + 1, place
            database.execute("INSERT INTO sorted VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(one))
        database.execute("CREATE INDEX by_delivery ON sorted (delivery_id, version, position)")
        deliveries = 0
        for record in _streams(database):
            deliveries += 1
            found.add(*_judged(record))
        return AuditReport(
            deliveries=deliveries,
            events=events,
            found=found.number,
            findings=tuple(found.kept),
            seconds=time.monotonic() - began,
        )


def _told(text: IO[bytes]) -> Iterator[tuple[int, Line | str]]:
    number = 0
    try:
        for number, one in enumerate(text, start=1):
            if not one.endswith(b"\n"):
                yield number, "it was cut"
                return
            try:
                for line in parsed(one):
                    yield number, line
            except ValueError as error:
                yield number, str(error)
    except (EOFError, OSError, zlib.error) as error:  # packed, and damaged
        yield number + 1, f"the file is damaged: {error}"


_COLUMNS = (
    *("delivery_id", "version", "type", "schema_version", "recorded_at", "body", "digest", "position"),
)


def _row(one: Recorded) -> tuple[object, ...]:
    at = codec.micros(one.recorded_at)
    id, digest = one.delivery_id.bytes, one.digest
    return id, one.version, one.type, one.schema_version, at, one.body, digest, one.position


def _streams(database: sqlite3.Connection) -> Iterator[list[Recorded]]:
    """The events of each delivery by version."""
    rows = database.execute("SELECT * FROM sorted ORDER BY delivery_id, version, position")
    for id, group in groupby(rows, key=itemgetter(0)):
        yield [
            Recorded(
                delivery_id=UUID(bytes=id),
                version=version,
                type=kind,
                schema_version=schema_version,
                recorded_at=codec.instant(at),
                body=body,
                digest=digest,
                position=position,
            )
            for _, version, kind, schema_version, at, body, digest, position in group
        ]


def _judged(record: list[Recorded]) -> list[Finding]:
    id = record[0].delivery_id
    try:
        return [*record_findings(record), *positions_findings(record)]
    except CorruptHistory as error:
        return [Finding("I9", 0, str(error), id)]
    except Exception as error:  # what a stranger wrote may break a judge, and must stop no other
        return [Finding("I9", 0, f"cannot be judged: {type(error).__name__}: {error}"[:200], id)]
