"""The slots of caps: who may go when, decided under one lock for each cap and subject.

A delivery has one slot, at the moment of its last attempt. One for which there is no room is booked
for the moment at which there is, so that it is deferred once and not whenever somebody else was
served; where it went before, that counts as well until it goes again. A slot is looked at again when
its delivery is asked about again: no window ever holds more.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, insert, select, text, tuple_

from deliveries.core.machine import TERMINAL
from deliveries.store.schema import cap_slots, deliveries
from deliveries.store.store import Store

_c = cap_slots.c
_KEY = tuple_(_c.cap, _c.digest, _c.delivery_id)

_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

TIDY = 100
"""Slots whose time is over that one booking removes, whosever they are."""


def book(
    store: Store,
    connection: Connection,
    cap: str,
    digest: bytes,
    delivery_id: UUID,
    limit: int,
    window: timedelta,
) -> datetime | None:
    """Take a slot now, or book the next one; None: taken, it may go. Else: not before then."""
    _lock(connection, cap, digest)
    now = store.now(connection)  # after the lock: nobody before us has a later one
    mine, others = _slots(connection, cap, digest, delivery_id)
    booked, went = (None, None) if mine is None else (mine.taken_at, mine.went_at)
    at = _place(booked, others, now, limit, window)
    if at <= now:
        went = at
    if mine is None or (booked, mine.went_at) != (at, went):
        own = (_c.cap == cap) & (_c.digest == digest) & (_c.delivery_id == delivery_id)
        connection.execute(delete(cap_slots).where(own))
        values = {"cap": cap, "digest": digest, "delivery_id": delivery_id}
        times = {"taken_at": at, "went_at": went, "free_at": at + window}
        connection.execute(insert(cap_slots), values | times)
    _tidy(connection, now)
    return None if at <= now else at


def _place(
    mine: datetime | None, others: list[datetime], now: datetime, limit: int, window: timedelta
) -> datetime:
    """The moment of the slot: now, or one that is booked."""
    recent = sorted(at for at in others if at > now - window)
    ahead = [at for at in recent if mine is None or at <= now]  # who booked before us has nothing to wait for
    if mine is not None and mine > now:
        return mine
    if len(ahead) < limit:
        return now
    return recent[-limit] + window


def _slots(connection: Connection, cap: str, digest: bytes, delivery_id: UUID) -> tuple[Any, list[datetime]]:
    """The row of the delivery's own slot, or None; and the moments at which the others went or will go."""
    statement = (
        select(_c.delivery_id, _c.taken_at, _c.went_at, deliveries.c.status, deliveries.c.attempt)
        .outerjoin(deliveries, deliveries.c.id == _c.delivery_id)
        .where(_c.cap == cap, _c.digest == digest)
    )
    mine, others = None, set()
    for row in connection.execute(statement):
        if row.delivery_id == delivery_id:
            mine = row
            continue
        ended = row.status in TERMINAL
        if not ended:
            others.add((row.delivery_id, row.taken_at))
        if row.went_at is not None and not (ended and row.attempt == 0):  # leave to go, and never used
            others.add((row.delivery_id, row.went_at))
    return mine, [at for _, at in others]


def _lock(connection: Connection, cap: str, digest: bytes) -> None:
    """On SQLite the transaction is alone already."""
    if connection.dialect.name == "postgresql":
        key = hashlib.sha256(cap.encode() + digest).digest()[:8]
        connection.execute(_LOCK, {"key": int.from_bytes(key, "big", signed=True)})


def _tidy(connection: Connection, now: datetime) -> None:
    """The last act of a transaction, and one that waits for nobody: so it can be in nobody's way."""
    over = select(*cap_slots.primary_key).where(_c.free_at <= now).limit(TIDY)
    found = [tuple(row) for row in connection.execute(over.with_for_update(skip_locked=True))]
    if found:
        connection.execute(delete(cap_slots).where(_KEY.in_(found)))
