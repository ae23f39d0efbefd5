"""Ticks without a leader: 64 callers at once, and processors in threads, make one delivery of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from deliveries import Deliveries
from deliveries.store.schema import periodic
from support.apps import Calls, ManualClock, eventually
from transactions.callers import CALLERS, at_once

WideOn = Callable[..., Deliveries]
START = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)


class Clocked:
    """Lends `wide` a clock that it stands on."""

    def __init__(self, app: Deliveries) -> None:
        self.clock = app._store.clock = ManualClock(START)
        app._store._clock_decides = True


@pytest.mark.parametrize("missed", ["latest", "all"])
def test_all_tick_at_once_and_one_makes_it(wide: Deliveries, missed: str) -> None:
    """Over the repeated hour of Berlin, too."""
    clock = Clocked(wide).clock
    wide.periodic(
        "30 * * * *", channel="email", timezone="Europe/Berlin", missed=missed, payload=lambda tick: tick.hour
    )
    assert at_once(lambda n: wide.tick()) == [[]] * CALLERS
    for _ in range(4):
        clock.advance(1_800)
        made = [one for answer in at_once(lambda n: wide.tick()) for one in answer]
        assert len(made) == (clock.now().minute == 30)
    assert [one.key for one in wide.find()] == [
        "periodic:email:2026-10-24T23:30:00Z",
        "periodic:email:2026-10-24T22:30:00Z",
    ]


def test_the_key_alone_is_enough(wide: Deliveries) -> None:
    """Known bad: without the row's lock everybody makes the tick, and still there is one."""
    clock = Clocked(wide).clock
    wide.periodic("@hourly", channel="email", missed="all")
    wide.tick()

    def forgetful(n: int) -> int:
        with wide.engine.begin() as connection:
            connection.execute(periodic.update().values(seen_at=START))
        return len(wide.tick())

    clock.advance(3_600)
    assert sum(at_once(forgetful)) == 1
    assert len(wide.find()) == 1


def test_processors_make_each_tick_once(wide_on: WideOn, database_url: str, calls: Calls) -> None:
    """Real clocks, a tick a second, four processors of which one comes and goes."""
    apps = [wide_on(database_url) for _ in range(4)]
    for app in apps:
        app.periodic("* * * * * *", channel="email", missed="all", payload=lambda tick: tick.isoformat())
    with apps[0].running(), apps[1].running(), apps[2].running():
        eventually(lambda: len(calls) >= 1)
        with apps[3].running():
            eventually(lambda: len(calls) >= 2)
        eventually(lambda: len(calls) >= 4)
    apps[0].drain()
    found = apps[0].find(limit=1_000)
    keys = Counter(one.key for one in found)
    assert set(keys.values()) == {1}
    moments = sorted(datetime.fromisoformat(str(key).removeprefix("periodic:email:")) for key in keys)
    assert moments == [moments[0] + timedelta(seconds=n) for n in range(len(moments))], "a tick is missing"
    assert len(calls.made) == len(found)


def test_a_payload_that_hangs_stalls_nothing_else(wide: Deliveries, calls: Calls) -> None:
    import threading

    gate, entered = threading.Event(), threading.Event()

    def hangs() -> None:
        entered.set()
        gate.wait(30)

    wide.periodic("* * * * * *", channel="email", payload=hangs)
    with wide.running():
        eventually(entered.is_set)
        with wide.engine.begin() as connection:
            made = wide.schedule(connection, "email", "other")
        eventually(lambda: wide.get(made.id).is_terminal)
        gate.set()
