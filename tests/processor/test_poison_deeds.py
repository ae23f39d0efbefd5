"""S1: whatever an adapter does to the process, the loop or the application, its neighbours go on."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from deliveries import Backoff, Deliveries, Status
from support.apps import (
    Apps,
    Calls,
    assert_called_once_each,
    eventually,
    evidence,
    kinds,
    last,
    row,
    schedule,
)
from support.poison import DEEDS, process_unchanged

SOON = Backoff.schedule([1_000])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # one deed is just that
@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_neighbours_go_on(database_url: str, app: Deliveries, apps: Apps, calls: Calls, way: str) -> None:
    """Each deed through one processor, healthy deliveries beside and after it, in turn and at once."""
    looking = apps(database_url)
    deeds = {name: deed for name, deed in DEEDS.items() if deed.only in ("", way)}

    def do(delivery: Any, attempt: Any) -> Any:
        return deeds[delivery.payload].do(app, delivery, attempt) if delivery.payload in deeds else None

    async def do_async(delivery: Any, attempt: Any) -> Any:
        said = do(delivery, attempt)
        return await said if inspect.iscoroutine(said) else said

    function = calls(do_async if way == "async" else do)
    app.adapter("email", backoff=SOON)(function)
    looking.adapter("email", backoff=SOON)(function)
    poisoned, healthy = {}, []
    with process_unchanged(), app.running(queues={"email": 3}, lease=60) as processor:
        for name in deeds:
            with looking.engine.begin() as connection:
                poisoned[name] = looking.schedule(connection, "email", name).id
                healthy += [looking.schedule(connection, "email", "healthy").id for _ in range(2)]
            eventually(lambda: "attempting" not in {one.status for one in looking.find(limit=1_000)})
            eventually(lambda: all(looking.get(id).is_terminal for id in healthy[-2:]))  # noqa: B023 - called here
            assert processor.is_alive, name
    assert {looking.get(id).status for id in healthy} == {Status.SUCCEEDED}
    for name, id in poisoned.items():
        deed, event = deeds[name], last(looking, id)
        assert kinds(looking, id)[-1] == deed.ends, name
        assert len(calls.of(id)) == 1, name
        assert getattr(event, "error_type", None) == deed.error_type, name
        assert row(looking, id).lease_until is None
    assert_called_once_each(looking, calls)


def test_a_backoff_that_exits_is_replaced(app: Deliveries, calls: Calls) -> None:
    def backoff(endings: int, error: BaseException | None) -> float:
        raise SystemExit(3)

    def fails(delivery: Any, attempt: Any) -> None:
        raise ValueError("no")

    app.adapter("email", backoff=backoff)(calls(fails))
    app.adapter("sms")(calls(lambda delivery, attempt: None))
    failed, healthy = schedule(app).id, schedule(app, "sms").id
    with app.running() as processor:
        eventually(lambda: app.get(healthy).is_terminal and "Failed" in kinds(app, failed))
        assert processor.is_alive
    assert_called_once_each(app, calls)


# -- what never ends -----------------------------------------------------------------------------------


class NeverDescribed(Exception):
    """Its text takes as long as the gate stays shut."""

    gate: threading.Event

    def __str__(self) -> str:
        self.gate.wait(30)
        return "at last"


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("what", ["the adapter", "the text of what it raises"])
def test_what_never_returns_costs_its_own_slot_and_no_more(
    app: Deliveries, calls: Calls, what: str, way: str
) -> None:
    """Also where it is not the adapter that takes for ever but the words of what it raised."""
    gate = threading.Event()

    def do(delivery: Any, attempt: Any) -> None:
        if what == "the adapter":
            gate.wait(30)
        else:
            error = NeverDescribed()
            error.gate = gate
            raise error

    async def do_async(delivery: Any, attempt: Any) -> None:
        do(delivery, attempt)

    app.adapter("email", timeout=0.2, backoff=SOON)(calls(do_async if way == "async" else do))
    app.adapter("sms")(calls(lambda delivery, attempt: None))
    stuck = schedule(app).id
    try:
        with app.running(grace=10) as processor:
            eventually(lambda: "Attempted" in kinds(app, stuck))
            healthy = [schedule(app, "sms").id for _ in range(3)]
            eventually(lambda: all(app.get(id).is_terminal for id in healthy))
            eventually(lambda: "Failed" in kinds(app, stuck))
            assert processor.is_alive
            assert (last(app, stuck).cause, last(app, stuck).error_type) == ("timeout", "TimeoutError")
            gate.set()
            eventually(lambda: evidence(app, stuck))
    finally:
        gate.set()
    said = "Delivered" if what == "the adapter" else "NeverDescribed"
    assert evidence(app, stuck) == [("late_report", {"attempt": 1, "said": said})]
    assert_called_once_each(app, calls)


def test_the_word_of_who_said_nothing_is_no_success(app: Deliveries, calls: Calls) -> None:
    """Swept, and timed out: the evidence does not say that it was delivered."""
    gate = threading.Event()

    @app.adapter("email", timeout=0.3, backoff=SOON)
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        gate.wait(30)

    id = schedule(app).id
    try:
        with app.running(lease=60) as processor:
            eventually(lambda: calls.of(id))
            close_by_hand(app, id)
            eventually(lambda: evidence(app, id))
            gate.set()
            eventually(lambda: len(evidence(app, id)) == 2)
            assert processor.is_alive
    finally:
        gate.set()
    assert [fact["said"] for _, fact in evidence(app, id)] == ["TimeoutError", "Delivered"]
    assert kinds(app, id) == ["Scheduled", "Attempted", "Interrupted"]


def close_by_hand(app: Deliveries, id: Any) -> None:
    """As another worker's sweep does once the lease is over."""
    from deliveries.clock import SystemClock
    from deliveries.core import commands
    from deliveries.store.store import Store

    store = Store(app.engine, SystemClock())
    with store.transaction() as connection:
        assert store.command(connection, id, lambda now: commands.Interrupt(now=now, attempt=1))


# -- connections ---------------------------------------------------------------------------------------


def test_adapters_that_take_all_connections_and_keep_them(
    database_url: str, apps: Apps, calls: Calls
) -> None:
    """While the pool is empty nothing is recorded; afterwards everything is, the late word too."""
    app = apps(database_url, pool_size=2, max_overflow=0, pool_timeout=0.05)
    looking = apps(database_url)
    entered, gate = threading.Event(), threading.Event()

    @app.adapter("email", timeout=0.2, backoff=SOON)
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        held = [taken for _ in range(2) if (taken := connect(app)) is not None]
        entered.set()
        gate.wait(20)
        for connection in held:
            connection.close()

    looking.adapter("email")(email)
    id = schedule(looking).id
    try:
        with app.running(poll=0.05) as processor:
            assert entered.wait(10)
            eventually(lambda: processor._failures >= 3)  # it has timed out meanwhile
            gate.set()
            eventually(lambda: evidence(looking, id) and "Failed" in kinds(looking, id))
            other = schedule(looking).id
            eventually(lambda: "Failed" in kinds(looking, other) or looking.get(other).is_terminal)
            assert processor.is_alive
    finally:
        gate.set()
    assert_called_once_each(looking, calls)


def connect(app: Deliveries) -> Any:
    """A connection out of the pool, with patience."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            return app.engine.connect()
        except Exception:
            continue
    return None


def test_an_adapter_that_ends_every_backend_while_others_run(
    postgresql_url: str, apps: Apps, calls: Calls
) -> None:
    app, looking = apps(postgresql_url), apps(postgresql_url, poolclass=NullPool)
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)

    @app.adapter("email")
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        if delivery.payload == "kills":
            with contextlib.suppress(OperationalError), admin.connect() as connection:  # they kill each other
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

    looking.adapter("email")(email)
    ids = [schedule(looking, "email", payload).id for payload in ["kills", "healthy"] * 4]
    with app.running(queues={"email": 3}, poll=0.1) as processor:
        eventually(lambda: all_ended(looking, ids), 30)
        assert processor.is_alive
    assert {looking.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert {len(calls.of(id)) for id in ids} == {1}
    assert_called_once_each(looking, calls)


def all_ended(app: Deliveries, ids: list[Any]) -> bool:
    """Whether they have, asked over connections that may be ended too."""
    try:
        return all(app.get(id).is_terminal for id in ids)
    except Exception:
        return False
