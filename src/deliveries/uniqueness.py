"""Scheduling under `Unique`: gather who holds a kind, decide who is a duplicate, write the rest.

A key comes first: where it is taken, its owner answers, and uniqueness is not asked. What is committed
answers without a lock, so that duplicates wait for nobody; everybody else locks the rows of their
kinds, looks again, and keeps them locked until the caller's transaction ends.

Replacing changes no event. A pending delivery that is to be due at another time is moved, as an
operator would move it. Anything else of it is in its `Scheduled`, or digested there: so a new
delivery takes its place, and the old one is cancelled as superseded, in the same transaction.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct, structs
from sqlalchemy import Connection

from deliveries.births import bear, key_of, same_debt
from deliveries.core import commands as c
from deliveries.core.delivery import Delivery, Status
from deliveries.core.notes import Note, salted
from deliveries.core.stream import START, advance
from deliveries.core.unique import Unique
from deliveries.errors import ConcurrentSchedule
from deliveries.registration import Registration
from deliveries.scheduling import Draft
from deliveries.store.rows import Birth, Contents
from deliveries.store.store import Store
from deliveries.store.uniqueness import Holder, holders, lock, take, telling_conflicts

_BESIDE = ("recipient", "payload")
_TOLD = ("due_at", "priority", "expires_at", "max_attempts", "tags")


class Asked(Struct, frozen=True):
    """What one birth is to be unique in."""

    unique: Unique
    digest: bytes


def asked(drafts: Sequence[Draft], births: Sequence[Birth], registration: Registration) -> dict[UUID, Asked]:
    """Birth -> in what it is to be unique; empty where nobody asked. Raises: InvalidSchedule."""
    if registration.unique is None and not any(draft.unique for draft in drafts):
        return {}
    found: dict[UUID, Asked] = {}
    for draft, birth in zip(drafts, births, strict=True):
        unique = registration.unique if draft.unique is None else draft.unique
        if isinstance(unique, Unique):
            beside = birth.contents
            digest = unique.digest(birth.scheduled, beside.recipient, beside.payload)
            found[birth.change.after.id] = Asked(unique, digest)
    return found


def bear_unique(
    store: Store, connection: Connection, births: Sequence[Birth], wanted: Mapping[UUID, Asked]
) -> list[Delivery]:
    """As `births.bear`, where those that are `wanted` unique may turn out to be there already.

    Raises: as `bear`; ConcurrentSchedule where nobody can tell who was first; ConcurrentChange.
    """
    with telling_conflicts():
        batch = _Batch(store, connection, births, wanted)
        batch.gather()
        for birth in births:
            batch.decide(birth)
        return batch.apply()


class _Batch:
    """One call's births: who holds their kinds, what follows, and what is written."""

    def __init__(
        self, store: Store, connection: Connection, births: Sequence[Birth], wanted: Mapping[UUID, Asked]
    ) -> None:
        self._store, self._connection, self._wanted = store, connection, wanted
        self._births = births
        self._now = store.deciding_now
        self._answers: dict[UUID, Delivery | UUID] = {}
        """Birth -> the delivery that it is, or the newborn of this batch that it is."""
        self._holders: dict[bytes, Holder | UUID] = {}
        """Digest -> who holds it, which may be a newborn of this batch."""
        self._ours: dict[bytes, UUID] = {}
        """What the rows of the digests say by now, as far as we wrote them."""
        self._newborns: dict[UUID, Birth] = {}
        self._moved: dict[UUID, datetime | None] = {}
        """A pending one -> when it is due instead; None: at once."""
        self._superseded: dict[UUID, UUID] = {}
        """A pending one -> the newborn that takes its place."""

    # -- gather --------------------------------------------------------------------------------

    def gather(self) -> None:
        """Who has the keys; who holds the kinds, under a lock unless what is committed is enough."""
        births = [birth for birth in self._births if birth.change.after.id in self._wanted]
        keyed = [birth for birth in births if birth.scheduled.key is not None]
        if keyed:
            owners = self._store.by_key(self._connection, list(dict.fromkeys(map(key_of, keyed))))
            for birth in keyed:
                if key_of(birth) in owners:
                    self._answers[birth.change.after.id] = same_debt(birth, owners[key_of(birth)])
        open_ = [one for one in map(self._asked, births) if one is not None]
        found = self._look({one.digest for one in open_})
        waiting: dict[bytes, UUID] = {}
        for birth in births:
            one = self._asked(birth)
            if one is not None and not (_held(found, one) and not one.unique.replace):
                waiting.setdefault(one.digest, birth.change.after.id)
        if waiting:
            self._ours, theirs = lock(self._connection, waiting, self._now)
            found = {kind: holder for kind, holder in found.items() if kind not in theirs}
            found |= self._look(theirs)
            found |= self._lock_replaced(open_, found)
        self._holders = dict(found)

    def _asked(self, birth: Birth) -> Asked | None:
        """What `birth` is wanted unique in, unless its key has answered."""
        id = birth.change.after.id
        return None if id in self._answers else self._wanted.get(id)

    def _look(self, digests: set[bytes]) -> dict[bytes, Holder]:
        return holders(self._connection, digests, self._now) if digests else {}

    def _lock_replaced(self, open_: list[Asked], found: dict[bytes, Holder]) -> dict[bytes, Holder]:
        """Lock the pending ones that may be replaced: a processor may be about to start them."""
        replaced = {one.digest for one in open_ if one.unique.replace and _held(found, one)}
        ids = {found[kind].delivery.id for kind in replaced}
        if not ids:
            return {}
        self._store.backend.lock(self._connection, sorted(ids), skip_locked=False)
        return self._look(replaced)

    # -- decide --------------------------------------------------------------------------------

    def decide(self, birth: Birth) -> None:
        """What `birth` is: new, a duplicate, or what takes the place of the one that is there."""
        id, one = birth.change.after.id, self._asked(birth)
        if one is None:
            if id not in self._answers:
                self._newborns[id] = birth
            return
        holder = self._holders.get(one.digest)
        if isinstance(holder, UUID):
            if Status.PENDING in one.unique.states:
                if one.unique.replace:
                    self._newborns[holder] = _taking(birth, self._newborns[holder], one.unique, holder)
                self._answers[id] = holder
                return
        elif holder is not None and holder.answers(one.unique):
            if not one.unique.replace or holder.delivery.status is not Status.PENDING:
                self._answers[id] = holder.delivery
                return
            if not one.unique.supersedes:
                due_at = self._moved[holder.delivery.id] = birth.scheduled.due_at
                moved = structs.replace(holder.delivery, due_at=due_at)
                self._holders[one.digest] = structs.replace(holder, delivery=moved)
                self._answers[id] = moved
                return
            birth = _taking(birth, holder, one.unique, id, causation_id=str(holder.delivery.id))
            self._superseded[holder.delivery.id] = id
            self._moved.pop(holder.delivery.id, None)
        self._newborns[id] = birth
        self._holders[one.digest] = id

    # -- apply ---------------------------------------------------------------------------------

    def apply(self) -> list[Delivery]:
        """Write what was decided; results in the order of the births."""
        newborns = list(self._newborns.values())
        written = bear(self._store, self._connection, newborns) if newborns else []
        born = dict(zip(self._newborns, written, strict=True))
        for old, newborn in self._superseded.items():
            if born[newborn].created:
                self._cancel(old, newborn)
        moved = {id: self._move(id, due_at) for id, due_at in self._moved.items()}
        taken = {
            kind: holder
            for kind, holder in self._holders.items()
            if isinstance(holder, UUID) and born[holder].created and self._ours.get(kind) != holder
        }
        if taken:
            take(self._connection, taken, self._now)
        return [self._answer(birth.change.after.id, born, moved) for birth in self._births]

    def _answer(self, id: UUID, born: dict[UUID, Delivery], moved: dict[UUID, Delivery]) -> Delivery:
        if id in born:
            return born[id]
        answer = self._answers[id]
        if isinstance(answer, Delivery):
            answer = self._superseded.get(answer.id, moved.get(answer.id, answer))
        return structs.replace(born[answer] if isinstance(answer, UUID) else answer, created=False)

    def _cancel(self, id: UUID, by: UUID) -> None:
        note = Note(f"by delivery {by}", os.urandom(16))
        change = self._store.command(
            self._connection, id, lambda now: c.Cancel(now=now, cause="superseded", note=note)
        )
        if change is None:  # we hold its row, so nobody can have changed it since
            raise ConcurrentSchedule(f"delivery {id} was to be superseded, and is not pending any more")

    def _move(self, id: UUID, due_at: datetime | None) -> Delivery:
        def make(now: datetime) -> c.Command:
            return c.Reschedule(now=now, due_at=now if due_at is None else due_at)

        change = self._store.command(self._connection, id, make)
        if change is None:
            raise ConcurrentSchedule(f"delivery {id} was to be moved, and is not pending any more")
        return self._store.furnished(self._connection, change.after)


def _held(found: Mapping[bytes, Holder], one: Asked) -> bool:
    holder = found.get(one.digest)
    return holder is not None and holder.answers(one.unique)


def _taking(
    birth: Birth, old: Birth | Holder, unique: Unique, id: UUID, causation_id: str | None = None
) -> Birth:
    """The newborn `id`: what `unique` replaces is of `birth`, what it does not is of `old`."""
    told: Any = old.scheduled if isinstance(old, Birth) else old.delivery
    beside = old.contents or birth.contents  # erased: there is nothing to take over
    event = birth.scheduled if isinstance(old, Holder) else old.scheduled
    kept = {name: getattr(told, name) for name in _TOLD if name not in unique.replace}
    new = {name: getattr(birth.scheduled, name) for name in _TOLD if name in unique.replace}
    contents = {name: getattr(birth.contents if name in unique.replace else beside, name) for name in _BESIDE}
    salt = os.urandom(16)
    event = structs.replace(
        event,
        **kept,
        **new,
        delivery_id=id,
        causation_id=event.causation_id if causation_id is None else causation_id,
        payload_digest=salted(salt, contents["payload"].encode()),
        recipient_digest=None
        if contents["recipient"] is None
        else salted(salt, contents["recipient"].encode()),
    )
    change = advance(START, c.Schedule(now=event.scheduled_at, scheduled=event))
    assert change is not None, "a stream that has not begun accepts its first event"
    return Birth(change, Contents(salt=salt, **contents))
