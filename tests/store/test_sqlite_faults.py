"""SQLite when the disk is full, the file is locked, or somebody else has had his hands on it."""

from __future__ import annotations

import os
import resource
import select
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, ExceptionContext, event, make_url, text
from sqlalchemy.exc import OperationalError, PendingRollbackError
from sqlalchemy.orm import Session

from deliveries import Backoff, Delivered, Deliveries, Delivery, Draft, Status
from deliveries.audit.invariants import Called
from deliveries.errors import StoreError
from deliveries.store.store import Store
from deliveries.testing.proof import broken
from store.acts import Acts, StoppedClock
from support.apps import Apps, Calls, eventually, everything, kinds
from support.kill_app import QUEUES, SETTINGS, application
from support.kill_process import WorkerProcess
from support.receiver import Receiver, Reply

BIG = "x" * 60_000
"""More than fits into the pages that a file has: it must grow."""

PATIENT = {"poll": 0.02, "sweep_every": 0.05, "lease": 5.0}


class Disk:
    """The disk under an engine's file. It is full from the statement `fill_at` on, until `free`."""

    def __init__(self, engine: Engine) -> None:
        self.fill_at: tuple[str, str] | None = None
        """Part of a statement, and of its parameters."""
        self.is_full = False
        self.refusals: list[str] = []
        """What the statements that were refused began with."""
        event.listen(engine, "checkout", lambda connection, record, proxy: self._limit(connection))
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "handle_error", self._refused)

    def free(self) -> None:
        self.fill_at, self.is_full = None, False

    def _limit(self, connection: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {1 if self.is_full else 2**30}")  # 1: as it is now

    def _before(self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if self.fill_at is not None and self.fill_at[0] in statement and self.fill_at[1] in repr(parameters):
            self.is_full = True
        if self.is_full and "INSERT" in statement:
            self._limit(cursor.connection)

    def _refused(self, context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlite_errorname", "") == "SQLITE_FULL":
            self.refusals.append((context.statement or "").strip()[:60])


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def apps(engines: Callable[..., Engine]) -> Iterator[Apps]:
    made = Apps(engines)
    yield made
    made.look()
    made.close()


@pytest.fixture
def app(sqlite_url: str, apps: Apps, calls: Calls) -> Deliveries:
    """With an adapter whose receipt is as long as its payload."""
    made = apps(sqlite_url)

    @made.adapter("email", backoff=Backoff.linear(0.02))
    @calls
    def email(delivery: Delivery, attempt: Any) -> Delivered:
        return Delivered("r" * delivery.payload["receipt"])

    return made


@pytest.fixture
def disk(app: Deliveries) -> Disk:
    return Disk(app.engine)


def owe(app: Deliveries, count: int, receipt: int = 1) -> list[UUID]:
    with app.engine.begin() as connection:
        drafts = [Draft({"receipt": receipt})] * count
        return [delivery.id for delivery in app.schedule_many(connection, "email", drafts)]


def statuses(app: Deliveries) -> set[Status]:
    return {delivery.status for delivery in app.find(limit=10_000)}


def called(calls: Calls) -> list[Called]:
    return [Called(delivery_id=id, attempt=number, key=str(id)) for id, number in calls.made]


# -- a full disk, for callers ------------------------------------------------------------------


def test_a_full_disk_is_the_callers_error_and_leaves_nothing(app: Deliveries, disk: Disk) -> None:
    before = everything(app)
    disk.is_full = True
    with pytest.raises(OperationalError) as refused, app.engine.begin() as connection:
        app.schedule(connection, "email", {"receipt": 1, "more": BIG})
    assert refused.value.orig.sqlite_errorname == "SQLITE_FULL"  # type: ignore[union-attr]
    assert everything(app) == before
    disk.free()
    owe(app, 1)
    assert app.drain().succeeded == 1


@pytest.mark.parametrize("commits", [False, True])
def test_nothing_of_a_transaction_that_met_a_full_disk_is_ever_committed(
    app: Deliveries, disk: Disk, commits: bool
) -> None:
    with app.engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (name TEXT)"))
    disk.is_full = True
    with Session(app.engine) as session:
        session.execute(text("INSERT INTO orders VALUES ('before')"))
        with pytest.raises(OperationalError):
            app.schedule(session, "email", {"receipt": 1, "more": BIG})
        with pytest.raises(PendingRollbackError):
            session.execute(text("INSERT INTO orders VALUES ('after')"))
        if commits:
            with pytest.raises(PendingRollbackError):
                session.commit()
        session.rollback()
    with app.engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM orders")).all() == []


def test_many_deliveries_on_a_full_disk_say_what_is_wrong(app: Deliveries, disk: Disk) -> None:
    disk.is_full = True
    with pytest.raises(OperationalError, match="full"), app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft({"receipt": 1, "more": BIG})] * 2)


# -- a full disk, for processors ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "parameters", "count", "receipt"),
    [
        pytest.param("INTO delivery_events", "'Attempted'", 100, 1, id="claim"),
        pytest.param("INTO delivery_events", "'Succeeded'", 100, 1, id="record"),
        pytest.param("INTO delivery_notes", "", 100, 1_900, id="note"),
    ],
)
def test_a_processor_goes_on_by_itself_once_the_disk_has_room(
    app: Deliveries,
    disk: Disk,
    calls: Calls,
    statement: str,
    parameters: str,
    count: int,
    receipt: int,
) -> None:
    ids = owe(app, count, receipt)
    disk.fill_at = (statement, parameters)
    with app.running(**PATIENT) as processor:
        eventually(lambda: len(disk.refusals) > 2)
        assert broken(app.engine, calls=called(calls)) == []  # nothing is half-written meanwhile
        disk.free()
        eventually(lambda: statuses(app) == {Status.SUCCEEDED})
    assert processor.error is None
    assert {refusal.split(" (")[0] for refusal in disk.refusals} >= {f"INSERT {statement}"}
    assert sorted(calls.made) == sorted((id, 1) for id in ids)  # each called once, whatever was refused
    assert broken(app.engine, calls=called(calls), ended=True) == []


def test_a_sweep_goes_on_by_itself_once_the_disk_has_room(
    sqlite_url: str, engines: Callable[..., Engine], apps: Apps
) -> None:
    """Attempts that nobody reported, on a disk too full for saying so."""
    acts = Acts(Store(engines(sqlite_url), StoppedClock()))
    ids = [acts.schedule() for _ in range(100)]
    for id in ids:
        acts.attempt(id, seconds=0.1)
    app = apps(sqlite_url)  # on the machine's clock: years later
    app.adapter("email", backoff=Backoff.linear(0))(lambda delivery, attempt: None)
    disk = Disk(app.engine)
    disk.fill_at = ("INTO delivery_events", "'Interrupted'")
    with app.running(**PATIENT) as processor:
        eventually(lambda: len(disk.refusals) > 2)
        assert statuses(app) == {Status.ATTEMPTING}
        disk.free()
        eventually(lambda: statuses(app) == {Status.PENDING})
    assert processor.error is None
    assert {tuple(kinds(app, id)) for id in ids} == {("Scheduled", "Attempted", "Interrupted")}
    assert broken(app.engine) == []


@pytest.fixture
def refuse_to_grow() -> Iterator[Callable[[], None]]:
    """Makes the operating system refuse to write beyond the first pages of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_processor_goes_on_once_the_disk_takes_writes_again(
    app: Deliveries, calls: Calls, refuse_to_grow: Callable[[], None]
) -> None:
    """Not SQLite's own limit: here the write itself fails, and no page of a commit may be half there."""
    ids = owe(app, 30)
    failed: list[str] = []

    def note(context: ExceptionContext) -> None:
        failed.append(getattr(context.original_exception, "sqlite_errorname", ""))

    event.listen(app.engine, "handle_error", note)
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    refuse_to_grow()
    with app.running(**PATIENT) as processor:
        eventually(lambda: len(failed) > 2)
        with pytest.raises(OperationalError):
            owe(app, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        eventually(lambda: statuses(app) == {Status.SUCCEEDED})
    assert processor.error is None
    assert {name.split("_")[1] for name in failed} <= {"IOERR", "FULL"}
    assert sorted(calls.made) == sorted((id, 1) for id in ids)
    assert broken(app.engine, calls=called(calls), ended=True) == []


# -- a locked file ---------------------------------------------------------------------------------


class Holder:
    """Another process, which does as told with the file and holds it until it is let go."""

    PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.readline()
"""

    def __init__(self, url: str, *statements: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, path_of(url), *statements],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 20)
        assert ready, "the other process did not come to hold the file"
        assert self._process.stdout.readline() == b"held\n"

    def let_go(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture
def holder(sqlite_url: str) -> Iterator[Callable[..., Holder]]:
    made: list[Holder] = []

    def hold(*statements: str) -> Holder:
        made.append(Holder(sqlite_url, *statements))
        return made[-1]

    yield hold
    for one in made:
        one.let_go()


def path_of(url: str) -> str:
    return str(make_url(url).database)


def hurry(engine: Engine) -> list[str]:
    """Wait for locks a moment only; what was refused for one is noted."""
    refused: list[str] = []

    def note(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlite_errorname", "") == "SQLITE_BUSY":
            refused.append(context.statement or "")

    event.listen(engine, "checkout", lambda connection, *rest: connection.execute("PRAGMA busy_timeout = 20"))
    event.listen(engine, "handle_error", note)
    return refused


def test_a_processor_outlasts_a_writer_that_holds_the_file(
    app: Deliveries,
    calls: Calls,
    holder: Callable[..., Holder],
) -> None:
    ids = owe(app, 20)
    refused = hurry(app.engine)
    writer = holder("BEGIN IMMEDIATE")
    with app.running(**PATIENT) as processor:
        eventually(lambda: len(refused) > 2)
        assert calls.made == []
        with pytest.raises(OperationalError, match="locked"):
            owe(app, 1)
        writer.let_go()
        eventually(lambda: statuses(app) == {Status.SUCCEEDED})
    assert processor.error is None
    assert sorted(calls.made) == sorted((id, 1) for id in ids)


def test_a_reader_that_never_leaves_keeps_nobody_from_working(
    app: Deliveries,
    sqlite_url: str,
    calls: Calls,
    holder: Callable[..., Holder],
) -> None:
    """The log grows, since no checkpoint can pass what the reader still sees; work goes on."""
    owe(app, 1)
    app.drain()
    log = Path(path_of(sqlite_url) + "-wal")
    reader = holder("BEGIN", "SELECT count(*) FROM deliveries")
    for _ in range(60):
        owe(app, 10, receipt=1_900)
        assert app.drain().succeeded == 10
    grown = log.stat().st_size
    assert grown > 4_500_000  # beyond the 1,000 pages at which it would be taken up
    with app.engine.connect() as connection:
        _, pages, moved = connection.connection.driver_connection.execute(  # type: ignore[union-attr]
            "PRAGMA wal_checkpoint(PASSIVE)"
        ).fetchone()
        assert moved < pages
    reader.let_go()
    with sqlite3.connect(path_of(sqlite_url)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    connection.close()
    assert log.stat().st_size == 0
    assert broken(app.engine, calls=called(calls), ended=True) == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(lifetime=120.0) as running:
        running.on("/target", Reply())
        yield running


def test_a_kill_releases_the_lock_that_its_victim_held(sqlite_url: str, receiver: Receiver) -> None:
    """Two processes on one file: one is killed with the write lock in its hands."""
    app = application(sqlite_url, receiver.url)
    refused = hurry(app.engine)
    with app.engine.begin() as connection:
        owed = [app.schedule(connection, "keyed", {"path": "/target"}) for _ in range(5)]
    with WorkerProcess(url=sqlite_url, receiver=receiver.url, stop_at="before Attempted") as worker:
        worker.wait_for("before Attempted")
        with app.running(QUEUES, **SETTINGS) as processor:
            eventually(lambda: len(refused) > 2)
            worker.kill()
            eventually(lambda: statuses(app) == {Status.SUCCEEDED})
        assert processor.error is None
    assert {receiver.calls[str(delivery.id)] for delivery in owed} == {1}
    assert {delivery.attempt for delivery in app.find()} == {1}
    assert broken(app.engine, ended=True) == []
    app.close()


# -- somebody's hands on the file ---------------------------------------------------------------


def test_a_file_that_may_only_be_read_refuses_to_schedule_and_answers_readers(
    app: Deliveries, sqlite_url: str, apps: Apps
) -> None:
    [id] = owe(app, 1)
    reading = apps(f"sqlite:///file:{path_of(sqlite_url)}?mode=ro&uri=true")
    reading.adapter("email")(lambda delivery, attempt: None)
    assert reading.get(id).status is Status.PENDING
    with pytest.raises(OperationalError, match="readonly"):
        owe(reading, 1)
    with pytest.raises(OperationalError, match="readonly"):
        reading.drain(patience=1)
    assert app.drain().succeeded == 1


def test_nobody_turns_the_write_ahead_log_off_under_us(
    app: Deliveries, sqlite_url: str, holder: Callable[..., Holder]
) -> None:
    owe(app, 1)
    with (
        sqlite3.connect(path_of(sqlite_url), timeout=0.1) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("PRAGMA journal_mode = DELETE")
    other.close()
    assert app.drain().succeeded == 1


def test_the_write_ahead_log_is_turned_on_again(app: Deliveries, sqlite_url: str) -> None:
    owe(app, 1)
    app.engine.dispose()
    with sqlite3.connect(path_of(sqlite_url)) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    other.close()
    assert app.drain().succeeded == 1
    with app.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_takes_no_more_debts(
    app: Deliveries, apps: Apps, sqlite_url: str, replaced: bool
) -> None:
    """A commit that says yes must be found by whoever opens the file of that name."""
    apps.damaged = True
    owe(app, 1)
    path = path_of(sqlite_url)
    if replaced:
        sqlite3.connect(path + ".other").close()
        os.replace(path + ".other", path)
    else:
        os.unlink(path)
    with pytest.raises(StoreError, match="deleted, moved or replaced"):
        owe(app, 1)
    with pytest.raises(StoreError, match="deleted, moved or replaced"):
        app.drain(patience=1)
