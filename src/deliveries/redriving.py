"""Redriving: a new delivery that owes what an ended one owed, linked to it both ways.

The new one names its source as `causation_id`, and keeps its root's idempotency key, so that a receiver
which honours keys takes both for one effect. The source gets a piece of evidence that names the new
one, and is not redriven a second time: what ended again is redriven from there. So a debt is a chain,
however many operators press at once, and however long ago a link of it was pruned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, insert
from uuid_utils.compat import uuid7

from deliveries.commanding import CORRUPT
from deliveries.core import commands
from deliveries.core.delivery import Delivery
from deliveries.core.events import Event, Scheduled, Succeeded
from deliveries.core.notes import Note, salted
from deliveries.core.stream import START, Recorded, advance, replay
from deliveries.errors import CorruptHistory
from deliveries.registration import Registration
from deliveries.store.evidence import Entry, add, marked
from deliveries.store.rows import Birth, Contents
from deliveries.store.schema import notes
from deliveries.store.store import Store

REDRIVEN = "redriven"
"""Kind of the evidence that names the new delivery."""

ERASED, WOULD_REPEAT = "erased", "would repeat"
"""Why one is not redriven: its contents are gone, or what it did may happen again."""


class Redrive(Struct, frozen=True, kw_only=True):
    """How to redrive."""

    reason: str | None = None
    actor: str | None = None
    due_at: datetime | None = None
    """None: due at once."""
    expires_at: datetime | None = None
    """The source's deadline is not kept: it has passed."""
    new_key: bool = False
    """True: a key of its own, so that its receiver takes it for another effect."""
    may_repeat: bool = False
    """True: also where an effect that happened, or may have, is not kept from happening again."""


class Redriving:
    """Redrives on a store; `registrations` tell where a channel works now, and what it may repeat."""

    def __init__(self, store: Store, registrations: Mapping[str, Registration], how: Redrive) -> None:
        self._store, self._registrations, self._how = store, registrations, how
        self.born: dict[UUID, UUID] = {}
        """Source -> the delivery that was made of it."""

    def handle(self, connection: Connection, ids: Sequence[UUID], write: bool) -> Mapping[UUID, str | None]:
        """Redrive these, whose rows are locked; id -> None, or why not."""
        now = self._store.now(connection)
        histories = self._store.histories(connection, ids)
        beside = self._store.contents(connection, ids)
        before = marked(connection, REDRIVEN, ids)
        verdicts: dict[UUID, str | None] = {}
        births: dict[UUID, Birth] = {}
        for id, history in histories.items():
            try:
                verdicts[id], source = self._verdict(history, beside[id], id in before)
            except CorruptHistory:
                verdicts[id] = CORRUPT
                continue
            contents = beside[id]
            if verdicts[id] is None and contents is not None:
                births[id] = self._birth(source, contents, now)
        if write and births:
            self._write(connection, births, now)
        return verdicts

    def _verdict(
        self, history: Sequence[Recorded], contents: Contents | None, redriven: bool
    ) -> tuple[str | None, Delivery]:
        """Why this one is not redriven; None where it is."""
        source = replay(history).delivery
        if source is None:
            raise CorruptHistory("a row without events")
        if not source.is_terminal:
            return source.status.value, source
        if redriven:
            return REDRIVEN, source
        if contents is None:
            return ERASED, source
        if self._would_repeat(source, history[-1].event) and not self._how.may_repeat:
            return WOULD_REPEAT, source
        return None, source

    def _would_repeat(self, source: Delivery, end: Event) -> bool:
        """Whether an effect that happened, or may have, would not be known again by its receiver."""
        if not isinstance(end, Succeeded) and not getattr(end, "outcome_unknown", False):
            return False
        registration = self._registrations.get(source.channel)
        guarded = source.rules is not None and source.rules.on_unknown != "retry"
        unsafe = registration is not None and registration.effect == "unsafe"
        return guarded or unsafe or self._how.new_key

    def _birth(self, source: Delivery, contents: Contents, now: datetime) -> Birth:
        how, salt = self._how, os.urandom(16)
        note = None if how.reason is None else Note(how.reason, os.urandom(16))
        registration = self._registrations.get(source.channel)
        recipient = contents.recipient
        event = Scheduled(
            delivery_id=uuid7(),
            channel=source.channel,
            queue=source.queue if registration is None else registration.queue,
            scheduled_at=now,
            payload_digest=salted(salt, contents.payload.encode()),
            recipient_digest=None if recipient is None else salted(salt, recipient.encode()),
            due_at=how.due_at,
            expires_at=how.expires_at,
            priority=source.priority,
            max_attempts=source.max_attempts,
            tenant=source.tenant,
            tags=source.tags,
            correlation_id=source.correlation_id,
            causation_id=str(source.id),
            root_id=None if how.new_key else source.root_id or source.id,
            actor=how.actor,
            note=None if note is None else note.digest,
        )
        change = advance(START, commands.Schedule(now=now, scheduled=event, note=note))
        assert change is not None, "a stream that has not begun accepts its first event"
        return Birth(change, Contents(recipient=recipient, payload=contents.payload, salt=salt))

    def _write(self, connection: Connection, births: Mapping[UUID, Birth], now: datetime) -> None:
        self._store.schedule(connection, list(births.values()))
        told = [
            {"delivery_id": birth.change.after.id, "version": 1, "text": note.text, "salt": note.salt}
            for birth in births.values()
            if (note := birth.change.note) is not None
        ]
        if told:
            connection.execute(insert(notes), told)
        marks = [(id, Entry(_mark(birth.change.after.id, self._how.actor))) for id, birth in births.items()]
        add(connection, REDRIVEN, marks, now)
        self.born |= {id: birth.change.after.id for id, birth in births.items()}


def _mark(successor: UUID, actor: str | None) -> bytes:
    said = {"as": str(successor)} | ({} if actor is None else {"actor": actor})
    return msgspec.json.encode(said)


def successor_of(mark: Any) -> UUID | None:
    """The delivery that a `redriven` piece of evidence names."""
    try:
        return UUID(mark["as"])
    except (TypeError, KeyError, ValueError):
        return None
