"""A seal: what a database held at a moment, in a file small enough to be kept elsewhere.

A chain of digests shows whatever was changed in a stream, but not a stream that is gone, an end that was
cut off, or a chain that somebody with all rights made anew. So where all streams stood, up to a position of
the log, is written down and signed, as the roots of two Merkle trees. The leaves of the one are heads: how
many events there were, and the digest of the last. A tombstone holds the same, so a stream that ended and
was pruned afterwards is proven still. The leaves of the other are what a tombstone does not hold: at which
positions the events stood, the evidence, and tombstones that were there already.

Both are kept in buckets of so many deliveries by id, a power of two, so that their roots are those of one
tree over all. What differs is told to the bucket; with names, to the delivery. `proof` holds a database
against a seal.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from deliveries.audit.merkle import leaf, root_of
from deliveries.core.machine import TERMINAL_EVENTS
from deliveries.errors import InvalidSeal
from deliveries.store.scan import Whole

FORMAT: Final = "deliveries-seal-2"

BUCKET = 1_024
"""Deliveries in one bucket, a power of two."""

SHORT: Final = 16
"""Bytes of a leaf that are kept beside a name: too many to find another stream that begins the same."""

_NAME: Final = struct.Struct(f">16sq{SHORT}s{SHORT}sB")
_ENDINGS: Final = frozenset(kind.__name__ for kind in TERMINAL_EVENTS)


class Bucket(Struct, frozen=True):
    """The deliveries from one id to another."""

    first: UUID
    last: UUID
    deliveries: int
    live: int
    """Of them: so many had not ended."""
    pruned: int
    """Of them: so many were tombstones already."""
    heads: bytes
    """The root over where their streams stood."""
    beside: bytes
    """The root over positions, evidence and tombstones."""
    evidence: bytes
    """Packed: how many pieces of evidence each had."""
    names: bytes | None = None
    """Packed: a `Name` for each."""


class Name(Struct, frozen=True, gc=False):
    """One delivery in a seal."""

    id: bytes
    version: int
    head: bytes
    """The beginning of its leaf in the one tree, and of that in the other."""
    beside: bytes
    was: int
    """`LIVE`, `ENDED` or `BURIED`."""
    evidence: int
    """Pieces of it."""


LIVE, ENDED, BURIED = 0, 1, 2


class Seal(Struct, frozen=True, kw_only=True):
    """What was there. Signed, see `signing`."""

    format: str
    made_at: datetime
    position: int
    """Events up to here are sealed; that of the last of them."""
    deliveries: int
    """Streams, and tombstones of those that had been pruned."""
    events: int
    heads: bytes
    """Over the roots of the buckets, as in `Bucket`."""
    beside: bytes
    buckets: tuple[Bucket, ...]


class Stand(Struct, frozen=True, gc=False):
    """Where one delivery stood at a position of the log."""

    id: bytes
    version: int
    digest: bytes
    positions: Sequence[int]
    """Of its events."""
    evidence: Sequence[bytes]
    """The digests of its pieces, all that there are."""
    tombstone: bytes
    """A digest; empty where there is none."""
    was: int

    @property
    def head(self) -> bytes:
        """Its leaf in the tree of heads."""
        return leaf(self.id, _number(self.version), self.digest)

    def beside(self, pieces: int) -> bytes:
        """Its leaf in the other tree, when it had so many pieces of evidence."""
        known = self.evidence[:pieces]
        last = known[-1] if known else b""
        positions = sha256(b"".join(map(_number, self.positions))).digest()
        return leaf(self.id, positions, _number(len(known)), last, self.tombstone)

    def name(self) -> bytes:
        """Packed."""
        beside = self.beside(len(self.evidence))
        return _NAME.pack(self.id, self.version, self.head[:SHORT], beside[:SHORT], self.was)


def count(stands: Iterable[Stand], was: int) -> int:
    """How many of them are `LIVE`, `ENDED` or `BURIED`."""
    return sum(one.was == was for one in stands)


def stand_of(whole: Whole, position: int, epoch: int) -> Stand | None:
    """Where a delivery stood at `position`; None where it had not begun."""
    known = [row for row in whole.events if row[7] <= position]
    if known:
        _, version, kind, _, _, _, digest, _ = known[-1]
        was = ENDED if kind in _ENDINGS else LIVE
    elif whole.tombstone is not None:
        (_, version, digest), was = whole.tombstone[:3], BURIED
    else:
        return None
    return Stand(
        whole.id,
        version,
        digest,
        [row[7] for row in known],
        [row[5] for row in whole.evidence],
        b"" if whole.tombstone is None else _tombstone(whole.tombstone, epoch),
        was,
    )


def _tombstone(row: Sequence[Any], epoch: int) -> bytes:
    _, version, digest, status, pruned_at, actor = row
    words = (status, "" if actor is None else f"by {actor}")
    texts = (word.encode(errors="surrogateescape") for word in words)
    return leaf(_number(version), digest, _number(pruned_at + epoch), *texts)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)


# -- making one --------------------------------------------------------------------------------


def sealed(wholes: Iterable[Whole], safe: int, made_at: datetime, epoch: int, *, names: bool) -> Seal:
    """A seal of what is there, by id, of events up to the position `safe`, which is settled."""
    buckets: list[Bucket] = []
    stands: list[Stand] = []
    events = position = 0
    for whole in wholes:
        stand = stand_of(whole, safe, epoch)
        if stand is None:
            continue
        stands.append(stand)
        events += len(stand.positions)
        # not `safe`: what lies beyond the last event may be handed out once more after a crash
        position = max(position, *stand.positions, 0)
        if len(stands) == BUCKET:
            buckets.append(_bucket(stands, names=names))
            stands = []
    if stands:
        buckets.append(_bucket(stands, names=names))
    return Seal(
        format=FORMAT,
        made_at=made_at,
        position=position,
        deliveries=sum(bucket.deliveries for bucket in buckets),
        events=events,
        heads=root_of(bucket.heads for bucket in buckets),
        beside=root_of(bucket.beside for bucket in buckets),
        buckets=tuple(buckets),
    )


def _bucket(stands: Sequence[Stand], *, names: bool) -> Bucket:
    pieces = [len(one.evidence) for one in stands]
    return Bucket(
        first=UUID(bytes=stands[0].id),
        last=UUID(bytes=stands[-1].id),
        deliveries=len(stands),
        live=count(stands, LIVE),
        pruned=count(stands, BURIED),
        heads=root_of(one.head for one in stands),
        beside=root_of(one.beside(each) for one, each in zip(stands, pieces, strict=True)),
        evidence=zlib.compress(msgspec.msgpack.encode(pieces), 9),
        names=zlib.compress(b"".join(one.name() for one in stands), 9) if names else None,
    )


# -- reading one -------------------------------------------------------------------------------


def encode(seal: Seal) -> bytes:
    """The bytes that are signed."""
    return msgspec.json.encode(seal)


def decode(data: bytes) -> Seal:
    """A seal, if it is one of ours, and its roots are those of its buckets. Raises: InvalidSeal."""
    try:
        seal = msgspec.json.decode(data, type=Seal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSeal(f"no seal: {error}") from None
    if seal.format != FORMAT:
        raise InvalidSeal(f"{seal.format[:40]!r} is no format that is known here, such as {FORMAT}")
    for root, roots in (
        (seal.heads, (bucket.heads for bucket in seal.buckets)),
        (seal.beside, (bucket.beside for bucket in seal.buckets)),
    ):
        if root_of(roots) != root:
            raise InvalidSeal("a root is not that of its buckets")
    if sum(bucket.deliveries for bucket in seal.buckets) != seal.deliveries:
        raise InvalidSeal("it has other deliveries than its buckets")
    return seal


def pieces_of(bucket: Bucket) -> list[int]:
    """How many pieces of evidence each of its deliveries had. Raises: InvalidSeal."""
    try:
        found = msgspec.msgpack.decode(_unpacked(bucket.evidence, 9 * bucket.deliveries + 9), type=list[int])
    except msgspec.MsgspecError as error:
        raise InvalidSeal(f"the evidence of a bucket cannot be read: {error}") from None
    if len(found) != bucket.deliveries:
        raise InvalidSeal("a bucket tells the evidence of other deliveries than it has")
    return found


def names_of(bucket: Bucket) -> Iterator[Name]:
    """Its deliveries, by id. Raises: InvalidSeal."""
    size = bucket.deliveries * _NAME.size
    packed = _unpacked(bucket.names or b"", size)
    if len(packed) != size:
        raise InvalidSeal("a bucket has other names than deliveries")
    for fields, pieces in zip(_NAME.iter_unpack(packed), pieces_of(bucket), strict=True):
        yield Name(*(*fields, pieces))


def _unpacked(data: bytes, most: int) -> bytes:
    """No more than that is unpacked, whatever was packed. Raises: InvalidSeal."""
    unpack = zlib.decompressobj()
    try:
        found = unpack.decompress(data, most)
    except zlib.error as error:
        raise InvalidSeal(f"a bucket cannot be unpacked: {error}") from None
    if not unpack.eof and (unpack.unconsumed_tail or unpack.decompress(b"", 1)):
        raise InvalidSeal("a bucket holds more than it may")
    return found
