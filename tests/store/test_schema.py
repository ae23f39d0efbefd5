"""Creating the schema, from anywhere and as often as one likes, and refusing one that will not do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, insert, inspect, make_url, select, text
from sqlalchemy.exc import IntegrityError

from deliveries.clock import SystemClock
from deliveries.errors import SchemaMissing, SchemaTooNew, StoreError
from deliveries.store import migration
from deliveries.store.ddl import install
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.schema import SCHEMA_VERSION, deliveries, events, metadata, schema
from deliveries.store.store import Store
from deliveries.testing.examples import NOW
from store.acts import Acts, StoppedClock, event_row

AT_ONCE = 8


def versions(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(select(schema.c.version)))


def test_create_schema_makes_all_tables(empty_url: str, engines: Callable[..., Engine]) -> None:
    engine = engines(empty_url)
    Store(engine, SystemClock()).create_schema()
    assert set(metadata.tables) <= set(inspect(engine).get_table_names())
    assert versions(engine) == [SCHEMA_VERSION]


def test_create_schema_twice_changes_nothing(store: Store) -> None:
    acts = Acts(Store(store.engine, StoppedClock()))
    id = acts.schedule()
    store.create_schema()
    assert versions(store.engine) == [SCHEMA_VERSION]
    assert acts.projected(id) == acts.stream(id).delivery


def test_installing_the_guards_again_changes_nothing(store: Store) -> None:
    with store.engine.begin() as connection:
        install(connection)
    with pytest.raises(IntegrityError), store.transaction() as connection:
        connection.execute(insert(events), event_row(version=2, kind="Succeeded"))


def create_at_once(url: str, engines: Callable[..., Engine], **options: object) -> list[BaseException]:
    """`create_schema` from eight threads with an engine each; returns what was raised."""
    stores = [Store(engines(url, **options), SystemClock()) for _ in range(AT_ONCE)]
    together = threading.Barrier(AT_ONCE)
    errors: list[BaseException] = []

    def create(store: Store) -> None:
        try:
            together.wait(30)
            store.create_schema()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=create, args=[store]) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def test_create_schema_from_eight_threads_at_once(empty_url: str, engines: Callable[..., Engine]) -> None:
    assert create_at_once(empty_url, engines) == []
    assert versions(engines(empty_url)) == [SCHEMA_VERSION]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_create_schema_at_once_on_engines_with_another_isolation_level(
    empty_postgresql_url: str, engines: Callable[..., Engine], level: str
) -> None:
    assert create_at_once(empty_postgresql_url, engines, isolation_level=level) == []
    assert versions(engines(empty_postgresql_url)) == [SCHEMA_VERSION]


ENTRANCES: dict[str, Callable[[Store], AbstractContextManager[Connection]]] = {
    "transaction": Store.transaction,
    "reading": Store.reading,
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_missing_schema_is_named_with_its_remedy(
    empty_url: str, engines: Callable[..., Engine], entrance: str
) -> None:
    store = Store(engines(empty_url), SystemClock())
    with pytest.raises(SchemaMissing, match="deliveries db upgrade"), ENTRANCES[entrance](store):
        pass


def test_a_missing_schema_is_named_to_a_caller(empty_url: str, engines: Callable[..., Engine]) -> None:
    store = Store(engines(empty_url), SystemClock())
    with store.engine.begin() as connection, pytest.raises(SchemaMissing, match="create_schema"):
        store.caller(connection)


def test_a_store_that_found_no_schema_looks_again(empty_url: str, engines: Callable[..., Engine]) -> None:
    store = Store(engines(empty_url), SystemClock())
    with pytest.raises(SchemaMissing), store.reading():
        pass
    store.create_schema()
    with store.reading() as connection:
        assert connection.execute(select(deliveries)).all() == []


def test_a_newer_schema_is_refused(store: Store) -> None:
    with store.engine.begin() as connection:
        newer = {"version": SCHEMA_VERSION + 1, "created_at": NOW}
        connection.execute(insert(schema), newer)
    later = Store(store.engine, SystemClock())
    with pytest.raises(SchemaTooNew, match="upgrade the library"), later.transaction():
        pass
    with pytest.raises(SchemaTooNew), later.reading():
        pass
    with pytest.raises(SchemaTooNew):
        later.create_schema()


def test_create_all_makes_the_guards_too(empty_url: str, engines: Callable[..., Engine]) -> None:
    """Users hand our MetaData to their own tools; the tables never come without their triggers."""
    engine = engines(empty_url)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(events), event_row(version=1, kind="Scheduled"))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(events.delete())
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(insert(events), event_row(version=2, kind="Succeeded"))


def test_create_schema_completes_what_create_all_began(
    empty_url: str, engines: Callable[..., Engine]
) -> None:
    engine = engines(empty_url)
    metadata.create_all(engine)
    Store(engine, SystemClock()).create_schema()
    assert versions(engine) == [SCHEMA_VERSION]


def test_who_has_made_the_schema_need_not_look_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Connection] = []
    monkeypatch.setattr(migration, "verify", looked.append)
    again = Store(store.engine, SystemClock())
    again.create_schema()
    with again.reading():
        assert len(looked) == 1
    with again.transaction():
        assert len(looked) == 1


def test_a_sequence_that_caches_positions_is_refused(
    postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    """A session that keeps ten positions for later would write them below what readers have read."""
    store = Store(engines(postgresql_url), SystemClock())
    with store.engine.begin() as connection:
        connection.execute(text("ALTER SEQUENCE delivery_events_position_seq CACHE 10"))
    with pytest.raises(StoreError, match="CACHE 10"), store.transaction():
        pass
    with pytest.raises(StoreError, match="CACHE 10"), store.reading():
        pass
    with pytest.raises(StoreError, match="CACHE 10"):
        store.create_schema()


@pytest.fixture
def stranger(postgresql_url: str, engines: Callable[..., Engine]) -> Iterator[str]:
    """The URL of a role that was granted the tables and no more."""
    name = f"deliveries_{uuid4().hex}"
    owner = engines(postgresql_url, isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'"))
        connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"))
    url = make_url(postgresql_url).set(username=name, password=name)
    yield url.render_as_string(hide_password=False)
    with owner.connect() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


def test_a_role_that_may_not_read_the_sequence_is_told_so(
    stranger: str, postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    """Inserting needs no right on it, and PostgreSQL 18 shows such a role an empty sequence: the log
    would seem complete up to nothing, for ever.
    """
    store = Store(engines(stranger), SystemClock())
    with pytest.raises(StoreError, match="GRANT SELECT ON SEQUENCE"), store.reading():
        pass
    with engines(postgresql_url).begin() as connection:
        role = make_url(stranger).username
        connection.execute(text(f"GRANT SELECT ON SEQUENCE delivery_events_position_seq TO {role}"))
    id = Acts(store).schedule(due_at=NOW)
    (found,) = DeliveryRecorder(store).select_notifications(None, 10)
    assert found.originator_id == id


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_positions_come_from_the_sequence_alone(acts: Acts) -> None:
    """A position of the writer's choice could lie below what readers have read."""
    with pytest.raises(Exception, match="GENERATED ALWAYS"), acts.store.transaction() as connection:
        connection.execute(insert(events), event_row() | {"position": 7})
