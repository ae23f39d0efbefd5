"""What providers report afterwards: matched, kept once, shown, and never an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, select, text

from deliveries import (
    ConcurrentChange,
    Delivered,
    Deliveries,
    DeliveriesError,
    Delivery,
    DeliveryNotFound,
    InvalidCommand,
    InvalidPayload,
    ReferenceNotFound,
    Unknown,
)
from deliveries.feedback import MAX_PIECES
from deliveries.store.schema import references
from deliveries.testing.examples import NOW, at
from deliveries.testing.lives import ENDINGS
from support.apps import RunningClock, eventually, everything, kinds, row, schedule, statements
from support.lives import lead

BOUNCE: dict[str, Any] = {"fact": {"code": 550, "to": "ann@example.org"}, "at": at(60)}


def sent(app: Deliveries, reference: Any = "m-1", **options: Any) -> UUID:
    """A delivery that its provider took, under this reference."""
    if "email" not in app.channels:
        app.adapter("email")(
            lambda delivery, attempt: Delivered({"ok": 1}, reference=delivery.payload["reference"])
        )
    id = schedule(app, "email", {"reference": reference}, **options).id
    app.perform(id)
    assert app.get(id).status == "succeeded"
    return id


def report(app: Deliveries, kind: str = "bounced", **options: Any) -> Delivery:
    with app.engine.begin() as connection:
        return app.record_evidence(connection, kind, **options)


def told(app: Deliveries, id: UUID) -> list[tuple[str, Any]]:
    return [(one.kind, one.fact) for one in app.evidence(id)]


# -- matching ------------------------------------------------------------------------------------------


def test_by_the_providers_reference(timed: Deliveries) -> None:
    first, second = sent(timed, "m-1"), sent(timed, "m-2")
    assert report(timed, reference="m-2", **BOUNCE).id == second
    assert told(timed, first) == []
    assert told(timed, second) == [("bounced", {"at": "2024-01-01T12:01:00Z", "told": BOUNCE["fact"]})]


def test_by_the_deliverys_id(timed: Deliveries) -> None:
    id = sent(timed, None)
    report(timed, "complained", id=id)
    report(timed, "delivered", id=str(id))
    assert told(timed, id) == [("complained", {}), ("delivered", {})]


def test_of_one_channel(timed: Deliveries) -> None:
    timed.adapter("sms")(lambda delivery, attempt: Delivered(reference="m-1"))
    mail = sent(timed, "m-1")
    sms = schedule(timed, "sms").id
    timed.drain()
    report(timed, reference="m-1", channel="sms")
    assert (told(timed, mail), len(told(timed, sms))) == ([], 1)
    with pytest.raises(ReferenceNotFound):
        report(timed, reference="m-1", channel="push")


def test_deliveries_of_one_effect_share_it(timed: Deliveries) -> None:
    """A receiver that honours keys answers a redriven delivery with the reference of the first."""
    id = sent(timed, "m-1")
    with timed.engine.begin() as connection:
        again = timed.redrive(connection, id).id
    timed.drain()
    assert report(timed, reference="m-1", **BOUNCE).id == again
    assert [kind for kind, _ in told(timed, id)] == ["redriven", "bounced"]
    assert [kind for kind, _ in told(timed, again)] == ["bounced"]


def test_feedback_that_comes_first_is_asked_for_again(timed: Deliveries) -> None:
    """It may arrive before the success is on record: the provider is told to repeat it."""
    with pytest.raises(ReferenceNotFound, match="'m-1'") as caught:
        report(timed, reference="m-1")
    assert caught.value.retryable
    assert isinstance(caught.value, DeliveryNotFound)
    id = sent(timed, "m-1")
    assert report(timed, reference="m-1").id == id


def test_nobody_has_that_id(timed: Deliveries) -> None:
    with pytest.raises(DeliveryNotFound):
        report(timed, id=uuid4())


def test_a_reference_from_everywhere_a_success_comes(timed: Deliveries) -> None:
    answers: list[Any] = [Unknown()]
    timed.adapter(
        "charge",
        effect="unsafe",
        lookup=lambda delivery, attempt: answers[0],
        on_unknown="lookup",
        max_lookups=1,
    )(lambda delivery, attempt: Unknown())
    timed.adapter("sms", effect="unsafe", on_unknown="hold")(lambda delivery, attempt: Unknown())
    looked_up, resolved = schedule(timed, "charge").id, schedule(timed, "sms").id
    answers[0] = Delivered(reference="ch-1")
    timed.drain()
    timed._store.clock.advance(3_600)  # type: ignore[attr-defined]  # a RunningClock
    timed.drain()
    with timed.engine.begin() as connection:
        timed.resolve(connection, resolved, Delivered(reference="ch-2"))
        timed.resolve(connection, resolved, Delivered(reference="too late"))
    assert timed.get(looked_up).status == timed.get(resolved).status == "succeeded"
    assert report(timed, reference="ch-1").id == looked_up
    assert report(timed, reference="ch-2").id == resolved
    with pytest.raises(ReferenceNotFound):
        report(timed, reference="too late")


class Trap(Delivered):
    @property
    def reference(self) -> str:  # type: ignore[override]  # as anybody may write it
        raise RuntimeError("none of your business")

    @reference.setter
    def reference(self, value: object) -> None: ...


NO_REFERENCE = [None, "", 7, b"m-1", ["m-1"], "m" * 256, "a\nb", "a\x00", "\ud800"]


@pytest.mark.parametrize("reference", NO_REFERENCE, ids=ascii)
def test_a_reference_that_cannot_be_kept_costs_no_success(timed: Deliveries, reference: Any) -> None:
    timed.adapter("email")(lambda delivery, attempt: Delivered("ok", reference=reference))
    id = schedule(timed).id
    assert timed.drain().succeeded == 1
    assert timed.get(id).status == "succeeded"
    with timed.engine.connect() as connection:
        assert connection.execute(select(references)).all() == []


def test_a_reference_that_defends_itself_costs_no_success(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: Trap("ok"))
    schedule(timed)
    assert timed.drain().succeeded == 1


def test_no_statement_where_no_reference_is_given(timed: Deliveries) -> None:
    sent(timed, None)
    with statements(timed.engine) as seen:
        sent(timed, None)
    assert not [statement for statement in seen if "references" in statement]
    with statements(timed.engine) as seen:
        sent(timed, "m-1")
    assert len([statement for statement in seen if "references" in statement]) == 1


def test_many_references_in_one_batch(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: Delivered(reference=f"m-{delivery.payload}"))
    ids = [schedule(timed, "email", n).id for n in range(20)]
    timed.drain()
    for n, id in enumerate(ids):
        assert report(timed, reference=f"m-{n}").id == id


# -- once, and never an end -----------------------------------------------------------------------------


def test_it_changes_neither_end_nor_row(timed: Deliveries) -> None:
    id = sent(timed)
    before, was = timed.history(id), row(timed, id)
    delivery = report(timed, id=id, **BOUNCE)
    assert delivery == timed.get(id)
    assert delivery.status == "succeeded"
    assert (timed.history(id), row(timed, id)) == (before, was)


@pytest.mark.parametrize("ending", ENDINGS)
def test_in_every_standing(timed: Deliveries, clock: RunningClock, ending: str) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    id = lead(timed, clock, ending)
    before, was = kinds(timed, id), row(timed, id)
    report(timed, id=id, **BOUNCE)
    report(timed, id=id, **BOUNCE)
    assert len(told(timed, id)) == 1
    assert (kinds(timed, id), row(timed, id)) == (before, was)


SAME: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    (BOUNCE, BOUNCE, True),
    ({"fact": {"a": 1, "b": 2}}, {"fact": {"b": 2, "a": 1}}, True),
    ({"fact": {"a": 1}}, {"fact": {"a": 2}}, False),
    ({"fact": {"a": 1}}, {}, False),
    ({}, {"fact": {"a": 1}}, False),
    ({"at": at(60)}, {"at": at(61)}, False),
    ({"at": at(60)}, {"at": at(60).astimezone(timezone(timedelta(hours=5)))}, True),
    ({"kind": "bounced"}, {"kind": "complained"}, False),
    ({"key": "e-1"}, {"key": "e-1"}, True),
    ({"key": "e-1", "fact": 1}, {"key": "e-1", "fact": 2, "at": at(60)}, True),
    ({"key": "e-1"}, {"key": "e-2"}, False),
    ({"key": "e-1"}, {}, False),
    ({"key": "e-1", "kind": "bounced"}, {"key": "e-1", "kind": "complained"}, False),
]


@pytest.mark.parametrize(("first", "second", "same"), SAME, ids=str)
def test_the_same_report_is_kept_once(
    timed: Deliveries, first: dict[str, Any], second: dict[str, Any], same: bool
) -> None:
    id = sent(timed)
    report(timed, id=id, **first)
    before = everything(timed)
    report(timed, reference="m-1", **second)
    assert len(told(timed, id)) == (1 if same else 2)
    assert (everything(timed) == before) == same


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_two_at_once_are_chained_or_told_apart(
    app: Deliveries, database_url: str, engines: Callable[..., Engine], level: str
) -> None:
    id = sent(app)
    engine = engines(database_url, isolation_level=level)
    errors: list[ConcurrentChange] = []
    begun = threading.Event()

    def second() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM deliveries LIMIT 1"))  # its snapshot is old
            begun.set()
            try:
                app.record_evidence(connection, "complained", id=id)
                connection.commit()
            except ConcurrentChange as error:
                errors.append(error)

    with engine.begin() as first:
        app.record_evidence(first, "bounced", id=id)
        other = threading.Thread(target=second)
        other.start()
        assert begun.wait(30)
    other.join(30)
    kept = [kind for kind, _ in told(app, id)]
    assert kept == (["bounced", "complained"] if level == "READ COMMITTED" else ["bounced"])
    assert [error.retryable for error in errors] == ([] if level == "READ COMMITTED" else [True])


def test_after_a_rollback_nothing_is_kept(timed: Deliveries) -> None:
    id = sent(timed)
    with timed.engine.connect() as connection:
        timed.record_evidence(connection, "bounced", id=id)
        assert len(timed.evidence(id, session=connection)) == 1
        connection.rollback()
    assert told(timed, id) == []


def test_there_is_an_end_to_it(timed: Deliveries) -> None:
    id = sent(timed)
    with timed.engine.begin() as connection:
        from deliveries.store.evidence import Entry, add

        for n in range(MAX_PIECES):
            add(connection, "opened", [(id, Entry(b'{"key":"%d"}' % n))], NOW)
    with pytest.raises(InvalidCommand, match="1000"):
        report(timed, id=id)
    report(timed, "opened", id=id, key="7")  # it is there already


# -- shown ---------------------------------------------------------------------------------------------------


def test_explain_shows_it(timed: Deliveries) -> None:
    id = sent(timed)
    report(timed, id=id, key="e-1", **BOUNCE)
    line = timed.explain(id).evidence[0]
    assert "bounced: at 2024-01-01T12:01:00Z, key e-1, told " in line
    assert '"code":550' in line
    assert timed.explain(id).status == "succeeded"
    assert line in str(timed.explain(id))


def test_a_piece_says_when_it_was_recorded(timed: Deliveries, clock: RunningClock) -> None:
    id = sent(timed)
    clock.travel(datetime(2024, 2, 1, tzinfo=UTC))
    report(timed, id=id, at=at(60))
    (piece,) = timed.evidence(id)
    assert piece.recorded_at.date() == datetime(2024, 2, 1, tzinfo=UTC).date()
    assert (piece.sequence, piece.delivery_id) == (1, id)


def test_the_evidence_of_nobody(timed: Deliveries) -> None:
    with pytest.raises(DeliveryNotFound):
        timed.evidence(uuid4())


def test_late_reports_and_feedback_are_one_chain(app: Deliveries) -> None:
    gate = threading.Event()

    @app.adapter("email", timeout=0.1, max_attempts=1)
    def email(delivery: Any, attempt: Any) -> Any:
        gate.wait(20)

    id = schedule(app).id
    with app.running() as processor:
        eventually(lambda: app.get(id).is_terminal)
        report(app, "delivered", id=id)
        gate.set()
        eventually(lambda: processor.summary.late == 1)
    assert [kind for kind, _ in told(app, id)] == ["delivered", "late_report"]


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bounced", {}),
        ("bounced", {"id": UUID(int=7), "reference": "m-1"}),
        ("Bounced!", {"reference": "m-1"}),
        ("", {"reference": "m-1"}),
        (None, {"reference": "m-1"}),
        ("b" * 51, {"reference": "m-1"}),
        ("erased", {"reference": "m-1"}),
        ("redriven", {"reference": "m-1"}),
        ("bounced", {"id": "none"}),
        ("bounced", {"reference": ""}),
        ("bounced", {"reference": "m" * 256}),
        ("bounced", {"reference": 7}),
        ("bounced", {"reference": "m-1", "channel": ""}),
        ("bounced", {"reference": "m-1", "key": ""}),
        ("bounced", {"reference": "m-1", "key": "a\nb"}),
        ("bounced", {"reference": "m-1", "at": NOW.replace(tzinfo=None)}),
        ("bounced", {"reference": "m-1", "at": "yesterday"}),
        ("bounced", {"reference": "m-1", "fact": {7}}),
        ("bounced", {"reference": "m-1", "fact": float("nan")}),
        ("bounced", {"reference": "m-1", "fact": "a\x00"}),
        ("bounced", {"reference": "m-1", "fact": "x" * 16_384}),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_is_refused_before_any_sql(nowhere: Deliveries, kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(DeliveriesError) as caught:
        nowhere.record_evidence(None, kind, **options)  # type: ignore[arg-type]  # nobody gets so far
    assert not isinstance(caught.value, DeliveryNotFound)


def test_a_fact_names_the_path(nowhere: Deliveries) -> None:
    with pytest.raises(InvalidPayload, match="of a fact") as caught:
        nowhere.record_evidence(None, "bounced", reference="m", fact={"a": [b"x"]})  # type: ignore[arg-type]
    assert caught.value.path == "$.a[0]"
