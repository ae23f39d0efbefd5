"""Hypothesis profiles: `dev`, `ci` (with CI set) and `thorough`; HYPOTHESIS_PROFILE overrides."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background of a script: programs that we start, and interrupt, would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from deliveries.store.store import Store
    from support.databases import Server

# that a machine is slow is no fault of what it tests
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", patient, max_examples=50)
settings.register_profile("ci", patient, max_examples=50, derandomize=True)
settings.register_profile("thorough", patient, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_collection_finish() -> None:
    """What is there now stays: no collection of garbage need look through thousands of tests."""
    gc.collect()
    gc.freeze()


# -- databases ---------------------------------------------------------------------------------
#
# A test that asks for `store`, `database_url` or `empty_url` runs once on SQLite and once on
# PostgreSQL, each time in a database of its own. One that is about a single database asks for
# `sqlite_url` or `postgresql_url`. Imports are inside: tests without a database need none of it.


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A running PostgreSQL server, one per test process."""
    from support import databases

    with databases.server() as running:
        yield running


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our schema, to be copied."""
    from support import databases

    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    databases.create_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite file with our schema."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'deliveries.db')}"


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """A PostgreSQL database with our schema."""
    url = postgresql_server.create_with_schema()
    yield url.render_as_string(hide_password=False)
    postgresql_server.drop(url)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture
def empty_postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """A PostgreSQL database without tables."""
    url = postgresql_server.create()
    yield url.render_as_string(hide_password=False)
    postgresql_server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Makes a test run on both databases."""
    return str(request.param)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, dialect: str) -> str:
    """A database with our schema."""
    return str(request.getfixturevalue(f"{dialect}_url"))


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, dialect: str) -> str:
    """A database without our schema."""
    return str(request.getfixturevalue(f"empty_{dialect}_url"))


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    """Makes engines as `Deliveries` would, and disposes of them at the end."""
    from support import databases

    made: list[Engine] = []

    def engine_for(url: str, **options: object) -> Engine:
        made.append(databases.engine_for(url, **options))
        return made[-1]

    yield engine_for
    for engine in made:
        engine.dispose()


@pytest.fixture
def store(database_url: str, engines: Callable[..., Engine]) -> Store:
    """A store on a database of its own, on the machine's clock."""
    from deliveries.clock import SystemClock
    from deliveries.store.store import Store

    return Store(engines(database_url), SystemClock())
