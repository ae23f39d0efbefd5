"""The verbs of operators: one delivery by its id, or all that fit, looked at before it is done."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deliveries import Delivered, Deliveries, Delivery, Discard, Unknown
from deliveries.cli import main
from unit.cli.commands import HOSTILE, Command, harmless

Schedule = Callable[..., Delivery]

SAID = ["--reason", "the provider is down", "--actor", "ops:ann"]
NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
def at(sqlite_url: str) -> list[str]:
    return ["--url", sqlite_url]


def kinds(app: Deliveries, delivery: Delivery) -> list[str]:
    return [recorded.type for recorded in app.history(delivery.id)]


@pytest.fixture
def held(app: Deliveries) -> Delivery:
    app.adapter("charge", effect="unsafe", on_unknown="hold")(lambda delivery, attempt: Unknown())
    with app.engine.begin() as connection:
        delivery = app.schedule(connection, "charge")
    app.drain()
    return delivery


@pytest.fixture
def exhausted(app: Deliveries) -> Delivery:
    app.adapter("sms")(lambda delivery, attempt: Discard())
    with app.engine.begin() as connection:
        delivery = app.schedule(connection, "sms", {"n": 1}, recipient="+41")
    app.drain()
    return delivery


# -- one ---------------------------------------------------------------------------------------


def test_suppress_one(deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str]) -> None:
    delivery = schedule()
    result = deliveries("suppress", delivery.id, *SAID, *at)
    assert (result.code, result.out) == (0, f"Delivery {delivery.id} is suppressed\n")
    assert app.history(delivery.id)[-1].note == "the provider is down"
    assert deliveries("suppress", delivery.id, *at).code == 0
    deliveries("cancel", delivery.id, *at).failed(1, "suppressed")


def test_suppress_leaves_a_held_one(deliveries: Command, held: Delivery, at: list[str]) -> None:
    deliveries("suppress", held.id, *at).failed(1, "held")


def test_reschedule_one(
    deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str], held: Delivery
) -> None:
    delivery = schedule()
    result = deliveries("reschedule", delivery.id, "--due-at", "2030-01-31T09:00Z", *SAID, *at)
    assert (result.code, result.out) == (0, f"Delivery {delivery.id} is due at 2030-01-31 09:00:00Z\n")
    assert app.get(delivery.id).due_at == datetime(2030, 1, 31, 9, tzinfo=UTC)
    assert deliveries("reschedule", delivery.id, "--delay", "90m", *at).code == 0
    deliveries("reschedule", held.id, "--delay", "1", *at).failed(1, "held")
    deliveries("reschedule", delivery.id, *at).failed(2, "due_at")
    deliveries("reschedule", delivery.id, "--delay", "1", "--due-at", "2030-01-31T09:00Z", *at).failed(2)


OUTCOMES = {
    "delivered": "succeeded",
    "not-done": "pending",
    "cancel": "cancelled",
    "bounced": "cancelled",
    "discard": "exhausted",
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_resolve(deliveries: Command, app: Deliveries, held: Delivery, at: list[str], outcome: str) -> None:
    result = deliveries("resolve", held.id, outcome, *SAID, *at)
    assert (result.code, result.out) == (0, f"Delivery {held.id} is {OUTCOMES[outcome]}\n")
    last = app.history(held.id)[-1]
    assert (last.note, b'"ops:ann"' in last.body) == ("the provider is down", True)
    deliveries("resolve", held.id, outcome, *at).failed(1, "not held")
    deliveries("resolve", held.id, "maybe", *at).failed(2, "maybe")
    deliveries("resolve", NOBODY, outcome, *at).failed(1, NOBODY)


def test_redrive_one(deliveries: Command, app: Deliveries, exhausted: Delivery, at: list[str]) -> None:
    result = deliveries("redrive", exhausted.id, *SAID, *at)
    (made,) = app.find(status="pending")
    assert (result.code, result.out) == (0, f"Delivery {exhausted.id} is redriven as {made.id}\n")
    assert (made.root_id, made.causation_id) == (exhausted.id, str(exhausted.id))
    again = deliveries("redrive", exhausted.id, *SAID, *at)
    assert (again.code, again.out) == (0, f"Delivery {exhausted.id} was redriven as {made.id}\n")
    (shown,) = deliveries("redrive", exhausted.id, *at, "--json").json
    assert (shown["id"], shown["payload"]) == (str(made.id), {"n": 1})
    deliveries("redrive", made.id, *at).failed(2, "pending")


def test_redrive_does_not_repeat_by_accident(
    deliveries: Command, app: Deliveries, held: Delivery, at: list[str]
) -> None:
    """Also without an application: the rules that the delivery froze say that nobody may guess."""
    deliveries("resolve", held.id, "delivered", *at)
    deliveries("redrive", held.id, *SAID, *at).failed(2, "would repeat")
    assert deliveries("redrive", held.id, "--may-repeat", "--new-key", *SAID, *at).code == 0
    assert app.find(status="pending")[0].root_id is None


# -- many --------------------------------------------------------------------------------------

MANY = {"cancel": [], "suppress": [], "reschedule": ["--delay", "1h"]}


@pytest.mark.parametrize("verb", MANY)
def test_all_that_fit(
    deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str], verb: str
) -> None:
    wanted = [schedule(tenant="a") for _ in range(25)]
    other = schedule(tenant="b")
    act = [verb, *MANY[verb], "--where", "tenant=a", "--where", "status=pending", *SAID, *at]
    dry = deliveries(*act, "--dry-run")
    assert dry.code == 0
    assert dry.out.startswith(f"{verb} would change 25 of 25 deliveries\n")
    assert dry.out.endswith("and 5 more\n")
    assert {tuple(kinds(app, one)) for one in wanted} == {("Scheduled",)}
    deliveries(*act).failed(2, "--yes", "25")
    assert {tuple(kinds(app, one)) for one in wanted} == {("Scheduled",)}
    (report,) = deliveries(*act, "--yes", "--json").json
    assert (report["act"], report["done"], report["matched"], report["left"]) == (verb, 25, 25, {})
    assert report["sample"][0] == str(wanted[0].id)
    assert {len(kinds(app, one)) for one in wanted} == {2}
    assert kinds(app, other) == ["Scheduled"]


def test_redrive_all_that_fit(
    deliveries: Command, app: Deliveries, exhausted: Delivery, at: list[str]
) -> None:
    act = ["redrive", "--where", "status=exhausted", "--where", "ended-after=2020-01-01T00:00Z", *SAID, *at]
    deliveries(*act).failed(2, "--yes")
    assert "redrive would change 1 of 1" in deliveries(*act, "--dry-run").out
    assert app.find(status="pending") == []
    result = deliveries(*act, "--yes")
    assert result.out == f"redrive changed 1 of 1 deliveries\n  {exhausted.id}\n"
    result = deliveries(*act, "--yes")
    assert (result.code, result.out) == (0, "redrive would change 0 of 1 deliveries\n  left 1: redriven\n")


class Terminal(io.TextIOWrapper):
    """A person at the other end."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "done"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_person_is_asked(
    app: Deliveries,
    schedule: Schedule,
    at: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    done: bool,
) -> None:
    delivery = schedule()
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(answer.encode())))
    code = main(["cancel", "--where", "status=pending", *SAID, *at])
    written = capsys.readouterr()
    assert "cancel will change 1 deliveries" in written.err
    assert "[y/N]" in written.err
    assert (code, app.get(delivery.id).status) == ((0, "cancelled") if done else (2, "pending"))
    assert ("nothing was done" in written.err) != done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cancel"], "--where"),
        (["cancel", NOBODY, "--where", "status=pending"], "--where"),
        (["cancel", "--yes"], "reason"),
        (["cancel", "--yes", *SAID], "every delivery"),
        (["cancel", "--where", "status=pending", "--yes"], "--reason"),
        (["cancel", "--where", "status=pending", "--reason", "why", "--yes"], "--actor"),
        (["cancel", "--where", "colour=red", "--yes", *SAID], "colour"),
        (["cancel", "--where", "colour=red", "--yes", *SAID], "status, channel, queue"),
        (["cancel", "--where", "status=ended", "--yes", *SAID], "ended"),
        (["cancel", "--where", "status", "--yes", *SAID], "field=value"),
        (["cancel", "--where", "=x", "--yes", *SAID], "field=value"),
        (["cancel", "--where", "due_after=tomorrow", "--yes", *SAID], "ISO 8601"),
        (["cancel", "--where", "due_after=2030-01-31T09:00", "--yes", *SAID], "naive"),
        (["redrive", "--where", f"channel={HOSTILE}", "--where", "\x1b[31m=1", "--yes", *SAID], "known"),
        (["reschedule", "--where", "status=pending", "--yes", *SAID], "due_at"),
        (["prune", "--older-than", "30d", "--status", "pending", "--yes"], "pending"),
        (["prune", "--older-than", "30d", "--where", "state=x", "--yes"], "state"),
        (["prune", "--yes"], "older-than"),
        (["prune", "--older-than", "soon"], "older-than"),
        (["erase"], "--recipient"),
        (["erase", "--yes"], "--recipient"),
        (["erase", "--recipient", "-"], "stdin"),
        (["evidence", "add", "bounced"], "reference"),
        (["evidence", "add", "Bounced!", "--id", NOBODY], "kind"),
        (["evidence", "add", "bounced", "--id", NOBODY, "--fact", "{"], "JSON"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_what_is_refused(
    deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str], arguments: list[str], said: str
) -> None:
    delivery = schedule()
    deliveries(*arguments, *at).failed(2, said)
    assert kinds(app, delivery) == ["Scheduled"]


# -- prune -------------------------------------------------------------------------------------


def test_prune(
    deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str], tmp_path: Path
) -> None:
    done, kept = schedule(), schedule(delay=60)
    app.drain()
    path = tmp_path / "export.jsonl"
    act = [
        "prune",
        "--older-than",
        "0",
        "--status",
        "succeeded",
        "--status",
        "exhausted",
        "--export",
        path,
        *at,
    ]
    assert "prune would change 1 of 1" in deliveries(*act, "--dry-run").out
    deliveries(*act).failed(2, "--yes")
    assert not path.exists()
    result = deliveries(*act, "--yes", "--actor", "ops:ann")
    assert (result.code, result.out) == (0, f"prune changed 1 of 1 deliveries\n  {done.id}\n")
    assert json.loads(path.read_text())["delivery_id"] == str(done.id)
    deliveries("show", done.id, *at).failed(1, "was pruned", "3 events")
    assert app.get(kept.id).status == "pending"
    assert deliveries("prune", "--older-than", "30d", *at).code == 0  # nothing to do, nobody to ask


# -- erase -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["option", "stdin"])
def test_erase(deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str], way: str) -> None:
    ann = schedule({"n": 1}, recipient="ann@example.org")
    cleo = schedule({"n": 2}, recipient="cleo@example.org")
    given: Any = {"option": "ann@example.org", "stdin": "-"}[way]
    stdin = b"ann@example.org\n" if way == "stdin" else b""
    act = ["erase", "--recipient", given, "--actor", "ops:ann", *at]
    assert "erase would change 1 of 1" in deliveries(*act, "--dry-run", stdin=stdin).out
    refused = deliveries(*act, stdin=stdin)
    refused.failed(2, "--yes")
    assert "ann@example" not in refused.err
    result = deliveries(*act, "--yes", stdin=stdin)
    assert (result.code, result.out) == (0, f"erase changed 1 of 1 deliveries\n  {ann.id}\n")
    assert (app.get(ann.id).recipient, app.get(ann.id).payload) == (None, None)
    assert app.get(ann.id).status == "cancelled"
    assert app.get(cleo.id).recipient == "cleo@example.org"
    assert "erased" in deliveries("explain", ann.id, *at).out


def test_erase_says_what_is_left(deliveries: Command, app: Deliveries, at: list[str]) -> None:
    entered, leave = threading.Event(), threading.Event()

    @app.adapter("slow")
    def slow(delivery: object, attempt: object) -> None:
        entered.set()
        assert leave.wait(30)

    with app.engine.begin() as connection:
        id = app.schedule(connection, "slow", recipient="ann@example.org").id
    performing = threading.Thread(target=app.perform, args=(id,))
    performing.start()
    try:
        assert entered.wait(30)
        act = ["erase", "--recipient", "ann@example.org", "--yes", "--json", *at]
        assert deliveries(*act, "--dry-run").code == 1
        result = deliveries(*act)
    finally:
        leave.set()
        performing.join(30)
    assert (result.code, result.json[0]["left"]) == (1, {"attempting": 1})
    assert deliveries(*act).json[0]["done"] == 1
    assert app.get(id).recipient is None


# -- evidence ----------------------------------------------------------------------------------


def test_evidence(deliveries: Command, app: Deliveries, at: list[str]) -> None:
    app.adapter("sms")(lambda delivery, attempt: Delivered(reference="m-1"))
    with app.engine.begin() as connection:
        id = app.schedule(connection, "sms").id
    assert deliveries("evidence", "list", id, *at).err == "deliveries: no evidence\n"
    act = ["evidence", "add", "bounced", "--reference", "m-1", "--fact", '{"code": 550}', "--key", "e-1", *at]
    deliveries(*act).failed(1, "m-1")
    app.drain()
    result = deliveries(*act, "--at", "2030-01-31T09:00Z")
    assert (result.code, result.out) == (0, f"Delivery {id} has this evidence, and is succeeded\n")
    (piece,) = deliveries(*act, "--json").json
    assert (piece["kind"], piece["sequence"]) == ("bounced", 1)
    assert piece["fact"] == {"at": "2030-01-31T09:00:00Z", "key": "e-1", "told": {"code": 550}}
    assert deliveries("evidence", "list", id, "--json", *at).json == [piece]
    assert 'told {"code":550}' in deliveries("evidence", "list", id, *at).out
    deliveries("evidence", "list", NOBODY, *at).failed(1, NOBODY)


def test_hostile_facts_are_shown_as_text(
    deliveries: Command, app: Deliveries, schedule: Schedule, at: list[str]
) -> None:
    delivery = schedule()
    with app.engine.begin() as connection:
        app.record_evidence(connection, "bounced", id=delivery.id, fact={"said": HOSTILE})
    for verb in (["evidence", "list"], ["explain"]):
        shown = deliveries(*verb, delivery.id, *at)
        assert all(harmless(line) for line in shown.out.splitlines())
        assert "[red]" in shown.out
