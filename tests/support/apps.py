"""Applications under test: a clock, adapters that keep count, and what must hold afterwards.

Every application that the fixture `apps` made is looked at when its test is over: each stream keeps
I1 to I7, each row is the fold of its stream (I8), each digest follows from the one before.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.exc import OperationalError

from deliveries import Deliveries, Delivery, Recorded
from deliveries.clock import Clock, SystemClock
from deliveries.core import events as e
from deliveries.processor.processor import Processor
from deliveries.store.schema import deliveries, metadata
from deliveries.store.store import Store
from deliveries.testing.clock import VirtualClock
from deliveries.testing.examples import NOW
from deliveries.testing.proof import broken, verdict
from support.databases import Server

T = TypeVar("T")


class ManualClock(VirtualClock):
    """Starts at `NOW`; `instant` is the present, without a look that may take time."""

    def __init__(self, start: datetime = NOW, tick: float = 0.0) -> None:
        super().__init__(start, tick=tick)

    @property
    def instant(self) -> datetime:
        return self._instant

    @instant.setter
    def instant(self, to: datetime) -> None:
        self.travel(to)


class RunningClock(ManualClock):
    """Each look takes a microsecond, as it does for every real clock."""

    def __init__(self, start: datetime = NOW) -> None:
        super().__init__(start, tick=0.000_001)


@contextmanager
def plain(app: Deliveries, **options: Any) -> Iterator[Any]:
    """A connection of psycopg's to the database of `app`, without SQLAlchemy; rolled back at the end."""
    import psycopg

    arguments, told = app.engine.dialect.create_connect_args(app.engine.url)
    told.pop("context", None)  # SQLAlchemy's own ways with types
    connection = psycopg.connect(*arguments, **told, **options)
    try:
        yield connection
    finally:
        connection.close()


class Calls:
    """Decorates adapters, and keeps which attempts they were called for, in order."""

    def __init__(self) -> None:
        self.made: list[tuple[UUID, int]] = []
        self._lock = threading.Lock()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            async def called_async(delivery: Delivery, attempt: Any) -> Any:
                self._note(delivery, attempt)
                return await function(delivery, attempt)

            return called_async

        def called(delivery: Delivery, attempt: Any) -> Any:
            self._note(delivery, attempt)
            return function(delivery, attempt)

        return called

    def _note(self, delivery: Delivery, attempt: Any) -> None:
        with self._lock:
            self.made.append((delivery.id, attempt.number))

    def __len__(self) -> int:
        return len(self.made)

    def of(self, id: UUID) -> list[int]:
        """The attempts of one delivery that reached an adapter."""
        return [number for made, number in self.made if made == id]


class Gate:
    """Where a sync adapter waits until the test lets it go on; `entered` counts who came."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, delivery: object = None, attempt: object = None) -> None:
        self.entered.release()
        assert self.opened.wait(30), "nobody opened the gate"

    def wait_for(self, visitors: int = 1) -> None:
        """Wait until so many more adapters have come."""
        for _ in range(visitors):
            assert self.entered.acquire(timeout=15), "no adapter came"

    def open(self) -> None:
        self.opened.set()


def eventually(condition: Callable[[], T], seconds: float = 15.0) -> T:
    """What `condition` answers once it is true; fails if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"still not after {seconds} s"
        pause.wait(0.01)
    return answer


def stopped(processor: Processor, seconds: float = 20.0) -> None:
    """`processor` has ended by itself within `seconds`."""
    processor.join(seconds)
    assert not processor.is_alive, "the processor did not end"
    assert processor.error is None, processor.error


# -- short ways ----------------------------------------------------------------------------------


def schedule(app: Deliveries, channel: str = "email", payload: Any = None, **options: Any) -> Delivery:
    """One delivery, in a transaction of its own."""
    with app.engine.begin() as connection:
        return app.schedule(connection, channel, payload, **options)


def history(app: Deliveries, id: UUID) -> list[e.Event]:
    """What has happened to one delivery."""
    return [recorded.event for recorded in app.history(id)]


def kinds(app: Deliveries, id: UUID) -> list[str]:
    """The names of what has happened."""
    return [recorded.type for recorded in app.history(id)]


def last(app: Deliveries, id: UUID) -> Any:
    """What happened last."""
    return history(app, id)[-1]


def texts(app: Deliveries, id: UUID) -> list[str | None]:
    """The notes beside the events."""
    return [recorded.note for recorded in app.history(id)]


def row(app: Deliveries, id: UUID) -> Any:
    """The projection row."""
    with app.engine.connect() as connection:
        return connection.execute(select(deliveries).where(deliveries.c.id == id)).one()


def evidence(app: Deliveries, id: UUID) -> list[tuple[str, Any]]:
    """Kind and content of the facts that came too late."""
    store = Store(app.engine, SystemClock())
    with store.reading() as connection:
        return [(kind, fact) for kind, _, fact in store.evidence(connection, id)]


def everything(app: Deliveries, *but: str) -> dict[str, list[Any]]:
    """Every row of every table of ours, `but` some, to be compared later."""
    with app.engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table))))
            for table in metadata.sorted_tables
            if table.name not in but
        }


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that `engine` executes meanwhile in this thread, BEGIN aside."""
    seen: list[str] = []
    thread = threading.get_ident()

    def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if threading.get_ident() == thread and not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", before)


# -- what must hold --------------------------------------------------------------------------------


def assert_sound(engine: Engine) -> None:
    """Every rule that can be judged from a database alone."""
    assert broken(engine) == []


def assert_sound_stream(row: Any, stream: list[Recorded]) -> None:
    """One stream and its row."""
    assert verdict(stream, row) == []


def assert_called_once_each(app: Deliveries, calls: Calls) -> None:
    """N1: every `Attempted` is one call, but for those given back before their adapter was entered."""
    store = Store(app.engine, SystemClock())
    attempts = set()
    with store.reading() as connection:
        ids = list(connection.scalars(select(deliveries.c.id)))
        for start in range(0, len(ids), 500):
            for id, stream in store.histories(connection, ids[start : start + 500]).items():
                for event in (recorded.event for recorded in stream):
                    if isinstance(event, e.Attempted):
                        attempts.add((id, event.attempt))
                    elif isinstance(event, e.Interrupted) and event.cause == "given_back":
                        attempts.remove((id, event.attempt))
    assert len(calls.made) == len(set(calls.made)), "an attempt was called twice"
    assert set(calls.made) == attempts


# -- fixtures ----------------------------------------------------------------------------------------


class Apps:
    """Makes applications, and looks at their databases at the end."""

    def __init__(self, engines: Callable[..., Engine]) -> None:
        self._engines = engines
        self._made: list[Deliveries] = []
        self.damaged = False
        """Set by tests that damage a database on purpose."""

    def __call__(self, url: str, clock: Clock | None = None, **options: Any) -> Deliveries:
        made = Deliveries(self._engines(url, **options), clock=clock)
        event.listen(made.engine, "connect", lambda connection, record: _opened.append(connection))
        self._made.append(made)
        return made

    def look(self) -> None:
        for url, app in {app.engine.url: app for app in self._made}.items():
            assert self.damaged or assert_sound(app.engine) is None, url

    def close(self) -> None:
        for app in self._made:
            app.close()
        while _opened:
            _opened.pop().close()


_opened: list[Any] = []
"""The drivers' connections of all applications: a background thread may open one after its test."""


_CUT_OFF = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid();"
)
_WIPE = "\n".join(
    (
        _CUT_OFF,
        "SET session_replication_role = replica;",
        *(f"DELETE FROM {name};" for name in metadata.tables if name != "delivery_schema"),
        "SELECT setval(pg_get_serial_sequence('delivery_events', 'position'), 1, false);",
        "DROP TABLE IF EXISTS orders, followed;",
    )
)
"""The guards are triggers, which a replica does not fire. TRUNCATE makes new files, which takes four times as
long for what a test leaves."""


_wiping: dict[str, Engine] = {}
"""By URL. Its connection is kept: a new one costs more than the wiping."""


@pytest.fixture(scope="session")
def common_postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """A PostgreSQL database with our schema, for all tests of a process."""
    made = postgresql_server.create_with_schema()
    url = made.render_as_string(hide_password=False)
    _wiping[url] = create_engine(url, pool_size=1, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    yield url
    _wiping.pop(url).dispose()
    postgresql_server.drop(made)


@pytest.fixture
def postgresql_url(common_postgresql_url: str) -> str:
    """The common database, wiped: several times faster than a new one."""
    for tries_left in (2, 1, 0):
        try:
            with _wiping[common_postgresql_url].connect() as connection:
                connection.exec_driver_sql(f"BEGIN; {_WIPE} RESET session_replication_role; COMMIT;")
        except OperationalError:  # a deadlock with what the test before left running, and is cut off now
            if not tries_left:
                raise
        else:
            break
    return common_postgresql_url


@pytest.fixture
def fresh_postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """A database of the test's own, which it may damage."""
    url = postgresql_server.create_with_schema()
    yield url.render_as_string(hide_password=False)
    postgresql_server.drop(url)


@pytest.fixture
def fresh_url(request: pytest.FixtureRequest, dialect: str) -> str:
    """As `database_url`, to be damaged."""
    name = {"sqlite": "sqlite_url", "postgresql": "fresh_postgresql_url"}[dialect]
    return str(request.getfixturevalue(name))


@pytest.fixture
def apps(engines: Callable[..., Engine]) -> Iterator[Apps]:
    """Makes applications on the machine's clock, or on one that is given.

    Ask for it after the database: what is asked for last is looked at first.
    """
    made = Apps(engines)
    yield made
    try:
        made.look()
    finally:
        made.close()


@pytest.fixture
def app(database_url: str, apps: Apps) -> Deliveries:
    """An application without adapters, on the machine's (or the database's) clock."""
    return apps(database_url)


@pytest.fixture
def clock() -> RunningClock:
    """The clock of `timed`."""
    return RunningClock()


@pytest.fixture
def timed(database_url: str, apps: Apps, clock: RunningClock) -> Deliveries:
    """An application without adapters, on `clock`."""
    return apps(database_url, clock)


@pytest.fixture
def calls() -> Calls:
    """Which attempts reached an adapter that is decorated with it."""
    return Calls()
