"""The verbs about the past, and the one that proves what is there, through the command."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from deliveries import Deliveries
from deliveries.cli.app import run
from support.apps import schedule


@pytest.fixture
def url(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DELIVERIES_URL", sqlite_url)
    return sqlite_url


@pytest.fixture
def ids(url: str) -> list[str]:
    app = Deliveries(url)
    app.adapter("email")(lambda delivery, attempt: None)
    made = [str(schedule(app, "email", n, recipient="ann@example.org").id) for n in range(2)]
    app.drain()
    made.append(str(schedule(app, "email", 2, delay=3_600).id))
    app.close()
    return made


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_replay(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["channel", "status", "deliveries"],
        ["email", "pending", "1"],
        ["email", "succeeded", "2"],
    ]
    assert run(["replay", "--json"]) == 0
    assert [(one["id"], one["status"]) for one in lines(capsys)] == [
        (ids[0], "succeeded"),
        (ids[1], "succeeded"),
        (ids[2], "pending"),
    ]
    assert run(["replay", ids[0], "--version", "2"]) == 0
    out = capsys.readouterr().out
    assert "attempting" in out
    assert "ann@" not in out
    assert run(["replay", ids[0], "--version", "1", "--json"]) == 0
    assert lines(capsys)[0]["status"] == "pending"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version", "1"], 2, "for one delivery"),
        (["{id}", "--version", "9"], 1, "has 3 events"),
        (["{id}", "--until", "2020-01-01T00:00Z"], 1, "was not there before"),
        (["{id}", "--until", "2020-01-01"], 2, "naive"),
        (["01a2176a-bd1f-768c-b86c-e2a52b293d0c"], 1, "no delivery"),
    ],
)
def test_what_was_not(
    ids: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert run(["replay", *(one.format(id=ids[0]) for one in arguments)]) == code
    assert said in capsys.readouterr().err


def test_diff(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    moments = [(now - timedelta(hours=1)).isoformat(), (now + timedelta(hours=1)).isoformat()]
    assert run(["diff", *moments]) == 0
    assert "email    (new)  succeeded           2" in capsys.readouterr().out
    assert run(["diff", *moments, "-v"]) == 0
    assert f"{ids[2]}  status - -> pending, version - -> 1" in capsys.readouterr().out
    assert run(["diff", *moments, "--json"]) == 0
    assert [(one["id"], one["from"], one["to"]) for one in lines(capsys)] == [
        (ids[0], None, "succeeded"),
        (ids[1], None, "succeeded"),
        (ids[2], None, "pending"),
    ]
    assert run(["diff", moments[1], moments[0]]) == 2
    assert "before the first" in capsys.readouterr().err


def tampered(url: str, statement: str) -> None:
    app = Deliveries(url)
    with app.engine.begin() as connection:
        connection.execute(text(statement))
    app.close()


def test_audit_and_rebuild(url: str, ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit"]) == 0
    assert "3 deliveries, 7 events" in capsys.readouterr().out
    tampered(url, "UPDATE deliveries SET priority = 9 WHERE status = 'pending'")
    assert run(["audit"]) == 1
    out = capsys.readouterr().out
    assert f"{ids[2]}  1        I8    priority is 9 in the row, 5 in the fold" in out
    assert "1 findings" in out
    assert run(["audit", "--json"]) == 1
    (found,) = lines(capsys)
    assert (found["ok"], found["found"], found["findings"][0]["delivery_id"]) == (False, 1, ids[2])
    assert run(["audit", ids[0]]) == 0
    assert run(["audit", "--status", "pending"]) == 1
    capsys.readouterr()
    assert run(["rebuild", "--dry-run"]) == 1
    assert "1 to correct" in capsys.readouterr().out
    assert run(["rebuild", "--json"]) == 1
    assert lines(capsys)[0]["columns"] == {"priority": 1}
    assert run(["rebuild"]) == 0
    assert run(["audit"]) == 0


def test_what_a_stranger_wrote_is_shown_and_not_obeyed(
    url: str, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tampered(url, "UPDATE deliveries SET queue = '[red]' || char(27) || '[31m' WHERE status = 'pending'")
    assert run(["audit"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]" in out


def test_audit_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "--url", f"sqlite:///{tmp_path}/none.db"]) == 1
    assert "none.db" in capsys.readouterr().err
    assert run(["audit", "--jobs", "0"]) == 2


def test_seals(url: str, ids: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, seal = str(tmp_path / "key"), str(tmp_path / "seal")
    assert run(["audit", "--new-key", key]) == 0
    assert "key.pub" in capsys.readouterr().out
    assert run(["audit", "--seal", seal, "--private-key", key, "--names"]) == 0
    assert "sealed 3 deliveries" in capsys.readouterr().err
    check = ["audit", "--against", seal, "--public-key", f"{key}.pub"]
    assert run(check) == 0
    assert "3 deliveries, 7 events sealed at" in capsys.readouterr().out
    tampered(url, "DROP TRIGGER delivery_events_no_delete")
    tampered(url, f"DELETE FROM delivery_events WHERE delivery_id = '{ids[0].replace('-', '')}'")
    assert run(check) == 1
    assert f"{ids[0]}  3        R3    it was sealed, and is gone" in capsys.readouterr().out
    assert run([*check, "--json"]) == 1
    (found,) = lines(capsys)
    assert (found["ok"], found["unproven"], len(found["findings"])) == (False, 0, 1)
    assert (
        run(["audit", "--seal", str(tmp_path / "no"), "--private-key", key]) == 1
    )  # nothing is in order: no seal
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seal", "s"],
        ["--private-key", "k"],
        ["--against", "s"],
        ["--seal", "s", "--private-key", "k", "--status", "held"],
    ],
)
def test_seals_need_their_keys_and_the_whole(
    url: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", *arguments]) == 2
    assert "seal" in capsys.readouterr().err
