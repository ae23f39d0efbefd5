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


def test_list_filters_by_everything(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    schedule(key="a", tags=["june"], correlation_id="c1", delay=3_600)
    moved = schedule(key="b", tags=["july"], correlation_id="c2", tenant="acme")
    schedule(key="c")
    with app.engine.begin() as connection:
        app.cancel(connection, moved.id, reason="503 Service Unavailable")

    def keys(*options: str) -> list[str]:
        result = deliveries("list", "--url", sqlite_url, "--json", *options)
        assert result.code == 0, result
        return [one["key"] for one in result.json]

    assert keys("--tag", "june") == ["a"]
    assert keys("--tag", "june", "--tag", "july") == ["b", "a"]
    assert keys("--correlation-id", "c2") == ["b"]
    assert keys("--note", "service unavailable") == ["b"]
    assert keys("--status", "pending", "--status", "cancelled") == ["c", "b", "a"]
    assert keys("--due-after", "2020-01-01T00:00Z", "--tenant", "") == ["c", "a"]
    assert keys("--ended-after", "2020-01-01T00:00Z") == ["b"]
    assert keys("--scheduled-before", "2020-01-01T00:00Z") == []
    assert keys("--where", "correlation_id=c1", "--where", "status=pending") == ["a"]
    assert keys("--where", f"causation_id={moved.id}") == []


def test_list_goes_on_behind_a_page(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    ids = [str(schedule().id) for _ in range(5)]
    seen: list[str] = []
    after: list[str] = []
    while True:
        result = deliveries("list", "--url", sqlite_url, "--json", "--limit", "2", *after)
        seen += [one["id"] for one in result.json]
        if "--after" not in result.err:
            break
        after = ["--after", result.err.partition("--after ")[2].split()[0]]
    assert seen == ids[::-1]
    last = deliveries("list", "--url", sqlite_url, "--after", ids[0])
    assert (last.code, last.out, last.err) == (0, "", "deliveries: no more deliveries\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--due-after", "2020-01-01"], "naive"),
        (["--due-after", "soon"], "soon"),
        (["--where", "colour=red"], "colour"),
        (["--where", "status"], "field=value"),
        (["--where", "status=held", "--status", "held"], "given as an option too"),
        (["--after", "none"], "no delivery id"),
    ],
)
def test_list_says_what_it_cannot_do(
    deliveries: Command, sqlite_url: str, options: list[str], says: str
) -> None:
    deliveries("list", "--url", sqlite_url, *options).failed(2, says)


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


def test_explain_in_every_form(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    delivery = schedule(key="k-1")
    forms = {
        form: deliveries("explain", delivery.id, "--url", sqlite_url, "--format", form) for form in FORMS
    }
    assert all((result.code, result.err) == (0, "") for result in forms.values())
    assert all(str(delivery.id) in result.out for result in forms.values())
    assert forms["html"].out.startswith("<!doctype html>")
    assert forms["markdown"].out.startswith(f"## Delivery {delivery.id}\n")
    assert forms["json"].json[0]["status"] == "pending"
    assert "Beside the events" in forms["text"].out
    deliveries("explain", delivery.id, "--url", sqlite_url, "--format", "pdf").failed(2, "pdf")


FORMS = ["text", "json", "html", "markdown"]


# -- trace and doctor ----------------------------------------------------------------------------


def test_trace_is_a_tree(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    first = schedule(correlation_id="order-7", causation_id="order 7")
    second = schedule(correlation_id="order-7", causation_id=str(first.id))
    result = deliveries("trace", "order-7", "--url", sqlite_url)
    assert (result.code, result.err) == (0, "")
    title, root, leaf = result.out.splitlines()
    assert title == "2 deliveries of correlation order-7"
    assert root.startswith(f"{first.id}  pending  email, ")
    assert root.endswith("; caused by order 7")
    assert leaf.startswith(f"└─ {second.id}  pending")
    (one, two) = deliveries("trace", "order-7", "--url", sqlite_url, "--json").json
    assert (one["depth"], one["cause"], one["delivery"]["id"]) == (0, "order 7", str(first.id))
    assert (two["depth"], two["how"], two["parent"]) == (1, "caused", str(first.id))
    assert "oldest 1" in deliveries("trace", "order-7", "--url", sqlite_url, "--limit", "1").err
    nobody = deliveries("trace", "nobody's", "--url", sqlite_url)
    assert (nobody.code, nobody.out, nobody.err) == (0, "", "deliveries: no deliveries\n")


def test_doctor_of_a_database_at_rest(deliveries: Command, sqlite_url: str, shop: str) -> None:
    result = deliveries("doctor", "--url", sqlite_url)
    assert (result.code, result.err) == (0, "")
    assert "unknown" in next(line for line in result.out.splitlines() if " channels " in line)
    assert result.out.splitlines()[-1].endswith(": 1 unknown, 17 ok")
    (found,) = deliveries("doctor", "--app", shop, "--json").json
    assert found["ok"] is True
    assert {one["verdict"] for one in found["checks"]} == {"ok"}


def test_doctor_of_a_queue_without_workers(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    schedule()
    result = deliveries("doctor", "--url", sqlite_url, "--late", "0")
    assert (result.code, result.err) == (1, "")
    assert "no live worker serves it: 1 due in queue 'mail'" in result.out
    assert "→ start one: deliveries worker" in result.out
    (found,) = deliveries("doctor", "--url", sqlite_url, "--late", "0", "--json").json
    assert found["ok"] is False
    (one,) = (one for one in found["checks"] if one["name"] == "workers")
    assert (one["verdict"], len(one["seen"])) == ("problem", 1)


def test_doctor_of_no_schema(deliveries: Command, empty_sqlite_url: str) -> None:
    deliveries("doctor", "--url", empty_sqlite_url).failed(1, "there is no file")
    from sqlalchemy import create_engine

    engine = create_engine(empty_sqlite_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))
    engine.dispose()
    result = deliveries("doctor", "--url", empty_sqlite_url)
    assert (result.code, "there is no deliveries schema" in result.out) == (1, True)


def test_doctor_shows_hostile_names_and_obeys_none(
    deliveries: Command, hostile: Delivery, app: Deliveries, sqlite_url: str
) -> None:
    with app.engine.begin() as connection:
        forged = "UPDATE deliveries SET status = 'pending', due_at = 0, queue = :it"
        connection.execute(text(forged), {"it": HOSTILE})
    for result in (
        deliveries("doctor", "--url", sqlite_url),
        deliveries("doctor", "--url", sqlite_url, "--json"),
    ):
        assert result.code == 1
        assert all(harmless(line) for line in result.out.split("\n"))
        assert "[red]x[/red]" in result.out


def test_trace_shows_hostile_names_and_obeys_none(
    deliveries: Command, app: Deliveries, hostile: Delivery, sqlite_url: str
) -> None:
    with app.engine.begin() as connection:
        forged = text("UPDATE deliveries SET correlation_id = 'c', causation_id = :it")
        connection.execute(forged, {"it": HOSTILE})
    for form in ([], ["--json"]):
        result = deliveries("trace", "c", "--url", sqlite_url, *form)
        assert result.code == 0
        assert all(harmless(line) for line in result.out.split("\n"))
        assert "[red]x[/red]" in result.out


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
