"""A seal: what a database held at a moment, in a file small enough to be kept elsewhere.

A chain of digests shows whatever was changed in a stream, but not a stream that is gone, an end that was cut
off, or a chain that somebody with all rights made anew. So the heads of all streams, up to a position of
the log, are the leaves of a Merkle tree (RFC 6962, section 2.1), and its root is written down and signed.
The tree is kept in buckets of so many deliveries by id, a power of two, so that its root is that of one tree
over all heads. What differs is told to the bucket; with names, to the delivery.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from deliveries.audit.invariants import Finding
from deliveries.core import codec
from deliveries.errors import InvalidSeal
from deliveries.store.scan import EventRow, Whole

FORMAT = "deliveries-seal-1"

BUCKET = 1_024
"""Deliveries in one bucket, a power of two."""

SHORT = 4
"""Bytes of a leaf that are kept beside a name."""


class Bucket(Struct, frozen=True):
    """The deliveries from one id to another."""

    first: UUID
    last: UUID
    deliveries: int
    root: bytes
    names: bytes | None = None
    """Packed: for each delivery its id and the beginning of its leaf."""


class Seal(Struct, frozen=True, kw_only=True):
    """What was there. Signed, see `signing`."""

    format: str
    made_at: datetime
    position: int
    """Events up to here are sealed."""
    deliveries: int
    events: int
    root: bytes
    """Over the roots of the buckets."""
    buckets: tuple[Bucket, ...]


class Head(Struct, frozen=True, gc=False):
    """Where a stream stood."""

    id: bytes
    version: int
    digest: bytes

    @property
    def leaf(self) -> bytes:
        """Its hash as a leaf."""
        return hashlib.sha256(b"\0" + self.id + self.version.to_bytes(8, "big") + self.digest).digest()


class Tree:
    """The root over leaves that come one by one, in memory for the logarithm of their number."""

    def __init__(self) -> None:
        self._done: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        """The next leaf."""
        height = 0
        while self._done and self._done[-1][0] == height:
            leaf, height = _node(self._done.pop()[1], leaf), height + 1
        self._done.append((height, leaf))

    def root(self) -> bytes:
        """Over all that came; of none it is the hash of nothing."""
        if not self._done:
            return hashlib.sha256(b"").digest()
        found = self._done[-1][1]
        for _, left in reversed(self._done[:-1]):
            found = _node(left, found)
        return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaves."""
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


def head_of(id: bytes, rows: Sequence[EventRow], position: int) -> Head | None:
    """Where the stream stood at `position`; None: it had not begun."""
    known = [row for row in rows if row[7] <= position]
    return Head(id, known[-1][1], known[-1][6]) if known else None


def sealed(
    streams: Iterable[tuple[bytes, Sequence[EventRow]]], position: int, made_at: datetime, *, names: bool
) -> Seal:
    """A seal of these streams, by id, up to `position`."""
    buckets: list[Bucket] = []
    heads: list[Head] = []
    deliveries = events = 0
    for id, rows in streams:
        head = head_of(id, rows, position)
        if head is None:
            continue
        heads.append(head)
        deliveries, events = deliveries + 1, events + head.version
        if len(heads) == BUCKET:
            buckets.append(_bucket(heads, names=names))
            heads = []
    if heads:
        buckets.append(_bucket(heads, names=names))
    return Seal(
        format=FORMAT,
        made_at=made_at,
        position=position,
        deliveries=deliveries,
        events=events,
        root=root_of(bucket.root for bucket in buckets),
        buckets=tuple(buckets),
    )


def _bucket(heads: Sequence[Head], *, names: bool) -> Bucket:
    leaves = [head.leaf for head in heads]
    packed = b"".join(head.id + leaf[:SHORT] for head, leaf in zip(heads, leaves, strict=True))
    return Bucket(
        first=UUID(bytes=heads[0].id),
        last=UUID(bytes=heads[-1].id),
        deliveries=len(heads),
        root=root_of(leaves),
        names=zlib.compress(packed, 9) if names else None,
    )


def names_of(bucket: Bucket) -> Mapping[bytes, bytes]:
    """Id -> the beginning of its leaf. Raises: InvalidSeal."""
    size = bucket.deliveries * (16 + SHORT)
    unpack = zlib.decompressobj()
    try:
        packed = unpack.decompress(bucket.names or b"", size + 1)
    except zlib.error as error:
        raise InvalidSeal(f"the names of a bucket cannot be read: {error}") from None
    if len(packed) != size:
        raise InvalidSeal("a bucket has other names than deliveries")
    step = 16 + SHORT
    return {packed[at : at + 16]: packed[at + 16 : at + step] for at in range(0, size, step)}


def sound(seal: Seal) -> Seal:
    """The seal, if it is one of ours, and its root is that of its buckets. Raises: InvalidSeal."""
    if seal.format != FORMAT:
        raise InvalidSeal(f"{seal.format[:40]!r} is no format that is known here, such as {FORMAT}")
    if root_of(bucket.root for bucket in seal.buckets) != seal.root:
        raise InvalidSeal("its root is not that of its buckets")
    if sum(bucket.deliveries for bucket in seal.buckets) != seal.deliveries:
        raise InvalidSeal("it has other deliveries than its buckets")
    return seal


# -- against a database ------------------------------------------------------------------------


class Proof(Struct):
    """What holding a database against a seal has shown."""

    seal: Seal
    findings: list[Finding]
    """What was altered, removed or cut off since."""
    unproven: int = 0
    """Deliveries in buckets of which some were pruned since after having gone on: nobody can tell."""

    @property
    def ok(self) -> bool:
        """Nothing that was sealed has changed, as far as can be told."""
        return not self.findings


def against(seal: Seal, wholes: Iterable[Whole], epoch: int) -> Proof:
    """Hold what is there, by id, against `seal`."""
    proof, left = Proof(seal, []), list(reversed(seal.buckets))
    waiting: list[Whole] = []
    for whole in wholes:
        while left and UUID(bytes=whole.id) > left[-1].last:
            _compare(proof, left.pop(), waiting, epoch)
            waiting = []
        if not left:
            break
        waiting.append(whole)
    while left:
        _compare(proof, left.pop(), waiting, epoch)
        waiting = []
    return proof


def _compare(proof: Proof, bucket: Bucket, wholes: Sequence[Whole], epoch: int) -> None:
    """One bucket: its root, or what differs."""
    heads: dict[bytes, Head] = {}
    pruned = 0
    for whole in wholes:
        known = [row for row in whole.events if row[7] <= proof.seal.position]
        if known:
            proof.findings += _chain(whole.id, known, epoch)
            heads[whole.id] = Head(whole.id, known[-1][1], known[-1][6])
        elif whole.tombstone is not None:
            pruned += 1
            heads[whole.id] = Head(whole.id, whole.tombstone[1], whole.tombstone[2])
    if root_of(head.leaf for head in heads.values()) == bucket.root:
        return
    if bucket.names is not None:
        proof.findings += _named(bucket, heads, wholes, proof)
    elif pruned:
        proof.unproven += bucket.deliveries
    else:
        text = (
            f"{bucket.deliveries} deliveries from {bucket.first} to {bucket.last} were sealed; "
            f"{len(heads)} are there, and they are not the same"
        )
        proof.findings.append(Finding("R3", 0, text))


def _named(
    bucket: Bucket, heads: Mapping[bytes, Head], wholes: Sequence[Whole], proof: Proof
) -> Iterator[Finding]:
    """What differs, delivery by delivery."""
    buried = {whole.id for whole in wholes if whole.tombstone is not None}
    names = names_of(bucket)
    for id, short in names.items():
        head = heads.get(id)
        if head is None:
            yield Finding("R3", 0, "it was sealed, and is gone", UUID(bytes=id))
        elif head.leaf[:SHORT] != short and id in buried:
            proof.unproven += 1
        elif head.leaf[:SHORT] != short:
            text = f"at the seal it ended otherwise than in version {head.version}: altered, or cut off"
            yield Finding("R3", head.version, text, UUID(bytes=id))
    for id in heads.keys() - names.keys() - buried:
        text = "it stands among sealed events, and was not there"
        yield Finding("R3", heads[id].version, text, UUID(bytes=id))


def _chain(id: bytes, rows: Sequence[EventRow], epoch: int) -> Iterator[Finding]:
    """The first event that is not what its digest says."""
    previous = codec.GENESIS
    for place, (_, version, name, schema_version, at, body, digest, _) in enumerate(rows, start=1):
        due = codec.stored_digest(previous, id, version, name, schema_version, at + epoch, body)
        if version != place or due != digest:
            yield Finding("R3", version, f"event {version} is not what was recorded", UUID(bytes=id))
            return
        previous = digest


def encode(seal: Seal) -> bytes:
    """The bytes that are signed."""
    return msgspec.json.encode(seal)


def decode(data: bytes) -> Seal:
    """A seal. Raises: InvalidSeal."""
    try:
        return sound(msgspec.json.decode(data, type=Seal))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSeal(f"no seal: {error}") from None
