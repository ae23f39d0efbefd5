"""Subscriptions: every event once, in order, and no end but `stop`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from eventsourcing import persistence as es
from sqlalchemy import Engine, insert

from deliveries.errors import SchemaMissing
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.schema import events
from deliveries.store.store import Store
from store.acts import Acts, StoppedClock, event_row

LONG = 3600.0


@pytest.fixture
def recorder(acts: Acts) -> DeliveryRecorder:
    return DeliveryRecorder(acts.store)


def stored(id: UUID | None = None, topic: str = "noise") -> es.StoredEvent:
    return es.StoredEvent(id or uuid4(), 0, topic, b"")


class Listener(threading.Thread):
    """Takes what a subscription gives, until it ends."""

    def __init__(self, subscription: Any) -> None:
        super().__init__()
        self.subscription = subscription
        self.seen: list[Any] = []
        self.changed = threading.Condition()

    def run(self) -> None:
        for found in self.subscription:
            with self.changed:
                self.seen.append(found.originator_id)
                self.changed.notify_all()

    def has_seen(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.seen) >= count, 30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.subscription.stop()
        self.join(30)
        assert not self.is_alive(), "stop() ends it, wherever it waits"


def test_a_subscription_is_woken_by_what_is_inserted_here(acts: Acts) -> None:
    recorder = DeliveryRecorder(acts.store, poll_seconds=LONG)
    ids = [uuid4() for _ in range(3)]
    with Listener(recorder.subscribe()) as listener:
        for count, id in enumerate(ids, start=1):
            recorder.insert_events([stored(id)])
            assert listener.has_seen(count)
    assert listener.seen == ids


def test_a_subscription_is_woken_from_outside(acts: Acts) -> None:
    recorder = DeliveryRecorder(acts.store, poll_seconds=LONG)
    with Listener(recorder.subscribe()) as listener:
        id = acts.schedule()
        recorder.wake()
        assert listener.has_seen(1)
    assert listener.seen == [id]


def test_a_subscription_finds_by_itself_what_nobody_told_it(acts: Acts) -> None:
    recorder = DeliveryRecorder(acts.store, poll_seconds=0.01)
    with Listener(recorder.subscribe()) as listener:
        id = acts.schedule()
        assert listener.has_seen(1)
    assert listener.seen == [id]


def test_one_bell_wakes_every_subscription(acts: Acts) -> None:
    recorder = DeliveryRecorder(acts.store, poll_seconds=LONG)
    with Listener(recorder.subscribe()) as one, Listener(recorder.subscribe()) as other:
        acts.schedule()
        recorder.wake()
        assert one.has_seen(1)
        assert other.has_seen(1)


def test_a_subscription_reads_more_than_a_page(recorder: DeliveryRecorder) -> None:
    ids = [uuid4() for _ in range(1_200)]
    recorder.insert_events([stored(id) for id in ids])
    with Listener(recorder.subscribe()) as listener:
        assert listener.has_seen(len(ids))
    assert listener.seen == ids


def test_a_subscription_of_topics_passes_by_the_others(acts: Acts) -> None:
    """Also those at the end of the log, which it does not read again and again."""
    recorder = DeliveryRecorder(acts.store, poll_seconds=LONG)
    wanted = uuid4()
    recorder.insert_events([stored(), stored(wanted, topic="signal"), stored()])
    with Listener(recorder.subscribe(topics=["signal"])) as listener:
        assert listener.has_seen(1)
        recorder.insert_events([stored()])
        recorder.insert_events([stored(later := uuid4(), topic="signal")])
        assert listener.has_seen(2)
    assert listener.seen == [wanted, later]
    assert listener.subscription._after == 5


def test_nothing_unreadable_ends_a_subscription(recorder: DeliveryRecorder, acts: Acts) -> None:
    with acts.store.transaction() as connection:
        rows = [
            event_row(body=b"\xff\x00", schema_version=-7),
            event_row(version=1, kind="Scheduled", body=b'{"delivery_id":'),
            event_row(kind="os:system", body=b"cos\nsystem\n."),
            event_row(body=b""),
        ]
        connection.execute(insert(events), rows)
    last = acts.schedule()
    with Listener(recorder.subscribe()) as listener:
        assert listener.has_seen(5)
    assert listener.seen == [*(row["delivery_id"] for row in rows), last]


def test_a_subscription_goes_on_after_a_database_error(
    empty_url: str, engines: Callable[..., Engine]
) -> None:
    store = Store(engines(empty_url), StoppedClock())
    subscription = DeliveryRecorder(store).subscribe()
    with pytest.raises(SchemaMissing):
        next(subscription)
    store.create_schema()
    id = Acts(store).schedule()
    assert next(subscription).originator_id == id
