"""queues: what is wanted of them, said and shown, and refused before anything is written."""

from __future__ import annotations

import pytest

from deliveries import Deliveries, Queue
from unit.cli.commands import HOSTILE, Command, harmless


@pytest.fixture
def queues(deliveries: Command, sqlite_url: str) -> Command:
    """`deliveries queues`, on the database of `app`."""
    return lambda *arguments: deliveries("queues", *arguments, "--url", sqlite_url)


def mail(app: Deliveries) -> Queue:
    (found,) = [one for one in app.queues.list() if one.name == "mail"]
    return found


def test_each_verb_is_kept(queues: Command, app: Deliveries) -> None:
    queues("pause", "mail", "--reason", "provider down", "--actor", "ann")
    assert (mail(app).is_paused, mail(app).reason, mail(app).actor) == (True, "provider down", "ann")
    queues("resume", "mail")
    assert not mail(app).is_paused
    queues("scale", "mail", "5")
    queues("limit", "mail", "50")
    queues("rate", "mail", "9", "--per", "minute", "--by", "tenant")
    queues("fair", "mail")
    found = mail(app)
    assert (found.concurrency, found.total, found.rate, found.per, found.by) == (5, 50, 9, 60.0, "tenant")
    assert found.fair
    queues("scale", "mail", "none")
    queues("limit", "mail", "none")
    queues("rate", "mail", "1", "--per", "2.5")
    queues("fair", "mail", "--off")
    found = mail(app)
    assert (found.concurrency, found.total, found.rate, found.per, found.by) == (None, None, 1, 2.5, None)
    assert not found.fair
    queues("clear", "mail")
    assert mail(app) == Queue(name="mail")


def test_it_says_what_is_wanted_now(queues: Command) -> None:
    assert queues("scale", "mail", "5").out == "Queue mail: 5 calls in each processor\n"
    assert queues("rate", "mail", "2", "--by", "recipient").out == (
        "Queue mail: 5 calls in each processor, 2 in 1 s for each recipient\n"
    )
    (shown,) = queues("limit", "mail", "7", "--json").json
    assert (shown["name"], shown["concurrency"], shown["total"]) == ("mail", 5, 7)
    assert queues("clear", "mail").out == "Queue mail: runs, without limits\n"


def test_list_shows_every_queue(queues: Command, deliveries: Command, shop: str) -> None:
    assert queues("list").err == "deliveries: no queues\n"
    queues("pause", "mail", "--reason", HOSTILE, "--actor", "ann")
    queues("limit", "web", "3")
    result = queues("list")
    title, first, second = result.out.splitlines()
    assert title.split() == ["queue", "wanted", "changed", "by", "reason"]
    assert first.startswith("mail   paused since 20")
    assert " ann  " in first
    assert second.startswith("web    3 in all ")
    assert all(harmless(line) for line in result.out.splitlines())
    assert [one["name"] for one in queues("list", "--json").json] == ["mail", "web"]
    named = [one["name"] for one in deliveries("queues", "list", "--app", shop, "--json").json]
    assert named == ["charge", "mail", "web"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("limit", "mail", "0"), "total: an integer from 1 to 1000000 is needed, not 0"),
        (("scale", "mail", "0"), "pause the queue"),
        (("scale", "mail", "many"), "a number is needed, or none"),
        (("rate", "mail", "1", "--per", "fortnight"), "per: one of second, minute, hour, day"),
        (("rate", "mail", "1", "--by", "country"), "country"),
        (("rate", "mail", "1", "--per", "nan"), "per"),
        (("pause", "two words"), "no name of a queue"),
        (("pause",), "queue"),
    ],
)
def test_what_cannot_be_is_refused(
    queues: Command, app: Deliveries, arguments: tuple[str, ...], says: str
) -> None:
    queues(*arguments).failed(2, says)
    assert app.queues.list() == [Queue(name="mail")]
