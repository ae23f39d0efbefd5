"""The example that charges cards: real gateway, real workers, killed around the charge.

Its proof holds the gateway's books against ours; the last tests show that it can fail.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from deliveries import Delivery, Status
from unit.docs.pages import blocks, matches

if TYPE_CHECKING:
    from examples.payments.story import Story
    from examples.process import Process

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "payments"
SECONDS = 120.0
CHANNELS = ("keyed", "blind", "lookup")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def gateway(on_the_path: None) -> Iterator[Process]:
    from examples.process import Process

    with Process("examples.payments.gateway") as running:
        yield running


@pytest.fixture
def story(database_url: str, gateway: Process) -> Iterator[Story]:
    from examples.payments.story import Story

    told = Story(database_url, gateway.says())
    yield told
    told.app.close()


def until(condition: Any, what: str) -> None:
    from examples.process import until

    until(condition, what)


def kinds(story: Story, delivery: Delivery) -> list[str]:
    return [one.type for one in story.app.history(delivery.id)]


def posts(story: Story, delivery: Delivery) -> int:
    """How often the gateway was told to charge for it."""
    return int(story.books()["posts"].get(delivery.key, 0))


def charges(story: Story, delivery: Delivery) -> int:
    paid = story.books()["payments"]
    return sum(one["reference"] == delivery.key and one["state"] == "charged" for one in paid)


def against(story: Story) -> list[str]:
    """What the proof finds."""
    from examples.payments.proof import findings
    from examples.payments.shop import Order

    with Session(story.app.engine) as session:
        orders = session.scalars(select(Order)).all()
    owed = {str(one.key): one for one in story.app.find()}
    return findings(orders, owed, story.books()["payments"])


@contextmanager
def worker(story: Story) -> Iterator[None]:
    """A healthy worker does what can be done without a person, before the body and after it."""
    with story.worker() as process:
        until(story.settled, "the worker does not come to an end")
        yield
        until(story.settled, "nor after what the body did")
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0


# -- killed around the charge ------------------------------------------------------------------

REPEATED = ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]
RELEASED = ["Scheduled", "Attempted", "Held", "Rescheduled", "Attempted", "Succeeded"]
SETTLED = ["Scheduled", "Attempted", "Held", "Succeeded"]


STREAMS = {
    ("keyed", "before"): REPEATED,
    ("blind", "before"): RELEASED,
    ("lookup", "before"): RELEASED,
    ("blind", "during"): SETTLED,
    ("lookup", "during"): SETTLED,
    ("keyed", "after"): REPEATED,
    ("blind", "after"): SETTLED,
    ("lookup", "after"): SETTLED,
}


def test_nobody_is_charged_twice_or_never_wherever_the_worker_is_killed(story: Story) -> None:
    """During the charge: the gateway is still at it when the lease is over."""
    owed = {
        (channel, point): story.order(channel, "slow" if point == "during" else "good")
        for channel in CHANNELS
        for point in ("before", "during", "after")
    }
    story.kill_worker({str(one.key): point for (_, point), one in owed.items()})
    with worker(story):
        held = {point: one for (channel, point), one in owed.items() if channel == "blind"}
        assert {one.id for one in story.held()} == {one.id for one in held.values()}
        assert [posts(story, held[point]) for point in ("before", "during", "after")] == [0, 1, 1]
        assert sorted(against(story)) == sorted(
            f"{one.key}: its charge is held, not settled" for one in held.values()
        )
        until(lambda: charges(story, held["during"]), "the gateway charges, whoever asked is dead or not")
        for one in story.held():
            story.resolve(one)
    assert {at: kinds(story, one) for at, one in owed.items() if at in STREAMS} == STREAMS
    patient = kinds(story, owed["keyed", "during"])  # it is told to come back until the gateway is done
    assert patient[:4] + patient[-1:] == REPEATED[:4] + REPEATED[-1:]
    for (channel, point), one in owed.items():
        end = story.app.history(one.id)[-1].event
        told_by = {"keyed": "adapter", "blind": "operator", "lookup": "lookup"}[channel]
        assert end.by == ("adapter" if point == "before" else told_by)
        assert posts(story, one) == kinds(story, one).count("Attempted") - (point == "before")
        assert charges(story, one) == 1
    assert against(story) == []


def test_a_person_does_not_speak_too_early(story: Story) -> None:
    held = story.order("blind", "slow")
    story.kill_worker({"order-1": "during"})
    with pytest.raises(ValueError, match=r"order-1 is processing: too early to tell"):
        story.resolve(held)


# -- what the gateway says ---------------------------------------------------------------------


def test_a_declined_card_is_the_end_and_a_busy_gateway_is_not(story: Story) -> None:
    declined = [story.order(channel, "declined") for channel in CHANNELS]
    busy = [story.order(channel, "busy") for channel in CHANNELS]
    with worker(story):
        pass
    for one in declined:
        assert kinds(story, one) == ["Scheduled", "Attempted", "Cancelled"]
        assert story.app.history(one.id)[-1].event.cause == "permanent_failure"
        assert (posts(story, one), charges(story, one)) == (1, 0)
    for one in busy:
        assert kinds(story, one) == ["Scheduled", "Attempted", "Failed", "Attempted", "Succeeded"]
        assert (posts(story, one), charges(story, one)) == (2, 1)
    assert against(story) == []


def test_a_gateway_that_is_not_there_leaves_no_doubt(story: Story, gateway: Process) -> None:
    gateway.kill()
    gateway.wait()
    owed = [story.order(channel) for channel in CHANNELS]
    assert story.app.drain().retrying == len(CHANNELS)
    assert {tuple(kinds(story, one)) for one in owed} == {("Scheduled", "Attempted", "Failed")}


def test_a_gateway_that_dies_meanwhile_does(story: Story, gateway: Process) -> None:
    owed = {channel: story.order(channel, "slow") for channel in CHANNELS}
    with story.worker() as worker:
        until(lambda: len(story.books()["payments"]) == len(CHANNELS), "the gateway is told to charge")
        gateway.kill()
        until(lambda: all(one.version > 2 for one in story.app.find()), "the worker notices")
        worker.communicate(timeout=SECONDS)
    assert {channel: kinds(story, one)[2] for channel, one in owed.items()} == {
        "keyed": "Failed",
        "blind": "Held",
        "lookup": "Held",
    }
    for channel in ("blind", "lookup"):
        assert story.app.get(owed[channel].id).status is Status.HELD
        assert kinds(story, owed[channel]).count("Attempted") == 1


def test_an_order_that_is_rolled_back_owes_nothing(story: Story) -> None:
    from examples.payments.shop import Order
    from examples.payments.story import SoldOut

    with pytest.raises(SoldOut):
        story.order("keyed", sold_out=True)
    assert story.app.drain().attempted == 0
    with Session(story.app.engine) as session:
        assert session.scalars(select(Order)).all() == []
    assert story.app.find() == []
    assert story.books()["posts"] == {}


# -- the story, and its proof, which must be able to fail --------------------------------------


def tell(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "examples.payments.story", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS)


def test_the_story_ends_well(empty_url: str) -> None:
    told = tell("--url", empty_url)
    assert told.returncode == 0, told.stdout + told.stderr
    table, explanation, verdict = blocks((EXAMPLE / "README.md").read_text(), "text")
    assert table in told.stdout
    assert any(matches(explanation.strip(), part) for part in told.stdout.split("\n\n"))
    assert told.stdout.endswith(verdict)
    assert verdict.endswith("  ok  no customer charged twice, no charge forgotten\n")
    assert told.stdout.count("is held: a person") == 3


def test_a_gateway_that_lies_is_found_out() -> None:
    """An adapter says `keyed` of a gateway that looks at no key: then nothing here can help."""
    told = tell("--lie")
    assert told.returncode == 1, told.stdout + told.stderr
    found = re.findall(r"^  NO  (.+)$", told.stdout, re.MULTILINE)
    assert found == ["eve was charged 2 times for order-4", "cleo was charged 2 times for order-7"]
    assert "  ok  " not in told.stdout


def delivery(status: str) -> Delivery:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Delivery(
        id=uuid4(),
        channel="keyed",
        queue="payments",
        status=Status(status),
        version=3,
        scheduled_at=now,
        due_at=None,
    )


PAID = {"reference": "order-1", "customer": "ann", "cents": 100, "state": "charged"}


@pytest.mark.parametrize(
    ("status", "payments", "found"),
    [
        ("succeeded", [PAID], []),
        ("cancelled", [], []),
        ("cancelled", [{**PAID, "state": "declined"}], []),
        ("succeeded", [PAID, PAID], ["ann was charged 2 times for order-1"]),
        ("succeeded", [PAID, {**PAID, "state": "processing"}], ["ann was charged 2 times for order-1"]),
        ("succeeded", [], ["order-1: succeeded in our books, 0 charges in theirs"]),
        (
            "succeeded",
            [{**PAID, "state": "declined"}],
            ["order-1: succeeded in our books, 0 charges in theirs"],
        ),
        ("cancelled", [PAID], ["order-1: cancelled in our books, 1 charges in theirs"]),
        ("exhausted", [PAID], ["order-1: exhausted in our books, 1 charges in theirs"]),
        ("held", [PAID], ["order-1: its charge is held, not settled"]),
        ("pending", [], ["order-1: its charge is pending, not settled"]),
        (None, [], ["order-1: its charge is forgotten"]),
        (
            "succeeded",
            [{**PAID, "customer": "bob"}],
            ["order-1: another customer or another amount was charged"],
        ),
        ("succeeded", [{**PAID, "cents": 101}], ["order-1: another customer or another amount was charged"]),
        (
            "succeeded",
            [PAID, {**PAID, "reference": "order-2"}],
            ["order-2 was charged, and nobody ordered it"],
        ),
    ],
)
def test_what_the_proof_finds(
    status: str | None, payments: list[Mapping[str, Any]], found: list[str]
) -> None:
    from examples.payments.proof import findings
    from examples.payments.shop import Order

    owed = {} if status is None else {"order-1": delivery(status)}
    assert findings([Order(id="order-1", customer="ann", cents=100)], owed, payments) == found
