"""A batch that a guard refused is started one by one: who is refused alone is put aside."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, update

from deliveries import Deliveries, DeliveryNotFound
from deliveries.core.events import Attempted
from deliveries.processor.claims import Claims
from deliveries.processor.now import Now
from deliveries.processor.settings import Settings
from deliveries.processor.sweep import ASIDE_SECONDS
from deliveries.store.schema import contents, events
from deliveries.store.store import Store
from store.acts import event_row
from support.apps import Apps, RunningClock, kinds, row, schedule

LEASE = 30.0


@pytest.fixture
def app(fresh_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    apps.damaged = True
    app = apps(fresh_url, clock)
    app.adapter("email")(lambda delivery, attempt: None)
    return app


@pytest.fixture
def claims(app: Deliveries, clock: RunningClock) -> Claims:
    store = Store(app.engine, clock)
    return Claims(store, app.channels, "w1", Settings(queues={"email": 10}, lease=LEASE), Now(store))


def occupy(app: Deliveries, id: Any) -> None:
    """Take the place of the delivery's next event, so that the database refuses it."""
    with app.engine.begin() as connection:
        connection.execute(insert(events), event_row(id, version=2))


def test_who_is_refused_alone_refuses_no_other(app: Deliveries, claims: Claims, clock: RunningClock) -> None:
    first, refused, last = (schedule(app).id for _ in range(3))
    occupy(app, refused)
    started = claims.isolate([first, refused, last])
    assert [change.after.id for change in started] == [first, last]
    assert all(isinstance(change.event, Attempted) for change in started)
    for id in (first, last):
        assert kinds(app, id) == ["Scheduled", "Attempted"]
        assert (row(app, id).status, row(app, id).lease_owner) == ("attempting", "w1")
        assert 0 < (row(app, id).lease_until - clock.now()).total_seconds() <= LEASE


def test_who_is_refused_is_left_alone_for_a_while(
    app: Deliveries, claims: Claims, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    refused = schedule(app).id
    occupy(app, refused)
    assert claims.isolate([refused]) == []
    assert caplog.messages == [f"put aside: {refused}: the database refuses its attempt"]
    assert row(app, refused).status == "pending"
    left_alone = (row(app, refused).lease_until - clock.now()).total_seconds()
    assert ASIDE_SECONDS - 1 < left_alone <= ASIDE_SECONDS


def test_what_is_not_due_by_now_is_not_started(app: Deliveries, claims: Claims) -> None:
    due, later = schedule(app).id, schedule(app, delay=60).id
    assert [change.after.id for change in claims.isolate([later, due])] == [due]
    assert claims.isolate([later, due]) == []
    assert kinds(app, later) == ["Scheduled"]


def test_who_cannot_be_read_is_put_aside_and_not_started(
    app: Deliveries, claims: Claims, clock: RunningClock
) -> None:
    unreadable = schedule(app).id
    with app.engine.begin() as connection:
        connection.execute(
            update(contents).where(contents.c.delivery_id == unreadable).values(payload="{broken")
        )
    assert claims.start(unreadable) is None
    assert kinds(app, unreadable) == ["Scheduled"]
    assert (row(app, unreadable).lease_until - clock.now()).total_seconds() > ASIDE_SECONDS - 1


def test_a_delivery_that_does_not_exist_cannot_be_started(app: Deliveries, claims: Claims) -> None:
    gone = event_row()["delivery_id"]
    with pytest.raises(DeliveryNotFound):
        claims.start(gone)
