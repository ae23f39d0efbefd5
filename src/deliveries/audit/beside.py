"""What must hold of what stands beside streams, and of what is left of pruned ones.

Texts may be gone, by an erasure that says so; none may have been exchanged. Evidence has a chain of its
own. A tombstone stands for a stream that is gone as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from deliveries.audit.invariants import Finding, Record
from deliveries.core import codec
from deliveries.core import events as e
from deliveries.core.notes import salted
from deliveries.store.evidence import SCHEMA_VERSION, Evidence

ERASED = "erased"
"""Kind of the evidence that an erasure leaves."""


def evidence_findings(pieces: Sequence[Evidence]) -> Iterator[Finding]:
    """R3: the evidence of one delivery is numbered without hole, chained, and says what it said."""
    previous = codec.GENESIS
    erased = any(one.kind == ERASED for one in pieces)
    for place, one in enumerate(pieces, start=1):
        id, sequence = one.delivery_id, one.sequence
        if sequence != place:
            yield Finding("R3", sequence, f"evidence {sequence} stands at place {place}", id)
        due = codec.digest(previous, id, sequence, one.kind, SCHEMA_VERSION, one.recorded_at, one.body)
        if due != one.digest:
            yield Finding("R3", sequence, f"evidence {sequence} is not what its digest says", id)
        said = one.said
        digest = said.get("told") if isinstance(said, dict) else None
        yield from _text(
            "R3", sequence, f"what evidence {sequence} told", one.told, one.salt, digest, erased, id
        )
        previous = one.digest


def contents_findings(record: Record, contents: Any, pieces: Sequence[Evidence]) -> Iterator[Finding]:
    """R3, R6: recipient and payload are those of the first event, or were erased.

    `contents` is a row of `delivery_contents`, or None.
    """
    first, id = record[0].event, record[0].delivery_id
    if not isinstance(first, e.Scheduled):
        return
    erased = any(one.kind == ERASED for one in pieces)
    salt = None if contents is None else contents.salt
    for name, digest in (("payload", first.payload_digest), ("recipient", first.recipient_digest)):
        value = None if contents is None else getattr(contents, name)
        yield from _text("R3", 1, f"its {name}", value, salt, digest, erased, id)


def notes_findings(record: Record, notes: Iterable[Any], pieces: Sequence[Evidence]) -> Iterator[Finding]:
    """R3, R6: the texts beside the events are those that they name, or were erased.

    `notes` are the rows of `delivery_notes` of this delivery.
    """
    beside = {row.version: row for row in notes}
    erased = any(one.kind == ERASED for one in pieces)
    for one in record:
        row, digest = beside.get(one.version), getattr(one.event, "note", None)
        text, salt = (None, None) if row is None else (row.text, row.salt)
        yield from _text("R3", one.version, "its note", text, salt, digest, erased, one.delivery_id)


def tombstone_findings(tombstone: Any, left: Record) -> Iterator[Finding]:
    """R3: nothing is left of a pruned stream; `left` are the events under the id of `tombstone`."""
    if left:
        text = f"{len(left)} events are left beside a tombstone of {tombstone.version}"
        yield Finding("R3", left[0].version, text, tombstone.delivery_id)


def _text(
    rule: str,
    version: int,
    what: str,
    text: str | None,
    salt: bytes | None,
    digest: str | None,
    erased: bool,
    id: Any,
) -> Iterator[Finding]:
    """One text and the digest that speaks of it."""
    if digest is None:
        if text is not None:
            yield Finding(rule, version, f"{what} is there, and nothing speaks of it", id)
    elif text is None or salt is None:
        if not erased:
            yield Finding("R6", version, f"{what} is gone, and nobody erased it", id)
        elif text is not None or salt is not None:
            yield Finding("R6", version, f"{what} was not erased as a whole", id)
    elif salted(salt, text.encode()) != digest:
        yield Finding(rule, version, f"{what} is not what its digest says", id)
