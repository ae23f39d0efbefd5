"""R1 across a crash: PostgreSQL may draw a position again that nobody had committed."""

from __future__ import annotations

from sqlalchemy import NullPool, create_engine, text

from chaos.server import DurableServer, durable_server
from deliveries import Deliveries, Delivery


def owe(app: Deliveries) -> Delivery:
    with app.engine.begin() as connection:
        return app.schedule(connection, "email")


def roll_back_many(app: Deliveries) -> None:
    """More than the 32 positions that one record of the log keeps for a sequence."""
    with app.engine.connect() as connection:
        for _ in range(40):
            app.schedule(connection, "email")
        connection.rollback()


def keep_the_log_back(server: DurableServer) -> None:
    """What no commit has flushed stays in memory, as it may for a moment on any server."""
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET wal_writer_delay = '10s'"))
        connection.execute(text("SELECT pg_reload_conf()"))


def test_a_reader_that_goes_on_after_a_crash_misses_nothing() -> None:
    with durable_server() as server:
        keep_the_log_back(server)
        app = Deliveries(server.create_with_schema())
        app.adapter("email")(lambda delivery, attempt: None)
        log = app.event_log.bound
        every, some = log.subscribe(), log.subscribe(topics=["Scheduled"])
        first = owe(app)
        assert next(every).originator_id == next(some).originator_id == first.id
        roll_back_many(app)
        for subscription in (every, some):
            assert not subscription._look()  # it has read all there is, and waits
        app.engine.dispose()
        server.restart("immediate")
        second = owe(app)
        for subscription in (every, some):
            subscription._look()
            assert [one.originator_id for one in subscription._read] == [second.id]
        app.close()
        server.close()
