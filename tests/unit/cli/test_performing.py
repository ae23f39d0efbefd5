"""drain, and how worker refuses; a worker that works is tested as a process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deliveries import Deliveries
from unit.cli.commands import HOSTILE, Command


def test_drain_performs_what_is_due(deliveries: Command, shop: str, app: Deliveries) -> None:
    for _ in range(3):
        deliveries("schedule", "email", "1", "--app", shop)
    deliveries("schedule", "email", "1", "--delay", "1h", "--app", shop)
    result = deliveries("drain", "--app", shop)
    assert (result.code, result.out, result.err) == (0, "3 attempted, 3 succeeded\n", "")
    assert len(app.find(status="pending")) == 1


def test_drain_of_nothing(deliveries: Command, shop: str) -> None:
    result = deliveries("drain", "--app", shop)
    assert (result.code, result.out, result.err) == (0, "nothing was due\n", "")


def test_drain_as_json(deliveries: Command, shop: str) -> None:
    deliveries("schedule", "email", '{"error": "boom"}', "--app", shop)
    result = deliveries("drain", "--app", shop, "--json")
    (counts,) = result.json
    assert (result.code, counts["attempted"], counts["retrying"]) == (0, 1, 1)
    assert counts["succeeded"] == 0


def test_what_an_adapter_prints_is_no_part_of_the_json(deliveries: Command, shop: str) -> None:
    deliveries("schedule", "email", '{"print": "an adapter that talks"}', "--app", shop)
    result = deliveries("drain", "--app", shop, "--json")
    assert [counts["succeeded"] for counts in result.json] == [1]
    assert "an adapter that talks" in result.err


@pytest.mark.parametrize(
    ("channel", "payload", "status"), [("charge", "1", "held"), ("email", '{"error": "x"}', "exhausted")]
)
def test_drain_fails_where_a_person_is_needed(
    deliveries: Command, shop: str, app: Deliveries, channel: str, payload: str, status: str
) -> None:
    deliveries("schedule", channel, payload, "--max-attempts", "1", "--app", shop)
    result = deliveries("drain", "--app", shop)
    assert (result.code, result.out) == (1, f"1 attempted, 1 {status}\n")
    assert f"--status {status}" in result.err
    assert len(app.find(status=status)) == 1


def test_drain_of_some_queues(deliveries: Command, shop: str, app: Deliveries) -> None:
    deliveries("schedule", "email", "1", "--app", shop)
    deliveries("schedule", "charge", "1", "--app", shop)
    assert deliveries("drain", "--queue", "mail=1", "--app", shop).code == 0
    (left,) = app.find(status="pending")
    assert left.channel == "charge"
    assert deliveries("drain", "--queue", "mail", "--queue=charge=7", "--app", shop).code == 1


def test_a_queue_without_channels_is_drained_with_a_warning(
    deliveries: Command, shop: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = deliveries("drain", "--queue", "former=1", "--app", shop)
    assert (result.code, result.out) == (0, "nothing was due\n")
    assert "'former'" in caplog.text


@pytest.mark.parametrize("verb", ["drain", "worker"])
@pytest.mark.parametrize(
    ("queues", "said"),
    [
        (["mail=many"], "mail=many"),
        (["mail="], "name=concurrency"),
        (["mail=0"], "1..10000"),
        (["mail=1", "mail=2"], "twice"),
    ],
)
def test_queues_that_cannot_be(
    deliveries: Command, shop: str, verb: str, queues: list[str], said: str
) -> None:
    options = [option for queue in queues for option in ("--queue", queue)]
    deliveries(verb, *options, "--app", shop).failed(2, said)


@pytest.mark.parametrize(
    "options", [["--lease", "0"], ["--lease", "long"], ["--poll", "0"], ["--grace", "-1"], ["--lease", "nan"]]
)
def test_worker_refuses_what_cannot_be(deliveries: Command, shop: str, options: list[str]) -> None:
    deliveries("worker", *options, "--app", shop).failed(2)


@pytest.mark.parametrize("verb", ["drain", "worker"])
def test_a_database_without_tables_is_no_reason_to_wait(
    deliveries: Command, shop: str, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "deliveries.db").unlink()
    (tmp_path / "deliveries.db").touch()
    deliveries(verb, "--app", shop).failed(1, "deliveries db upgrade")


def test_the_error_text_of_an_adapter_reaches_no_terminal(
    deliveries: Command, shop: str, app: Deliveries, sqlite_url: str
) -> None:
    deliveries("schedule", "email", "--app", shop, stdin=b'{"error": "[red]x[/red]\\u001b[31m\\u202e"}')
    deliveries("drain", "--app", shop)
    (found,) = app.find()
    for verb in ("show", "explain"):
        out = deliveries(verb, found.id, "--url", sqlite_url).out
        assert "RuntimeError: [red]x[/red]" in out
        assert not set(out) & set(HOSTILE) & set("\x1b\u202e")


def test_the_demo_is_where_the_command_expects_it(deliveries: Command, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    assert deliveries("demo", "--deliveries", "1", "--keep", tmp_path / "none").code == 1
    assert not (tmp_path / "none").exists()
