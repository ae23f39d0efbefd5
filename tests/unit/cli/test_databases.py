"""Which database a command works on, and one clear line where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deliveries import Delivery
from unit.cli.commands import Command

Schedule = Callable[..., Delivery]

NEEDS_CHANNELS = [["schedule", "email", "1"], ["drain"], ["worker"]]


@pytest.fixture
def other_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A second database."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'other.db')}"


# -- one of the two ----------------------------------------------------------------------------


def test_none(deliveries: Command) -> None:
    deliveries("list").failed(2, "--url", "--app", "DELIVERIES_URL", "DELIVERIES_APP")


def test_an_url(deliveries: Command, schedule: Schedule, sqlite_url: str) -> None:
    schedule()
    assert len(deliveries("list", "--json", "--url", sqlite_url).json) == 1


def test_an_url_from_the_environment(
    deliveries: Command, schedule: Schedule, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule()
    monkeypatch.setenv("DELIVERIES_URL", sqlite_url)
    assert len(deliveries("list", "--json").json) == 1


def test_an_application(deliveries: Command, schedule: Schedule, shop: str) -> None:
    schedule()
    assert len(deliveries("list", "--json", "--app", shop).json) == 1


def test_an_application_from_the_environment(
    deliveries: Command, schedule: Schedule, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule()
    monkeypatch.setenv("DELIVERIES_APP", shop)
    assert len(deliveries("list", "--json").json) == 1
    assert deliveries("drain").code == 0


@pytest.mark.parametrize("arguments", NEEDS_CHANNELS)
def test_channels_need_an_application(deliveries: Command, sqlite_url: str, arguments: list[str]) -> None:
    deliveries(*arguments, "--url", sqlite_url).failed(2, "--app", "DELIVERIES_APP")


@pytest.mark.parametrize("arguments", NEEDS_CHANNELS)
def test_an_application_without_channels(deliveries: Command, shop: str, arguments: list[str]) -> None:
    empty = shop.replace(":app", ":without_channels")
    deliveries(*arguments, "--app", empty).failed(2, empty, "no channels")


# -- both --------------------------------------------------------------------------------------


def test_both_that_agree(deliveries: Command, schedule: Schedule, shop: str, sqlite_url: str) -> None:
    schedule()
    for url in (sqlite_url, "sqlite:///deliveries.db", "sqlite+aiosqlite:///./deliveries.db"):
        assert len(deliveries("list", "--json", "--app", shop, "--url", url).json) == 1


@pytest.mark.parametrize("arguments", [["list"], *NEEDS_CHANNELS])
def test_both_that_disagree(
    deliveries: Command, shop: str, sqlite_url: str, other_url: str, arguments: list[str]
) -> None:
    result = deliveries(*arguments, "--app", shop, "--url", other_url)
    result.failed(2, sqlite_url, other_url, "one of the two")


def test_disagreement_tells_no_password(deliveries: Command, shop: str) -> None:
    url = "postgresql://me:hunter2@localhost/deliveries"
    result = deliveries("list", "--app", shop, "--url", url)
    result.failed(2, "postgresql")
    assert "hunter2" not in result.err


def test_both_in_the_environment_must_agree(
    deliveries: Command, shop: str, sqlite_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERIES_APP", shop)
    monkeypatch.setenv("DELIVERIES_URL", sqlite_url)
    assert deliveries("list").code == 0
    monkeypatch.setenv("DELIVERIES_URL", other_url)
    deliveries("list").failed(2, "one of the two")


def test_an_option_beats_the_environment(
    deliveries: Command,
    schedule: Schedule,
    shop: str,
    sqlite_url: str,
    other_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule()
    monkeypatch.setenv("DELIVERIES_URL", other_url)
    assert len(deliveries("list", "--json", "--app", shop).json) == 1
    assert deliveries("drain", "--app", shop).code == 0
    monkeypatch.delenv("DELIVERIES_URL")
    monkeypatch.setenv("DELIVERIES_APP", shop)
    result = deliveries("list", "--json", "--url", other_url)
    assert (result.code, result.json) == (0, [])


def test_an_url_does_not_replace_an_application_that_is_needed(
    deliveries: Command, shop: str, sqlite_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELIVERIES_APP", shop)
    assert deliveries("drain", "--url", sqlite_url).code == 0
    deliveries("drain", "--url", other_url).failed(2, "one of the two")


# -- what cannot be used -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("shop", "module:object"),
        (":app", "module:object"),
        ("shop:", "module:object"),
        ("no_such_module_here:app", "no_such_module_here"),
        ("broken:app", "ZeroDivisionError"),
        ("misspelt:app", "SyntaxError"),
        ("leaving:app", "SystemExit"),
        ("..broken:app", "broken"),
        ("{shop}:nothing", "nothing"),
        ("{shop}:number", "int"),
        ("{shop}:Deliveries", "type"),
    ],
)
def test_an_application_that_cannot_be_used(
    deliveries: Command, shop: str, tmp_path: Path, reference: str, said: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "misspelt.py").write_text("def")
    (tmp_path / "leaving.py").write_text("raise SystemExit(7)")
    reference = reference.format(shop=shop.removesuffix(":app"))
    deliveries("list", "--app", reference).failed(2, "--app", said)


@pytest.mark.parametrize(
    "url", ["nonsense", "", "postgresql://me:hunter2@localhost:port/x", "nothing://me:hunter2@localhost/x"]
)
def test_an_url_that_cannot_be_used(deliveries: Command, url: str) -> None:
    result = deliveries("list", "--url", url)
    result.failed(2, "database")
    assert "hunter2" not in result.err


def test_a_file_that_is_not_there_is_not_made(deliveries: Command, tmp_path: Path) -> None:
    deliveries("list", "--url", "sqlite:///typo.db").failed(1, "typo.db", "deliveries db upgrade")
    assert not (tmp_path / "typo.db").exists()


def test_a_database_without_our_tables(deliveries: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    deliveries("list", "--url", "sqlite:///empty.db").failed(1, "deliveries db upgrade")


def test_a_file_that_is_no_database(deliveries: Command, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at" * 100)
    deliveries("list", "--url", "sqlite:///text.db").failed(1, "not a database")


def test_a_server_that_does_not_answer(deliveries: Command) -> None:
    result = deliveries("list", "--url", "postgresql://me:hunter2@127.0.0.1:1/x?connect_timeout=5")
    result.failed(1, "127.0.0.1")
    assert "hunter2" not in result.err
    assert "sqlalche.me" not in result.err  # one line of the driver's, not SQLAlchemy's four


def test_debug_shows_the_traceback(deliveries: Command) -> None:
    result = deliveries("list", "--url", "sqlite:///typo.db", "--debug")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Traceback")
    assert result.err.splitlines()[-1].startswith("deliveries: there is no file")


def test_debug_shows_where_an_application_broke(deliveries: Command, tmp_path: Path) -> None:
    (tmp_path / "broken_too.py").write_text("1 / 0")
    assert "broken_too.py" in deliveries("list", "--app", "broken_too:app", "--debug").err
