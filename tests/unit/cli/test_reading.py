"""list, show and explain: what people read, what programs read, and what neither may be tricked by."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import text

from deliveries import Deliveries, Delivery
from unit.cli.commands import HOSTILE, Command, harmless

Schedule = Callable[..., Delivery]

READERS = ["show", "explain"]


@pytest.fixture
def hostile(app: Deliveries, schedule: Schedule) -> Delivery:
    """A delivery whose every free text was written by somebody who wants the operator's terminal.

    Key, channel and error text are forged in their rows: the library would have refused or cleaned them.
    """
    with app.engine.begin() as connection:
        delivery = app.schedule(connection, "email", {HOSTILE: HOSTILE}, recipient=HOSTILE, key="k")
        app.cancel(connection, delivery.id, reason="forged below")
    with app.engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET key = :it, channel = :it"), {"it": HOSTILE})
        connection.execute(text("UPDATE delivery_notes SET text = :it"), {"it": HOSTILE})
    return delivery


# -- list --------------------------------------------------------------------------------------


def test_list_shows_the_newest_first(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    old, new = schedule(key="old"), schedule(key="new", tenant="acme")
    result = deliveries("list", "--url", sqlite_url)
    assert (result.code, result.err) == (0, "")
    header, *rows = result.out.splitlines()
    assert header.split() == ["id", "status", "channel", "attempt", "due", "key", "tenant"]
    assert [row.split()[0] for row in rows] == [str(new.id), str(old.id)]
    assert rows[0].split()[-2:] == ["new", "acme"]
    assert not any(line.endswith(" ") for line in result.out.splitlines())


def test_list_as_json_is_one_line_for_each(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    made = [schedule({"n": n}, recipient="a@example.com", tags=["t"]) for n in range(3)]
    result = deliveries("list", "--url", sqlite_url, "--json")
    assert [one["id"] for one in result.json] == [str(one.id) for one in reversed(made)]
    assert result.json[0]["status"] == "pending"
    assert result.json[0]["tags"] == ["t"]
    assert not {"payload", "recipient", "created"} & set(result.json[0])


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--status", "cancelled", ["b"]),
        ("--status", "pending", ["a"]),
        ("--channel", "email", ["b", "a"]),
        ("--channel", "sms", []),
        ("--queue", "mail", ["b", "a"]),
        ("--tenant", "acme", ["a"]),
        ("--key", "b", ["b"]),
        ("--limit", "1", ["b"]),
    ],
)
def test_list_filters(
    deliveries: Command,
    app: Deliveries,
    schedule: Schedule,
    sqlite_url: str,
    option: str,
    value: str,
    expected: list[str],
) -> None:
    schedule(key="a", tenant="acme")
    cancelled = schedule(key="b")
    with app.engine.begin() as connection:
        app.cancel(connection, cancelled.id)
    result = deliveries("list", "--url", sqlite_url, "--json", option, value)
    assert (result.code, [one["key"] for one in result.json]) == (0, expected)


def test_list_of_nothing_is_no_error(deliveries: Command, sqlite_url: str) -> None:
    result = deliveries("list", "--url", sqlite_url)
    assert (result.code, result.out, result.err) == (0, "", "deliveries: no deliveries\n")
    assert deliveries("list", "--url", sqlite_url, "--json").out == ""


def test_list_says_that_there_may_be_more(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    schedule(), schedule()
    assert "--limit" in deliveries("list", "--url", sqlite_url, "--limit", 2).err
    assert deliveries("list", "--url", sqlite_url, "--limit", 3).err == ""


@pytest.mark.parametrize("option", [["--limit", "0"], ["--limit", "10001"], ["--status", "lost"]])
def test_list_refuses_what_cannot_be(deliveries: Command, sqlite_url: str, option: list[str]) -> None:
    deliveries("list", "--url", sqlite_url, *option).failed(2)


# -- show and explain --------------------------------------------------------------------------


def test_show_is_fields_contents_and_history(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    delivery = schedule(
        {"order": 7}, recipient="a@example.com", key="k-1", tags=["x", "y"], due_at=due, priority=3
    )
    result = deliveries("show", delivery.id, "--url", sqlite_url)
    assert (result.code, result.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in result.out.splitlines()]
    assert lines[0] == ["Delivery", f"{delivery.id}  pending"]
    for line in (["recipient", "a@example.com"], ["key", "k-1"], ["tags", "x, y"], ["priority", "3"]):
        assert line in lines
    assert '"order": 7' in result.out
    assert f"{due:%Y-%m-%d %H:%M:%S}" in result.out
    assert "Scheduled" in result.out


def test_show_as_json_has_the_events_as_stored(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    delivery = schedule({"order": 7}, recipient="a@example.com")
    with app.engine.begin() as connection:
        app.cancel(connection, delivery.id, reason="not needed", actor="ops")
    (found,) = deliveries("show", delivery.id, "--url", sqlite_url, "--json").json
    assert (found["payload"], found["recipient"]) == ({"order": 7}, "a@example.com")
    assert (found["status"], found["version"]) == ("cancelled", 2)
    assert found["idempotency_key"] == str(delivery.id)
    for shown, recorded in zip(found["history"], app.history(delivery.id), strict=True):
        assert shown["event"] == json.loads(recorded.body)
        assert (shown["version"], shown["type"]) == (recorded.version, recorded.type)
        assert (shown["digest"], shown["position"]) == (recorded.digest.hex(), recorded.position)
        assert datetime.fromisoformat(shown["recorded_at"]) == recorded.recorded_at
    assert [one["note"] for one in found["history"]] == [None, "not needed"]


def test_explain_says_why_and_what_next(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    delivery = schedule(key="k-1", delay=7_200)
    result = deliveries("explain", delivery.id, "--url", sqlite_url)
    assert result.code == 0
    for words in (f"Delivery {delivery.id}  pending", "k-1", "why ", "next ", "attempt 1 starts", "Timeline"):
        assert words in result.out


def test_explain_as_json_is_the_explanation(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    delivery = schedule()
    with app.engine.begin() as connection:
        app.cancel(connection, delivery.id, reason="not needed")
    (found,) = deliveries("explain", delivery.id, "--url", sqlite_url, "--json").json
    expected = msgspec.to_builtins(app.explain(delivery.id))
    assert found.pop("delivery")["id"] == expected.pop("delivery")["id"]
    assert found == msgspec.json.decode(msgspec.json.encode(expected))
    assert found["timeline"][1]["note"] == "not needed"


def test_explain_shows_notes_and_evidence(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    delivery = schedule()
    with app.engine.begin() as connection:
        app.cancel(connection, delivery.id, reason="not needed")
        row = {"id": delivery.id.hex, "at": 0, "body": b'"too late"', "digest": bytes(32)}
        connection.execute(
            text("INSERT INTO delivery_evidence VALUES (:id, 1, 'late_report', :at, :body, :digest)"), row
        )
    result = deliveries("explain", delivery.id, "--url", sqlite_url)
    assert "| not needed" in result.out
    assert "late_report: too late" in result.out


@pytest.mark.parametrize("verb", READERS)
def test_an_id_that_is_not_there(deliveries: Command, sqlite_url: str, verb: str) -> None:
    nobody = "00000000-0000-7000-8000-000000000000"
    deliveries(verb, nobody, "--url", sqlite_url).failed(1, nobody)


@pytest.mark.parametrize("verb", READERS)
def test_an_id_that_is_none(deliveries: Command, sqlite_url: str, verb: str) -> None:
    deliveries(verb, "\x1b[31mnone", "--url", sqlite_url).failed(2, "is no delivery id")


@pytest.mark.parametrize("verb", READERS)
def test_an_id_that_is_missing(deliveries: Command, sqlite_url: str, verb: str) -> None:
    deliveries(verb, "--url", sqlite_url).failed(2, "ID")


# -- hostile rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["list", *READERS])
def test_hostile_text_reaches_no_terminal(
    deliveries: Command, hostile: Delivery, sqlite_url: str, verb: str
) -> None:
    arguments = [verb] if verb == "list" else [verb, str(hostile.id)]
    for result in (
        deliveries(*arguments, "--url", sqlite_url),
        deliveries(*arguments, "--url", sqlite_url, "--json"),
    ):
        assert result.code == 0
        assert all(harmless(line) for line in result.out.split("\n"))
        assert "[red]x[/red]" in result.out


@pytest.mark.parametrize(
    ("verb", "path"),
    [("list", ["key"]), ("list", ["channel"]), ("show", ["recipient"]), ("show", ["payload", HOSTILE])],
)
def test_hostile_text_is_unchanged_as_data(
    deliveries: Command, hostile: Delivery, sqlite_url: str, verb: str, path: list[str]
) -> None:
    arguments = [verb] if verb == "list" else [verb, str(hostile.id)]
    (found,) = deliveries(*arguments, "--url", sqlite_url, "--json").json
    for name in path:
        found = found[name]
    assert found == HOSTILE
