"""Events of earlier versions, read for ever.

An event's class is its newest version. Of each version before it there is a `Retired`: a struct of the
*old* shape, which reads and checks the stored bytes as they were written, and `up`, a pure function
from that version's values to the next one's. `Registry` chains them up to the class of today. Rows are
never rewritten, and digests are over the stored bytes, so an upcaster changes what is read and nothing
else.

To change the fields of an event:

1. Copy the class to `retired.py` as it is, under a name of its own (`Failed1`), and never touch it again.
2. Change the class in `events.py`, and raise its `schema_version`.
3. Add `Retired("Failed", 1, Failed1, up)` to `RETIRED` there.
4. `make corpus` adds the new shapes to the golden corpus, and says what the old ones are read as.

`up` gets and gives a dict as JSON would have it: instants and ids are strings, fields that hold their
default are left out. It asks no clock, no database and no other event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from deliveries.core.events import Event
from deliveries.errors import UnreadableEvent, shown

Values = dict[str, Any]
Upcaster = Callable[[Values], Values]


class Retired(Struct, frozen=True):
    """A version of an event that is not written any more."""

    name: str
    """The event's public name."""
    schema_version: int
    """Starts at 1; `up` leads to the next."""
    shape: type[Struct]
    """What such a body must be."""
    up: Upcaster
    """Pure: the values of the next version."""


class Registry:
    """(public name, schema version) -> how such a body is read. Closed: nothing can be added to it."""

    def __init__(self, kinds: Sequence[type[Event]], retired: Iterable[Retired] = ()) -> None:
        """Raises: ValueError where a version is missing, there twice, or of no known event."""
        given = tuple(retired)
        old = {(one.name, one.schema_version): one for one in given}
        due = {(kind.__name__, version) for kind in kinds for version in range(1, kind.schema_version)}
        if len(old) != len(given) or set(old) != due:
            differs = sorted(due.symmetric_difference(old)) or "one is there twice"
            raise ValueError(f"each version before the newest is retired, once: {differs}")
        self.newest: Mapping[str, int] = MappingProxyType({one.__name__: one.schema_version for one in kinds})
        """Public name -> the version that is written."""
        shapes: dict[tuple[str, int], type[Struct]] = {key: one.shape for key, one in old.items()}
        shapes |= {(kind.__name__, kind.schema_version): kind for kind in kinds}
        self.shapes: Mapping[tuple[str, int], type[Struct]] = MappingProxyType(shapes)
        """(public name, schema version) -> what such a body must be, of every version there was."""
        self._readers: dict[tuple[str, int], Callable[[bytes], Event]] = {}
        for kind in kinds:
            name, newest = kind.__name__, kind.schema_version
            self._readers[name, newest] = msgspec.json.Decoder(kind).decode
            for version in range(1, newest):
                chain = tuple(old[name, step].up for step in range(version, newest))
                self._readers[name, version] = _reader(old[name, version].shape, chain, kind)

    def decode(self, name: str, schema_version: int, body: bytes) -> Event:
        """The event that a row holds, as its class is today.

        Raises: UnreadableEvent for an unknown type or version, a body that is not what it should be, or
        one that an upcaster cannot lead on.
        """
        reader = self._readers.get((name, schema_version))
        if reader is None:
            known = "a version of the future" if name in self.newest else "an unknown type"
            raise UnreadableEvent(f"{name[:80]!r} version {schema_version} is {known}")
        try:
            return reader(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableEvent(f"{name} version {schema_version}: {error}") from None


def _reader(shape: type[Struct], chain: tuple[Upcaster, ...], kind: type[Event]) -> Callable[[bytes], Event]:
    decode = msgspec.json.Decoder(shape).decode

    def read(body: bytes) -> Event:
        values = msgspec.to_builtins(decode(body))
        try:
            for up in chain:
                values = up(values)
            return msgspec.convert(values, kind)
        except Exception as error:  # one body that nobody thought of must not stop who reads the others
            raise UnreadableEvent(
                f"an earlier {kind.__name__} that cannot be led on: {shown(error)}"
            ) from error

    return read
