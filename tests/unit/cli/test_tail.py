"""tail: what people read, what programs read, and what neither may be tricked by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert, text

from deliveries import Deliveries, Delivery
from deliveries.store.schema import events
from store.acts import event_row
from unit.cli.commands import HOSTILE, Command, harmless

Schedule = Callable[..., Delivery]


@pytest.fixture
def told(app: Deliveries, schedule: Schedule) -> list[Delivery]:
    """Two deliveries, one after the other: six events, of which 1 and 4 are `Scheduled`."""
    made = []
    for tenant in ("", "acme"):
        made.append(schedule(tenant=tenant))
        app.drain()
    return made


def test_a_line_for_each_event(deliveries: Command, told: list[Delivery], sqlite_url: str) -> None:
    result = deliveries("tail", "--url", sqlite_url)
    assert (result.code, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert [(row[2], row[3], row[6]) for row in rows] == [
        (str(number), str(told[number > 3].id), kind)
        for number, kind in enumerate(["Scheduled", "Attempted", "Succeeded"] * 2, start=1)
    ]
    assert "rules" not in result.out


def test_json_is_one_line_for_each(
    deliveries: Command, app: Deliveries, told: list[Delivery], sqlite_url: str
) -> None:
    result = deliveries("tail", "--url", sqlite_url, "--json")
    assert [one["position"] for one in result.json] == [1, 2, 3, 4, 5, 6]
    first = result.json[0]
    assert first["delivery_id"] == str(told[0].id)
    assert {first["type"], first["channel"], first["tenant"]} == {"Scheduled", "email", ""}
    assert first["event"]["payload_digest"] == app.history(told[0].id)[0].event.payload_digest  # type: ignore[attr-defined]
    assert (first["version"], first["schema_version"]) == (1, 1)
    assert "problem" not in first


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-n", "2"], [5, 6]),
        (["-n", "0"], []),
        (["--lines", "99"], [1, 2, 3, 4, 5, 6]),
        (["--after", "4"], [5, 6]),
        (["--since", "1h"], [1, 2, 3, 4, 5, 6]),
        (["--since", "2000-01-01T00:00Z"], [1, 2, 3, 4, 5, 6]),
        (["--type", "Scheduled", "--type", "Succeeded"], [1, 3, 4, 6]),
        (["--status", "succeeded"], [3, 6]),
        (["--type", "Scheduled", "--status", "pending", "-n", "1"], [4]),
        (["--tenant", "acme"], [4, 5, 6]),
        (["--channel", "sms"], []),
        (["--channel", "sms", "--channel", "email", "--after", "5"], [6]),
        (["--name", "mine"], [1, 2, 3, 4, 5, 6]),
    ],
)
def test_where_it_begins_and_what_it_shows(
    deliveries: Command, told: list[Delivery], sqlite_url: str, options: list[str], expected: list[int]
) -> None:
    result = deliveries("tail", "--url", sqlite_url, "--json", *options)
    assert (result.code, result.err) == (0, "")
    assert [one["position"] for one in result.json] == expected


def test_the_newest_twenty_unless_told(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    for _ in range(22):
        schedule()
    assert [one["position"] for one in deliveries("tail", "--url", sqlite_url, "--json").json][::19] == [
        3,
        22,
    ]


def test_a_name_goes_on(
    deliveries: Command, told: list[Delivery], schedule: Schedule, sqlite_url: str
) -> None:
    assert len(deliveries("tail", "--url", sqlite_url, "--name", "mine").out.splitlines()) == 6
    schedule()
    (one,) = deliveries("tail", "--url", sqlite_url, "--name", "mine", "--json").json
    assert one["position"] == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--type", "Noise"], "one of Scheduled, Rescheduled"),
        (["--type", "Scheduled", "--status", "held"], "Scheduled leads to pending"),
        (["--status", "lost"], "--status"),
        (["--after", "-1"], "after must be 0 or more"),
        (["--after", "1", "-n", "2"], "give one of --lines, --after and --since"),
        (["--since", "2030-01-01T09:00"], "needs an offset"),
        (["--since", "yesterday"], "--since"),
        (["--name", "a b"], "is no name"),
    ],
)
def test_what_makes_no_sense(
    deliveries: Command, app: Deliveries, sqlite_url: str, options: list[str], said: str
) -> None:
    app.create_schema()
    deliveries("tail", "--url", sqlite_url, *options).failed(2, said)


def test_what_strangers_wrote_does_nothing(
    deliveries: Command, app: Deliveries, schedule: Schedule, sqlite_url: str
) -> None:
    schedule()
    with app.engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET channel = :it"), {"it": HOSTILE})
        connection.execute(
            insert(events), event_row(kind=HOSTILE, body=b'{"a":"' + HOSTILE.encode()[:12] + b"\xff")
        )
    for options in ([], ["--json"]):
        result = deliveries("tail", "--url", sqlite_url, *options)
        assert (result.code, result.err) == (0, "")
        lines = result.out.splitlines()
        assert len(lines) == 2
        assert all(harmless(line) for line in lines)
    assert deliveries("tail", "--url", sqlite_url, "--json").json[1]["problem"].endswith("unknown type")
