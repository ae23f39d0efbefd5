"""A database held against a seal: is all that was sealed still there, and as it was?

What was sealed is found again by its position in the log, so what came afterwards is no finding. Each
chain is computed anew from the stored bytes up to where it stood, and then both trees.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from deliveries.audit.invariants import Finding
from deliveries.audit.merkle import root_of
from deliveries.audit.seal import (
    BURIED,
    ENDED,
    LIVE,
    SHORT,
    Bucket,
    Name,
    Seal,
    Stand,
    count,
    names_of,
    pieces_of,
    stand_of,
)
from deliveries.audit.verify import Findings
from deliveries.core import codec
from deliveries.store.evidence import SCHEMA_VERSION
from deliveries.store.scan import Whole


class Proof(Struct, frozen=True, kw_only=True):
    """What holding a database against a seal has shown."""

    seal: Seal
    found: int
    """Findings in all."""
    findings: tuple[Finding, ...]
    """What was altered, removed or cut off since: the first of it, at most `verify.KEPT`."""
    unproven: int
    """Deliveries that nobody can tell all of any more: they, or others of their bucket, were pruned since."""

    @property
    def ok(self) -> bool:
        """Nothing that was sealed has changed, as far as can be told: `unproven` says how far that is."""
        return self.found == 0


def against(seal: Seal, wholes: Iterable[Whole], epoch: int) -> Proof:
    """Hold what is there, by id, against `seal`. Raises: InvalidSeal."""
    check = _Check(seal, epoch)
    for whole in wholes:
        check.add(whole)
    return check.end()


class _Check:
    """One bucket after the other; in memory is what one of them needs."""

    def __init__(self, seal: Seal, epoch: int) -> None:
        self._seal, self._epoch = seal, epoch
        self._left = list(reversed(seal.buckets))
        self._stands: list[Stand] = []
        self._found, self._unproven = Findings(), 0

    def add(self, whole: Whole) -> None:
        """The next delivery."""
        while self._left and UUID(bytes=whole.id) > self._left[-1].last:
            self._close(self._left.pop())
        stand = stand_of(whole, self._seal.position, self._epoch)
        if stand is None:
            return
        self._found.add(*_chains(whole, self._seal.position, self._epoch))
        if self._left:
            self._stands.append(stand)
        else:
            self._found.add(*_slipped_in([stand]))

    def end(self) -> Proof:
        """There is no further delivery."""
        while self._left:
            self._close(self._left.pop())
        return Proof(
            seal=self._seal,
            found=self._found.number,
            findings=tuple(self._found.kept),
            unproven=self._unproven,
        )

    def _close(self, bucket: Bucket) -> None:
        """All deliveries that can be this bucket's have come."""
        stands, self._stands = self._stands, []
        heads = len(stands) == bucket.deliveries and root_of(one.head for one in stands) == bucket.heads
        if heads:
            pairs = zip(stands, pieces_of(bucket), strict=True)
            if root_of(one.beside(pieces) for one, pieces in pairs) == bucket.beside:
                return
        if bucket.names is not None:
            self._compare(bucket, stands)
        elif heads and count(stands, LIVE) == bucket.live and count(stands, BURIED) > bucket.pruned:
            self._unproven += bucket.deliveries
        else:
            self._found.add(_unlike(bucket, stands, heads=heads))

    def _compare(self, bucket: Bucket, stands: Sequence[Stand]) -> None:
        """By name."""
        there = {one.id: one for one in stands}
        for name in names_of(bucket):
            stand = there.pop(name.id, None)
            if stand is not None and _went_on_and_was_pruned(name, stand):
                self._unproven += 1
            elif text := _difference(name, stand):
                version = name.version if stand is None else stand.version
                self._found.add(Finding("R3", version, text, UUID(bytes=name.id)))
        self._found.add(*_slipped_in(there.values()))


def _went_on_and_was_pruned(name: Name, stand: Stand) -> bool:
    """Nobody can tell any more where such a one stood; only that it had not ended, and was shorter."""
    return name.was == LIVE and stand.was == BURIED and stand.version > name.version


def _difference(name: Name, stand: Stand | None) -> str | None:
    """What is not as it was; None: it is."""
    if stand is None:
        return "it was sealed, and is gone"
    if stand.head[:SHORT] != name.head:
        if stand.was == BURIED:
            return f"pruned in version {stand.version}, otherwise than it was in version {name.version}"
        if stand.version < name.version:
            return f"cut off: it was in version {name.version}, and is in {stand.version}"
        return f"in version {name.version} it was not what it is now"
    if stand.was == BURIED and name.was == LIVE:
        return f"pruned in version {stand.version}, in which it had not ended"
    if stand.was == BURIED and name.was == ENDED:
        return None  # positions and evidence went with it
    if len(stand.evidence) < name.evidence:
        return f"it had {name.evidence} pieces of evidence, and has {len(stand.evidence)}"
    if stand.beside(name.evidence)[:SHORT] != name.beside:
        what = "its tombstone" if stand.was == BURIED else "the position of an event, evidence or a tombstone"
        return f"{what} is not what it was"
    return None


def _slipped_in(stands: Iterable[Stand]) -> Iterator[Finding]:
    """A tombstone may be that of a later delivery; an event among those that are sealed may not."""
    for one in stands:
        if one.was != BURIED:
            text = "it stands among sealed events, and was not there"
            yield Finding("R3", one.version, text, UUID(bytes=one.id))


def _unlike(bucket: Bucket, stands: Sequence[Stand], *, heads: bool) -> Finding:
    """All that can be said of a bucket."""
    text = f"{bucket.deliveries} deliveries from {bucket.first} to {bucket.last} were sealed; "
    if heads and count(stands, LIVE) < bucket.live:
        return Finding("R3", 0, text + "one was pruned that had not ended")
    if heads:
        return Finding("R3", 0, text + "their positions or evidence are not what they were")
    text += f"{len(stands)} are there, and they are not the same"
    if count(stands, BURIED) > bucket.pruned:
        text += ", or went on before they were pruned: without names nobody can tell"
    return Finding("R3", 0, text)


# -- chains ------------------------------------------------------------------------------------


def _chains(whole: Whole, position: int, epoch: int) -> Iterator[Finding]:
    """The first event, and the first piece of evidence, that is not what its digest says."""
    known = [row for row in whole.events if row[7] <= position]
    pieces = [(*row[:3], SCHEMA_VERSION, *row[3:6]) for row in whole.evidence]
    for what, rows in (("event", known), ("evidence", pieces)):
        number = _broken(whole.id, rows, epoch)
        if number is not None:
            yield Finding("R3", number, f"{what} {number} is not what was recorded", UUID(bytes=whole.id))


def _broken(id: bytes, rows: Iterable[Sequence[Any]], epoch: int) -> int | None:
    """The number of the first that does not follow from the one before it; None where all do."""
    previous = codec.GENESIS
    for _, number, name, schema_version, at, body, digest, *_ in rows:
        try:
            due = codec.stored_digest(previous, id, number, name, schema_version, at + epoch, body)
        except (ValueError, struct.error):  # of what was never recorded
            return int(number)
        if due != digest:
            return int(number)
        previous = digest
    return None
