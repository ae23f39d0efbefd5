"""The tables, made by the command or by the SQL that it prints, are the same."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, select

from deliveries import Deliveries
from deliveries.store.schema import SCHEMA_VERSION, schema
from unit.cli.commands import Command

_CATALOG = """
SELECT 'column', table_name, column_name, data_type, is_nullable, is_identity, identity_generation,
       column_default FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '', '', ''
    FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '', ''
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', '', '', ''
    FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', '', proname, pg_get_functiondef(oid), '', '', '', ''
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'storage', '', relname, array_to_string(reloptions, ','), '', '', '', ''
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
ORDER BY 1, 2, 3
"""


def sqlite_catalog(url: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    return [
        (kind, name, " ".join((text or "").replace("IF NOT EXISTS ", "").split()))
        for kind, name, text in rows
    ]


def postgresql_connection(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("postgresql+psycopg:", "postgresql:"), autocommit=True)


def postgresql_catalog(url: str) -> list[Any]:
    with contextlib.closing(postgresql_connection(url)) as connection:
        return connection.execute(_CATALOG).fetchall()


@pytest.fixture
def working() -> Callable[[str], None]:
    """Checks that the library accepts a database, and works on it."""

    def check(url: str) -> None:
        with contextlib.closing(Deliveries(url)) as app:
            app.adapter("email")(lambda delivery, attempt: None)
            with app.engine.begin() as connection:
                delivery = app.schedule(connection, "email", {"n": 1})
            assert app.drain().succeeded == 1
            assert app.get(delivery.id).status == "succeeded"
            app.create_schema()
            with app.engine.connect() as connection:
                (row,) = connection.execute(select(schema)).all()
            assert row.version == SCHEMA_VERSION
            assert abs(datetime.now(UTC) - row.created_at) < timedelta(minutes=2)

    return check


def test_upgrade_creates_everything(
    deliveries: Command, empty_url: str, working: Callable[[str], None]
) -> None:
    result = deliveries("db", "upgrade", "--url", empty_url)
    assert (result.code, result.err) == (0, "")
    assert "has the deliveries schema" in result.out
    working(empty_url)


def test_upgrade_twice_changes_nothing(deliveries: Command, empty_sqlite_url: str) -> None:
    deliveries("db", "upgrade", "--url", empty_sqlite_url)
    before = sqlite_catalog(empty_sqlite_url)
    assert deliveries("db", "upgrade", "--url", empty_sqlite_url).code == 0
    assert sqlite_catalog(empty_sqlite_url) == before


def test_upgrade_the_database_of_an_application(deliveries: Command, tmp_path: Path) -> None:
    (tmp_path / "new_shop.py").write_text(
        "from deliveries import Deliveries\napp = Deliveries('sqlite:///new.db')\n"
    )
    assert deliveries("db", "upgrade", "--app", "new_shop:app").code == 0
    assert deliveries("list", "--url", "sqlite:///new.db").code == 0


def test_upgrade_tells_no_password(deliveries: Command) -> None:
    result = deliveries("db", "upgrade", "--url", "postgresql://me:hunter2@127.0.0.1:1/x")
    result.failed(1, "127.0.0.1")
    assert "hunter2" not in result.err


def test_upgrade_leaves_a_newer_schema_alone(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    with app.engine.begin() as connection:
        connection.execute(schema.update().values(version=SCHEMA_VERSION + 1))
    deliveries("db", "upgrade", "--url", sqlite_url).failed(1, "upgrade the library")


def test_sql_for_sqlite_is_what_upgrade_does(
    deliveries: Command, empty_sqlite_url: str, sqlite_url: str, working: Callable[[str], None]
) -> None:
    result = deliveries("db", "sql", "sqlite")
    assert (result.code, result.err) == (0, "")
    with contextlib.closing(sqlite3.connect(empty_sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.executescript(result.out)
    assert sqlite_catalog(empty_sqlite_url) == sqlite_catalog(sqlite_url)
    working(empty_sqlite_url)


def test_sql_for_postgresql_is_what_upgrade_does(
    deliveries: Command, empty_postgresql_url: str, postgresql_url: str, working: Callable[[str], None]
) -> None:
    result = deliveries("db", "sql", "postgresql")
    assert (result.code, result.err) == (0, "")
    with contextlib.closing(postgresql_connection(empty_postgresql_url)) as connection:
        connection.execute(result.out.encode())
    assert postgresql_catalog(empty_postgresql_url) == postgresql_catalog(postgresql_url)
    working(empty_postgresql_url)


def test_sql_is_all_or_nothing(
    deliveries: Command, empty_postgresql_url: str, engines: Callable[..., Engine]
) -> None:
    script = deliveries("db", "sql", "postgresql").out
    with contextlib.closing(postgresql_connection(empty_postgresql_url)) as connection:
        connection.execute("CREATE TABLE delivery_notes ()")
        before = postgresql_catalog(empty_postgresql_url)
        with pytest.raises(psycopg.errors.DuplicateTable):
            connection.execute(script.encode())
        connection.execute("ROLLBACK")
    assert postgresql_catalog(empty_postgresql_url) == before


@pytest.mark.parametrize("arguments", [[], ["oracle"], ["sqlite", "postgresql"]])
def test_sql_for_one_of_two(deliveries: Command, arguments: list[str]) -> None:
    deliveries("db", "sql", *arguments).failed(2)
