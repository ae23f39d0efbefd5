"""What operators do: cancel, suppress, reschedule, resolve, in every state a delivery can stand in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from deliveries import (
    Bounced,
    Cancel,
    Delivered,
    Deliveries,
    DeliveriesError,
    DeliveryNotFound,
    Discard,
    InvalidCommand,
    InvalidSchedule,
    NotDone,
    Retry,
    Snooze,
    Status,
    Suppress,
    Unknown,
)
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core.stream import advance, replay
from deliveries.store.store import Store
from deliveries.testing.examples import at, report, resolve, start
from deliveries.testing.lives import DEADLINE, ENDINGS, endings, life
from support.apps import (
    RunningClock,
    everything,
    history,
    kinds,
    last,
    schedule,
    statements,
    texts,
)

Act = Callable[[Deliveries, Connection, UUID], Any]
ACTS: dict[str, Act] = {
    "cancel": lambda app, connection, id: app.cancel(connection, id, reason="why not", actor="ann"),
    "suppress": lambda app, connection, id: app.suppress(connection, id, reason="why not", actor="ann"),
    "reschedule": lambda app, connection, id: app.reschedule(
        connection, id, delay=60, reason="why not", actor="ann"
    ),
    "resolve": lambda app, connection, id: app.resolve(
        connection, id, Delivered(), reason="why not", actor="ann"
    ),
}
TERMINAL = (Status.SUCCEEDED, Status.SUPPRESSED, Status.CANCELLED, Status.EXHAUSTED)


@pytest.fixture
def timed(timed: Deliveries) -> Deliveries:
    timed.adapter("email")(lambda delivery, attempt: None)
    return timed


def lead(app: Deliveries, clock: RunningClock, ending: str) -> UUID:
    """A delivery in the database that has lived up to `ending`."""
    told = life(ending)
    store = Store(app.engine, clock)
    clock.instant = told.commands[0].now
    id = schedule(app, "email", {"secret": 1}, recipient="ann@example.org", expires_at=DEADLINE).id
    for command in told.commands[1:]:
        clock.instant = command.now
        with store.transaction() as connection:
            change = advance(replay(store.history(connection, id)), command)
            assert change is not None
            write = store.write_of(change, lease_owner="w1", lease_seconds=60)
            assert store.backend.append(connection, [write], store.deciding_now) == {id}
    assert app.get(id).status is ENDINGS[ending].status
    return id


def do(app: Deliveries, act: str, id: UUID) -> Any:
    with app.engine.begin() as connection:
        return ACTS[act](app, connection, id)


# -- what each does where --------------------------------------------------------------------------------

NOTHING = None
EXPECTED: dict[tuple[str, str], type[e.Event] | None] = {
    ("pending", "cancel"): e.Cancelled,
    ("pending", "suppress"): e.Suppressed,
    ("pending", "reschedule"): e.Rescheduled,
    ("pending", "resolve"): NOTHING,
    ("attempting", "cancel"): e.CancelRequested,
    ("attempting", "suppress"): e.CancelRequested,
    ("attempting", "reschedule"): NOTHING,
    ("attempting", "resolve"): NOTHING,
    ("attempting, to be cancelled", "cancel"): NOTHING,
    ("attempting, to be cancelled", "suppress"): NOTHING,
    ("held for a person", "cancel"): e.Cancelled,
    ("held for a person", "suppress"): NOTHING,
    ("held for a person", "reschedule"): NOTHING,
    ("held for a person", "resolve"): e.Succeeded,
    ("held for lookup", "resolve"): e.Succeeded,
    ("held after a crash", "resolve"): e.Succeeded,
}


def test_what_each_does_where(timed: Deliveries, clock: RunningClock) -> None:
    for (ending, act), kind in EXPECTED.items():
        id = lead(timed, clock, ending)
        before = kinds(timed, id)
        answer = do(timed, act, id)
        case = f"{act} of {ending}"
        assert answer == structs.replace(timed.get(id), created=answer.created), case
        assert (answer.payload, answer.recipient) == ({"secret": 1}, "ann@example.org"), case
        if kind is NOTHING:
            assert kinds(timed, id) == before, case
            continue
        event = last(timed, id)
        assert kinds(timed, id) == [*before, kind.__name__], case
        assert event.actor == "ann", case
        assert texts(timed, id)[-1] == "why not", case
        assert event.note not in (None, "why not"), case
        assert b"why not" not in timed.history(id)[-1].body, case


def test_a_finished_delivery_never_changes(timed: Deliveries, clock: RunningClock) -> None:
    """I11 on the real stores: for every end, whatever is asked changes not one byte."""
    ids = {ending: lead(timed, clock, ending) for ending in endings(*TERMINAL)}
    store = Store(timed.engine, clock)
    before = everything(timed)
    late: list[c.Command] = [
        start(),
        *(report(n, outcome) for n in (1, 2) for outcome in (Delivered(), Retry(), Cancel(), Unknown())),
        *(c.Interrupt(now=at(9), attempt=n) for n in (1, 2)),
        *(c.GiveBack(now=at(9), attempt=n) for n in (None, 1, 2)),
        c.Defer(now=at(9), until=at(99)),
        c.Expire(now=DEADLINE),
        resolve(Delivered(), "lookup"),
        resolve(NotDone(), "operator"),
    ]
    for ending, id in ids.items():
        for act in ACTS:
            answer = do(timed, act, id)
            assert answer.status is ENDINGS[ending].status
        with store.transaction() as connection:
            for command in late:
                assert store.command(connection, id, lambda now, command=command: command) is None, ending
        assert timed.perform(id).attempted is False
    timed.drain()
    assert everything(timed) == before


def test_a_person_may_say_what_became_of_it(timed: Deliveries, clock: RunningClock) -> None:
    says: list[tuple[Any, type[e.Event], dict[str, Any]]] = [
        (Delivered("seen it"), e.Succeeded, {"by": "operator"}),
        (NotDone(), e.Rescheduled, {"cause": "released"}),
        (Retry(after=60), e.Rescheduled, {"cause": "released"}),
        (Cancel("no"), e.Cancelled, {"cause": "permanent_failure", "outcome_unknown": False}),
        (Bounced("no"), e.Cancelled, {"cause": "bounced"}),
        (Discard("no"), e.Exhausted, {"cause": "discarded"}),
    ]
    for outcome, kind, fields in says:
        id = lead(timed, clock, "held for a person")
        with timed.engine.begin() as connection:
            timed.resolve(connection, id, outcome, actor="ann")
        event = last(timed, id)
        assert (type(event), event.attempt, event.actor) == (kind, 1, "ann")
        assert {name: getattr(event, name) for name in fields} == fields
        assert texts(timed, id)[-1] == outcome.text


def test_a_release_is_due_at_once_or_when_the_person_says(timed: Deliveries, clock: RunningClock) -> None:
    for outcome, seconds in ((NotDone(), 0), (Retry(), 0), (Retry(after=60), 60)):
        id = lead(timed, clock, "held for a person")
        with timed.engine.begin() as connection:
            timed.resolve(connection, id, outcome)
        recorded = timed.history(id)[-1]
        assert (recorded.event.due_at - recorded.recorded_at).total_seconds() == seconds


def test_what_no_person_can_say(timed: Deliveries, clock: RunningClock) -> None:
    id = lead(timed, clock, "held for a person")
    for outcome in (Unknown(), Snooze(5), Suppress(), None, "Delivered", Delivered, ValueError()):
        with timed.engine.begin() as connection, statements(timed.engine) as seen:
            with pytest.raises(InvalidCommand):
                timed.resolve(connection, id, outcome)  # type: ignore[arg-type]
            assert seen == []


# -- a cancel of what runs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "doubt"),
    [
        (None, "Succeeded", None),
        (Retry("503"), "Cancelled", False),
        (Unknown(), "Cancelled", True),
        (ValueError("x"), "Cancelled", False),
        (Snooze(5), "Cancelled", False),
    ],
    ids=["success", "failure", "unknown", "exception", "snooze"],
)
def test_a_cancel_waits_for_the_truth(app: Deliveries, said: Any, kind: str, doubt: bool | None) -> None:
    """E4: no further attempt, and the running one is reported as it was."""
    called: list[int] = []

    @app.adapter("email")
    def email(delivery: Any, attempt: Any) -> Any:
        called.append(attempt.number)
        with app.engine.begin() as connection:
            assert app.cancel(connection, delivery.id, actor="ann").status is Status.ATTEMPTING
        if isinstance(said, ValueError):
            raise said
        return said

    id = schedule(app).id
    app.drain()
    app.drain()
    assert kinds(app, id) == ["Scheduled", "Attempted", "CancelRequested", kind]
    assert getattr(last(app, id), "outcome_unknown", None) is doubt
    assert called == [1]


# -- a new due time --------------------------------------------------------------------------------------


def test_rescheduling(timed: Deliveries, clock: RunningClock) -> None:
    id = schedule(timed, due_at=at(60)).id
    with Session(timed.engine) as session, session.begin():
        timed.reschedule(session, id, due_at=at(7), reason="sooner", actor="ann")
    event = last(timed, id)
    assert (event.due_at, event.cause, event.actor, event.attempt) == (at(7), "operator", "ann", None)
    clock.advance(8)
    assert timed.drain().succeeded == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"due_at": at(1), "delay": 1},
        {"delay": -1},
        {"delay": "5"},
        {"delay": 1e300},
        {"due_at": "tomorrow"},
        {"due_at": at(1).replace(tzinfo=None)},
        {"due_at": at(1e9)},
        {"delay": 1, "reason": "a\x00b"},
        {"delay": 1, "reason": 7},
        {"delay": 1, "actor": "a" * 256},
        {"delay": 1, "actor": "a\nb"},
        {"delay": 1, "reason": "x" * 100_001},
    ],
    ids=lambda options: repr(options)[:40],
)
def test_what_is_refused_before_any_sql(nowhere: Deliveries, options: dict[str, Any]) -> None:
    with Session(nowhere.engine) as session, pytest.raises((InvalidCommand, InvalidSchedule)):
        nowhere.reschedule(session, UUID(int=7), **options)


# -- who is not there ------------------------------------------------------------------------------------

VERBS: dict[str, Act] = ACTS | {
    "get": lambda app, connection, id: app.get(id, session=connection),
    "history": lambda app, connection, id: app.history(id, session=connection),
    "explain": lambda app, connection, id: app.explain(id, session=connection),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_id(timed: Deliveries, verb: str) -> None:
    with timed.engine.begin() as connection, pytest.raises(DeliveryNotFound) as caught:
        VERBS[verb](timed, connection, UUID(int=7))
    assert caught.value.delivery_id == UUID(int=7)
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, DeliveriesError)


NO_IDS: list[Any] = ["", "no-uuid", "0" * 33, 7, None, b"x" * 16, "'; --"]


def test_what_is_no_id(timed: Deliveries) -> None:
    for text in NO_IDS:
        for verb in VERBS.values():
            with timed.engine.begin() as connection, pytest.raises(InvalidSchedule) as caught:
                verb(timed, connection, text)
            assert caught.value.field == "id"


def test_no_command_with_what_is_no_id_reaches_the_database(nowhere: Deliveries) -> None:
    for text in NO_IDS:
        for act in ACTS.values():
            with Session(nowhere.engine) as session, pytest.raises(InvalidSchedule, match="id"):
                act(nowhere, session, text)  # type: ignore[arg-type]


def test_an_id_may_be_text(timed: Deliveries) -> None:
    id = schedule(timed).id
    for form in (str(id), id.hex, str(id).upper(), f"{{{id}}}"):
        assert timed.get(form).id == id
    with timed.engine.begin() as connection:
        timed.cancel(connection, str(id))
    assert timed.get(id).status is Status.CANCELLED


# -- readers -----------------------------------------------------------------------------------------------


def test_readers_see_the_callers_own_uncommitted_work(timed: Deliveries) -> None:
    with Session(timed.engine) as session, session.begin():
        id = timed.schedule(session, "email", {"a": 1}, recipient="ann", key="k").id
        timed.cancel(session, id, reason="changed my mind")
        found = timed.get(id, session=session)
        assert (found.status, found.payload, found.recipient) == (Status.CANCELLED, {"a": 1}, "ann")
        assert [recorded.type for recorded in timed.history(id, session=session)] == [
            "Scheduled",
            "Cancelled",
        ]
        assert timed.explain(id, session=session).status == "cancelled"
        assert [one.id for one in timed.find(key="k", session=session)] == [id]
        assert timed.find(status="pending", session=session) == []
    assert [type(event) for event in history(timed, id)] == [e.Scheduled, e.Cancelled]


def test_finding(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("sms", queue="slow")(lambda delivery, attempt: None)
    ids = [schedule(timed, "email", n, tenant="t").id for n in range(3)] + [schedule(timed, "sms").id]
    assert [one.id for one in timed.find()] == ids[::-1]
    assert [one.id for one in timed.find(limit=2)] == ids[:1:-1]
    assert [one.id for one in timed.find(channel="sms")] == ids[3:]
    assert [one.id for one in timed.find(queue="slow")] == ids[3:]
    assert [one.id for one in timed.find(tenant="t")] == ids[2::-1]
    assert timed.find(status="succeeded") == []
    timed.drain()
    assert len(timed.find(status="succeeded", tenant="t")) == 3


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, "5", None, 1.0])
def test_limits_that_are_refused(nowhere: Deliveries, limit: Any) -> None:
    with pytest.raises(DeliveriesError, match="limit"):
        nowhere.find(limit=limit)


# -- explanations ------------------------------------------------------------------------------------------

EXPLAINED: dict[str, tuple[str, str]] = {
    "pending": ("due at once", "attempt 1 starts"),
    "attempting": ("attempt 1 started", "attempt 1 reports"),
    "attempting, to be cancelled": ("a cancel was requested", "attempt 1 reports"),
    "held for lookup": ("outcome is unknown", "the provider is asked"),
    "held for a person": ("outcome is unknown", "a person must say"),
    "held after a crash": ("was never reported", "a person must say"),
    "succeeded": ("attempt 1 succeeded", "nothing"),
    "succeeded by lookup": ("says the lookup", "nothing"),
    "succeeded by operator": ("says a person", "nothing"),
    "succeeded in spite of a cancel": ("attempt 1 succeeded", "nothing"),
    "suppressed by policy": ("by the policy", "nothing"),
    "suppressed by operator": ("by the operator", "nothing"),
    "suppressed by adapter": ("by the adapter", "nothing"),
    "cancelled while pending": ("cause superseded", "nothing"),
    "cancelled while held": ("may have happened all the same", "nothing"),
    "permanent failure": ("cause permanent_failure", "nothing"),
    "bounced": ("cause bounced", "nothing"),
    "cancel, then unknown": ("may have happened all the same", "nothing"),
    "cancel, then crash": ("may have happened all the same", "nothing"),
    "cancel, then failure": ("cause superseded", "nothing"),
    "attempts spent": ("no attempts left", "nothing"),
    "attempts spent by a crash": ("no attempts left", "nothing"),
    "interruptions spent": ("crashed too often", "nothing"),
    "snoozes spent": ("snoozed too often", "nothing"),
    "deadline met at a start": ("its deadline passed", "nothing"),
    "deadline met by the sweep": ("its deadline passed", "nothing"),
    "discarded": ("discarded", "nothing"),
}


def test_an_explanation_for_every_standing(timed: Deliveries, clock: RunningClock) -> None:
    for ending in ENDINGS:
        id = lead(timed, clock, ending)
        explanation = timed.explain(id)
        assert explanation.status == ENDINGS[ending].status.value, ending
        assert explanation.delivery.id == id
        assert [entry.type for entry in explanation.timeline] == kinds(timed, id), ending
        assert [entry.version for entry in explanation.timeline] == list(
            range(1, len(explanation.timeline) + 1)
        )
        if ending in EXPLAINED:
            why, following = EXPLAINED[ending]
            assert why in explanation.why, (ending, explanation.why)
            assert following in explanation.next, (ending, explanation.next)
        told = str(explanation)
        for piece in (str(id), explanation.status, explanation.why, explanation.next):
            assert piece in told, ending


def test_an_explanation_says_when(timed: Deliveries, clock: RunningClock) -> None:
    id = schedule(timed, due_at=at(3_600), max_attempts=4, expires_at=DEADLINE).id
    explanation = timed.explain(id)
    assert "2024-01-01 13:00:00" in explanation.next
    assert "59 min" in explanation.next or "60 min" in explanation.next
    assert "4 of 4 attempts left" in explanation.next
    assert "expires" in explanation.next
    clock.advance(7_200)
    assert "as soon as a processor is free" in timed.explain(id).next


def test_an_explanation_shows_notes_and_actors(timed: Deliveries) -> None:
    id = schedule(timed).id
    do(timed, "cancel", id)
    told = str(timed.explain(id))
    assert "by ann" in told
    assert "why not" in told
