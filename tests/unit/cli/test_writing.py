"""schedule and cancel: one transaction each, and a refusal before anything is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from deliveries import Deliveries, Delivery
from unit.cli.commands import Command

Schedule = Callable[..., Delivery]


# -- schedule ----------------------------------------------------------------------------------


def test_schedule_writes_one_delivery(deliveries: Command, shop: str, app: Deliveries) -> None:
    result = deliveries("schedule", "email", '{"order": 7}', "--app", shop)
    (found,) = app.find()
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Delivery {found.id} is scheduled\n"
    assert app.get(found.id).payload == {"order": 7}


def test_schedule_takes_all_that_a_draft_has(deliveries: Command, shop: str, app: Deliveries) -> None:
    before = datetime.now(UTC)
    options = {
        "--recipient": "a@example.com",
        "--key": "k-1",
        "--delay": "1h30m",
        "--expires-at": "2030-01-31T09:00+01:00",
        "--priority": "0",
        "--max-attempts": "3",
        "--correlation-id": "c-1",
        "--tenant": "acme",
    }
    arguments = [one for option in options.items() for one in option]
    (shown,) = deliveries(
        "schedule", "email", "null", *arguments, "--tag", "x", "--tag", "y", "--app", shop, "--json"
    ).json
    found = app.get(shown["id"])
    assert (found.recipient, found.key, found.tenant) == ("a@example.com", "k-1", "acme")
    assert (found.priority, found.max_attempts, found.tags) == (0, 3, ("x", "y"))
    assert (found.correlation_id, found.payload) == ("c-1", None)
    assert found.expires_at == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert found.due_at is not None
    assert timedelta(minutes=90) <= found.due_at - before <= timedelta(minutes=92)
    assert shown["created"] is True


@pytest.mark.parametrize(("delay", "seconds"), [("90", 90.0), ("1.5", 1.5), ("2d", 172_800.0), ("0", 0.0)])
def test_a_delay_is_seconds_or_has_units(
    deliveries: Command, shop: str, app: Deliveries, delay: str, seconds: float
) -> None:
    deliveries("schedule", "email", "1", "--delay", delay, "--app", shop)
    (found,) = app.find()
    assert found.due_at is not None
    assert found.due_at - found.scheduled_at == timedelta(seconds=seconds)


def test_a_due_time_has_an_offset(deliveries: Command, shop: str, app: Deliveries) -> None:
    deliveries("schedule", "email", "1", "--due-at", "2030-01-31T09:00Z", "--app", shop)
    (found,) = app.find()
    assert found.due_at == datetime(2030, 1, 31, 9, tzinfo=UTC)


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_the_payload_comes_from_stdin(
    deliveries: Command, shop: str, app: Deliveries, argument: list[str]
) -> None:
    stdin = '{"name": "Zoë"}'.encode()
    assert deliveries("schedule", "email", *argument, "--app", shop, stdin=stdin).code == 0
    (found,) = app.find()
    assert app.get(found.id).payload == {"name": "Zoë"}


@pytest.mark.parametrize("number", ["-5", "-0.5", "7"])
def test_a_payload_may_be_a_number(deliveries: Command, shop: str, app: Deliveries, number: str) -> None:
    assert deliveries("schedule", "email", number, "--app", shop).code == 0
    (found,) = app.find()
    assert app.get(found.id).payload == float(number)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{'order': 7}",
        b'{"order": 7',
        b'{"order": 1, "order": 2}',
        b"[" * 100_000,
        b"\xff",
        b"NaN",
        b"1e400",
        b"9" * 5_000,
        b'"\\ud800"',
        b'"\\u0000"',
        b'"' + b"x" * 70_000 + b'"',
    ],
)
def test_a_payload_that_cannot_be(deliveries: Command, shop: str, app: Deliveries, payload: bytes) -> None:
    deliveries("schedule", "email", "--app", shop, stdin=payload).failed(2, "payload")
    assert app.find() == []


def test_an_option_that_does_not_exist_is_no_payload(deliveries: Command, shop: str, app: Deliveries) -> None:
    deliveries("schedule", "email", "--recipent", "a@example.com", "--app", shop).failed(2)
    assert app.find() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--priority", "10"], "priority"),
        (["--priority", "high"], "priority"),
        (["--max-attempts", "0"], "max_attempts"),
        (["--delay", "-1"], "delay"),
        (["--delay", "soon"], "delay"),
        (["--delay", "1", "--due-at", "2030-01-31T09:00Z"], "delay"),
        (["--due-at", "2030-01-31T09:00"], "naive"),
        (["--due-at", "2999-01-31T09:00Z"], "due_at"),
        (["--due-at", "tomorrow"], "due-at"),
        (["--key", ""], "key"),
        (["--key", "\x1b[31m"], "key"),
        (["--key", "k" * 256], "key"),
        (["--tag", "a\nb"], "tags"),
        (["--key", "a", "--key", "b"], "key"),
    ],
)
def test_schedule_refuses_what_cannot_be(
    deliveries: Command, shop: str, app: Deliveries, options: list[str], said: str
) -> None:
    deliveries("schedule", "email", "1", *options, "--app", shop).failed(2, said)
    assert app.find() == []


def test_an_unknown_channel_names_those_that_are(deliveries: Command, shop: str) -> None:
    deliveries("schedule", "sms", "1", "--app", shop).failed(2, "sms", "email", "charge")


def test_a_channel_is_needed(deliveries: Command, shop: str) -> None:
    deliveries("schedule", "--app", shop).failed(2, "CHANNEL")


def test_a_key_that_is_taken_by_the_same_debt(deliveries: Command, shop: str, app: Deliveries) -> None:
    again = ["schedule", "email", "1", "--key", "k", "--app", shop]
    (first,) = deliveries(*again, "--json").json
    (second,) = deliveries(*again, "--json").json
    assert (first["id"], first["created"], second["created"]) == (second["id"], True, False)
    result = deliveries(*again)
    assert (result.code, len(app.find())) == (0, 1)
    assert "nothing new" in result.out


def test_a_key_that_is_taken_by_another_debt(deliveries: Command, shop: str, app: Deliveries) -> None:
    deliveries("schedule", "email", "1", "--key", "k", "--app", shop)
    deliveries("schedule", "email", "2", "--key", "k", "--app", shop).failed(1, "'k'", "another payload")
    assert len(app.find()) == 1


# -- cancel ------------------------------------------------------------------------------------


def test_cancel_ends_a_pending_delivery(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    delivery = schedule()
    result = deliveries("cancel", delivery.id, "--reason", "sold out", "--actor", "ops", "--url", sqlite_url)
    assert (result.code, result.out, result.err) == (0, f"Delivery {delivery.id} is cancelled\n", "")
    last = app.history(delivery.id)[-1]
    assert (last.type, last.note) == ("Cancelled", "sold out")
    assert b'"actor":"ops"' in last.body


def test_cancel_twice_changes_nothing(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    delivery = schedule()
    deliveries("cancel", delivery.id, "--url", sqlite_url)
    assert deliveries("cancel", delivery.id, "--url", sqlite_url).code == 0
    assert len(app.history(delivery.id)) == 2


def test_cancel_as_json(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    delivery = schedule({"n": 1})
    (found,) = deliveries("cancel", delivery.id, "--url", sqlite_url, "--json").json
    assert (found["id"], found["status"], found["payload"]) == (str(delivery.id), "cancelled", {"n": 1})


def test_cancel_too_late_says_so(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    delivery = schedule()
    app.perform(delivery.id)
    deliveries("cancel", delivery.id, "--url", sqlite_url).failed(1, str(delivery.id), "succeeded")
    result = deliveries("cancel", delivery.id, "--url", sqlite_url, "--json")
    assert (result.code, result.json[0]["status"]) == (1, "succeeded")


def test_cancel_while_its_attempt_is_running(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    entered, leave = threading.Event(), threading.Event()

    @app.adapter("slow")
    def slow(delivery: object, attempt: object) -> None:
        entered.set()
        assert leave.wait(30)

    with app.engine.begin() as connection:
        delivery = app.schedule(connection, "slow")
    performing = threading.Thread(target=app.perform, args=(delivery.id,))
    performing.start()
    try:
        assert entered.wait(30)
        result = deliveries("cancel", delivery.id, "--url", sqlite_url)
    finally:
        leave.set()
        performing.join(30)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Delivery {delivery.id} is cancelled unless attempt 1 succeeds\n"
    assert app.get(delivery.id).status == "succeeded"


def test_cancel_what_is_not_there(deliveries: Command, sqlite_url: str) -> None:
    nobody = "00000000-0000-7000-8000-000000000000"
    deliveries("cancel", nobody, "--url", sqlite_url).failed(1, nobody)


@pytest.mark.parametrize("arguments", [["none"], ["00000000-0000-7000-8000-000000000000", "--actor", "a\nb"]])
def test_cancel_refuses_what_cannot_be(deliveries: Command, sqlite_url: str, arguments: list[str]) -> None:
    deliveries("cancel", *arguments, "--url", sqlite_url).failed(2)
