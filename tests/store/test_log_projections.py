"""eventsourcing's own runner on our log, which it makes by itself from the class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from eventsourcing import persistence as es
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.popo import POPOTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from sqlalchemy import Connection, Engine, insert

from deliveries import Deliveries, Entry
from deliveries import Projection as Following
from deliveries.core import outcomes as o
from deliveries.store import positions
from deliveries.store.log import DeliveryEvent, UnreadableDeliveryEvent, log_class
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.schema import events
from deliveries.testing.examples import report
from store.acts import Acts, event_row


class Counts(POPOTrackingRecorder):
    """How many events of each type there were."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def add(self, name: str, tracking: es.Tracking) -> None:
        with self._database_lock:
            self._assert_tracking_uniqueness(tracking)
            self._insert_tracking(tracking)
            self.seen.append(name)


class Counting(Projection[Counts]):
    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: es.Tracking) -> None:
        raise NotImplementedError

    @process_event.register
    def _(self, domain_event: DeliveryEvent, tracking: es.Tracking) -> None:
        self.view.add(domain_event.type, tracking)

    @process_event.register
    def _(self, domain_event: UnreadableDeliveryEvent, tracking: es.Tracking) -> None:
        self.view.add("unreadable", tracking)


class CountingEnds(Counting):
    topics = ("Succeeded",)


@pytest.fixture
def running(acts: Acts) -> Callable[..., Any]:
    def run(projection: type[Counting]) -> Any:
        return ProjectionRunner(
            application_class=log_class(acts.store),
            projection_class=projection,
            view_class=Counts,
            env={"PERSISTENCE_MODULE": "eventsourcing.popo"},
        )

    return run


def test_a_projection_runner_passes_by_what_is_unreadable(acts: Acts, running: Callable[..., Any]) -> None:
    first = acts.schedule()
    with acts.store.transaction() as connection:
        connection.execute(insert(events), event_row(body=b"\xff"))
    acts.attempt(first)
    with running(Counting) as runner:
        runner.wait(runner.app.recorder.max_notification_id(), timeout=30)
        assert runner.view.seen == ["Scheduled", "unreadable", "Attempted"]
        acts.do(first, report(1, o.Delivered()))
        runner.app.wake()
        runner.wait(runner.app.recorder.max_notification_id(), timeout=30)
    assert runner.view.seen == ["Scheduled", "unreadable", "Attempted", "Succeeded"]


def test_a_projection_of_types(acts: Acts, running: Callable[..., Any]) -> None:
    id = acts.schedule()
    acts.attempt(id)
    acts.do(id, report(1, o.Delivered()))
    with running(CountingEnds) as runner:
        runner.wait(3, timeout=30)
    assert runner.view.seen == ["Succeeded"]


class Entering(POPOTrackingRecorder):
    """Which events there were, by delivery and version."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, int]] = []

    def add(self, event: DeliveryEvent, tracking: es.Tracking) -> None:
        with self._database_lock:
            self._assert_tracking_uniqueness(tracking)
            self._insert_tracking(tracking)
            self.seen.append((event.originator_id, event.originator_version))


class Listing(Projection[Entering]):
    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: es.Tracking) -> None:
        self.view.add(domain_event, tracking)


def test_a_runner_sees_what_our_own_follower_sees(
    acts: Acts, database_url: str, engines: Callable[..., Engine]
) -> None:
    """The same events in the same order, from an application's own log."""
    ids = [acts.schedule() for _ in range(3)]
    for id in ids[:2]:
        acts.attempt(id)
        acts.do(id, report(1, o.Delivered()))
    app = Deliveries(engines(database_url))
    ours: list[tuple[Any, int]] = []

    def note(entries: Sequence[Entry], connection: Connection) -> None:
        ours.extend((one.delivery_id, one.version) for one in entries)

    app.follow(Following("ours", note), until_caught_up=True, batch=2)
    with ProjectionRunner(
        application_class=app.event_log_class, projection_class=Listing, view_class=Entering
    ) as runner:
        runner.wait(runner.app.recorder.max_notification_id(), timeout=30)
        assert runner.view.seen == ours
    assert len(ours) == 7
    app.close()


def test_a_runners_position_in_our_tables_is_none_of_our_projections(acts: Acts) -> None:
    """Both libraries may keep a projection of one name in `delivery_positions`."""
    recorder = DeliveryRecorder(acts.store)
    acts.schedule()
    recorder.insert_tracking(es.Tracking("seen", 1))
    with acts.store.reading() as connection:
        key = Following("seen", lambda entries, connection: None).key
        assert positions.position_of(connection, key) is None
        assert positions.position_of(connection, "seen") == 1
