"""Leading a delivery in a database to any standing, by constructing its history."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from deliveries import Deliveries
from deliveries.core.stream import advance, replay
from deliveries.store.store import Store
from deliveries.testing.lives import DEADLINE, ENDINGS, life
from support.apps import RunningClock, schedule


def lead(app: Deliveries, clock: RunningClock, ending: str, **options: Any) -> UUID:
    """A delivery in the database that has lived up to `ending`."""
    told = life(ending)
    store = Store(app.engine, clock)
    clock.travel(told.commands[0].now)
    given = {"recipient": "ann@example.org", "expires_at": DEADLINE} | options
    id = schedule(app, "email", {"secret": 1}, **given).id
    for command in told.commands[1:]:
        clock.travel(command.now)
        with store.transaction() as connection:
            change = advance(replay(store.history(connection, id)), command)
            assert change is not None
            write = store.write_of(change, lease_owner="w1", lease_seconds=60)
            assert store.backend.append(connection, [write], store.deciding_now) == {id}
    assert app.get(id).status is ENDINGS[ending].status
    return id
