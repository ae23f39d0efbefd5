"""Redriving: what ended is owed once more, by a new delivery that is linked to it, and only once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError

from deliveries import (
    ConcurrentChange,
    Delivered,
    Deliveries,
    Delivery,
    DeliveryNotFound,
    Discard,
    InvalidCommand,
    InvalidFilter,
    InvalidSchedule,
    Retry,
    Status,
    Unknown,
)
from deliveries.core import events as e
from deliveries.store.failures import is_serialization_failure
from deliveries.store.schema import contents
from deliveries.testing.examples import NOW, at
from deliveries.testing.lives import ENDINGS, endings
from support.apps import Apps, Calls, Gate, RunningClock, everything, history, kinds, row, schedule
from support.lives import lead

SAID: dict[str, Any] = {"actor": "ops:ann", "reason": "the provider is back"}
TERMINAL = (Status.SUCCEEDED, Status.SUPPRESSED, Status.CANCELLED, Status.EXHAUSTED)
LIVE = (Status.PENDING, Status.ATTEMPTING, Status.HELD)


def redrive(app: Deliveries, id: UUID, **options: Any) -> Delivery:
    with app.engine.begin() as connection:
        return app.redrive(connection, id, **{**SAID, **options})


def exhausted(app: Deliveries, **options: Any) -> UUID:
    """A delivery that was discarded by its adapter, which is made to succeed next time."""
    if "email" not in app.channels:
        told = [Discard("down")]
        app.adapter("email", queue="mail")(lambda delivery, attempt: told[0])
    id = schedule(app, "email", {"order": 7}, **{"recipient": "ann@example.org", **options}).id
    app.perform(id)
    assert app.get(id).status is Status.EXHAUSTED
    return id


# -- what the new one is -----------------------------------------------------------------------------


def test_it_owes_the_same_and_is_linked(timed: Deliveries, clock: RunningClock) -> None:
    source_id = exhausted(
        timed,
        key="k",
        tags=["a", "b"],
        tenant="acme",
        priority=2,
        correlation_id="order-7",
        causation_id="event-1",
        max_attempts=3,
        expires_at=at(600),
    )
    source = timed.get(source_id)
    clock.advance(3_600)
    made = redrive(timed, source_id)
    for same in [
        "channel",
        "queue",
        "recipient",
        "payload",
        "tags",
        "tenant",
        "priority",
        "correlation_id",
        "max_attempts",
    ]:
        assert getattr(made, same) == getattr(source, same), same
    assert made.id != source_id
    assert (made.status, made.created, made.key, made.expires_at) == ("pending", True, None, None)
    assert made.causation_id == str(source_id)
    assert made.root_id == source_id
    assert made.idempotency_key == source.idempotency_key == str(source_id)
    assert timed.get(made.id) == made
    (first,) = history(timed, made.id)
    assert isinstance(first, e.Scheduled)
    assert first.actor == "ops:ann"
    assert timed.history(made.id)[0].note == "the provider is back"
    assert b"provider" not in timed.history(made.id)[0].body


def test_the_ended_one_does_not_change_and_names_the_new_one(timed: Deliveries) -> None:
    source = exhausted(timed)
    before, was = timed.history(source), row(timed, source)
    made = redrive(timed, source)
    assert timed.history(source) == before
    assert row(timed, source) == was
    (piece,) = timed.evidence(source)
    assert (piece.kind, piece.fact) == ("redriven", {"as": str(made.id), "actor": "ops:ann"})
    assert str(made.id) in str(timed.explain(source))
    told = str(timed.explain(made.id))
    assert f"caused by {source}, with the key of {source}, by ops:ann" in told
    assert "| the provider is back" in told


def test_its_contents_are_salted_anew(timed: Deliveries) -> None:
    source = exhausted(timed)
    made = redrive(timed, source)
    first, second = history(timed, source)[0], history(timed, made.id)[0]
    assert isinstance(first, e.Scheduled)
    assert isinstance(second, e.Scheduled)
    assert first.payload_digest != second.payload_digest
    with timed.engine.connect() as connection:
        salts = connection.scalars(select(contents.c.salt)).all()
    assert len(set(salts)) == 2


def test_it_is_performed_with_its_roots_key(app: Deliveries, calls: Calls) -> None:
    keys: list[str] = []
    outcomes: list[Any] = [Discard("down"), Discard("down again"), None]

    @app.adapter("email")
    @calls
    def email(delivery: Delivery, attempt: Any) -> Any:
        keys.append(delivery.idempotency_key)
        return outcomes[len(keys) - 1]

    root = schedule(app, "email", 1).id
    app.drain()
    second = redrive(app, root)
    app.drain()
    third = redrive(app, second.id)
    app.drain()
    assert keys == [str(root)] * 3
    assert (third.root_id, third.causation_id) == (root, str(second.id))
    assert [app.get(id).status for id in (root, second.id, third.id)] == [
        "exhausted",
        "exhausted",
        "succeeded",
    ]


def test_a_new_key_where_it_is_told(timed: Deliveries) -> None:
    made = redrive(timed, exhausted(timed), new_key=True)
    assert made.root_id is None
    assert made.idempotency_key == str(made.id)


def test_when_it_is_due(timed: Deliveries, clock: RunningClock) -> None:
    at_once, later, delayed = (exhausted(timed) for _ in range(3))
    assert redrive(timed, later, due_at=at(7_200), expires_at=at(9_000)).due_at == at(7_200)
    due = redrive(timed, delayed, delay=timedelta(hours=1)).due_at
    assert due is not None
    assert abs(due - clock.now() - timedelta(hours=1)) < timedelta(seconds=1)
    made = redrive(timed, at_once)
    assert timed.find(id=made.id)[0].due_at is not None
    assert timed.drain().attempted == 1
    assert timed.get(made.id).is_terminal


def test_it_works_where_its_channel_works_now(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    source = exhausted(app)
    moved = apps(fresh_url)
    moved.adapter("email", queue="bulk")(lambda delivery, attempt: None)
    stranger = apps(fresh_url)
    assert redrive(moved, source).queue == "bulk"
    assert redrive(stranger, exhausted(app)).queue == "mail"


def test_a_waiting_processor_hears_of_it(app: Deliveries) -> None:
    source = exhausted(app)
    gate = Gate()
    gate.open()
    app._registrations.clear()
    app.adapter("email", queue="mail")(gate)
    with app.running(poll=3_600):
        gate_before = redrive(app, source)
        gate.wait_for(1)
    assert app.get(gate_before.id).is_terminal


# -- once ----------------------------------------------------------------------------------------------


def test_again_it_returns_the_one_that_there_is(timed: Deliveries) -> None:
    source = exhausted(timed)
    first = redrive(timed, source)
    before = everything(timed)
    again = redrive(timed, source, new_key=True, delay=60)
    assert (again.id, again.created) == (first.id, False)
    assert everything(timed) == before


def test_after_a_rollback_it_can_be_redriven(timed: Deliveries) -> None:
    source = exhausted(timed)
    with timed.engine.connect() as connection:
        lost = timed.redrive(connection, source, **SAID)
        connection.rollback()
    with pytest.raises(DeliveryNotFound):
        timed.get(lost.id)
    assert redrive(timed, source).created


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_two_operators_at_once_make_one(
    app: Deliveries, database_url: str, engines: Callable[..., Engine], level: str
) -> None:
    source = exhausted(app)
    engine = engines(database_url, isolation_level=level)
    told: list[Any] = []
    begun = threading.Event()

    def second() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM deliveries LIMIT 1")  # its snapshot is old
            begun.set()
            try:
                told.append(app.redrive(connection, source, **SAID))
                connection.commit()
            except (ConcurrentChange, DBAPIError) as error:
                told.append(error)

    with engine.begin() as first:
        made = app.redrive(first, source, **SAID)
        other = threading.Thread(target=second)
        other.start()
        assert begun.wait(30)
    other.join(30)
    (answer,) = told
    if isinstance(answer, DBAPIError):  # its own commit, which is not ours to translate
        assert level == "SERIALIZABLE"
        assert is_serialization_failure(answer)
    elif isinstance(answer, ConcurrentChange):
        assert level != "READ COMMITTED"
        assert answer.retryable
    else:
        assert (answer.id, answer.created) == (made.id, False)
    assert len(app.find(status="pending")) == 1


def test_once_also_when_its_successor_was_pruned(timed: Deliveries, clock: RunningClock) -> None:
    """Otherwise a long retention of failures would send again what succeeded long ago."""
    source = exhausted(timed)
    made = redrive(timed, source)
    with timed.engine.begin() as connection:
        timed.cancel(connection, made.id)
    clock.advance(60)
    assert timed.prune(30, status="cancelled").done == 1
    with pytest.raises(InvalidCommand, match="pruned"):
        redrive(timed, source)
    assert timed.redrive_where({"status": "exhausted"}, **SAID).left == {"redriven": 1}


# -- what is not redriven --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*endings(*LIVE)])
def test_what_is_alive_is_not_redriven(timed: Deliveries, clock: RunningClock, ending: str) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    id = lead(timed, clock, ending)
    before = everything(timed)
    with pytest.raises(InvalidCommand, match=ENDINGS[ending].status.value):
        redrive(timed, id, may_repeat=True)
    assert everything(timed) == before


@pytest.mark.parametrize("ending", [*endings(*TERMINAL)])
def test_every_end_can_be_redriven(timed: Deliveries, clock: RunningClock, ending: str) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    id = lead(timed, clock, ending)
    before = kinds(timed, id)
    made = redrive(timed, id, may_repeat=True)
    assert (made.root_id, made.status, made.payload) == (id, "pending", {"secret": 1})
    assert kinds(timed, id) == before


def test_what_was_erased_is_not_redriven(timed: Deliveries) -> None:
    source = exhausted(timed)
    timed.erase(recipient="ann@example.org")
    with pytest.raises(InvalidCommand, match="erased"):
        redrive(timed, source)
    assert timed.redrive_where({"status": "exhausted"}, **SAID).left == {"erased": 1}


REPEATS: dict[str, tuple[dict[str, Any], Any, dict[str, Any], bool]] = {
    "keyed, failed": ({}, Discard(), {}, False),
    "keyed, succeeded": ({}, None, {}, False),
    "keyed, unknown": ({"max_attempts": 1}, Unknown(), {}, False),
    "keyed, succeeded, with a new key": ({}, None, {"new_key": True}, True),
    "keyed, unknown, with a new key": ({"max_attempts": 1}, Unknown(), {"new_key": True}, True),
    "keyed, failed, with a new key": ({}, Discard(), {"new_key": True}, False),
    "natural, succeeded": ({"effect": "natural"}, None, {}, False),
    "unsafe, failed": ({"effect": "unsafe", "on_unknown": "hold"}, Discard(), {}, False),
    "unsafe, out of attempts": (
        {"effect": "unsafe", "on_unknown": "hold", "max_attempts": 1},
        Retry("refused"),
        {},
        False,
    ),
    "unsafe, succeeded": ({"effect": "unsafe", "on_unknown": "hold"}, None, {}, True),
    "unsafe, unknown": ({"effect": "unsafe", "on_unknown": "hold"}, Unknown(), {}, True),
    "held, unknown": ({"on_unknown": "hold"}, Unknown(), {}, True),
}


@pytest.mark.parametrize("case", REPEATS)
def test_an_effect_is_not_repeated_unless_it_is_asked_for(timed: Deliveries, case: str) -> None:
    options, outcome, how, refused = REPEATS[case]
    timed.adapter("email", **options)(lambda delivery, attempt: outcome)
    id = schedule(timed).id
    timed.drain()
    with timed.engine.begin() as connection:
        timed.cancel(connection, id)  # a held one ends with an unknown outcome
    assert timed.get(id).is_terminal
    dry = timed.redrive_where({"id": id}, **SAID, **how, dry_run=True)
    assert dry.left == ({"would repeat": 1} if refused else {})
    if refused:
        before = everything(timed)
        with pytest.raises(InvalidCommand, match="would repeat"):
            redrive(timed, id, **how)
        assert everything(timed) == before
    assert redrive(timed, id, may_repeat=True, **how).created


def test_an_adapter_that_became_unsafe_since(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app).id
    app.drain()
    later = apps(fresh_url)
    later.adapter("email", effect="unsafe", on_unknown="hold")(lambda delivery, attempt: None)
    with pytest.raises(InvalidCommand, match="would repeat"):
        redrive(later, id)


def test_who_is_not_there(timed: Deliveries) -> None:
    with pytest.raises(DeliveryNotFound):
        redrive(timed, UUID("00000000-0000-7000-8000-000000000000"))


@pytest.mark.parametrize(
    "options",
    [
        {"due_at": at(1), "delay": 1},
        {"delay": -1},
        {"due_at": NOW.replace(tzinfo=None)},
        {"expires_at": NOW.replace(tzinfo=None)},
        {"actor": "a\nb"},
        {"actor": ""},
        {"reason": "\x00"},
        {"reason": 7},
    ],
    ids=str,
)
def test_what_is_refused_before_any_sql(nowhere: Deliveries, options: dict[str, Any]) -> None:
    with pytest.raises((InvalidCommand, InvalidSchedule)):
        nowhere.redrive(None, UUID(int=7), **options)  # type: ignore[arg-type]  # nobody gets so far
    with pytest.raises((InvalidCommand, InvalidSchedule)):
        nowhere.redrive_where({"status": "exhausted"}, **{**SAID, **options})
    with pytest.raises(InvalidFilter):
        nowhere.redrive_where({"state": "exhausted"}, **SAID)


# -- many ------------------------------------------------------------------------------------------------


def test_many_by_filter_and_time(timed: Deliveries, clock: RunningClock) -> None:
    early = [exhausted(timed) for _ in range(3)]
    clock.advance(3_600)
    after = clock.now()
    late = [exhausted(timed) for _ in range(5)]
    before = everything(timed)
    where = {"status": "exhausted", "ended_after": after}
    dry = timed.redrive_where(where, **SAID, dry_run=True, batch=2)
    assert everything(timed) == before
    report = timed.redrive_where(where, **SAID, batch=2)
    assert (dry.done, report.done, report.left, report.sample) == (5, 5, {}, tuple(late))
    made = timed.find(status="pending")
    assert Counter(one.causation_id for one in made) == Counter(str(id) for id in late)
    assert all(timed.get(one.id).payload == {"order": 7} for one in made)
    again = timed.redrive_where({"status": "exhausted"}, **SAID)
    assert (again.done, again.left) == (3, {"redriven": 5})
    assert {one.causation_id for one in timed.find(status="pending")} == {str(id) for id in early + late}


def test_only_the_end_of_a_chain_is_redriven(timed: Deliveries) -> None:
    """The root and its failed successor both are exhausted: one debt, so one new delivery."""
    root = exhausted(timed)
    second = redrive(timed, root)
    timed.perform(second.id)
    report = timed.redrive_where({"status": "exhausted"}, **SAID)
    assert (report.done, report.left, report.sample) == (1, {"redriven": 1}, (second.id,))


def test_a_delivered_one_is_redriven_too(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: Delivered("r-1"))
    id = schedule(timed).id
    timed.drain()
    assert timed.redrive_where({"status": "succeeded"}, **SAID).done == 1
    assert timed.drain().succeeded == 1
    assert timed.get(id).status == "succeeded"
