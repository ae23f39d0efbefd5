"""periodic: what recurs, and when next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from unit.cli.commands import Command

TIMETABLE = """
app.periodic("0 9 * * MON", channel="email", timezone="Europe/Berlin", missed="all")
app.periodic("@hourly", channel="fax", tenant="acme")
"""


@pytest.fixture
def timetable(tmp_path: Path, shop: str) -> Iterator[str]:
    name = f"timetable_{uuid4().hex}"
    source = (tmp_path / f"{shop.partition(':')[0]}.py").read_text()
    (tmp_path / f"{name}.py").write_text(source + TIMETABLE)
    yield f"{name}:app"
    sys.modules.pop(name, None)


def test_a_row_for_each_tick(deliveries: Command, timetable: str) -> None:
    result = deliveries("periodic", "--app", timetable, "--ticks", 2)
    assert result.code == 0
    header, *rows = result.out.splitlines()
    assert header.split() == ["name", "expression", "timezone", "channel", "missed", "next"]
    assert rows[0].split()[:9] == ["email", "0", "9", "*", "*", "MON", "Europe/Berlin", "email", "all"]
    assert "Mon " in rows[0]
    assert "09:00:00 +0" in rows[0]
    assert rows[1].split()[0] == "Mon"
    assert rows[2].split()[:5] == ["fax", "@hourly", "UTC", "fax", "latest"]
    assert len(rows) == 4
    assert result.err == "deliveries: periodic fax: no adapter is registered for its channel 'fax'\n"


def test_as_json(deliveries: Command, timetable: str) -> None:
    monday, hourly = deliveries("periodic", "--app", timetable, "--json", "--ticks", 3).json
    assert {name: monday[name] for name in ("name", "expression", "timezone", "channel", "missed")} == {
        "name": "email",
        "expression": "0 9 * * MON",
        "timezone": "Europe/Berlin",
        "channel": "email",
        "missed": "all",
    }
    assert hourly["tenant"] == "acme"
    found = [datetime.fromisoformat(tick) for tick in hourly["next"]]
    assert [tick - found[0] for tick in found] == [timedelta(hours=n) for n in range(3)]
    assert timedelta(0) < found[0] - datetime.now(UTC) + timedelta(minutes=1) <= timedelta(minutes=61)


def test_nothing_recurs(deliveries: Command, shop: str) -> None:
    result = deliveries("periodic", "--app", shop)
    assert (result.code, result.out, result.err) == (0, "", "deliveries: nothing recurs\n")


def test_it_needs_an_application(deliveries: Command, sqlite_url: str) -> None:
    deliveries("periodic", "--url", sqlite_url).failed(2, "--app")


@pytest.mark.parametrize("ticks", ["0", "101"])
def test_a_number_of_ticks_out_of_range(deliveries: Command, timetable: str, ticks: str) -> None:
    deliveries("periodic", "--app", timetable, "--ticks", ticks).failed(2, "1..100")
