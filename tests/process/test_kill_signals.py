"""What ends a worker, one case at a time: kills in a row, of the command, of a drain, and two SIGTERMs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from crash.plots import PLOTS
from crash.shop import Order
from crash.world import World, until
from crash.zygote import Zygote

KILLED = -signal.SIGKILL
TOLD_TO_END = 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.fixture
def world(zygote: Zygote, database_url: str) -> Iterator[World]:
    with World(zygote, database_url, lease=0.5) as made:
        yield made


def hit(world: World, point: str, **arguments: Any) -> int:
    """The exit code of a worker that has come to this point."""
    worker = world.worker(at=point, **arguments)
    assert world.until_hit(worker, patience=30.0), worker.lines
    return worker.wait()


def told(world: World, id: UUID) -> list[str]:
    return [one.type for one in world.app.history(id)]


@pytest.mark.parametrize("channel", ["keyed-sync", "keyed-async"])
def test_as_many_kills_as_attempts_end_it(world: World, channel: str) -> None:
    (id,) = world.owe(structs.replace(PLOTS[f"{channel} plain"], options={"max_attempts": 2}))
    for which in ("first", "last"):
        assert hit(world, f"{channel} {which}: before the request") == KILLED
    world.finish()
    assert told(world, id) == ["Scheduled", "Attempted", "Interrupted", "Attempted", "Exhausted"]
    assert world.app.history(id)[-1].event.cause == "attempts"
    assert world.counts() == (1, 2, 0)
    assert world.judge() == []


def test_the_successor_dies_while_it_takes_over(world: World) -> None:
    (id,) = world.owe(PLOTS["keyed-sync plain"])
    for point in (
        "keyed-sync first: after the answer",
        "sweep: before commit Interrupted",
        "sweep: after commit Interrupted",
        "keyed-sync next: after the effect, at the receiver",
    ):
        assert hit(world, point) == KILLED
    world.finish()
    assert told(world, id) == ["Scheduled", *["Attempted", "Interrupted"] * 2, "Attempted", "Succeeded"]
    assert world.counts() == (1, 3, 1)
    assert world.judge() == []


@pytest.mark.parametrize("mode", ["command", "drain"])
def test_a_killed_command_or_drain_leaves_the_rest_to_the_next(world: World, mode: str) -> None:
    asked, held, other = world.owe(
        *(PLOTS[f"{promise} plain"] for promise in ("asked-async", "held-sync", "keyed-sync"))
    )
    assert hit(world, "asked-async first: after the effect, at the receiver", mode=mode) == KILLED
    world.finish()
    assert told(world, asked) == ["Scheduled", "Attempted", "Held", "Succeeded"]
    assert [told(world, id)[-1] for id in (held, other)] == ["Succeeded"] * 2
    assert world.counts()[2] == 3
    assert world.judge() == []


@pytest.mark.parametrize(
    ("channel", "closed"),
    [("keyed-sync", "Interrupted"), ("keyed-async", "Interrupted"), ("held-async", "Held")],
)
def test_a_second_signal_does_not_wait_for_the_call(world: World, channel: str, closed: str) -> None:
    (id,) = world.owe(structs.replace(PLOTS[f"{channel} plain"], order=Order(hold=8.0)))
    worker = world.worker(at=f"{channel} first: after the effect, at the receiver", sign=signal.SIGTERM)
    assert world.until_hit(worker, patience=30.0)
    while worker.read(0.5):  # one that comes before the first was handled is the same signal
        worker.signal(signal.SIGTERM)
    assert worker.wait() == TOLD_TO_END
    world.finish()
    assert told(world, id)[:3] == ["Scheduled", "Attempted", closed]
    assert told(world, id)[-1] == "Succeeded"
    assert world.counts()[2] == 1
    assert world.judge() == []


def test_sigterm_right_after_sigcont_is_heard(world: World) -> None:
    """The kernel may give it to another thread than the one that waits."""
    for _ in range(4):
        worker = world.worker()
        assert worker.is_ready()
        worker.wait_for("seen presence: after commit")
        worker.signal(signal.SIGSTOP)
        assert until(worker.is_halted)
        worker.signal(signal.SIGCONT)
        worker.signal(signal.SIGTERM)
        assert worker.wait(timeout=20.0) == 0
