"""Our recorder beyond the library's contract: what it refuses, chains and carries, and how it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing import persistence as es
from sqlalchemy import Connection, Engine, create_engine, insert, text

from deliveries.core.codec import GENESIS, REGISTERED, digest
from deliveries.errors import EngineNotConfigured, SchemaMissing
from deliveries.store.recorder import ChainedEvent, ChainedNotification, DeliveryRecorder
from deliveries.store.schema import events
from deliveries.store.store import Store
from store.acts import Acts, StoppedClock

LONG = 3600.0


@pytest.fixture
def recorder(acts: Acts) -> DeliveryRecorder:
    return DeliveryRecorder(acts.store)


def stored(
    id: UUID | str | None = None, version: int = 0, topic: str = "noise", state: bytes = b"\xff"
) -> es.StoredEvent:
    return es.StoredEvent(id or uuid4(), version, topic, state)


def chained(found: Any) -> bool:
    """Whether these events of one stream, oldest first, are a chain from its very start."""
    previous = GENESIS
    for one in found:
        previous = digest(
            previous,
            one.originator_id,
            one.originator_version,
            one.topic,
            one.schema_version,
            one.recorded_at,
            one.state,
        )
        if one.digest != previous:
            return False
    return True


# -- what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("topic", sorted(REGISTERED))
def test_our_own_types_are_written_through_deliveries_only(recorder: DeliveryRecorder, topic: str) -> None:
    with pytest.raises(es.IntegrityError, match="written through Deliveries"):
        recorder.insert_events([stored(version=1), stored(version=1, topic=topic)])
    assert recorder.select_notifications(None, 10) == []


def test_a_foreign_event_does_not_get_into_a_delivery(recorder: DeliveryRecorder, acts: Acts) -> None:
    """It would take the version that the next event of the delivery needs."""
    id = acts.schedule()
    with pytest.raises(es.IntegrityError, match="written through Deliveries"):
        recorder.insert_events([stored(id, 2)])
    assert len(acts.history(id)) == 1


def test_a_stream_grows_at_its_end(recorder: DeliveryRecorder) -> None:
    id = uuid4()
    recorder.insert_events([stored(id, 3), stored(id, 5)])
    for version in (0, 3, 4, 5):
        with pytest.raises(es.IntegrityError, match="is taken"):
            recorder.insert_events([stored(id, version)])
    assert [found.originator_version for found in recorder.select_events(id)] == [3, 5]


def test_a_refused_tracking_takes_the_events_with_it(recorder: DeliveryRecorder) -> None:
    recorder.insert_events([], tracking=es.Tracking("billing", 7))
    id = uuid4()
    with pytest.raises(es.IntegrityError, match="billing"):
        recorder.insert_events([stored(id)], tracking=es.Tracking("billing", 7))
    assert recorder.select_events(id) == []


def test_refused_events_take_the_tracking_with_them(recorder: DeliveryRecorder) -> None:
    with pytest.raises(es.IntegrityError):
        recorder.insert_events([stored(topic="Scheduled")], tracking=es.Tracking("billing", 7))
    assert recorder.max_tracking_id("billing") is None


def test_an_id_is_a_uuid_or_its_text(recorder: DeliveryRecorder) -> None:
    id = uuid4()
    recorder.insert_events([stored(str(id))])
    assert [found.originator_id for found in recorder.select_events(str(id))] == [id]
    for act in (lambda: recorder.insert_events([stored("seven")]), lambda: recorder.select_events("seven")):
        with pytest.raises(es.ProgrammingError, match="'seven'"):
            act()


def test_nothing_to_insert_is_nothing(recorder: DeliveryRecorder) -> None:
    assert recorder.insert_events([]) == []
    assert recorder.max_notification_id() is None


# -- what it chains and carries ----------------------------------------------------------------


def test_foreign_events_are_chained_like_ours(recorder: DeliveryRecorder) -> None:
    id, other = uuid4(), uuid4()
    recorder.insert_events([stored(id, 0), stored(other, 0), stored(id, 1)])
    recorder.insert_events([stored(id, 2, state=b""), stored(other, 1, "ruído")])
    assert chained(recorder.select_events(id))
    assert chained(recorder.select_events(other))
    assert {found.schema_version for found in recorder.select_notifications(None, 10)} == {0}


def test_recorded_at_never_goes_back(recorder: DeliveryRecorder, clock: StoppedClock) -> None:
    id, before = uuid4(), clock.now()
    recorder.insert_events([stored(id, 0)])
    clock.pass_by(-60)
    recorder.insert_events([stored(id, 1), stored(other := uuid4(), 0)])
    assert [found.recorded_at for found in recorder.select_events(id)] == [before, before]
    (elsewhere,) = recorder.select_events(other)
    assert elsewhere.recorded_at == before - timedelta(seconds=60)


def test_rows_come_back_whole(recorder: DeliveryRecorder, acts: Acts) -> None:
    id = acts.schedule()
    (recorded,) = acts.history(id)
    (event,) = recorder.select_events(id)
    (notification,) = recorder.select_notifications(None, 10)
    whole = (recorded.type, recorded.body, recorded.recorded_at, recorded.schema_version, recorded.digest)
    for found in (event, notification):
        assert isinstance(found, es.StoredEvent)
        assert (found.originator_id, found.originator_version) == (id, 1)
        parts = (found.topic, found.state, found.recorded_at, found.schema_version, found.digest)
        assert parts == whole
    assert isinstance(event, ChainedEvent)
    assert isinstance(notification, ChainedNotification)
    assert notification.id == recorded.position


def test_eight_writers_of_one_stream_make_one_chain(recorder: DeliveryRecorder) -> None:
    """Each writes the version after the one it has read, and tries again if that is taken."""
    id, each = uuid4(), 5

    def write() -> None:
        for _ in range(each):
            while True:
                last = recorder.select_events(id, desc=True, limit=1)
                try:
                    recorder.insert_events([stored(id, last[0].originator_version + 1 if last else 0)])
                except es.IntegrityError:
                    continue
                break

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = recorder.select_events(id)
    assert [one.originator_version for one in found] == list(range(8 * each))
    assert chained(found)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"])
def test_a_writer_that_had_to_wait_is_chained_to_what_it_waited_for(
    postgresql_url: str, engines: Callable[..., Engine], level: str
) -> None:
    """Two write different versions of a new stream; the later waits, whatever the engine's level."""
    store = Store(engines(postgresql_url, isolation_level=level), StoppedClock())
    recorder, id = DeliveryRecorder(store), uuid4()
    with store.transaction() as first:
        first.execute(insert(events), recorder._chained(first, [stored(id, 0)]))
        second = threading.Thread(target=recorder.insert_events, args=[[stored(id, 1)]])
        second.start()
        while not store_has_waiters(first):
            assert second.is_alive(), "it waits for the first one's end"
    second.join(30)
    assert len(recorder.select_events(id)) == 2
    assert chained(recorder.select_events(id))


def store_has_waiters(connection: Connection) -> bool:
    waiting = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    return bool(connection.scalar(text(waiting)))


# -- the database's word, in the library's -----------------------------------------------------


def test_database_errors_are_the_librarys(postgresql_url: str, engines: Callable[..., Engine]) -> None:
    recorder = DeliveryRecorder(Store(engines(postgresql_url), StoppedClock()))
    with pytest.raises(es.DataError, match="out of range"):
        recorder.insert_events([stored(version=2**40)])
    with pytest.raises(es.DataError):
        recorder.insert_events([stored(topic="a\0b")])
    nowhere = create_engine("postgresql+psycopg:///?host=/nonexistent")
    with pytest.raises(es.OperationalError):
        DeliveryRecorder(Store(nowhere, StoppedClock())).max_notification_id()


def test_a_missing_schema_is_told_as_ours(empty_url: str, engines: Callable[..., Engine]) -> None:
    recorder = DeliveryRecorder(Store(engines(empty_url), StoppedClock()))
    with pytest.raises(SchemaMissing):
        recorder.select_notifications(None, 10)
    with pytest.raises(SchemaMissing):
        recorder.insert_events([stored()])


def test_an_unconfigured_sqlite_engine_is_refused(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    recorder = DeliveryRecorder(Store(engine, StoppedClock()))
    with pytest.raises(EngineNotConfigured):
        recorder.insert_events([stored()])
    engine.dispose()
