"""T1 and T3: a delivery lives and dies with the caller's transaction, and disturbs nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from deliveries import Deliveries, DeliveryNotFound, Status
from deliveries.store.schema import contents, deliveries, events, notes
from support.apps import Apps, schedule, statements

business = Table(
    "orders", MetaData(), Column("id", Integer, primary_key=True), Column("name", Text, nullable=False)
)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def app(app: Deliveries) -> Deliveries:
    app.adapter("email")(lambda delivery, attempt: None)
    return app


def left(app: Deliveries) -> list[Any]:
    """How many rows there are of everything that a delivery consists of."""
    with app.engine.connect() as connection:
        return [
            connection.scalar(select(func.count()).select_from(table))
            for table in (events, deliveries, contents, notes)
        ]


# -- with the caller's commit, and not without ---------------------------------------------------


def test_a_commit_makes_it_visible(app: Deliveries) -> None:
    with Session(app.engine) as session, session.begin():
        delivery = app.schedule(session, "email", {"order": 7}, recipient="ann@example.org")
        assert left(app) == [0, 0, 0, 0] if app.engine.dialect.name == "postgresql" else True
        with pytest.raises(DeliveryNotFound):
            app.get(delivery.id)
    found = app.get(delivery.id)
    assert (found.status, found.payload, found.recipient) == (
        Status.PENDING,
        {"order": 7},
        "ann@example.org",
    )
    assert left(app) == [1, 1, 1, 0]


def test_a_rollback_leaves_nothing(app: Deliveries) -> None:
    with Session(app.engine) as session:
        app.schedule(session, "email", {"order": 7})
        session.rollback()
    assert left(app) == [0, 0, 0, 0]


def test_an_exception_in_the_callers_block_leaves_nothing(app: Deliveries) -> None:
    def checkout() -> None:
        with Session(app.engine) as session, session.begin():
            app.schedule(session, "email", {"order": 7})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        checkout()
    assert left(app) == [0, 0, 0, 0]


def test_a_session_that_is_only_closed_leaves_nothing(app: Deliveries) -> None:
    with Session(app.engine) as session:
        app.schedule(session, "email", {"order": 7})
    assert left(app) == [0, 0, 0, 0]


def test_a_savepoints_rollback_leaves_nothing_of_it(app: Deliveries) -> None:
    with Session(app.engine) as session, session.begin():
        kept = app.schedule(session, "email", "kept")
        savepoint = session.begin_nested()
        app.schedule(session, "email", "lost", key="lost")
        savepoint.rollback()
        again = app.schedule(session, "email", "another", key="lost")
    assert again.created
    assert left(app) == [2, 2, 2, 0]
    assert app.get(kept.id).payload == "kept"
    assert app.get(again.id).payload == "another"


def test_an_outer_rollback_undoes_a_released_savepoint(app: Deliveries) -> None:
    with Session(app.engine) as session:
        with session.begin_nested():
            app.schedule(session, "email")
        session.rollback()
    assert left(app) == [0, 0, 0, 0]


def test_it_commits_and_rolls_back_with_the_callers_rows(app: Deliveries) -> None:
    Base.metadata.create_all(app.engine)
    with Session(app.engine) as session, session.begin():
        order = Order(name="bread")
        session.add(order)
        session.flush()
        app.schedule(session, "email", {"order": order.id}, key=f"order:{order.id}:paid")
    with Session(app.engine) as session:
        order = Order(name="wine")
        session.add(order)
        session.flush()
        second = app.schedule(session, "email", {"order": order.id}, key=f"order:{order.id}:paid")
        assert second.created
        session.rollback()
    with Session(app.engine) as session:
        assert list(session.scalars(select(Order.name))) == ["bread"]
    assert left(app) == [1, 1, 1, 0]


def test_scheduling_flushes_nothing_of_the_callers(app: Deliveries) -> None:
    """The caller flushes when he wants to: an order that is not flushed has no id to speak of."""
    Base.metadata.create_all(app.engine)
    with Session(app.engine) as session, session.begin():
        order = Order(name="bread")
        session.add(order)
        app.schedule(session, "email")
        assert order in session.new
        session.flush()
        assert order.id is not None


def test_it_never_commits(app: Deliveries) -> None:
    with app.engine.connect() as connection:
        transaction = connection.begin()
        app.schedule(connection, "email")
        app.schedule_many(connection, "email", [])
        assert transaction.is_active
        transaction.rollback()
    assert left(app) == [0, 0, 0, 0]


# -- every kind of session -------------------------------------------------------------------------


def test_a_connection_that_has_not_begun_begins(app: Deliveries) -> None:
    with app.engine.connect() as connection:
        delivery = app.schedule(connection, "email")
        assert connection.in_transaction()
        connection.commit()
    assert app.get(delivery.id).id == delivery.id


def test_a_scoped_session_will_do(app: Deliveries) -> None:
    registry = scoped_session(sessionmaker(app.engine))
    kept = app.schedule(registry, "email")
    registry.commit()
    app.schedule(registry, "email")
    registry.rollback()
    registry.remove()
    assert left(app) == [1, 1, 1, 0]
    assert app.get(kept.id).id == kept.id


def test_a_session_bound_to_a_connection_will_do(app: Deliveries) -> None:
    """As in test suites that roll everything back."""
    with app.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            delivery = app.schedule(session, "email")
            session.commit()
        assert app.get(delivery.id, session=connection).id == delivery.id
        transaction.rollback()
    assert left(app) == [0, 0, 0, 0]


def test_a_session_with_several_binds_is_asked_for_the_right_one(
    app: Deliveries, empty_sqlite_url: str, engines: Callable[..., Engine]
) -> None:
    other = engines(empty_sqlite_url)
    with Session(app.engine, binds={Base: other}) as session, session.begin():
        delivery = app.schedule(session, "email")
    assert app.get(delivery.id).id == delivery.id


# -- what it costs -----------------------------------------------------------------------------------


def test_how_many_statements_a_new_delivery_costs(app: Deliveries) -> None:
    schedule(app)  # the first one looks at the schema
    with app.engine.begin() as connection, statements(app.engine) as seen:
        app.schedule(connection, "email", {"order": 1}, key="k")
    assert len(seen) == {"postgresql": 1, "sqlite": 3}[app.engine.dialect.name]


def test_how_many_statements_a_known_key_costs(app: Deliveries) -> None:
    schedule(app, key="k")
    with app.engine.begin() as connection, statements(app.engine) as seen:
        assert not app.schedule(connection, "email", key="k").created
    assert len(seen) <= {"postgresql": 2, "sqlite": 4}[app.engine.dialect.name]


# -- nobody waits (T3) -------------------------------------------------------------------------------

LOCKS = text("""
SELECT DISTINCT mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
  AND relation::regclass::text !~ '^pg_'
""")


@pytest.fixture
def on_postgresql(postgresql_url: str, apps: Apps) -> Deliveries:
    made = apps(postgresql_url, connect_args={"options": "-c lock_timeout=5000"})
    made.adapter("email")(lambda delivery, attempt: None)
    return made


def modes(connection: Connection) -> set[str]:
    return set(connection.scalars(LOCKS))


def test_scheduling_takes_no_table_lock(on_postgresql: Deliveries) -> None:
    app, harmless = on_postgresql, {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}
    with app.engine.begin() as connection:
        app.schedule(connection, "email", key="a")
        app.schedule(connection, "email", key="a")
        app.schedule_many(connection, "email", [])
        assert "RowExclusiveLock" in modes(connection)
        assert modes(connection) <= harmless


def test_the_harness_would_see_a_table_lock(on_postgresql: Deliveries) -> None:
    """Known bad: what other event stores do."""
    with on_postgresql.engine.begin() as connection:
        connection.execute(text("LOCK TABLE delivery_events IN EXCLUSIVE MODE"))
        assert "ExclusiveLock" in modes(connection)


@pytest.mark.parametrize("key", [None, "mine"])
def test_nobody_waits_for_another_callers_transaction(on_postgresql: Deliveries, key: str | None) -> None:
    app, done = on_postgresql, threading.Event()

    def other() -> None:
        schedule(app, "email", key=key)
        done.set()

    with app.engine.begin() as connection:
        app.schedule(connection, "email", key="theirs")
        thread = threading.Thread(target=other)
        thread.start()
        assert done.wait(4), "the other caller waits"
        thread.join()
    assert left(app) == [2, 2, 2, 0]


def test_business_rows_and_deliveries_of_plain_connections(app: Deliveries) -> None:
    business.metadata.create_all(app.engine)
    with app.engine.connect() as connection:
        connection.execute(insert(business).values(id=1, name="bread"))
        app.schedule(connection, "email", {"order": 1})
        connection.rollback()
        assert connection.scalar(select(func.count()).select_from(business)) == 0
        connection.rollback()
    assert left(app) == [0, 0, 0, 0]
