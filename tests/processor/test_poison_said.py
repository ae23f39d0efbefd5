"""S1: whatever an adapter says, or raises, is recorded within bounds, and everybody else goes on.

All of `support.poison` goes through one processor, a healthy neighbour after each.
"""

from __future__ import annotations

import gc
import re
import threading
import tracemalloc
from typing import Any

import pytest
from sqlalchemy import func, or_, select

from deliveries import Backoff, Delivered, Deliveries, Retry, Status
from deliveries.core.notes import MAX_NAME, MAX_TEXT
from deliveries.store.schema import deliveries
from support.apps import (
    Apps,
    Calls,
    assert_called_once_each,
    eventually,
    evidence,
    kinds,
    last,
    schedule,
    stopped,
    texts,
)
from support.poison import MEGABYTES, SAID, Poison, coroutine, failing, said

SOON = Backoff.schedule([1_000])
UNSTORABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_it_is_recorded_and_the_neighbours_go_on(app: Deliveries, calls: Calls, way: str) -> None:
    def do(delivery: Any, attempt: Any) -> Any:
        return said(delivery.payload) if delivery.payload in SAID else None

    async def do_async(delivery: Any, attempt: Any) -> Any:
        return do(delivery, attempt)

    app.adapter("email", backoff=SOON)(calls(do_async if way == "async" else do))
    with app.engine.begin() as connection:
        poisoned, healthy = {}, []
        for name in SAID:
            poisoned[name] = app.schedule(connection, "email", name).id
            healthy.append(app.schedule(connection, "email", "healthy").id)
    processor = app.processor(queues={"email": 4}, lease=60)
    processor.start()
    try:
        eventually(lambda: all_attempts_closed(app), 60)
        assert processor.is_alive
    finally:
        processor.stop(2)
        stopped(processor)
    assert {app.get(id).status for id in healthy} == {Status.SUCCEEDED}
    assert_called_once_each(app, calls)
    wrong = {name: found for name, id in poisoned.items() if (found := misrecorded(app, id, SAID[name]))}
    assert not wrong


def all_attempts_closed(app: Deliveries) -> bool:
    """Whether each delivery was attempted, and each attempt is closed."""
    wanted = or_(deliveries.c.attempt == 0, deliveries.c.status == "attempting")
    with app.engine.connect() as connection:
        return not connection.scalar(select(func.count()).where(wanted))


def misrecorded(app: Deliveries, id: Any, poison: Poison) -> str | None:
    """What is wrong with the record of `poison`."""
    try:
        event, note = last(app, id), texts(app, id)[-1]
        body = app.history(id)[-1].body
        str(app.explain(id))
    except Exception as error:
        return f"it cannot be read: {type(error).__name__}: {error}"
    if kinds(app, id) != ["Scheduled", "Attempted", poison.ends]:
        return f"{kinds(app, id)}, {event}, {note!r:.80}"
    name = getattr(event, "error_type", None)
    if poison.error_type is not None and name != poison.error_type:
        return f"it is called {name!r:.80}"
    if len(name or "") > MAX_NAME or len(note or "") > MAX_TEXT or len(body) > 2_000:
        return f"without bounds: {len(name or '')}, {len(note or '')}, {len(body)}"
    if UNSTORABLE.search(f"{name}{note}") or "hunter2" in f"{name}{note}":
        return f"not clean: {name!r:.80}, {note!r:.80}"
    if poison.note is not None and poison.note not in (note or ""):
        return f"its note is {note!r:.80}"
    return None


def test_the_harness_sees_what_is_recorded_wrongly(app: Deliveries) -> None:
    app.adapter("email", backoff=SOON)(lambda delivery, attempt: Retry("x"))
    id = schedule(app).id
    app.drain()
    assert misrecorded(app, id, Poison(lambda: None, note="x")) is None
    assert "Failed" in (misrecorded(app, id, Poison(lambda: None, "Succeeded")) or "")
    assert "called" in (misrecorded(app, id, Poison(lambda: None, error_type="ValueError")) or "")
    assert "note" in (misrecorded(app, id, Poison(lambda: None, note="y")) or "")


# -- to whom nothing may be guessed ------------------------------------------------------------------


@pytest.mark.parametrize("where", ["adapter", "lookup"])
def test_of_an_unsafe_adapter_it_says_nothing_about_the_effect(
    app: Deliveries, calls: Calls, where: str
) -> None:
    """What raises instead of reporting leaves the outcome unknown; a person must tell."""
    raised = [name for name in SAID if name.startswith(("text: ", "exception: "))]

    def poison(delivery: Any, attempt: Any) -> Any:
        return said(delivery.payload)

    def unsure(delivery: Any, attempt: Any) -> Any:
        raise ValueError

    options: dict[str, Any] = {"on_unknown": "hold"}
    if where == "lookup":
        options = {"lookup": poison, "max_lookups": 1, "backoff": Backoff.schedule([0])}
    app.adapter("charge", effect="unsafe", **options)(calls(unsure if where == "lookup" else poison))
    with app.engine.begin() as connection:
        ids = {name: app.schedule(connection, "charge", name).id for name in raised}
    app.drain(queues={"charge": 8}, sweep_every=0.01)
    app.drain(queues={"charge": 200})  # what was held only now is asked now
    for name, id in ids.items():
        assert kinds(app, id) == ["Scheduled", "Attempted", "Held"], name
    assert_called_once_each(app, calls)


@pytest.mark.parametrize(
    "name",
    ["value: a hostile value", "value: a hostile class", "text: __str__ exits", "outcome: after changes"],
)
def test_the_late_word_of_a_call_is_kept_whatever_it_is(app: Deliveries, name: str) -> None:
    gate = threading.Event()

    @app.adapter("email", timeout=0.1, backoff=SOON)
    def email(delivery: Any, attempt: Any) -> Any:
        gate.wait(20)
        return said(name)

    app.adapter("sms")(lambda delivery, attempt: None)
    late = schedule(app).id
    with app.running() as processor:
        eventually(lambda: "Failed" in kinds(app, late))
        gate.set()
        eventually(lambda: evidence(app, late))
        healthy = schedule(app, "sms").id
        eventually(lambda: app.get(healthy).is_terminal)
        assert processor.is_alive
    kind = {"text": "Describes", "outcome": "ChangesItsMind"}.get(name.partition(":")[0], "Delivered")
    assert evidence(app, late) == [("late_report", {"attempt": 1, "said": kind})]


# -- coroutines that nobody awaits --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_coroutine_that_is_returned_is_awaited(app: Deliveries, way: str) -> None:
    """A forgotten `await` must not become a success of something that never ran."""

    def do(delivery: Any, attempt: Any) -> Any:
        return failing() if delivery.payload == "fails" else coroutine()

    async def do_async(delivery: Any, attempt: Any) -> Any:
        return do(delivery, attempt)

    app.adapter("email", backoff=SOON)(do_async if way == "async" else do)
    fine, fails = schedule(app).id, schedule(app, "email", "fails").id
    app.drain()
    assert app.get(fine).status is Status.SUCCEEDED
    assert (kinds(app, fails)[-1], last(app, fails).error_type) == ("Failed", "ValueError")


# -- sizes ---------------------------------------------------------------------------------------------


def test_what_has_100_mb_is_neither_copied_nor_kept(database_url: str, apps: Apps) -> None:
    app = apps(database_url)
    huge = "x" * MEGABYTES

    @app.adapter("email", backoff=SOON)
    def email(delivery: Any, attempt: Any) -> Any:
        if delivery.payload == "raises":
            raise ValueError(huge)
        return Delivered(huge) if delivery.payload == "reports" else huge + "y"

    ids = [schedule(app, "email", payload).id for payload in ("raises", "reports", "returns")]
    held = []
    with app.running(queues={"email": 1}):
        tracemalloc.start()
        try:
            eventually(lambda: all_attempts_closed(app))
            gc.collect()
            held += tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    kept, peak = held
    assert kept < MEGABYTES / 4, "what was said is still held"
    assert peak < MEGABYTES * 1.5, "one copy is the adapter's own"
    assert [kinds(app, id)[-1] for id in ids] == ["Failed", "Succeeded", "Succeeded"]
    assert {len(texts(app, id)[-1] or "") for id in ids} == {MAX_TEXT, 0}
