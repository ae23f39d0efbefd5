"""Pruning: the one sanctioned delete. Streams that ended long ago go, and leave tombstones.

A page goes in one transaction, after its streams were judged, and exported if asked: a stream that is
alive, has a hole or a broken chain stays, since deleting it would delete the proof. The export is on
the disk before anything is deleted. After a crash in between a delivery is in two exports; never in none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import msgspec
from sqlalchemy import Connection, insert

from deliveries.audit.invariants import i10_the_chain_holds
from deliveries.commanding import CORRUPT
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import TERMINAL
from deliveries.core.outcomes import seconds
from deliveries.core.stream import Recorded, replay
from deliveries.errors import CallerError, CorruptHistory, InvalidFilter
from deliveries.store.beside import bury
from deliveries.store.evidence import Evidence, gathered
from deliveries.store.schema import tombstones
from deliveries.store.store import Store
from deliveries.where import Where, where_of

MAX_AGE = timedelta(days=36_525)


def age_of(value: float | timedelta) -> timedelta:
    """How long ago, at least. Raises: CallerError."""
    try:
        found = timedelta(seconds=seconds(value, "older_than"))
    except (ValueError, OverflowError) as error:
        raise CallerError(str(error)) from None
    if found > MAX_AGE:
        raise CallerError(f"older_than is more than {MAX_AGE.days} days")
    return found


def ended(where: Where) -> Where:
    """`where`, if it asks for ended deliveries only; all of them if it says nothing.

    Raises: InvalidFilter.
    """
    alive = [status for status in where.status or () if Status(status) not in TERMINAL]
    if alive:
        raise InvalidFilter("status", f"{alive[0]} is no end: only ended deliveries are pruned")
    return where if where.status else where_of(where, {"status": sorted(TERMINAL)})


class Export:
    """A file of JSON Lines, one pruned delivery a line: its events and evidence, as they were stored.

    Bodies are texts, byte by byte what the digests are over. There are no contents and no notes in it:
    what may tell of people goes with the delivery.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises: CallerError where the file exists, or cannot be made."""
        try:
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise CallerError(f"export {os.fspath(path)!r}: {error.strerror}") from None
        self._file: BinaryIO = os.fdopen(opened, "wb")
        _sync_directory(Path(path).absolute().parent)

    def write(
        self, streams: Mapping[UUID, Sequence[Recorded]], evidence: Mapping[UUID, Sequence[Evidence]]
    ) -> None:
        """Write these, and return when they are on the disk."""
        for id, stream in streams.items():
            self._file.write(msgspec.json.encode(_line(id, stream, evidence.get(id, ()))) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more is written."""
        self._file.close()


def _line(id: UUID, stream: Sequence[Recorded], evidence: Sequence[Evidence]) -> dict[str, object]:
    return {
        "delivery_id": id,
        "events": [
            {
                "version": one.version,
                "position": one.position,
                "type": one.type,
                "schema_version": one.schema_version,
                "recorded_at": one.recorded_at,
                "body": one.body.decode(),
                "digest": one.digest.hex(),
            }
            for one in stream
        ],
        "evidence": [
            {
                "sequence": one.sequence,
                "kind": one.kind,
                "recorded_at": one.recorded_at,
                "body": one.body.decode(errors="backslashreplace"),
                "digest": one.digest.hex(),
            }
            for one in evidence
        ],
    }


def _sync_directory(path: Path) -> None:
    """Without it a crash may leave the file on the disk, and its name nowhere."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Pruning:
    """Prunes a store, in the name of `actor`."""

    def __init__(self, store: Store, actor: str | None, export: Export | None) -> None:
        self._store, self._actor, self._export = store, actor, export

    def handle(self, connection: Connection, ids: Sequence[UUID], write: bool) -> Mapping[UUID, str | None]:
        """Prune these, whose rows are locked; id -> None, or why not."""
        verdicts: dict[UUID, str | None] = {}
        streams: dict[UUID, list[Recorded]] = {}
        rows = []
        for id, stream in self._store.histories(connection, ids).items():
            delivery = _judged(stream)
            verdicts[id] = None if delivery is not None else CORRUPT
            if delivery is not None:
                streams[id] = stream
                rows.append(self._tombstone(delivery, stream[-1].digest))
        if write and rows:
            if self._export is not None:
                self._export.write(streams, _by_delivery(gathered(connection, *streams)))
            now = self._store.now(connection)
            connection.execute(insert(tombstones), [row | {"pruned_at": now} for row in rows])
            bury(connection, list(streams))
        return verdicts

    def _tombstone(self, delivery: Delivery, digest: bytes) -> dict[str, object]:
        return {
            "delivery_id": delivery.id,
            "version": delivery.version,
            "digest": digest,
            "status": delivery.status.value,
            "actor": self._actor,
        }


def _judged(stream: Sequence[Recorded]) -> Delivery | None:
    """The delivery of a whole stream that has ended; None where anything is wrong with it."""
    try:
        delivery = replay(stream).delivery
    except CorruptHistory:
        return None
    if delivery is None or not delivery.is_terminal or next(i10_the_chain_holds(stream), None) is not None:
        return None
    return delivery


def _by_delivery(pieces: Sequence[Evidence]) -> dict[UUID, list[Evidence]]:
    found: dict[UUID, list[Evidence]] = {}
    for one in pieces:
        found.setdefault(one.delivery_id, []).append(one)
    return found
