"""The announced bound on PostgreSQL: how far the log is complete, said without any writer waiting.

Positions are drawn before a transaction commits. Each scenario here is led by hand, connection by
connection, so it is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, insert, select, text

from deliveries.clock import SystemClock
from deliveries.store.ddl import SHIFT
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.schema import events
from deliveries.store.store import Store
from store.acts import event_row

ANNOUNCED = text("""
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
  AND classid = CAST('delivery_events' AS regclass)::oid AND pid = :pid
""")


@pytest.fixture
def store(postgresql_url: str, engines: Callable[..., Engine]) -> Store:
    return Store(engines(postgresql_url), SystemClock())


@pytest.fixture
def recorder(store: Store) -> DeliveryRecorder:
    return DeliveryRecorder(store)


@pytest.fixture
def writer(store: Store) -> Any:
    """A connection in a transaction that is still open."""
    with store.engine.connect() as connection:
        yield connection


def write(connection: Connection, count: int = 1) -> list[UUID]:
    """So many events in one statement."""
    rows = [event_row() for _ in range(count)]
    connection.execute(insert(events), rows)
    return [row["delivery_id"] for row in rows]


def committed(store: Store, count: int = 1) -> list[UUID]:
    with store.engine.begin() as connection:
        return write(connection, count)


def tail(recorder: DeliveryRecorder, after: int = 0) -> list[UUID | str]:
    return [found.originator_id for found in recorder.page(after, 10_000)[0]]


def naive(store: Store, after: int) -> list[Any]:
    """Known bad: whatever is there above the highest position seen so far."""
    with store.engine.connect() as connection:
        statement = select(events.c.position, events.c.delivery_id).where(events.c.position > after)
        return list(connection.execute(statement.order_by(events.c.position)))


def announcements(store: Store, writer: Connection) -> int:
    """Locks that the writer's transaction holds to announce its bound."""
    pid = writer.scalar(text("SELECT pg_backend_pid()"))
    with store.engine.connect() as other:
        return int(other.execute(ANNOUNCED, {"pid": pid}).scalar_one())


# -- what commits late -------------------------------------------------------------------------


def test_an_open_transaction_holds_the_reader_back(
    store: Store, recorder: DeliveryRecorder, writer: Connection
) -> None:
    (late,) = write(writer)
    early = committed(store, 3)
    assert tail(recorder) == []
    assert recorder.max_notification_id() is None
    writer.commit()
    assert tail(recorder) == [late, *early]
    assert recorder.max_notification_id() == 4


def test_what_a_naive_reader_loses_the_recorder_does_not(
    store: Store, recorder: DeliveryRecorder, writer: Connection
) -> None:
    (late,) = write(writer)
    (early,) = committed(store)
    (seen,) = naive(store, 0)
    first = recorder.page(0, 100)
    writer.commit()
    lost = [row.delivery_id for row in naive(store, seen.position)]
    assert (seen.delivery_id, lost) == (early, []), "the naive reader never gets the late one"
    assert [*first[0], *tail(recorder, first[1])] == [late, early]


def test_a_rolled_back_transaction_holds_nobody_back(
    store: Store, recorder: DeliveryRecorder, writer: Connection
) -> None:
    write(writer, 5)
    early = committed(store, 2)
    writer.rollback()
    assert tail(recorder) == early
    assert recorder.max_notification_id() == 7, "positions have a gap"


def test_a_subscription_goes_on_where_the_log_was_complete(
    store: Store, recorder: DeliveryRecorder, writer: Connection
) -> None:
    before = committed(store, 2)
    with recorder.subscribe() as subscription:
        seen = [next(subscription).originator_id for _ in before]
        late = write(writer)
        after = committed(store, 2)
        writer.commit()
        seen += [next(subscription).originator_id for _ in [*late, *after]]
    assert seen == [*before, *late, *after]


def test_a_subscription_from_the_highest_position_misses_nothing(
    store: Store, recorder: DeliveryRecorder, writer: Connection
) -> None:
    committed(store, 3)
    late = write(writer)
    committed(store)
    start = recorder.max_notification_id()
    writer.commit()
    assert set(late) <= set(tail(recorder, start or 0))


def test_the_bound_is_rounded_down(store: Store, recorder: DeliveryRecorder, writer: Connection) -> None:
    """Few distinct locks exist; in return up to 1,023 complete events wait with the open ones."""
    old = committed(store, (1 << SHIFT) + 500)
    late = write(writer)
    new = committed(store, 5)
    assert tail(recorder) == old[: 1 << SHIFT]
    writer.commit()
    assert tail(recorder) == [*old, *late, *new]


def test_writers_in_another_database_hold_nobody_back(
    store: Store, recorder: DeliveryRecorder, postgresql_server: Any, engines: Callable[..., Engine]
) -> None:
    """Both databases are copies of one template: their tables have the same object ids."""
    url = postgresql_server.create_with_schema()
    with engines(url).connect() as elsewhere:
        write(elsewhere)
        assert tail(recorder) == []
        here = committed(store)
        assert tail(recorder) == here
    postgresql_server.drop(url)


def test_an_empty_log_is_complete_up_to_nothing(store: Store, recorder: DeliveryRecorder) -> None:
    assert recorder.page(0, 10) == ([], 0)
    (first,) = committed(store)
    assert tail(recorder) == [first], "the sequence's last value is 1 before and after the first"


# -- a snapshot for each statement -------------------------------------------------------------


def commits_before_the_locks_are_read(engine: Engine, writer: Connection) -> None:
    """The writer commits after the reader has read the sequence, before it looks for announcements."""

    @event.listens_for(engine, "before_cursor_execute")
    def commit(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "pg_locks" in statement:
            writer.commit()


LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"]


@pytest.mark.parametrize("level", LEVELS)
def test_the_recorder_reads_at_read_committed_whatever_the_engine_says(
    postgresql_url: str, engines: Callable[..., Engine], writer: Connection, level: str
) -> None:
    engine = engines(postgresql_url, isolation_level=level)
    late = write(writer)
    commits_before_the_locks_are_read(engine, writer)
    assert tail(DeliveryRecorder(Store(engine, SystemClock()))) == late


def test_the_harness_would_see_a_reader_with_one_snapshot(
    postgresql_url: str, engines: Callable[..., Engine], writer: Connection
) -> None:
    """Known bad: at REPEATABLE READ the bound has moved on and the events are not to be seen."""
    engine = engines(postgresql_url, isolation_level="REPEATABLE READ")
    late = write(writer)
    commits_before_the_locks_are_read(engine, writer)
    with engine.connect() as reader:
        safe = Store(engine, SystemClock()).backend.safe_position(reader)
        found = reader.scalars(select(events.c.delivery_id).where(events.c.position <= safe)).all()
    assert (safe, found) == (len(late), []), "it would go on from here, past what it has not seen"


# -- announcing --------------------------------------------------------------------------------


def test_3000_statements_announce_once(store: Store, writer: Connection) -> None:
    """A lock for each would fill the server's lock table, for everybody."""
    for _ in range(3_000):
        write(writer)
    assert announcements(store, writer) == 1


def test_a_savepoints_rollback_takes_the_announcement_and_its_mark(
    store: Store, recorder: DeliveryRecorder, writer: Connection
) -> None:
    savepoint = writer.begin_nested()
    write(writer)
    assert announcements(store, writer) == 1
    savepoint.rollback()
    assert announcements(store, writer) == 0
    early = committed(store)
    assert tail(recorder) == early, "nothing is open below"
    late = write(writer)
    assert announcements(store, writer) == 1, "the mark was undone with the lock"
    later = committed(store)
    assert tail(recorder, 2) == []
    writer.commit()
    assert tail(recorder) == [*early, *late, *later]


def test_an_announcement_outlives_the_savepoints_after_it(store: Store, writer: Connection) -> None:
    write(writer)
    for _ in range(3):
        savepoint = writer.begin_nested()
        write(writer)
        savepoint.rollback()
    with writer.begin_nested():
        write(writer)
    assert announcements(store, writer) == 1


def test_each_transaction_announces_for_itself(store: Store) -> None:
    """The mark names the transaction, so the next one on the same connection is not silenced."""
    with store.engine.connect() as connection:
        for _ in range(3):
            write(connection)
            assert announcements(store, connection) == 1
            connection.commit()
            assert announcements(store, connection) == 0


@pytest.mark.parametrize("kind", ["copy", "insert select", "returning"])
def test_every_way_of_inserting_announces(store: Store, writer: Connection, kind: str) -> None:
    columns = "delivery_id, version, type, schema_version, recorded_at, body, digest"
    committed(store)
    if kind == "copy":
        cursor: Any = writer.connection.cursor()
        with cursor.copy(f"COPY delivery_events ({columns}) FROM STDIN") as copy:
            copy.write_row(tuple(event_row().values()))
    elif kind == "insert select":
        values = columns.replace("delivery_id", "gen_random_uuid()")
        copied = f"INSERT INTO delivery_events ({columns}) SELECT {values} FROM delivery_events"
        writer.execute(text(copied))
    else:
        writer.execute(insert(events).returning(events.c.position), [event_row()]).all()
    assert announcements(store, writer) == 1
