"""S1: whatever one adapter does, its outcome is recorded and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from deliveries import Backoff, Delivered, Deliveries, Retry, Status
from deliveries.core import events as e
from support.apps import (
    Apps,
    Calls,
    assert_called_once_each,
    eventually,
    kinds,
    last,
    schedule,
    stopped,
    texts,
)

SOON = Backoff.schedule([1_000])


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class ExitsWhenPrinted(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class NotEvenText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - on purpose


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("no")


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


LONG_NAME = type("E" * 10_000, (Exception,), {})

RAISED: dict[str, Callable[[], BaseException]] = {
    "BaseException": lambda: BaseException("base"),
    "SystemExit": lambda: SystemExit(1),
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "RecursionError": lambda: RecursionError("deep"),
    "MemoryError": MemoryError,
    "NUL": lambda: ValueError("a\x00b"),
    "surrogate": lambda: ValueError("a\ud800b"),
    "100 MB": lambda: ValueError("x" * 100_000_000),
    "bytes": lambda: ValueError(b"\xff\x00"),
    "unprintable": Unprintable,
    "exits when printed": ExitsWhenPrinted,
    "not even text": NotEvenText,
    "a very long name": LONG_NAME,
    "a group": lambda: BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("\x00")]),
    "Retry with hostile text": lambda: Retry(Hostile()),
}

RETURNED: dict[str, Callable[[], Any]] = {
    "an object": object,
    "hostile": Hostile,
    "an exception": lambda: ValueError("returned"),
    "a class": lambda: ValueError,
    "a generator": lambda: (n for n in range(3)),
    "100 MB": lambda: "x" * 100_000_000,
    "a hostile receipt": lambda: Delivered(Hostile()),
    "a cyclic receipt": lambda: Delivered(cyclic()),
    "a receipt of bytes": lambda: Delivered(b"\xff\x00"),
    "a receipt with NUL": lambda: Delivered({"a": "\x00\ud800"}),
    "a receipt with NaN": lambda: Delivered(float("nan")),
    "a receipt of 100 MB": lambda: Delivered("x" * 100_000_000),
    "NotImplemented": lambda: NotImplemented,
}


def with_neighbours(
    app: Deliveries, calls: Calls, way: str, deeds: dict[str, Callable[[], Any]]
) -> dict[str, Any]:
    """One delivery for each deed and a healthy one after each, drained together. Name -> id."""

    def do(delivery: Any) -> Any:
        if delivery.payload == "healthy":
            return None
        made = deeds[delivery.payload]()
        if deeds is RAISED:
            raise made
        return made

    async def do_async(delivery: Any, attempt: Any) -> Any:
        return do(delivery)

    app.adapter("email", backoff=SOON)(
        calls(do_async if way == "async" else lambda delivery, attempt: do(delivery))
    )
    ids, healthy = {}, []
    for name in deeds:
        ids[name] = schedule(app, "email", name).id
        healthy.append(schedule(app, "email", "healthy").id)
    summary = app.drain(queues={"email": 4})
    assert summary.attempted == 2 * len(deeds)
    assert {app.get(id).status for id in healthy} == {Status.SUCCEEDED}
    assert_called_once_each(app, calls)
    return ids


@pytest.mark.parametrize("way", ["sync", "async"])
def test_whatever_is_raised(app: Deliveries, calls: Calls, way: str) -> None:
    ids = with_neighbours(app, calls, way, RAISED)
    for name, id in ids.items():
        assert kinds(app, id) == ["Scheduled", "Attempted", "Failed"], name
        event, note = last(app, id), texts(app, id)[-1]
        assert event.cause == "error"
        assert note is not None
        assert len(note) <= 2_000
        assert len(event.error_type or "") <= 200
    assert last(app, ids["KeyboardInterrupt"]).error_type == "KeyboardInterrupt"
    assert texts(app, ids["NUL"])[-1] == "ValueError: a\\u0000b"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_whatever_is_returned(app: Deliveries, calls: Calls, way: str) -> None:
    ids = with_neighbours(app, calls, way, RETURNED)
    for name, id in ids.items():
        assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"], name
        assert len(texts(app, id)[-1] or "") <= 2_000


def test_a_coroutine_from_a_function_that_does_not_look_like_one(app: Deliveries, calls: Calls) -> None:
    async def later() -> Any:
        return Delivered("late")

    app.adapter("email")(calls(lambda delivery, attempt: later()))
    id = schedule(app).id
    app.drain()
    assert app.get(id).status is Status.SUCCEEDED
    assert texts(app, id)[-1] == "late"


def test_an_object_with_an_async_call_is_async(app: Deliveries) -> None:
    class Sender:
        async def __call__(self, delivery: Any, attempt: Any) -> Any:
            await asyncio.get_running_loop().create_task(asyncio.wait_for(asyncio.Event().wait(), 0.01))

    app.adapter("email", backoff=SOON)(Sender())
    id = schedule(app).id
    app.drain()
    assert last(app, id).error_type == "TimeoutError"


def test_an_adapter_that_takes_the_wrong_arguments(app: Deliveries) -> None:
    app.adapter("email", backoff=SOON)(lambda delivery: None)
    id = schedule(app).id
    app.drain()
    assert last(app, id).error_type == "TypeError"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_mutating_the_input_changes_nothing(app: Deliveries, way: str) -> None:
    seen: list[Any] = []

    def spoil(delivery: Any, attempt: Any) -> Any:
        seen.append([delivery.payload["list"][:], delivery.recipient])
        with contextlib.suppress(AttributeError):
            delivery.status = Status.SUCCEEDED
        with contextlib.suppress(AttributeError):
            attempt.number = 99
        delivery.payload["list"].append("spoilt")
        delivery.payload["more"] = object()
        return Retry(after=0)

    async def spoil_async(delivery: Any, attempt: Any) -> Any:
        return spoil(delivery, attempt)

    app.adapter("email")(spoil_async if way == "async" else spoil)
    id = schedule(app, "email", {"list": [1]}, recipient="ann").id
    app.drain()
    app.drain()
    assert seen == [[[1], "ann"]] * 2
    assert app.get(id).payload == {"list": [1]}


def test_disposing_of_our_engine(app: Deliveries, calls: Calls) -> None:
    @app.adapter("email")
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        app.engine.dispose()

    ids = [schedule(app).id for _ in range(5)]
    app.drain(queues={"email": 2})
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert_called_once_each(app, calls)


def test_ending_all_our_connections(postgresql_url: str, apps: Apps, calls: Calls) -> None:
    app = apps(postgresql_url)
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")

    @app.adapter("email")
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        with admin.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    ids = [schedule(app).id for _ in range(3)]
    app.drain(queues={"email": 1}, patience=50)
    while any(app.get(id).status is Status.PENDING for id in ids):  # given back in between
        app.drain(queues={"email": 1}, patience=50)
    admin.dispose()
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert_called_once_each(app, calls)


def test_a_child_task_that_dies_noisily(app: Deliveries) -> None:
    tasks: list[Any] = []

    @app.adapter("email")
    async def email(delivery: Any, attempt: Any) -> None:
        async def child() -> None:
            raise ValueError("child")

        tasks.append(asyncio.create_task(child()))
        await asyncio.wait(tasks)
        assert tasks[0].exception()

    id = schedule(app).id
    app.drain()
    assert app.get(id).status is Status.SUCCEEDED


def test_an_async_adapter_that_blocks_the_loop(app: Deliveries) -> None:
    """It is timed out all the same, and the sync ones go on meanwhile."""
    gate = threading.Event()

    @app.adapter("email", timeout=0.2, backoff=SOON)
    async def email(delivery: Any, attempt: Any) -> None:
        gate.wait(20)

    app.adapter("sms")(lambda delivery, attempt: None)
    blocked, other = schedule(app).id, schedule(app, "sms").id
    with app.running(lease=5) as processor:
        eventually(lambda: app.get(other).is_terminal)
        eventually(lambda: "Failed" in kinds(app, blocked))
        assert last(app, blocked).cause == "timeout"
        gate.set()
        processor.stop()
        stopped(processor)
    assert isinstance(last(app, blocked), e.Failed)


def test_a_cancelled_child_is_the_adapters_own_affair(app: Deliveries) -> None:
    @app.adapter("email", backoff=SOON)
    async def email(delivery: Any, attempt: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if delivery.payload == "cancels itself":
            task.cancel()
        await asyncio.Event().wait() if delivery.payload else None

    one, other = schedule(app, "email", "cancels itself").id, schedule(app).id
    app.drain()
    assert kinds(app, one)[-1] in ("Interrupted", "Failed")
    assert app.get(other).status is Status.SUCCEEDED
