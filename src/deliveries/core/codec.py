"""Events to bytes and back, through a closed registry, and the digest that chains them.

Nothing read from a row is imported, unpickled or looked up by attribute: a type name is a key of
one dictionary, or the event is unreadable. Bodies of earlier versions are led on to the newest by
`upcast`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from deliveries.core.events import EVENTS, Event
from deliveries.core.retired import RETIRED
from deliveries.core.upcast import Registry
from deliveries.errors import CorruptHistory

_ENCODER = msgspec.json.Encoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

REGISTRY: Final = Registry(EVENTS, RETIRED)
"""Every version of every event that there ever was."""

decode: Final = REGISTRY.decode
"""The event that a row holds, by name, version and body. Raises: UnreadableEvent."""

REGISTERED: Final = frozenset(kind.__name__ for kind in EVENTS)
"""The public names; the database's guards speak of these types only."""

GENESIS: Final = bytes(32)
"""The digest before the first event of a stream."""


def encode(event: Event) -> bytes:
    """The body of `event` as JSON."""
    return _ENCODER.encode(event)


def digest(
    previous: bytes,
    delivery_id: UUID,
    version: int,
    name: str,
    schema_version: int,
    recorded_at: datetime,
    body: bytes,
) -> bytes:
    """SHA-256 over the previous digest and the event's stored parts, each with its length before it.

    Over the stored bytes, never over a re-encoding, so that an audit needs no decoder.
    """
    if len(previous) != len(GENESIS):  # struct would pad or cut it, so that two chains agree
        raise CorruptHistory(f"a digest has 32 bytes, not {len(previous)}")
    at = micros(recorded_at)
    return stored_digest(previous, delivery_id.bytes, version, name, schema_version, at, body)


def stored_digest(
    previous: bytes,
    delivery_id: bytes,
    version: int,
    name: str,
    schema_version: int,
    micros: int,
    body: bytes,
) -> bytes:
    """The same from the parts as rows hold them: an id of 16 bytes, microseconds since 1970."""
    pack, kind = _HEADS.get(name) or _head(name)
    head = pack(previous, delivery_id, version, schema_version, micros, len(kind), kind, len(body))
    return hashlib.sha256(head + body).digest()


def _head(name: str) -> tuple[Callable[..., bytes], bytes]:
    """How all that stands before a body is packed: digest, id, three numbers, name and length."""
    kind = name.encode(errors="surrogateescape")  # a text that is none counts as its bytes
    return struct.Struct(f">32s16sqqqI{len(kind)}sQ").pack, kind


_HEADS: Final = {name: _head(name) for name in REGISTERED}


def micros(instant: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(micros: int) -> datetime:
    """The UTC instant so many microseconds after 1970-01-01T00:00:00Z."""
    return _EPOCH + micros * _MICROSECOND
