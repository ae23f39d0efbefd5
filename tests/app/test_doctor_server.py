"""What only PostgreSQL can be ill with, and what only a SQLite file can."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from app.test_doctor import said
from deliveries import Deliveries
from deliveries.audit.doctor import file
from support.apps import Apps, eventually, schedule


@pytest.fixture
def mail(postgresql_url: str, apps: Apps) -> Deliveries:
    """An application on PostgreSQL, on the database's clock."""
    made = apps(postgresql_url, connect_args={"application_name": "doctor"})
    made.adapter("email", queue="mail")(lambda delivery, attempt: None)
    return made


@pytest.fixture
def session(postgresql_url: str, engines: Callable[..., Engine]) -> Iterator[Connection]:
    """Somebody else's connection; it is closed whatever it has open."""
    engine = engines(postgresql_url, connect_args={"application_name": "billing"})
    with engine.connect() as connection:
        yield connection


def pid(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


# -- PostgreSQL: sessions ------------------------------------------------------------------------


def test_a_session_that_idles_in_a_transaction(mail: Deliveries, session: Connection) -> None:
    number = pid(session)
    assert said(mail, "idle")[0] == "ok"
    verdict, seen = said(mail, "idle", long=0)
    assert verdict == "warning"
    assert f"pid {number} (billing, role " in seen
    assert "is idle in a transaction for" in seen
    assert said(mail, "transactions", long=0)[0] == "ok"  # it is told once


@contextmanager
def waiting(engine: Engine, id: Any) -> Iterator[threading.Thread]:
    """Somebody who wants a row that somebody holds."""

    def want() -> None:
        with engine.begin() as connection:
            connection.execute(text("SELECT 1 FROM deliveries WHERE id = :id FOR UPDATE"), {"id": id})

    thread = threading.Thread(target=want)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(20)
        assert not thread.is_alive()


def test_who_waits_and_for_whom(
    mail: Deliveries, session: Connection, postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    id = schedule(mail).id
    holder = pid(session)
    session.execute(text("SELECT 1 FROM deliveries WHERE id = :id FOR UPDATE"), {"id": id})
    with waiting(engines(postgresql_url, connect_args={"application_name": "waiter"}), id):
        eventually(lambda: said(mail, "locks")[0] == "warning")
        _, seen = said(mail, "locks")
        assert "(waiter, role " in seen
        assert seen.endswith(f"for pid {holder}")
        verdict, seen = said(mail, "transactions", long=0)
        assert (verdict, "(waiter, role " in seen) == ("warning", True)
        session.rollback()
    assert said(mail, "locks")[0] == "ok"


def test_what_keeps_readers_of_the_log_back(mail: Deliveries, session: Connection) -> None:
    mail.schedule(session, "email")
    verdict, seen = said(mail, "bound")
    assert verdict == "ok"
    assert f"readers of the log stop at position 0: pid {pid(session)} (billing, role " in seen
    assert said(mail, "bound", long=0)[0] == "warning"
    session.commit()
    assert said(mail, "bound", long=0) == ("ok", "readers of the log see all of it")


def test_a_role_that_may_not_look(fresh_postgresql_url: str, engines: Callable[..., Engine]) -> None:
    """A check that is refused is unknown, and the others go on."""
    role = f"limited_{os.getpid()}"
    admin = engines(fresh_postgresql_url)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role}"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
        connection.execute(text(f"GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"))
        connection.execute(text(f"REVOKE SELECT ON delivery_workers FROM {role}"))
    limited = engines(fresh_postgresql_url)

    @event.listens_for(limited, "connect")
    def lower(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
        connection.commit()

    app = Deliveries(limited)
    try:
        verdict, seen = said(app, "heartbeats")
        assert verdict == "unknown"
        assert "permission denied for table delivery_workers" in seen
        assert said(app, "leases")[0] == "ok"
        with admin.connect() as other:
            other.execute(text("SELECT 1"))
            assert "hide (GRANT pg_read_all_stats)" in said(app, "transactions")[1]
    finally:
        app.close()
        with admin.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


# -- PostgreSQL: settings ------------------------------------------------------------------------


def test_a_guard_that_is_off(fresh_postgresql_url: str, apps: Apps) -> None:
    app = apps(fresh_postgresql_url)
    with app.engine.begin() as connection:
        connection.execute(text("ALTER TABLE delivery_events DISABLE TRIGGER delivery_events_announce"))
    assert said(app, "guards") == ("problem", "delivery_events_announce is disabled")


def test_a_sequence_that_caches(fresh_postgresql_url: str, apps: Apps) -> None:
    app = apps(fresh_postgresql_url)
    apps.damaged = True
    with app.engine.begin() as connection:
        connection.execute(text("ALTER SEQUENCE delivery_events_position_seq CACHE 2"))
    verdict, seen = said(app, "sequence")
    assert (verdict, "CACHE 2" in seen) == ("problem", True)


@pytest.mark.parametrize(
    ("setting", "name", "verdict", "says"),
    [
        ("synchronous_commit = off", "durability", "warning", "synchronous_commit is off"),
        ("default_transaction_read_only = on", "primary", "problem", "read only by default"),
        ("session_replication_role = replica", "guards", "problem", "no trigger fires"),
    ],
)
def test_a_database_that_is_set_so(
    fresh_postgresql_url: str,
    engines: Callable[..., Engine],
    setting: str,
    name: str,
    verdict: str,
    says: str,
) -> None:
    with engines(fresh_postgresql_url).begin() as connection:
        base = connection.engine.url.database
        connection.execute(text(f"ALTER DATABASE {base} SET {setting}"))
    app = Deliveries(engines(fresh_postgresql_url))
    found, seen = said(app, name)
    assert (found, says in seen) == (verdict, True)
    app.close()


def test_dead_rows_that_nobody_removes(fresh_postgresql_url: str, apps: Apps) -> None:
    app = apps(fresh_postgresql_url)
    with app.engine.begin() as connection:
        connection.execute(text("ALTER TABLE delivery_positions SET (autovacuum_enabled = off)"))
    assert said(app, "vacuum") == ("warning", "autovacuum is off for delivery_positions")
    with app.engine.begin() as connection:
        rows = "SELECT n::text, n FROM generate_series(1, 10001) n"
        connection.execute(text(f"INSERT INTO delivery_positions {rows}"))
        connection.execute(text("DELETE FROM delivery_positions"))
    with app.engine.begin() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    eventually(lambda: "delivery_positions has 10001 dead rows beside 0 live ones" in said(app, "vacuum")[1])


class Off:
    """A clock of this machine, so many seconds off; the database's decides."""

    authoritative = False

    def __init__(self, seconds: float) -> None:
        self._off = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._off


@pytest.mark.parametrize(
    ("off", "verdict", "says"),
    [
        (0.5, "ok", "they agree within a second"),
        (20.5, "warning", "20 s ahead of the database's"),
        (-20.5, "warning", "20 s behind the database's"),
        (3_601, "problem", "60 min ahead of the database's"),
    ],
)
def test_a_machine_whose_clock_is_off(
    postgresql_url: str, apps: Apps, off: float, verdict: str, says: str
) -> None:
    found, seen = said(apps(postgresql_url, Off(off)), "clocks")
    assert (found, says in seen) == (verdict, True)


# -- SQLite --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pragma", "name", "says"),
    [
        ("journal_mode = DELETE", "journal", "journal_mode is delete"),
        ("synchronous = OFF", "synchronous", "synchronous is OFF"),
    ],
)
def test_a_file_that_somebody_set_otherwise(
    sqlite_url: str, engines: Callable[..., Engine], pragma: str, name: str, says: str
) -> None:
    engine = engines(sqlite_url)

    @event.listens_for(engine, "connect")  # after ours
    def set_otherwise(connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA {pragma}")

    verdict, seen = said(Deliveries(engine), name)
    assert (verdict, says in seen) == ("warning", True)


def test_a_log_that_is_not_folded_in(sqlite_url: str, apps: Apps) -> None:
    app = apps(sqlite_url)
    with app.engine.connect() as reader:
        reader.execute(text("SELECT 1"))
        os.truncate(f"{app.engine.url.database}-wal", file.MAX_WAL_BYTES + 1)  # a hole costs no room
        verdict, seen = said(app, "log")
        assert (verdict, "256.0 MiB" in seen) == ("warning", True)


def test_a_writer_who_stays(sqlite_url: str, apps: Apps) -> None:
    app = apps(sqlite_url)
    assert said(app, "writer") == ("ok", "a write transaction can begin")
    with closing(sqlite3.connect(str(app.engine.url.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        verdict, seen = said(app, "writer")
        other.execute("ROLLBACK")
    assert verdict == "warning"
    assert "database is locked" in seen


def test_an_engine_that_was_not_configured(sqlite_url: str) -> None:
    app = Deliveries(create_engine(sqlite_url))
    verdict, seen = said(app, "engine")
    assert (verdict, "sqlite.configure" in seen) == ("problem", True)
    app.close()


def test_a_database_in_memory(engines: Callable[..., Engine]) -> None:
    app = Deliveries("sqlite:///:memory:")
    app.create_schema()
    assert app.doctor().ok
    assert said(app, "journal") == ("ok", "journal_mode is memory")
    app.close()
