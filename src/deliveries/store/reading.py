"""Reading: streams, what stands beside them, and questions to the projection. Nothing here locks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import structs
from sqlalchemy import ColumnElement, Connection, bindparam, select, tuple_

from deliveries.core.delivery import Delivery
from deliveries.core.stream import Recorded, Stream, replay
from deliveries.errors import CorruptHistory, DeliveryNotFound, DeliveryPruned
from deliveries.store.evidence import gathered
from deliveries.store.rows import DELIVERY_COLUMNS, Claimed, Contents, delivery_of, recorded_of, with_contents
from deliveries.store.schema import contents, deliveries, events, notes, tombstones

KEYS_PER_STATEMENT = 500
"""Pairs of tenant and key in one look-up."""

_HISTORIES = (
    select(events, notes.c.text)
    .outerjoin(
        notes,
        (notes.c.delivery_id == events.c.delivery_id) & (notes.c.version == events.c.version),
    )
    .where(events.c.delivery_id.in_(bindparam("ids", expanding=True)))
    .order_by(events.c.delivery_id, events.c.version)
)

_OWNED = (
    select(deliveries.c.id)
    .where(
        deliveries.c.lease_owner == bindparam("worker"),
        deliveries.c.status == "attempting",
        deliveries.c.lease_until.is_not(None),
    )
    .order_by(deliveries.c.id)
)

_log = logging.getLogger("deliveries")


class Reading:
    """The reading half of the store."""

    def histories(self, connection: Connection, ids: Sequence[UUID]) -> dict[UUID, list[Recorded]]:
        """The streams of `ids`, oldest event first; an unknown id has an empty one."""
        found: dict[UUID, list[Recorded]] = {id: [] for id in ids}
        if not found:
            return found
        for row in connection.execute(_HISTORIES, {"ids": list(found)}):
            found[row.delivery_id].append(recorded_of(row, row.text))
        return found

    def streams(
        self, connection: Connection, found: Sequence[Claimed]
    ) -> list[tuple[Claimed, Stream, datetime]]:
        """The streams behind claimed rows, with their contents, and when their last attempt started.

        Those that make no sense are left out.
        """
        histories = self.histories(connection, [one.id for one in found])
        streams = []
        for one in found:
            try:
                stream = replay(histories[one.id])
            except CorruptHistory as error:
                _log.error("delivery %s: its history is corrupt: %s", one.id, error)
                continue
            started = [each.recorded_at for each in histories[one.id] if each.type == "Attempted"]
            if stream.delivery is not None and started:
                delivery = structs.replace(
                    stream.delivery, recipient=one.delivery.recipient, payload=one.delivery.payload
                )
                streams.append((one, structs.replace(stream, delivery=delivery), started[-1]))
        return streams

    def history(self, connection: Connection, id: UUID) -> list[Recorded]:
        """The stream of one delivery. Raises: DeliveryNotFound."""
        history = self.histories(connection, [id])[id]
        if not history:
            raise self.missing(connection, id)
        return history

    def contents(self, connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Contents | None]:
        """What stands beside these deliveries; None where it was erased."""
        found: dict[UUID, Contents | None] = dict.fromkeys(ids)
        statement = select(contents).where(contents.c.delivery_id.in_(ids))
        for row in connection.execute(statement):
            if row.salt is not None:
                found[row.delivery_id] = Contents(recipient=row.recipient, payload=row.payload, salt=row.salt)
        return found

    def get(self, connection: Connection, id: UUID) -> Delivery:
        """The delivery, folded from its events, with its contents. Raises: DeliveryNotFound."""
        delivery = replay(self.history(connection, id)).delivery
        assert delivery is not None
        return self.furnished(connection, delivery)

    def furnished(self, connection: Connection, delivery: Delivery) -> Delivery:
        """`delivery` with its contents."""
        beside = self.contents(connection, [delivery.id])[delivery.id]
        if beside is None:
            return delivery
        return with_contents(delivery, beside.recipient, beside.payload)

    def by_key(
        self, connection: Connection, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[Delivery, Contents | None]]:
        """(tenant, key) -> the delivery it belongs to and what stands beside it, None once erased."""
        found: dict[tuple[str, str], tuple[Delivery, Contents | None]] = {}
        for start in range(0, len(keys), KEYS_PER_STATEMENT):
            statement = (
                select(*DELIVERY_COLUMNS, contents.c.recipient, contents.c.payload, contents.c.salt)
                .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
                .where(
                    tuple_(deliveries.c.tenant, deliveries.c.key).in_(
                        keys[start : start + KEYS_PER_STATEMENT]
                    )
                )
            )
            for row in connection.execute(statement):
                delivery = with_contents(delivery_of(row), row.recipient, row.payload)
                beside = Contents(recipient=row.recipient, payload=row.payload, salt=row.salt)
                found[row.tenant, row.key] = (delivery, None if row.salt is None else beside)
        return found

    def find(
        self,
        connection: Connection,
        limit: int,
        conditions: Sequence[ColumnElement[bool]] = (),
        fits: Callable[[Delivery], bool] = bool,
        before: UUID | None = None,
    ) -> list[Delivery]:
        """Deliveries that meet the conditions and fit, newest first, from the projection.

        `before`: only ids below it.
        """
        found: list[Delivery] = []
        while True:
            older = () if before is None else (deliveries.c.id < before,)
            page, before = self.page(connection, (*conditions, *older), limit, newest=True)
            found += filter(fits, page)
            if before is None or len(found) >= limit:
                return found[:limit]

    def page(
        self,
        connection: Connection,
        conditions: Sequence[ColumnElement[bool]],
        limit: int,
        *,
        newest: bool = False,
    ) -> tuple[list[Delivery], UUID | None]:
        """Up to `limit` deliveries by id, and the last id if there may be more."""
        order = deliveries.c.id.desc() if newest else deliveries.c.id
        statement = select(*DELIVERY_COLUMNS).where(*conditions).order_by(order).limit(limit)
        rows = connection.execute(statement).all()
        found = []
        for row in rows:
            try:
                found.append(delivery_of(row))
            except CorruptHistory as error:
                _log.error("left out: %s", error)  # one row that was tampered with hides no other
        return found, rows[-1].id if len(rows) == limit else None

    def newest(self, connection: Connection) -> UUID | None:
        """The highest id there is."""
        order = deliveries.c.id.desc()
        found: UUID | None = connection.scalar(select(deliveries.c.id).order_by(order).limit(1))
        return found

    def missing(self, connection: Connection, id: UUID) -> DeliveryNotFound:
        """Why there is no delivery `id`: there never was one, or it was pruned."""
        row = connection.execute(select(tombstones).where(tombstones.c.delivery_id == id)).one_or_none()
        if row is None:
            return DeliveryNotFound(id)
        return DeliveryPruned(id, row.pruned_at, row.version, row.digest)

    def evidence(self, connection: Connection, id: UUID) -> list[tuple[str, datetime, Any]]:
        """(kind, recorded at, fact) of one delivery, oldest first."""
        return [(one.kind, one.recorded_at, one.fact) for one in gathered(connection, id)]

    def lease_until(self, connection: Connection, id: UUID) -> datetime | None:
        """When the lease of an open attempt ends."""
        until: datetime | None = connection.scalar(
            select(deliveries.c.lease_until).where(deliveries.c.id == id)
        )
        return until

    def owned(self, connection: Connection, worker: str) -> list[UUID]:
        """The open attempts that carry this worker's lease."""
        return list(connection.scalars(_OWNED, {"worker": worker}))
