"""What is owed, as anybody else sees it: counted in every table of ours."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select

from deliveries import Deliveries
from deliveries.clock import SystemClock
from deliveries.store.schema import contents, deliveries, events
from deliveries.store.store import Store
from support.apps import Calls, everything, schedule

BOOKKEEPING = ("delivery_schema", "delivery_workers", "delivery_secrets")
"""Tables that say nothing of any delivery."""


def owed(app: Deliveries, tenant: str = "") -> list[Any]:
    """The payloads of all deliveries, oldest first; each has its event, its row and its contents."""
    with Store(app.engine, SystemClock()).reading() as connection:
        rows = connection.execute(
            select(deliveries.c.id, contents.c.payload)
            .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
            .where(deliveries.c.tenant == tenant)
            .order_by(deliveries.c.id)
        ).all()
        scheduled = set(
            connection.scalars(
                select(events.c.delivery_id)
                .where(events.c.type == "Scheduled", events.c.delivery_id.in_([row.id for row in rows]))
                .order_by(events.c.delivery_id)
            )
        )
    assert {row.id for row in rows} == scheduled
    return [msgspec.json.decode(row.payload) for row in rows]


def assert_nothing_left(app: Deliveries, calls: Calls | None = None) -> None:
    """No row in any table, no half of a delivery; a processor finds nothing and calls nobody."""
    left = {name: rows for name, rows in everything(app, *BOOKKEEPING).items() if rows}
    assert left == {}, left
    if calls is not None:
        assert app.drain().attempted == 0
        assert calls.made == []
        assert {name: rows for name, rows in everything(app, *BOOKKEEPING).items() if rows} == {}


def assert_key_is_free(app: Deliveries, key: str) -> None:
    """Somebody else can still have the key, at once."""
    assert schedule(app, "email", "somebody else's", key=key).created
