"""suppressions add, remove, list."""

from __future__ import annotations

from deliveries import Deliveries
from unit.cli.commands import HOSTILE, Command, harmless


def test_add_list_remove(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    given = ("--url", sqlite_url)
    options = ("--channel", "sms", "--tenant", "acme", "--reason", "opted out", "--actor", "ann")
    assert deliveries("suppressions", "add", "Ann@example.org", *options, *given).out == (
        "On the suppression list\n"
    )
    again = deliveries("suppressions", "add", "ann@example.org", *options, *given)
    assert (again.code, again.out) == (0, "On the suppression list already\n")
    assert app.suppressions.contains("ann@example.org", channel="sms", tenant="acme")
    listed = deliveries("suppressions", "list", *given)
    for shown in ("sms", "acme", "opted out", "ann", app.suppressions.list()[0].digest[:16]):
        assert shown in listed.out
    assert "example" not in listed.out
    gone = deliveries("suppressions", "remove", "ann@example.org", *options[:4], *given)
    assert (gone.code, gone.out) == (0, "Off the suppression list\n")
    deliveries("suppressions", "remove", "ann@example.org", *given).failed(
        1, "no such entry for all channels"
    )
    assert deliveries("suppressions", "list", *given).err == "deliveries: nobody is suppressed\n"


def test_json(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    given = ("--url", sqlite_url, "--json")
    assert deliveries("suppressions", "add", "ann", *given).json == [{"added": True}]
    assert deliveries("suppressions", "add", "ann", *given).json == [{"added": False}]
    (entry,) = deliveries("suppressions", "list", *given).json
    assert entry.keys() == {"digest", "channel", "tenant", "reason", "actor", "since"}
    assert (entry["channel"], entry["digest"]) == (None, app.suppressions.list()[0].digest)
    assert deliveries("suppressions", "remove", "ann", *given).json == [{"removed": True}]
    refused = deliveries("suppressions", "remove", "ann", *given)
    assert (refused.code, refused.json) == (1, [{"removed": False}])


def test_filters_and_the_limit(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    with app.engine.begin() as connection:
        for number in range(3):
            app.suppressions.add(connection, f"r{number}", channel="sms" if number else None)
    given = ("--url", sqlite_url, "--json")
    assert len(deliveries("suppressions", "list", "--channel", "sms", *given).json) == 2
    limited = deliveries("suppressions", "list", "--limit", "1", *given)
    assert len(limited.json) == 1
    assert "newest 1" in limited.err


def test_what_is_refused(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    deliveries("suppressions", "add", "", "--url", sqlite_url).failed(2, "recipient")
    deliveries("suppressions", "list", "--limit", "0", "--url", sqlite_url).failed(2, "limit")
    assert app.suppressions.list() == []


def test_nothing_that_a_terminal_would_obey(deliveries: Command, app: Deliveries, sqlite_url: str) -> None:
    with app.engine.begin() as connection:
        app.suppressions.add(connection, "ann", channel="\u202esms", reason="\u202e[red]x[/red]")
    for arguments in ([], ["--json"]):
        lines = deliveries("suppressions", "list", "--url", sqlite_url, *arguments).out.splitlines()
        assert lines
        assert all(harmless(line) for line in lines)
    assert HOSTILE
