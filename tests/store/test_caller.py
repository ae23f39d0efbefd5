"""The caller's own transaction: what it leaves, and which connections are refused for it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, create_engine, func, make_url, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from deliveries.clock import SystemClock
from deliveries.errors import CallerError, EngineNotConfigured
from deliveries.sqlite import configure
from deliveries.store.rows import Birth
from deliveries.store.schema import contents, deliveries, events
from deliveries.store.store import Store
from store.acts import birth
from support.apps import statements


def count(store: Store) -> list[Any]:
    """How many rows there are of everything that scheduling writes."""
    with store.reading() as connection:
        return [
            connection.scalar(select(func.count()).select_from(table))
            for table in (events, deliveries, contents)
        ]


@pytest.fixture
def born() -> Birth:
    return birth()


@pytest.fixture
def store_on_sqlite(sqlite_url: str, engines: Callable[..., Engine]) -> Store:
    return Store(engines(sqlite_url), SystemClock())


@pytest.fixture
def unconfigured(sqlite_url: str) -> Any:
    engine = create_engine(sqlite_url)
    yield engine
    engine.dispose()


# -- what is left of it ------------------------------------------------------------------------


def test_what_a_caller_schedules_is_there_after_the_commit(store: Store, born: Birth) -> None:
    with Session(store.engine) as session, session.begin():
        store.schedule(store.caller(session), [born])
        with store.reading() as other:
            assert other.execute(select(events)).all() == []
    assert count(store) == [1, 1, 1]


def test_a_rollback_leaves_nothing(store: Store, born: Birth) -> None:
    with Session(store.engine) as session:
        store.schedule(store.caller(session), [born])
        session.rollback()
    assert count(store) == [0, 0, 0]


def test_a_savepoints_rollback_leaves_nothing_of_it(store: Store, born: Birth) -> None:
    kept = birth()
    with Session(store.engine) as session, session.begin():
        store.schedule(store.caller(session), [kept])
        savepoint = session.begin_nested()
        store.schedule(store.caller(session), [born])
        savepoint.rollback()
    assert count(store) == [1, 1, 1]
    with store.reading() as connection:
        assert store.get(connection, kept.change.after.id).payload == {"order": 7}


def test_an_outer_rollback_undoes_a_released_savepoint(store: Store, born: Birth) -> None:
    with Session(store.engine) as session:
        with session.begin_nested():
            store.schedule(store.caller(session), [born])
        session.rollback()
    assert count(store) == [0, 0, 0]


def test_the_harness_would_see_a_row_that_a_rollback_left(
    store_on_sqlite: Store, unconfigured: Engine, born: Birth
) -> None:
    """Known bad: on an engine left as it is, the savepoint's release commits."""
    with unconfigured.connect() as connection:
        with connection.begin_nested():
            Store(unconfigured, SystemClock()).schedule(connection, [born])
        connection.rollback()
    assert count(store_on_sqlite) == [1, 1, 1]


def test_connections_and_sessions_of_every_kind_will_do(store: Store) -> None:
    registry = scoped_session(sessionmaker(store.engine))
    store.schedule(store.caller(registry), [birth()])
    registry.commit()
    registry.remove()
    with store.engine.connect() as connection:  # a transaction that begins with us
        store.schedule(store.caller(connection), [birth()])
        connection.commit()
    assert count(store) == [2, 2, 2]


# -- what is refused ---------------------------------------------------------------------------


def test_a_session_with_an_engine_for_each_table_will_do(store: Store, born: Birth) -> None:
    with Session(binds={deliveries: store.engine}) as session, session.begin():
        store.schedule(store.caller(session), [born])
    assert count(store) == [1, 1, 1]


def test_an_unconfigured_sqlite_engine_is_refused(unconfigured: Engine) -> None:
    store = Store(unconfigured, SystemClock())
    with unconfigured.begin() as connection, pytest.raises(EngineNotConfigured, match=r"configure\(engine"):
        store.caller(connection)
    with Session(unconfigured) as session, pytest.raises(EngineNotConfigured, match=r"configure\(engine"):
        store.caller(session)


def test_configuring_comes_before_the_first_connection(unconfigured: Engine) -> None:
    """Whether that is in use, or has been given back."""
    too_late = pytest.raises(CallerError, match="before its first connection")
    with unconfigured.connect(), too_late:
        configure(unconfigured)
    with too_late:
        configure(unconfigured)


def test_configuring_twice_is_once(store: Store) -> None:
    with store.reading():
        configure(store.engine)
    with store.transaction():  # a second listener would say BEGIN a second time
        pass


def test_an_autocommit_connection_is_refused_on_postgresql(
    postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    engine = engines(postgresql_url, isolation_level="AUTOCOMMIT")
    store = Store(engines(postgresql_url), SystemClock())
    said = "^this connection is in autocommit mode: begin a transaction$"
    with engine.connect() as connection, pytest.raises(EngineNotConfigured, match=said):
        store.caller(connection)
    with Session(engine) as session, pytest.raises(EngineNotConfigured, match=said):
        store.caller(session)


def test_a_connection_out_of_its_transaction_is_refused_on_sqlite(store_on_sqlite: Store) -> None:
    with store_on_sqlite.engine.begin() as connection:
        connection.exec_driver_sql("COMMIT")  # behind SQLAlchemy's back
        with pytest.raises(EngineNotConfigured, match="autocommit"):
            store_on_sqlite.caller(connection)


def test_a_connection_that_was_in_autocommit_once_still_rolls_back(
    sqlite_url: str, engines: Callable[..., Engine], born: Birth
) -> None:
    """Back in the pool, SQLAlchemy turns the driver's own transaction handling on again."""
    store = Store(engines(sqlite_url, pool_size=1, max_overflow=0), SystemClock())
    with store.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("SELECT 1")
    with store.engine.connect() as connection:
        with connection.begin_nested():
            store.schedule(store.caller(connection), [born])
        connection.rollback()
    assert count(store) == [0, 0, 0]


def test_another_database_is_refused(
    sqlite_url: str, postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    store = Store(engines(postgresql_url), SystemClock())
    with engines(sqlite_url).connect() as connection, pytest.raises(CallerError) as told:
        store.caller(connection)
    assert str(told.value) == "this app is on postgresql, the connection on sqlite"


def test_other_databases_are_refused() -> None:
    other: Any = SimpleNamespace(dialect=SimpleNamespace(name="mysql"))
    with pytest.raises(CallerError) as told:
        Store(other, SystemClock())
    assert str(told.value) == "deliveries works on SQLite and PostgreSQL, not mysql"


@pytest.mark.parametrize("bind", [None, "sqlite://", 7])
def test_what_is_no_session_is_refused(store: Store, bind: Any) -> None:
    with pytest.raises(CallerError) as told:
        store.caller(bind)
    assert str(told.value) == f"a Session or a Connection is needed, not {type(bind).__name__}"


def test_our_own_transactions_are_read_committed_whatever_the_default(
    postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    store = Store(engines(postgresql_url, isolation_level="SERIALIZABLE"), SystemClock())
    for own in (store.transaction, store.reading):
        with own() as connection:
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"


def test_the_schema_is_looked_at_once(store: Store) -> None:
    count(store)
    with statements(store.engine) as seen, store.transaction() as connection:
        store.caller(connection)
    assert not [statement for statement in seen if "delivery_schema" in statement]


# -- readers and writers of SQLite -------------------------------------------------------------


def test_reading_waits_for_no_writer(sqlite_url: str, engines: Callable[..., Engine]) -> None:
    engine = engines(sqlite_url, pool_timeout=1)
    store = Store(engine, SystemClock())
    with store.transaction() as writer:
        store.schedule(writer, [birth()])
        assert count(store) == [0, 0, 0]
    assert count(store) == [1, 1, 1]


def test_opening_a_file_waits_for_its_writer(empty_sqlite_url: str, engines: Callable[..., Engine]) -> None:
    """SQLite refuses to turn WAL on beside a writer at once, whatever the busy timeout says."""
    path = make_url(empty_sqlite_url).database
    writer = sqlite3.connect(str(path), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    store = Store(engines(empty_sqlite_url), SystemClock())
    opening = threading.Thread(target=store.create_schema)
    opening.start()
    opening.join(0.1)
    waited = opening.is_alive()
    writer.execute("COMMIT")
    writer.close()
    opening.join(30)
    assert waited
    assert count(store) == [0, 0, 0]


def in_transaction_at_once(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.in_transaction)


def test_a_configured_engine_begins_before_the_first_statement(
    sqlite_url: str, engines: Callable[..., Engine]
) -> None:
    with engines(sqlite_url).connect() as connection:
        assert not in_transaction_at_once(connection)
        connection.begin()
        assert in_transaction_at_once(connection)
        modes = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous")
        ]
        assert modes == ["wal", 2]


def test_an_unknown_id_has_an_empty_history(store: Store) -> None:
    id = UUID(int=7)
    with store.reading() as connection:
        assert store.histories(connection, [id]) == {id: []}
