"""Acts on a store, each in a transaction of its own, for tests that look at what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, select

from deliveries.core import commands as c
from deliveries.core.delivery import Delivery
from deliveries.core.notes import salted
from deliveries.core.stream import START, Change, Recorded, Stream, advance, replay
from deliveries.store.rows import Birth, Contents, Write, delivery_of
from deliveries.store.schema import deliveries
from deliveries.store.store import Store
from deliveries.testing.clock import VirtualClock
from deliveries.testing.examples import NOW, scheduled, start


class StoppedClock(VirtualClock):
    """Starts at `NOW`."""

    def __init__(self, instant: datetime = NOW) -> None:
        super().__init__(instant)

    pass_by = VirtualClock.advance


class WrongClock:
    """A process's clock that is off, on a database that has one of its own."""

    authoritative = False

    def __init__(self, instant: datetime) -> None:
        self.instant = instant

    def now(self) -> datetime:
        return self.instant


class Acts:
    """What a test does to `store`, committed act by act."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def schedule(self, recipient: str = "ann@example.org", **fields: Any) -> UUID:
        """One delivery; unless `fields` say otherwise, due at `NOW`. Returns its id."""
        born = birth(recipient, **fields)
        with self.store.transaction() as connection:
            created = self.store.schedule(connection, [born])
        assert created == {born.change.after.id}
        return born.change.after.id

    def do(self, id: UUID, command: c.Command, **columns: Any) -> Change:
        """Lead a delivery one event on; `columns` are the operational ones of `Write`."""
        change = self.next(id, command)
        if isinstance(command, c.Start):
            columns = {"lease_owner": "w1", "lease_seconds": 60.0, **columns}
        assert self.append(Write(change, **columns)) == {id}
        return change

    def attempt(self, id: UUID, owner: str = "w1", seconds: float = 60.0, **limits: Any) -> Change:
        """Start the next attempt, under a lease."""
        return self.do(id, start(**limits), lease_owner=owner, lease_seconds=seconds)

    def next(self, id: UUID, command: c.Command) -> Change:
        """The event that `command` leads to, not yet written."""
        change = advance(self.stream(id), command)
        assert change is not None, f"{command} led to nothing"
        return change

    def append(self, *writes: Write) -> set[UUID]:
        with self.store.transaction() as connection:
            return self.store.backend.append(connection, writes, self.store.deciding_now)

    def claim(self, limit: int = 100, **filters: Any) -> list[UUID]:
        """The ids that a claim of the queue `email` gets; the claim is given up again."""
        with self.store.transaction() as connection:
            return [claimed.id for claimed in self.claimed(connection, limit, **filters)]

    def claimed(
        self,
        connection: Connection,
        limit: int = 100,
        queue: str = "email",
        channels: Sequence[str] = ("email",),
        cutoff: datetime | None = None,
    ) -> list[Any]:
        now = self.store.deciding_now
        return self.store.backend.claim(connection, queue, channels, limit, now, cutoff)

    # -- what is left --------------------------------------------------------------------------

    def history(self, id: UUID) -> list[Recorded]:
        with self.store.reading() as connection:
            return self.store.histories(connection, [id])[id]

    def stream(self, id: UUID) -> Stream:
        return replay(self.history(id))

    def row(self, id: UUID) -> Any:
        with self.store.reading() as connection:
            return connection.execute(select(deliveries).where(deliveries.c.id == id)).one()

    def projected(self, id: UUID) -> Delivery:
        """The delivery in its row."""
        return delivery_of(self.row(id))


def birth(recipient: str | None = "ann@example.org", **fields: Any) -> Birth:
    """A delivery about to be scheduled on the channel and queue `email`."""
    salt, payload = b"salt", '{"order":7}'
    digests = {
        "payload_digest": salted(salt, payload.encode()),
        "recipient_digest": None if recipient is None else salted(salt, recipient.encode()),
    }
    event = scheduled(**({"delivery_id": uuid4()} | digests | fields))
    change = advance(START, c.Schedule(now=event.scheduled_at, scheduled=event))
    assert change is not None
    return Birth(change, Contents(recipient=recipient, payload=payload, salt=salt))


def event_row(
    id: UUID | None = None, version: int = 0, kind: str = "Noise", **columns: Any
) -> dict[str, Any]:
    """An event as a row, written past every check but the database's own."""
    return {
        "delivery_id": id or uuid4(),
        "version": version,
        "type": kind,
        "schema_version": 1,
        "recorded_at": NOW,
        "body": b"{}",
        "digest": bytes(32),
    } | columns
