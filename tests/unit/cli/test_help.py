"""Help for every verb, and one line for every command that is none."""

from __future__ import annotations

import inspect

import pytest

from deliveries.cli.app import application
from unit.cli.commands import Command

VERBS = {
    "list": "newest first",
    "show": "recorded events",
    "explain": "why",
    "trace": "caused",
    "doctor": "why nothing moves",
    "schedule": "--correlation-id",
    "cancel": "--reason",
    "suppress": "--where",
    "reschedule": "--due-at",
    "resolve": "not-done",
    "redrive": "--may-repeat",
    "prune": "--older-than",
    "erase": "--recipient",
    "evidence": "add",
    "evidence add": "--reference",
    "evidence list": "oldest first",
    "audit": "--jobs",
    "replay": "--until",
    "diff": "--verbose",
    "rebuild": "--dry-run",
    "export": "--resume",
    "view": "--version",
    "worker": "--queue",
    "drain": "Needs an application",
    "periodic": "--ticks",
    "tail": "--follow",
    "stats": "--catch-up",
    "demo": "--seed",
    "db": "upgrade",
    "db upgrade": "DELIVERIES_URL",
    "db sql": "postgresql",
    "queues": "resume",
    "queues list": "JSON",
    "queues pause": "--reason",
    "queues resume": "--actor",
    "queues scale": "10000",
    "queues limit": "1000000",
    "queues rate": "--per",
    "queues fair": "--off",
    "queues clear": "no pause",
    "suppressions": "remove",
    "suppressions add": "--reason",
    "suppressions remove": "--channel",
    "suppressions list": "digests",
}

GROUPS = ("db", "evidence", "queues", "suppressions")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(deliveries: Command, verb: str) -> None:
    result = deliveries(*verb.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert VERBS[verb] in result.out
    assert "\x1b" not in result.out


def test_there_are_no_other_verbs() -> None:
    app = application()
    found = {name for name in app if not name.startswith("-")}
    for group in GROUPS:
        found |= {f"{group} {name}" for name in app[group] if not name.startswith("-")}
    assert found == set(VERBS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in GROUPS])
def test_every_option_is_described(verb: str) -> None:
    app = application()
    for name in verb.split():
        app = app[name]
    assert app.default_command is not None
    written = app.default_command.__doc__ or ""
    missing = [n for n in inspect.signature(app.default_command).parameters if f" {n}: " not in written]
    assert missing == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_tells_the_rules(deliveries: Command, arguments: list[str]) -> None:
    result = deliveries(*arguments)
    assert (result.code, result.err) == (0, "")
    for words in ("DELIVERIES_URL", "DELIVERIES_APP", "--json", "Exit codes", "schedule", "worker"):
        assert words in result.out


def test_the_version(deliveries: Command) -> None:
    from importlib.metadata import version

    assert deliveries("--version").out == version("deliveries") + "\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "list"),
        (["db", "downgrade"], "upgrade"),
        (["list", "--colour"], "--colour"),
        (["list", "extra"], "extra"),
        (["list", "--limit", "many"], "many"),
        (["list", "--limit"], "--limit"),
        (["\x1b[31m[red]"], "\\x1b"),
    ],
)
def test_a_command_that_is_none(deliveries: Command, arguments: list[str], said: str) -> None:
    deliveries(*arguments).failed(2, said, "--help")
