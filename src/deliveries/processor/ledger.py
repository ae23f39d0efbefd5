"""Writing down what became of calls, and never twice.

Most outcomes are written in a batch, in the transaction that claims the next deliveries. Three
things send one through `settle`, alone and from its re-read stream: its row was held by somebody
else or had moved on, its batch was refused by a guard, or a connection broke so that nobody knows
whether the commit happened. There the stream decides: if our own event is in it, it is done; if the
attempt is no longer open, the report becomes evidence and changes nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.delivery import Status
from deliveries.core.stream import Change, Recorded, Stream, advance, replay
from deliveries.errors import CorruptHistory
from deliveries.processor import ticks
from deliveries.processor.call import Call
from deliveries.processor.sweep import OUT_OF_STEP, put_aside
from deliveries.store.failures import cause
from deliveries.store.rows import Write
from deliveries.store.store import Store

PATIENCE_SECONDS = 0.5
"""So long outcomes whose rows somebody holds go with batches before they are settled alone,"""

AGAIN_SECONDS = 0.02
"""and so long after one the next is tried: whoever holds them needs the time."""

FEW = 8
"""So many outcomes that a batch left out are settled alone at once."""

_log = logging.getLogger("deliveries")


class Summary(msgspec.Struct):
    """What was done, in numbers of deliveries; `attempted` counts calls of adapters."""

    attempted: int = 0
    succeeded: int = 0
    retrying: int = 0
    """Failed, with another attempt to come."""
    rescheduled: int = 0
    """Snoozed or deferred, or released from held."""
    interrupted: int = 0
    held: int = 0
    suppressed: int = 0
    cancelled: int = 0
    exhausted: int = 0
    late: int = 0
    """Reports that came after their attempt had been closed; kept as evidence."""

    def count(self, change: Change) -> None:
        """Add one event."""
        field = _FIELDS.get(change.recorded.type)
        if field is not None:
            setattr(self, field, getattr(self, field) + 1)


_FIELDS = {
    "Attempted": "attempted",
    "Succeeded": "succeeded",
    "Failed": "retrying",
    "Rescheduled": "rescheduled",
    "Interrupted": "interrupted",
    "Held": "held",
    "Suppressed": "suppressed",
    "Cancelled": "cancelled",
    "Exhausted": "exhausted",
}


class Ledger:
    """Finished calls on their way into the stream."""

    def __init__(self, store: Store, now: Callable[[], datetime], summary: Summary) -> None:
        self._store, self._now, self._summary = store, now, summary
        self.finished: list[Call] = []
        """To be written with the next batch."""
        self.held_up: list[Call] = []
        """Left out by a batch, since somebody held their rows; to be finished again at `again_at`."""
        self.again_at = math.inf
        self.alone: list[Call] = []
        """To be written one by one, from the re-read stream."""
        self.belated: list[Call] = []
        """Calls that came back after their attempt was closed; what they said is to be kept."""

    def __len__(self) -> int:
        return len(self.finished) + len(self.held_up) + len(self.alone) + len(self.belated)

    def add(self, call: Call, now: datetime | None = None) -> None:
        """Take the outcome of a call; it is written by the next batch, or alone if it is a lookup."""
        call.reported = True
        call.command(now or self._now())
        (self.alone if call.is_lookup else self.finished).append(call)

    def batch(self, apart: Iterable[UUID] = ()) -> list[tuple[Call, Write]]:
        """What is ready to be written together: one event a delivery, none of those `apart`.

        What else is ready is written alone.
        """
        batch: list[tuple[Call, Write]] = []
        taken, now = set(apart), self._now()
        for call in self.finished:
            change = advance(call.stream, call.command(now))
            if change is None or call.delivery.id in taken:
                self.alone.append(call)
            else:
                taken.add(call.delivery.id)
                batch.append((call, self._write(call, change)))
        self.finished = [call for call, _ in batch]
        return batch

    def written(self, batch: list[tuple[Call, Write]], ids: set[UUID]) -> list[Change]:
        """The batch is committed: those not among `ids` are tried again, and later are settled alone.

        A claim of another processor that came a moment too late holds the rows it found taken until it
        ends, which is soon. There are many of those; a few are settled alone at once.
        """
        changes, left = [], []
        for call, write in batch:
            if call.delivery.id in ids:
                self._summary.count(write.change)
                changes.append(write.change)
            else:
                left.append(call)
        self.finished.clear()
        now = ticks.monotonic()
        for call in left:
            call.held_up_at = min(call.held_up_at, now)
            is_patient = len(left) > FEW and now < call.held_up_at + PATIENCE_SECONDS
            (self.held_up if is_patient else self.alone).append(call)
        if self.held_up:
            self.again_at = now + AGAIN_SECONDS
        return changes

    def try_again(self) -> None:
        """Let those that were held up go with the next batch, where it is time."""
        if ticks.monotonic() >= self.again_at:
            self.finished += self.held_up
            self.held_up.clear()
            self.again_at = math.inf

    def doubt(self) -> None:
        """Nobody knows what the last transaction did: settle everything alone."""
        self.alone += self.finished + self.held_up
        self.finished.clear()
        self.held_up.clear()
        self.again_at = math.inf

    def settle(self) -> list[Change]:
        """Write each of `alone` in a transaction of its own; who is locked waits for the next time."""
        changes = []
        for call in list(self.alone):
            try:
                with self._store.transaction() as connection:
                    if not self._store.backend.lock(connection, [call.delivery.id], skip_locked=True):
                        continue
                    change = self._settle(connection, call)
            except IntegrityError:
                with self._store.transaction() as connection:
                    put_aside(self._store, connection, [call.delivery.id], "the database refuses its outcome")
                change = None
            self.alone.remove(call)
            if change is not None:
                self._summary.count(change)
                changes.append(change)
        return changes

    def _settle(self, connection: Connection, call: Call) -> Change | None:
        history = self._store.histories(connection, [call.delivery.id])[call.delivery.id]
        try:
            stream = replay(history)
        except CorruptHistory as error:
            put_aside(self._store, connection, [call.delivery.id], f"its history is corrupt: {error}")
            return None
        command = call.command(self._now())
        for known in (call.tried, advance(call.stream, command)):
            if _is_there(history, known):
                return known
        change = call.tried = advance(stream, command)
        if change is None:
            self._too_late(connection, call, stream)
        else:
            write = self._write(call, change)
            if not self._store.append(connection, [write]):
                put_aside(self._store, connection, [call.delivery.id], OUT_OF_STEP)
                return None
            self.refer(connection, [write], {call.delivery.id})
        return change

    def refer(self, connection: Connection, writes: Iterable[Write], written: set[UUID]) -> None:
        """Note the providers' references of what was written; no statement where there are none."""
        given = {
            one.change.after.id: (one.change.after.channel, one.reference)
            for one in writes
            if one.reference is not None and one.change.after.id in written
        }
        if given:
            self._store.refer(connection, given)

    def _write(self, call: Call, change: Change) -> Write:
        """`change` with its columns; nobody asks what became of a call while it still runs."""
        write, report = self._store.write_of(change), call.reporting
        if write.lookup_seconds is not None and isinstance(report, c.Report) and report.not_before:
            left = (report.not_before - self._now()).total_seconds()
            write = msgspec.structs.replace(write, lookup_seconds=max(left, write.lookup_seconds))
        if call.words is not None and call.words.reference and change.recorded.type == "Succeeded":
            write = msgspec.structs.replace(write, reference=call.words.reference)
        return write

    def _too_late(self, connection: Connection, call: Call, stream: Stream) -> None:
        delivery = stream.delivery
        if call.is_lookup:
            if delivery is None or delivery.attempt != call.delivery.attempt:
                return  # an answer about an older attempt moves no newer question
            if delivery.status is Status.HELD:
                self._ask_again(connection, call)
        elif call.entered and not call.gave_up:
            # who timed out may have come back meanwhile; what it says then is another fact
            self._keep(connection, call, "TimeoutError" if call.cause == "timeout" else call.kind())

    def _ask_again(self, connection: Connection, call: Call) -> None:
        """The lookup could not tell. Ask later, or leave it to a person."""
        registration, delivery = call.registration, call.delivery
        seconds, now = None, self._now()
        outcome = None if call.words is None else call.words.outcome
        if call.lookups < registration.max_lookups:
            asked = msgspec.structs.replace(delivery, endings=call.lookups - 1)
            seconds = registration.wait(asked, call.lookups)
            if isinstance(outcome, o.Snooze):
                seconds = (outcome.due_at(now) - now).total_seconds()
        deciding = self._store.deciding_now
        self._store.backend.next_lookup(connection, delivery.id, seconds, deciding, call.lookups)

    def late(self, call: Call) -> None:
        """A call that had timed out came back: its word is evidence."""
        if call.is_lookup:
            return
        self.belated.append(call)
        try:
            self.keep()
        except SQLAlchemyError as error:
            _log.warning("a late report of delivery %s is not kept yet: %s", call.delivery.id, cause(error))

    def keep(self) -> None:
        """Keep what was said too late, once each, whatever became of the commits before."""
        for call in list(self.belated):
            try:
                with self._store.transaction() as connection:
                    if not self._store.backend.lock(connection, [call.delivery.id], skip_locked=True):
                        continue
                    self._keep(connection, call, call.kind())
            except IntegrityError:
                _log.error("delivery %s refuses its late report; left out", call.delivery.id)
            self.belated.remove(call)

    def _keep(self, connection: Connection, call: Call, said: str) -> None:
        """Keep a report that came too late: a fact that changes nothing."""
        fact = {"attempt": call.delivery.attempt, "said": said}
        heard = call.heard = call.heard or {}
        self._summary.late += said not in heard
        at = heard.setdefault(said, self._now())
        self._store.add_evidence(connection, call.delivery.id, "late_report", fact, at)


def _is_there(history: list[Recorded], change: Change | None) -> bool:
    """Whether the stream holds exactly this event already: same predecessor, same bytes."""
    return change is not None and any(one.digest == change.recorded.digest for one in history)
