"""E3: where an outcome is unknown and must not be guessed, nobody calls until somebody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deliveries import (
    Backoff,
    Cancel,
    Delivered,
    Deliveries,
    Discard,
    NotDone,
    Retry,
    Snooze,
    Status,
    Suppress,
    Unknown,
)
from deliveries.core import events as e
from deliveries.testing.examples import at
from support.apps import Calls, RunningClock, assert_called_once_each, history, kinds, last, row, schedule

MINUTE = Backoff.schedule([60])


class Charge:
    """An unsafe adapter and its lookup, which answer what they are told to."""

    def __init__(
        self, app: Deliveries, calls: Calls, says: list[Any], found: list[Any] | None, **options: Any
    ) -> None:
        self.asked: list[int] = []
        lookup = None if found is None else self._lookup(iter(found))
        on_unknown = None if lookup else "hold"
        app.adapter(
            "charge", effect="unsafe", on_unknown=on_unknown, lookup=lookup, backoff=MINUTE, **options
        )(calls(self._adapter(iter(says))))

    def _adapter(self, says: Any) -> Any:
        async def charge(delivery: Any, attempt: Any) -> Any:
            said = next(says)
            if said == "hang":
                await asyncio.Event().wait()
            if isinstance(said, BaseException):
                raise said
            return said[0] if isinstance(said, list) else said

        return charge

    def _lookup(self, found: Any) -> Any:
        def lookup(delivery: Any, attempt: Any) -> Any:
            assert delivery.status is Status.HELD
            self.asked.append(attempt.number)
            answer = next(found)
            if isinstance(answer, list):
                return answer[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return lookup


@pytest.mark.parametrize(
    ("says", "cause", "error_type"),
    [
        (ValueError("reset"), "error", "ValueError"),
        (KeyboardInterrupt(), "error", "KeyboardInterrupt"),
        (Unknown("?"), "unknown", None),
        ([Unknown("?")], "unknown", None),
        ("hang", "timeout", "TimeoutError"),
    ],
    ids=["exception", "interrupt", "raised Unknown", "returned Unknown", "timeout"],
)
def test_what_is_unknown_is_held(
    timed: Deliveries, clock: RunningClock, calls: Calls, says: Any, cause: str, error_type: str | None
) -> None:
    Charge(timed, calls, [says], None, timeout=0.1)
    id = schedule(timed, "charge").id
    assert timed.drain().held == 1
    event = last(timed, id)
    assert (type(event), event.cause, event.lookup) == (e.Held, cause, False)
    assert event.error_type == error_type
    clock.advance(1_000_000)
    assert timed.drain().attempted == 0
    assert timed.get(id).status is Status.HELD
    assert calls.of(id) == [1]


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ([Retry("nothing happened")], "Failed"),
        (Cancel("no such card"), "Cancelled"),
        (Discard(), "Exhausted"),
        (Suppress(), "Suppressed"),
        (Snooze(5), "Rescheduled"),
        (None, "Succeeded"),
    ],
)
def test_what_is_said_is_not_unknown(timed: Deliveries, calls: Calls, says: Any, kind: str) -> None:
    Charge(timed, calls, [says], None)
    id = schedule(timed, "charge").id
    timed.drain()
    assert kinds(timed, id) == ["Scheduled", "Attempted", kind]


def test_a_held_delivery_ignores_deadlines_and_reschedules(
    timed: Deliveries, clock: RunningClock, calls: Calls
) -> None:
    Charge(timed, calls, [ValueError()], None)
    id = schedule(timed, "charge", expires_at=at(60)).id
    timed.drain()
    clock.advance(120)
    with timed.engine.begin() as connection:
        timed.reschedule(connection, id, delay=0)
        timed.suppress(connection, id)
    timed.drain()
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Held"]


# -- lookups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "kind", "fields"),
    [
        (Delivered("ch_1"), e.Succeeded, {"by": "lookup"}),
        ([Delivered("ch_1")], e.Succeeded, {"by": "lookup"}),
        (NotDone(), e.Rescheduled, {"cause": "released"}),
        (Retry(after=5), e.Rescheduled, {"cause": "released"}),
        (Cancel("refused"), e.Cancelled, {"cause": "permanent_failure"}),
        (Discard("enough"), e.Exhausted, {"cause": "discarded"}),
        (Suppress("opted out"), e.Cancelled, {"cause": "suppressed"}),
    ],
)
def test_what_a_lookup_says(
    timed: Deliveries, clock: RunningClock, calls: Calls, found: Any, kind: Any, fields: dict[str, Any]
) -> None:
    charge = Charge(timed, calls, [ValueError("reset"), None], [found])
    id = schedule(timed, "charge").id
    timed.drain()
    assert last(timed, id).lookup
    assert timed.drain().attempted == 0  # the lookup waits for the backoff
    assert charge.asked == []
    clock.advance(61)
    timed.drain()
    assert charge.asked == [1]
    event = last(timed, id)
    assert isinstance(event, kind)
    assert {name: getattr(event, name) for name in fields} == fields
    assert event.attempt == 1
    if isinstance(event, e.Rescheduled):
        clock.advance(61)
        timed.drain()
        assert calls.of(id) == [1, 2]
        assert timed.get(id).status is Status.SUCCEEDED
    assert_called_once_each(timed, calls)


@pytest.mark.parametrize(
    "unsure",
    [Unknown("try later"), [Unknown()], None, "a word", ValueError("down"), Snooze(60)],
    ids=lambda one: repr(one)[:10],
)
def test_a_lookup_that_cannot_tell_is_asked_again_and_then_a_person(
    timed: Deliveries, clock: RunningClock, calls: Calls, unsure: Any
) -> None:
    charge = Charge(timed, calls, [ValueError("reset")], [unsure] * 10, max_lookups=3)
    id = schedule(timed, "charge").id
    for _ in range(8):
        timed.drain()
        clock.advance(61)
    assert charge.asked == [1, 1, 1]
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Held"]
    assert row(timed, id).lookup_at is None
    assert "person" in timed.explain(id).next or "provider" in timed.explain(id).next
    with timed.engine.begin() as connection:
        timed.resolve(connection, id, Delivered(), actor="ann")
    assert timed.get(id).status is Status.SUCCEEDED


def test_a_lookup_that_tells_at_last(timed: Deliveries, clock: RunningClock, calls: Calls) -> None:
    charge = Charge(timed, calls, [ValueError("reset")], [Unknown(), ValueError("down"), Delivered("ch_1")])
    id = schedule(timed, "charge").id
    for _ in range(6):
        timed.drain()
        clock.advance(61)
    assert charge.asked == [1, 1, 1]
    assert kinds(timed, id) == ["Scheduled", "Attempted", "Held", "Succeeded"]
    assert_called_once_each(timed, calls)


def test_each_held_attempt_has_lookups_of_its_own(
    timed: Deliveries, clock: RunningClock, calls: Calls
) -> None:
    found = [Unknown(), NotDone(), Unknown(), NotDone(), Unknown()]
    charge = Charge(timed, calls, [ValueError()] * 2 + [None], found, max_lookups=2)
    id = schedule(timed, "charge").id
    for _ in range(14):
        timed.drain()
        clock.advance(61)
    assert charge.asked == [1, 1, 2, 2]
    assert timed.get(id).status is Status.SUCCEEDED
    assert calls.of(id) == [1, 2, 3]


def test_not_done_when_the_budget_is_spent(timed: Deliveries, clock: RunningClock, calls: Calls) -> None:
    Charge(timed, calls, [ValueError()], [NotDone()], max_attempts=1)
    id = schedule(timed, "charge").id
    timed.drain()
    clock.advance(61)
    timed.drain()
    event = last(timed, id)
    assert (type(event), event.cause, event.attempt) == (e.Exhausted, "attempts", 1)


def test_a_person_is_faster_than_the_lookup(timed: Deliveries, clock: RunningClock, calls: Calls) -> None:
    """The lookup is under way when a person tells: its word changes nothing."""
    app = timed

    def lookup(delivery: Any, attempt: Any) -> Any:
        with app.engine.begin() as connection:
            app.resolve(connection, delivery.id, Delivered(), actor="ann")
        return NotDone()

    @app.adapter("charge", effect="unsafe", lookup=lookup, backoff=MINUTE)
    @calls
    def charge(delivery: Any, attempt: Any) -> None:
        raise ValueError

    id = schedule(app, "charge").id
    app.drain()
    clock.advance(61)
    app.drain()
    clock.advance(61)
    app.drain()
    assert kinds(app, id) == ["Scheduled", "Attempted", "Held", "Succeeded"]
    assert last(app, id).by == "operator"
    assert calls.of(id) == [1]


def test_a_keyed_adapter_with_a_lookup_asks_where_it_does_not_know(
    timed: Deliveries, clock: RunningClock, calls: Calls
) -> None:
    says = iter([ValueError("this is a failure"), Unknown("this is unknown")])

    @timed.adapter("email", lookup=lambda delivery, attempt: Delivered(), backoff=MINUTE)
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        raise next(says)

    id = schedule(timed).id
    for _ in range(4):
        timed.drain()
        clock.advance(61)
    assert [type(event).__name__ for event in history(timed, id)] == [
        "Scheduled",
        *("Attempted", "Failed", "Attempted", "Held"),
        "Succeeded",
    ]
