"""R6: after an erasure the personal data is nowhere, logs and errors included, and the audit is green."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, inspect, make_url, select, text

from deliveries import (
    Cancel,
    Delivered,
    Deliveries,
    DeliveriesError,
    Discard,
    IdempotencyConflict,
    InvalidCommand,
    InvalidFilter,
    Retry,
    Snooze,
    Suppress,
)
from deliveries.store.schema import contents, events, evidence, facts, metadata, notes, references
from deliveries.testing.examples import NOW, at
from deliveries.testing.lives import ENDINGS
from deliveries.testing.proof import broken
from support.apps import Apps, Gate, RunningClock, eventually, everything, kinds, last, schedule
from support.lives import lead

ANN = "ann@example.org"
SECRETS = (ANN, "4111-1111", "Oscar", "Error-Text", "Receipt-Text", "Reason-Text", "Bounce-Text")


def secrets_in(app: Deliveries) -> dict[str, set[str]]:
    """Table -> the secrets that its rows hold, whatever the column."""
    with app.engine.connect() as connection:
        names = inspect(connection).get_table_names()
        assert set(metadata.tables) <= set(names)
        found = {}
        for name in names:
            values = [value for row in connection.execute(text(f"SELECT * FROM {name}")) for value in row]
            texts = [
                bytes(v).decode("latin-1") if isinstance(v, (bytes, memoryview)) else str(v) for v in values
            ]
            found[name] = {secret for secret in SECRETS if any(secret in one for one in texts)}
    return {name: secrets for name, secrets in found.items() if secrets}


def lived(app: Deliveries, recipient: str = ANN) -> list[UUID]:
    """A delivery for each way in which texts come in, all with secrets."""
    outcomes: list[Any] = [
        Retry("Error-Text"),
        Cancel("Error-Text"),
        Discard("Error-Text"),
        Suppress("Error-Text"),
        Snooze(5, reason="Error-Text"),
        Delivered("Receipt-Text", reference=f"m-{recipient[0]}"),
        ValueError(f"Error-Text for {ANN}"),
    ]

    def email(delivery: Any, attempt: Any) -> Any:
        outcome = outcomes[delivery.payload["n"]]
        if isinstance(outcome, ValueError):
            raise outcome
        return outcome

    app._registrations.pop("email", None)
    app.adapter("email")(email)
    payload = {"card": "4111-1111", "Oscar": 1}
    ids = [schedule(app, "email", {"n": n, **payload}, recipient=recipient).id for n in range(len(outcomes))]
    app.drain()
    with app.engine.begin() as connection:
        spare = app.schedule(connection, "email", {"n": 0, **payload}, recipient=recipient).id
        app.cancel(connection, spare, reason="Reason-Text", actor="operator-7")
        again = app.redrive(connection, ids[2], reason="Reason-Text", actor="operator-7").id
        app.record_evidence(
            connection, "bounced", id=ids[5], fact={"to": ANN, "said": "Bounce-Text"}, key="b-1"
        )
    return [*ids, spare, again]


@pytest.fixture
def erased(timed: Deliveries) -> list[UUID]:
    """What was owed to Ann, erased; Cleo's is as it was."""
    ids = lived(timed)
    assert set().union(*secrets_in(timed).values()) == set(SECRETS)
    report = timed.erase(recipient=ANN, actor="ops:ann")
    assert (report.matched, report.done, report.left) == (len(ids), len(ids), {})
    return ids


# -- nowhere -----------------------------------------------------------------------------------------------


def test_it_is_in_no_table(timed: Deliveries, erased: list[UUID]) -> None:
    assert secrets_in(timed) == {}
    with timed.engine.connect() as connection:
        for table in (contents, notes, facts):
            assert not [value for row in connection.execute(select(table)) for value in row[2:] if value], (
                table
            )
        assert connection.execute(select(contents.c.recipient)).scalars().all() == [None] * len(erased)
        assert connection.execute(select(references)).all() == []


def test_salts_go_too(timed: Deliveries, erased: list[UUID]) -> None:
    """With its salt a digest would still tell who knows a recipient that it is him."""
    with timed.engine.connect() as connection:
        for table in (contents, notes, facts):
            assert set(connection.scalars(select(table.c.salt))) <= {None}, table


def test_the_audit_stays_green(timed: Deliveries, erased: list[UUID]) -> None:
    assert broken(timed.engine) == []
    for id in erased:
        assert timed.get(id).is_terminal
        assert (timed.get(id).recipient, timed.get(id).payload) == (None, None)
        assert str(timed.explain(id))


def test_others_keep_theirs(timed: Deliveries) -> None:
    theirs, ann = lived(timed, "cleo@example.org"), lived(timed)
    before = {id: (timed.get(id), timed.history(id), timed.evidence(id)) for id in theirs}
    assert timed.erase(recipient=ANN).done == len(ann)
    assert {id: (timed.get(id), timed.history(id), timed.evidence(id)) for id in theirs} == before
    assert ANN in secrets_in(timed)["delivery_notes"]  # an error text of Cleo's that names Ann


def test_a_word_about_it_stays(timed: Deliveries, erased: list[UUID]) -> None:
    for id in erased:
        piece = timed.evidence(id)[-1]
        assert (piece.kind, piece.fact) == ("erased", {"actor": "ops:ann"})
    bounced = timed.evidence(erased[5])[0]
    assert (bounced.kind, bounced.told, bounced.salt) == ("bounced", None, None)
    assert bounced.fact == {"key": "b-1", "erased": True}
    assert "erased" in str(timed.explain(erased[0]))


def test_neither_logs_nor_errors_tell(
    timed: Deliveries, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        ids = lived(timed)
        timed.erase(recipient=ANN, dry_run=True)
        timed.erase(recipient=ANN)
        timed.erase(recipient=ANN)
    assert not [secret for secret in SECRETS if secret in caplog.text]
    with pytest.raises(InvalidCommand) as caught, timed.engine.begin() as connection:
        timed.redrive(connection, ids[1])
    assert "erased" in str(caught.value)
    with pytest.raises(DeliveriesError) as refused:
        timed.erase(recipient=f"{ANN}\x00")
    assert ANN not in str(refused.value)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_it_is_not_in_the_file(database_url: str, timed: Deliveries) -> None:
    """What SQLite deletes stays in the file until it is overwritten; here it is overwritten at once."""
    path = Path(make_url(database_url).database or "")
    ids = lived(timed)
    assert [secret for secret in SECRETS if secret.encode() in _bytes(path)]
    timed.erase(recipient=ANN)
    assert len(ids) == 9
    assert not [secret for secret in SECRETS if secret.encode() in _bytes(path)]


def _bytes(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


# -- what is left to do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_in_every_standing(timed: Deliveries, clock: RunningClock, ending: str) -> None:
    """What waits is cancelled first; what runs is asked to be the last, and erased once it is over."""
    timed.adapter("email")(lambda delivery, attempt: None)
    id = lead(timed, clock, ending)
    before = kinds(timed, id)
    report = timed.erase(recipient=ANN, actor="ops:ann")
    if ENDINGS[ending].status == "attempting":
        assert (report.done, report.left) == (0, {"attempting": 1})
        assert timed.get(id).cancel_requested is not None
        assert timed.get(id).recipient == ANN
        return
    assert (report.done, report.left) == (1, {})
    added = kinds(timed, id)[len(before) :]
    assert added == ([] if ENDINGS[ending].status not in ("pending", "held") else ["Cancelled"])
    if added:
        assert (last(timed, id).cause, last(timed, id).actor) == ("erased", "ops:ann")
    assert timed.get(id).recipient is None


def test_what_runs_is_erased_when_it_is_over(app: Deliveries) -> None:
    """Its report would bring a text back, so the first run leaves it."""
    gate = Gate()

    @app.adapter("email")
    def email(delivery: Any, attempt: Any) -> Any:
        gate()
        return Delivered(f"Receipt-Text for {delivery.recipient}")

    id = schedule(app, recipient=ANN).id
    with app.running():
        gate.wait_for()
        assert app.erase(recipient=ANN).left == {"attempting": 1}
        gate.open()
        eventually(lambda: app.get(id).is_terminal)
    assert app.get(id).status == "succeeded"
    assert app.erase(recipient=ANN).done == 1
    assert secrets_in(app) == {}


def test_an_erased_delivery_is_never_performed(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    schedule(timed, recipient=ANN, delay=60)
    timed.erase(recipient=ANN)
    timed._store.clock.advance(120)  # type: ignore[attr-defined]  # a RunningClock
    assert timed.drain().attempted == 0


def test_feedback_after_it_brings_nothing_back(timed: Deliveries, erased: list[UUID]) -> None:
    with timed.engine.begin() as connection:
        for _ in range(2):
            timed.record_evidence(connection, "complained", id=erased[5], fact={"to": ANN}, at=at(60))
        timed.record_evidence(connection, "bounced", id=erased[5], fact={"to": ANN}, key="b-1")
    assert [one.kind for one in timed.evidence(erased[5])] == ["bounced", "erased", "complained"]
    assert secrets_in(timed) == {}
    assert broken(timed.engine) == []


def test_a_key_can_no_longer_compare(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    timed.adapter("sms")(lambda delivery, attempt: None)
    first = schedule(timed, "email", 1, recipient=ANN, key="k")
    with pytest.raises(IdempotencyConflict):
        schedule(timed, "email", 2, recipient=ANN, key="k")
    timed.erase(recipient=ANN)
    again = schedule(timed, "email", 2, recipient="cleo@example.org", key="k")
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(IdempotencyConflict, match="channel"):
        schedule(timed, "sms", 2, key="k")


# -- which ---------------------------------------------------------------------------------------------------


def test_exactly_that_recipient(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    others = ["Ann@example.org", f"{ANN} ", "ann@example.orgx", None, "%", "ann_example.org"]
    ids = [schedule(timed, recipient=one).id for one in others]
    schedule(timed, recipient=ANN)
    assert timed.erase(recipient=ANN).done == 1
    assert [timed.get(id).recipient for id in ids] == others


def test_by_filter_and_by_both(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    acme = schedule(timed, recipient=ANN, tenant="acme", correlation_id="order-7").id
    other = schedule(timed, recipient=ANN, tenant="other", correlation_id="order-7").id
    cleo = schedule(timed, recipient="cleo@example.org", tenant="acme").id
    assert timed.erase(recipient=ANN, where={"tenant": "acme"}).sample == (acme,)
    assert timed.get(other).recipient == ANN
    assert timed.erase(where={"correlation_id": "order-7"}).left == {"erased": 1}
    assert timed.get(other).recipient is None
    assert timed.erase(where={"id": cleo}).sample == (cleo,)


def test_more_than_one_page(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    with timed.engine.begin() as connection:
        from deliveries import Draft

        drafts = [Draft(recipient=ANN if n % 3 else "cleo@example.org") for n in range(60)]
        timed.schedule_many(connection, "email", drafts)
    report = timed.erase(recipient=ANN, batch=7)
    assert (report.done, report.left) == (40, {})
    with timed.engine.connect() as connection:
        left = connection.scalars(select(contents.c.recipient).where(contents.c.recipient.is_not(None))).all()
    assert left == ["cleo@example.org"] * 20


def test_a_dry_run_tells_the_same_and_writes_nothing(timed: Deliveries) -> None:
    ids = lived(timed)
    before = everything(timed)
    dry = timed.erase(recipient=ANN, dry_run=True)
    assert everything(timed) == before
    done = timed.erase(recipient=ANN)
    assert (dry.matched, dry.done, dry.sample) == (done.matched, done.done, done.sample) == (9, 9, tuple(ids))


def test_again_nothing_is_left(timed: Deliveries, erased: list[UUID]) -> None:
    before = everything(timed)
    assert timed.erase(recipient=ANN).matched == 0
    assert timed.erase(where={"id": erased}).left == {"erased": len(erased)}
    assert everything(timed) == before


def test_contents_of_a_corrupt_stream_go_too(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app, recipient=ANN).id
    with app.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER delivery_events_no_update"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(events.update().values(body=b"{}"))
    assert app.erase(recipient=ANN).sample == (id,)
    assert secrets_in(app) == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, InvalidCommand),
        ({"where": {}}, InvalidCommand),
        ({"recipient": 7}, DeliveriesError),
        ({"recipient": "a" * 2_049}, DeliveriesError),
        ({"where": {"recipient": ANN}}, InvalidFilter),
        ({"recipient": ANN, "where": {"tag": "a"}}, InvalidFilter),
        ({"recipient": ANN, "actor": "a\nb"}, DeliveriesError),
        ({"recipient": ANN, "batch": 0}, DeliveriesError),
    ],
    ids=str,
)
def test_what_is_refused_before_any_sql(
    nowhere: Deliveries, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        nowhere.erase(**options)


# -- judges ----------------------------------------------------------------------------------------------


def test_contents_that_vanish_without_a_word_are_found(fresh_url: str, apps: Apps) -> None:
    """Known bad: whoever empties a row by hand is no erasure."""
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app, recipient=ANN).id
    with app.engine.begin() as connection:
        app.cancel(connection, id, reason="Reason-Text")
        connection.execute(contents.update().values(recipient=None, payload=None, salt=None))
        connection.execute(notes.delete())
    assert {(one.rule, one.version) for one in broken(app.engine)} == {("R6", 1), ("R6", 2)}


@pytest.mark.parametrize("what", ["contents", "notes", "facts", "evidence"])
def test_a_text_that_was_exchanged_is_found(
    fresh_url: str, apps: Apps, what: str, engines: Callable[..., Engine]
) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app, recipient=ANN).id
    with app.engine.begin() as connection:
        app.cancel(connection, id, reason="Reason-Text")
        app.record_evidence(connection, "bounced", id=id, fact={"to": ANN})
    assert broken(app.engine) == []
    forged: dict[str, Any] = {
        "contents": contents.update().values(recipient="mallory@example.org"),
        "notes": notes.update().values(text="of course"),
        "facts": facts.update().values(text='"fine"'),
        "evidence": evidence.update().values(recorded_at=NOW),
    }
    with app.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER delivery_evidence_no_update"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(forged[what])
    assert [one.rule for one in broken(app.engine)] == ["R3"]
