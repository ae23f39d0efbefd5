"""What adapters say, end to end: section 4 of the design, for sync and async, returned and raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deliveries import (
    Backoff,
    Bounced,
    Cancel,
    Deliveries,
    Discard,
    NotDone,
    Retry,
    Snooze,
    Status,
    Summary,
    Suppress,
    Unknown,
)
from deliveries import Delivered as Done
from deliveries.core import events as e
from deliveries.core.outcomes import Outcome
from deliveries.testing.examples import at
from support.apps import (
    Apps,
    Calls,
    ManualClock,
    RunningClock,
    assert_called_once_each,
    history,
    kinds,
    last,
    schedule,
    texts,
)

WAYS = ("sync", "async", "sync raises", "async raises")


def adapter(way: str, answer: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """An adapter that gives (or raises) what `answer` gives."""

    def sync(delivery: Any, attempt: Any) -> Any:
        said = answer(delivery, attempt)
        if way.endswith("raises") and isinstance(said, BaseException):
            raise said
        return said

    async def asynchronous(delivery: Any, attempt: Any) -> Any:
        return sync(delivery, attempt)

    return asynchronous if way.startswith("async") else sync


def drained(
    app: Deliveries, calls: Calls, answer: Callable[[Any, Any], Any], **options: Any
) -> dict[str, Any]:
    """One delivery for each way to say `answer`, drained once. Way -> id."""
    ids = {}
    for n, way in enumerate(WAYS):
        app.adapter(f"c{n}", **options)(calls(adapter(way, answer)))
        ids[way] = schedule(app, f"c{n}").id
    app.drain()
    assert_called_once_each(app, calls)
    return ids


def field(event: Any, name: str) -> Any:
    return getattr(event, name, None)


OUTCOMES: dict[str, tuple[Callable[[], Any], type[e.Event], dict[str, Any], str | None]] = {
    "None": (lambda: None, e.Succeeded, {}, None),
    "any value": (lambda: {"id": 7}, e.Succeeded, {}, None),
    "Delivered": (Done, e.Succeeded, {"by": "adapter"}, None),
    "Delivered, text": (lambda: Done("250 ok"), e.Succeeded, {}, "250 ok"),
    "Delivered, JSON": (lambda: Done(receipt={"id": [1, "x"]}), e.Succeeded, {}, '{"id":[1,"x"]}'),
    "Retry": (lambda: Retry("503"), e.Failed, {"cause": "error", "error_type": None}, "503"),
    "Retry, error": (
        lambda: Retry(ValueError("no")),
        e.Failed,
        {"cause": "error"},
        "ValueError: no",
    ),
    "Cancel": (lambda: Cancel("gone"), e.Cancelled, {"cause": "permanent_failure"}, "gone"),
    "Bounced": (lambda: Bounced("who?"), e.Cancelled, {"cause": "bounced"}, "who?"),
    "Discard": (lambda: Discard("why?"), e.Exhausted, {"cause": "discarded"}, "why?"),
    "Snooze": (lambda: Snooze(60), e.Rescheduled, {"cause": "snoozed"}, None),
    "Snooze until": (
        lambda: Snooze(until=at(60), reason="night"),
        e.Rescheduled,
        {"due_at": at(60)},
        "night",
    ),
    "Suppress": (lambda: Suppress("opted out"), e.Suppressed, {"by": "adapter"}, "opted out"),
    "Unknown": (lambda: Unknown("reset"), e.Failed, {"cause": "unknown"}, "reset"),
    "NotDone": (lambda: NotDone("nothing"), e.Failed, {"cause": "error"}, "nothing"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcomes(timed: Deliveries, calls: Calls, name: str) -> None:
    make, kind, fields, note = OUTCOMES[name]
    ids = drained(timed, calls, lambda delivery, attempt: make())
    for way, id in ids.items():
        event = last(timed, id)
        assert kinds(timed, id) == ["Scheduled", "Attempted", kind.__name__], way
        assert {name: field(event, name) for name in fields} == fields, way
        assert event.attempt == 1
        assert texts(timed, id)[-1] == note, way


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("k"), TimeoutError("mine"), OSError()], ids=repr
)
def test_any_exception_is_a_failure(timed: Deliveries, calls: Calls, error: Exception) -> None:
    ids = drained(timed, calls, lambda delivery, attempt: error)
    for way, id in ids.items():
        if way.endswith("raises"):
            event = last(timed, id)
            assert (type(event), event.cause, event.error_type) == (e.Failed, "error", type(error).__name__)
            assert type(error).__name__ in (texts(timed, id)[-1] or "")
        else:  # returned, it is a value like any other
            assert timed.get(id).status is Status.SUCCEEDED


def test_a_returned_retrys_error_is_named(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: Retry(ValueError("no")))
    id = schedule(timed).id
    timed.drain()
    assert (last(timed, id).error_type, texts(timed, id)[-1]) == ("ValueError", "ValueError: no")


@pytest.mark.parametrize("kind", [Retry, Cancel, Unknown, Snooze])
def test_the_class_of_an_outcome_is_a_mistake_and_no_success(timed: Deliveries, kind: Any) -> None:
    timed.adapter("email")(lambda delivery, attempt: kind)
    id = schedule(timed).id
    timed.drain()
    assert (type(last(timed, id)), last(timed, id).error_type) == (e.Failed, "TypeError")


def test_what_the_adapter_is_told(timed: Deliveries, clock: RunningClock) -> None:
    told: list[Any] = []

    @timed.adapter("email", max_attempts=2, timeout=7, backoff=Backoff.linear(1))
    def email(delivery: Any, attempt: Any) -> Outcome:
        told.append((delivery, attempt))
        return Retry()

    scheduled = schedule(timed, "email", {"a": 1}, recipient="ann", key="k")
    for _ in range(3):
        timed.drain()
        clock.advance(5)
    (first, one), (second, two) = told
    assert (first.payload, first.recipient, first.status) == ({"a": 1}, "ann", Status.ATTEMPTING)
    assert first.idempotency_key == second.idempotency_key == str(scheduled.id)
    assert (one.number, one.is_last, one.timeout) == (1, False, 7.0)
    assert (two.number, two.is_last) == (2, True)
    recorded = [entry.recorded_at for entry in timed.history(scheduled.id) if entry.type == "Attempted"]
    assert [one.started_at, two.started_at] == recorded


# -- retries and budgets -----------------------------------------------------------------------------


def drain_until_the_end(app: Deliveries, clock: RunningClock, id: Any, limit: int = 12) -> list[Summary]:
    summaries = []
    while not app.get(id).is_terminal and len(summaries) < limit:
        summaries.append(app.drain())
        clock.advance(100_000)
    return summaries


@pytest.mark.parametrize(
    ("answer", "options", "cause", "calls_made"),
    [
        (Retry("503"), {"max_attempts": 3}, "attempts", 3),
        (ValueError("no"), {"max_attempts": 1}, "attempts", 1),
        (Unknown("?"), {"max_attempts": 2}, "attempts", 2),
        (Snooze(1), {"max_snoozes": 2}, "snoozes", 3),
        (Snooze(1), {"max_snoozes": 0}, "snoozes", 1),
    ],
)
def test_budgets(
    timed: Deliveries,
    clock: RunningClock,
    calls: Calls,
    answer: Any,
    options: dict[str, Any],
    cause: str,
    calls_made: int,
) -> None:
    timed.adapter("email", **options)(calls(adapter("sync raises", lambda delivery, attempt: answer)))
    id = schedule(timed).id
    drain_until_the_end(timed, clock, id)
    event = last(timed, id)
    assert (type(event), event.cause, event.attempt) == (e.Exhausted, cause, calls_made)
    assert calls.of(id) == list(range(1, calls_made + 1))
    assert_called_once_each(timed, calls)


def test_snoozes_count_on_no_attempt_and_failures_on_no_snooze(
    timed: Deliveries, clock: RunningClock
) -> None:
    says = iter([Snooze(1), Retry(), Snooze(1), Retry(), Snooze(1), Done()])
    timed.adapter("email", max_attempts=3, max_snoozes=3)(lambda delivery, attempt: next(says))
    id = schedule(timed).id
    drain_until_the_end(timed, clock, id)
    found = timed.get(id)
    assert (found.status, found.attempt, found.endings, found.snoozes) == (Status.SUCCEEDED, 6, 2, 3)


def test_the_callers_own_bound_comes_before_the_adapters(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email", max_attempts=5)(lambda delivery, attempt: Retry())
    few, many = schedule(timed, max_attempts=1).id, schedule(timed, max_attempts=7).id
    drain_until_the_end(timed, clock, many)
    assert (timed.get(few).attempt, timed.get(many).attempt) == (1, 7)


def test_a_deadline_between_attempts(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("email")(lambda delivery, attempt: Retry(after=50))
    id = schedule(timed, expires_at=at(60)).id
    drain_until_the_end(timed, clock, id)
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Failed", "Exhausted"]
    assert last(timed, id).cause == "deadline"
    assert last(timed, id).attempt is None


@pytest.mark.parametrize(
    ("said", "options", "seconds"),
    [
        (Retry(after=5), {}, 5),
        (Retry(after=90 * 86_400), {}, 30 * 86_400),
        (Retry(), {"backoff": Backoff.schedule([7, 9])}, 7),
        (Retry(), {"backoff": lambda endings, error: 11}, 11),
        (ValueError(), {"backoff": lambda endings, error: {ValueError: 13}[type(error)]}, 13),
        (Retry(ValueError()), {"backoff": lambda endings, error: {ValueError: 13}.get(type(error), 1)}, 13),
        (Retry(after=5), {"backoff": lambda endings, error: 11}, 5),
        (Snooze(60), {}, 60),
        (Snooze(90 * 86_400), {}, 30 * 86_400),
    ],
)
def test_when_it_is_tried_again(
    timed: Deliveries, said: Any, options: dict[str, Any], seconds: float
) -> None:
    way = "sync" if isinstance(said, Outcome) else "sync raises"
    timed.adapter("email", **options)(adapter(way, lambda delivery, attempt: said))
    id = schedule(timed).id
    timed.drain()
    recorded = timed.history(id)[-1]
    assert abs((recorded.event.due_at - recorded.recorded_at).total_seconds() - seconds) < 0.01


@pytest.mark.parametrize("wrong", ["soon", float("nan"), -1, None])
def test_a_backoff_that_answers_nonsense_is_replaced(timed: Deliveries, wrong: Any) -> None:
    timed.adapter("email", backoff=lambda endings, error: wrong)(lambda delivery, attempt: Retry())
    other = schedule(timed)
    timed.drain()
    assert kinds(timed, other.id) == ["Scheduled", "Attempted", "Failed"]


# -- a drain -----------------------------------------------------------------------------------------


def test_a_drain_leaves_what_it_made_due_itself(timed: Deliveries, calls: Calls) -> None:
    timed.adapter("email")(calls(lambda delivery, attempt: Retry(after=0)))
    ids = [schedule(timed).id for _ in range(3)]
    for n in (1, 2, 3):
        summary = timed.drain()
        assert (summary.attempted, summary.retrying) == (3, 3)
        assert [timed.get(id).attempt for id in ids] == [n] * 3
    assert_called_once_each(timed, calls)


@pytest.mark.parametrize("said", [Retry(after=0), Snooze(0)], ids=["Retry", "Snooze"])
def test_a_drain_leaves_what_it_made_due_itself_even_if_the_clock_stands(
    database_url: str, apps: Apps, calls: Calls, said: Any
) -> None:
    app = apps(database_url, ManualClock())
    app.adapter("email", max_attempts=3, max_snoozes=2)(calls(lambda delivery, attempt: said))
    schedule(app)
    assert app.drain().attempted == 1


def test_a_drain_leaves_what_comes_meanwhile(app: Deliveries) -> None:
    children: list[Any] = []

    @app.adapter("email")
    def email(delivery: Any, attempt: Any) -> None:
        if delivery.payload == "parent":
            children.append(schedule(app, "email", "child").id)

    schedule(app, "email", "parent")
    assert app.drain().succeeded == 1
    assert app.get(children[0]).status is Status.PENDING
    assert app.drain().succeeded == 1


def test_the_summary_counts(timed: Deliveries) -> None:
    says = {
        "ok": Done(),
        "again": Retry(),
        "later": Snooze(9),
        "never": Cancel(),
        "not him": Suppress(),
        "enough": Discard(),
        "who knows": Unknown(),
    }
    timed.adapter("email", on_unknown="hold")(lambda delivery, attempt: says[delivery.payload])
    for payload in says:
        schedule(timed, "email", payload)
    schedule(timed, "email", "ok")
    schedule(timed, "email", "ok", expires_at=at(-1))
    schedule(timed, "email", "ok", delay=99)
    assert timed.drain() == Summary(
        attempted=8,
        succeeded=2,
        retrying=1,
        rescheduled=1,
        cancelled=1,
        suppressed=1,
        exhausted=2,
        held=1,
    )
    assert timed.drain() == Summary()


def test_nothing_to_do(timed: Deliveries) -> None:
    assert timed.drain() == Summary()
    timed.adapter("email")(lambda delivery, attempt: None)
    assert timed.drain() == Summary()


def test_channels_and_queues_of_others_are_left_alone(timed: Deliveries, apps: Apps) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    timed.adapter("sms", queue="slow")(lambda delivery, attempt: None)
    other = apps(timed.engine.url.render_as_string(False), timed._store.clock)
    other.adapter("fax", queue="slow")(lambda delivery, attempt: None)
    email, sms, fax = schedule(timed).id, schedule(timed, "sms").id, schedule(other, "fax").id
    assert timed.drain(queues={"slow": 1}).succeeded == 1
    assert [timed.get(id).status.value for id in (email, sms, fax)] == ["pending", "succeeded", "pending"]


@pytest.mark.parametrize(
    ("queues", "settings"),
    [
        ({"email": 0}, {}),
        ({"email": True}, {}),
        ({"email": 10_001}, {}),
        ({"email": 1}, {"lease": 0}),
        ({"email": 1}, {"poll": 0}),
        ({"email": 1}, {"grace": -1}),
        ({"email": 1}, {"sweep_every": float("nan")}),
        ({"email": 1}, {"nonsense": 1}),
    ],
)
def test_settings_that_are_refused(app: Deliveries, queues: Any, settings: Any) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    with pytest.raises(ValueError, match=r"queue|must be|nonsense"):
        app.drain(queues, **settings)


def test_a_queue_that_no_channel_works_in_is_named_in_the_log(
    timed: Deliveries, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be right, just after a channel has moved to another queue; or a slip."""
    timed.adapter("email")(lambda delivery, attempt: None)
    schedule(timed)
    assert timed.drain({"fax": 1}).attempted == 0
    assert "'fax'" in caplog.text


def test_what_was_scheduled_for_a_channels_former_queue_is_performed(timed: Deliveries, apps: Apps) -> None:
    timed.adapter("email", queue="old")(lambda delivery, attempt: None)
    id = schedule(timed).id
    moved = apps(timed.engine.url.render_as_string(hide_password=False), timed._store.clock)
    moved.adapter("email", queue="new")(lambda delivery, attempt: None)
    assert moved.drain().attempted == 0
    assert moved.drain({"old": 1, "new": 1}).succeeded == 1
    assert moved.get(id).is_terminal


def test_a_history_of_many_endings(timed: Deliveries, clock: RunningClock, calls: Calls) -> None:
    says = iter([Retry(), Snooze(1), ValueError("x"), Done("at last")])
    timed.adapter("email")(calls(adapter("async raises", lambda delivery, attempt: next(says))))
    id = schedule(timed).id
    drain_until_the_end(timed, clock, id)
    assert kinds(timed, id) == [
        "Scheduled",
        *("Attempted", "Failed", "Attempted", "Rescheduled", "Attempted", "Failed", "Attempted"),
        "Succeeded",
    ]
    assert [event.attempt for event in history(timed, id) if isinstance(event, e.Attempted)] == [1, 2, 3, 4]
    assert_called_once_each(timed, calls)
