"""What `perform` answers: for whoever dispatches, and must know when to come back."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection

from deliveries.core.delivery import Delivery, Status
from deliveries.store.store import Store


class Performed(Struct, frozen=True, kw_only=True):
    """What became of one delivery that was to be performed now."""

    result: Literal["done", "not_due", "busy"]
    """`done`: nothing more to do here (ended, or held for a lookup or a person). `not_due`: pending,
    come back at `until`. `busy`: somebody else attempts it; look again at `until`."""
    until: datetime | None
    """UTC; None for `done`."""
    attempted: bool
    """True where this call entered an attempt."""
    delivery: Delivery


def performed(store: Store, connection: Connection, id: UUID, attempted: bool) -> Performed:
    """The answer, read from the stream after the attempt."""
    delivery = store.get(connection, id)
    if delivery.is_terminal or delivery.status is Status.HELD:
        return Performed(result="done", until=None, attempted=attempted, delivery=delivery)
    if delivery.status is Status.PENDING and (attempted or _later(delivery, store.now(connection))):
        return Performed(result="not_due", until=delivery.due_at, attempted=attempted, delivery=delivery)
    until = store.lease_until(connection, id) or store.now(connection)
    return Performed(result="busy", until=until, attempted=attempted, delivery=delivery)


def _later(delivery: Delivery, now: datetime) -> bool:
    return delivery.due_at is not None and delivery.due_at > now
