"""Ordinary lives, known at a glance: what nearly all of ten million deliveries are.

`is_sound` says that nothing at all is wrong with a delivery, or that it cannot say so: then the judges of
`invariants` and `beside` look at it, who can name what is wrong, and take a hundred times as long. A
property test holds it to them: where it says that all is well, they find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from deliveries.core import codec
from deliveries.core import events as e
from deliveries.core.notes import salted
from deliveries.errors import UnreadableEvent
from deliveries.store.rows import DELIVERY_COLUMNS, encode_tags
from deliveries.store.scan import EventRow, Whole
from deliveries.store.schema import deliveries

_FOLDED = len(DELIVERY_COLUMNS) + 2
"""Of a row's columns so many are folded from its events: time and digest of the last one too."""
_LEASE = [deliveries.c.keys().index(name) for name in ("lease_owner", "lease_until")]
_DUE_AT = deliveries.c.keys().index("due_at")

_PENDING, _ATTEMPTING = "pending", "attempting"


def is_sound(whole: Whole, epoch: int) -> bool:
    """Whether everything about this delivery is as it must be, beyond doubt.

    `epoch`: that of the snapshot it comes from.
    """
    if whole.row is None or whole.contents is None or whole.evidence or whole.tombstone is not None:
        return False
    try:
        life = _Life(whole, epoch)
        return life.is_ordinary() and life.is_in(whole.row) and life.is_told_by(whole)
    except (UnreadableEvent, UnicodeEncodeError, OverflowError):
        return False


class _Life:
    """A delivery's life, followed from event to event as long as it is an ordinary one."""

    __slots__ = ("_at", "_attempt", "_due_at", "_endings", "_epoch", "_events", "_first", "_notes", "_rules",
                 "_status")  # fmt: skip

    def __init__(self, whole: Whole, epoch: int) -> None:
        self._events: Sequence[EventRow] = whole.events
        self._epoch = epoch
        self._notes = {note[1]: note for note in whole.notes} if whole.notes else None
        self._first: Any = None
        self._status = ""
        self._attempt = self._endings = 0
        self._due_at: int | None = None
        self._rules: Any = None

    def is_ordinary(self) -> bool:
        """Events in their order, chained, each allowed where it stands, none before its time."""
        previous, position, at, noted = codec.GENESIS, 0, 0, 0
        for place, row in enumerate(self._events, start=1):
            id, version, name, schema_version, recorded_at, body, digest, number = row
            self._at = recorded_at + self._epoch
            if version != place or number <= position or self._at < at:
                return False
            previous = codec.stored_digest(previous, id, version, name, schema_version, self._at, body)
            step = _STEPS.get(name)
            if previous != digest or step is None:
                return False
            event: Any = codec.decode(name, schema_version, body)
            if not step(self, event, id):
                return False
            if name != "Attempted" and event.note is not None:  # the one that has none
                noted += 1
                if not self._is_noted(place, event.note):
                    return False
            position, at = number, self._at
        return self._first is not None and noted == len(self._notes or ())

    def is_in(self, row: tuple[Any, ...]) -> bool:
        """Whether the row of the projection is what this life amounts to."""
        first, epoch = self._first, self._epoch
        due_at = None if self._due_at is None else self._due_at - epoch
        if due_at is None and self._status == _PENDING:
            due_at = row[_DUE_AT]  # due at once, by the database's clock
            if due_at is None or len(self._events) > 1:
                return False
        id, version, *_, recorded_at, _, digest, _ = self._events[-1]
        fold = (
            id,
            version,
            self._status,
            first.channel,
            first.queue,
            first.priority,
            _micros(first.scheduled_at, epoch),
            due_at,
            _micros(first.expires_at, epoch),
            self._attempt,
            self._endings,
            0,
            0,
            None,
            first.tenant,
            first.key,
            encode_tags(first.tags),
            first.correlation_id,
            first.causation_id,
            first.root_id and first.root_id.bytes,
            first.max_attempts,
            recorded_at,
            digest,
        )
        leased = row[_LEASE[0]] is not None and row[_LEASE[1]] is not None
        return row[:_FOLDED] == fold and (leased == (self._status == _ATTEMPTING) or self._status == _PENDING)

    def is_told_by(self, whole: Whole) -> bool:
        """Whether the contents beside it are those that its first event names."""
        assert whole.contents is not None
        _, recipient, payload, salt = whole.contents
        first = self._first
        return (
            salt is not None
            and payload is not None
            and salted(salt, payload.encode()) == first.payload_digest
            and (recipient is None) == (first.recipient_digest is None)
            and (recipient is None or salted(salt, recipient.encode()) == first.recipient_digest)
        )

    def _is_noted(self, version: int, digest: str) -> bool:
        note = (self._notes or {}).get(version)
        if note is None:
            return False
        _, _, text, salt = note
        return text is not None and salt is not None and salted(salt, text.encode()) == digest

    # -- steps: whether the event may come here, and what it changes -----------------------------

    def _scheduled(self, event: e.Scheduled, id: bytes) -> bool:
        if self._first is not None or event.delivery_id.bytes != id:
            return False
        self._first, self._status = event, _PENDING
        self._due_at = None if event.due_at is None else codec.micros(event.due_at)
        return True

    def _attempted(self, event: e.Attempted, id: bytes) -> bool:
        early = self._due_at is not None and self._at < self._due_at
        expires_at = None if self._first is None else self._first.expires_at
        late = expires_at is not None and self._at >= codec.micros(expires_at)
        if self._status != _PENDING or event.attempt != self._attempt + 1 or early or late:
            return False
        self._status, self._attempt, self._due_at, self._rules = _ATTEMPTING, event.attempt, None, event.rules
        return True

    def _failed(self, event: e.Failed, id: bytes) -> bool:
        self._endings += 1
        if not self._closes(event) or self._endings >= self._rules.max_attempts or event.cause == "unknown":
            return False
        self._status, self._due_at = _PENDING, codec.micros(event.due_at)
        return True

    def _succeeded(self, event: e.Succeeded, id: bytes) -> bool:
        closes, self._status = self._closes(event), "succeeded"
        return closes

    def _cancelled(self, event: e.Cancelled, id: bytes) -> bool:
        closes, self._status, self._due_at = self._closes(event), "cancelled", None
        return closes

    def _exhausted(self, event: e.Exhausted, id: bytes) -> bool:
        closes, self._status = self._closes(event), "exhausted"
        return closes and event.cause == "attempts" and self._endings + 1 >= self._rules.max_attempts

    def _closes(self, event: Any) -> bool:
        return self._status == _ATTEMPTING and event.attempt == self._attempt


_STEPS: dict[str, Any] = {
    "Scheduled": _Life._scheduled,
    "Attempted": _Life._attempted,
    "Failed": _Life._failed,
    "Succeeded": _Life._succeeded,
    "Cancelled": _Life._cancelled,
    "Exhausted": _Life._exhausted,
}
"""What an ordinary life is made of."""


def _micros(at: datetime | None, epoch: int) -> int | None:
    return None if at is None else codec.micros(at) - epoch
