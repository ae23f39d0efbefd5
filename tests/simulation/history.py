"""A seed's whole history, and the verdict on it."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select

from deliveries.audit.invariants import (
    Finding,
    call_findings,
    n2_a_lease_is_exclusive,
    r1_a_reader_sees_all_once,
    t1_what_was_committed_is_there,
    t2_a_key_names_one_delivery,
)
from deliveries.core import events as e
from deliveries.core.stream import Recorded
from deliveries.store.reading import Reading
from deliveries.store.schema import deliveries
from deliveries.testing.proof import verdict
from simulation.ground import Ground
from simulation.world import CALM, DISTURBED, World

STRIDE = 5.0
"""Seconds between two looks at all rows."""


_STUCK = {"pending": "N5", "attempting": "N4", "held": "E3"}


class History(Struct):
    """What came of a seed."""

    seed: int | str
    findings: list[Finding]
    turns: int
    events: Counter[str]
    """Event types, and how many of each were recorded."""
    luck: Counter[str]
    """What went wrong, and how often."""
    log: list[tuple[float, str, str]]
    """Seconds, who, what."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.findings)} findings"]
        lines += [
            f"  {one.rule} {one.delivery_id and one.delivery_id.int & 0xFFFF} v{one.version}: {one.text}"
            for one in self.findings
        ]
        lines += [f"  {at:8.3f}  {who:10}  {what}" for at, who, what in self.log]
        return "\n".join(lines)


def live(seed: int | str, ground: Ground) -> History:
    """The history of `seed`: the same each time."""
    world = World(seed, ground)
    with ground.under(world):
        _happen(world)
        found = _come_to_rest(world) if not world.broken else world.broken
        world.calm = True
        world.read_on()
        world.scheduler.end()
    rows, histories = everything(ground)
    found = found or _verdict(world, rows, histories)
    events = Counter(one.type for history in histories.values() for one in history)
    return History(seed, found, world.scheduler.turns, events, world.luck, world.log)


def _happen(world: World) -> None:
    """Trouble. Somewhere in it all rows are compared with their streams."""
    scheduler, random = world.scheduler, world.random
    for _ in range(random.choice((1, 2, 3))):
        world.begin()
    for number in range(random.choice((1, 2, 3, 4))):
        world.act(lambda number=number: world.caller(number))
    world.act(world.operator)
    world.act(world.fate)
    scheduler.spawn(world.reader, world.callers)
    looked = random.uniform(0.0, DISTURBED)
    while scheduler.now < DISTURBED and (world.busy or _left(world.ground)):
        if scheduler.now < looked <= scheduler.now + STRIDE:
            world.broken += _standing(world.ground)
        scheduler.run(scheduler.now + STRIDE)


def _come_to_rest(world: World) -> list[Finding]:
    """Nothing fails any more, and people look after what is held: everything must end."""
    scheduler = world.scheduler
    world.calm = True
    world.note("calm")
    for process in world.processes:
        process.stopped_until = min(process.stopped_until, scheduler.now + STRIDE)
    if not world.alive():
        world.begin()
    while left := _left(world.ground):
        if scheduler.now > DISTURBED + CALM:
            return [
                Finding(
                    "N4" if one.status == "attempting" else "N5", one.version, f"still {one.status}", one.id
                )
                for one in left
            ]
        scheduler.run(scheduler.now + STRIDE)
        world.resolve_all()
    return []


def _left(ground: Ground) -> list[Any]:
    statement = select(deliveries.c.id, deliveries.c.version, deliveries.c.status).where(
        deliveries.c.status.in_(("pending", "attempting", "held"))
    )
    with ground.reading() as connection:
        return list(connection.execute(statement))


def _standing(ground: Ground) -> list[Finding]:
    rows, histories = everything(ground)
    return [finding for row in rows for finding in verdict(histories[row.id], row)]


def everything(ground: Ground) -> tuple[list[Any], dict[UUID, list[Recorded]]]:
    """All rows, and the streams behind them."""
    with ground.reading() as connection:
        rows = list(connection.execute(select(deliveries).order_by(deliveries.c.id)))
        return rows, Reading().histories(connection, [row.id for row in rows])


def _verdict(world: World, rows: list[Any], histories: dict[UUID, list[Recorded]]) -> list[Finding]:
    found = [finding for row in rows for finding in verdict(histories[row.id], row)]
    if found:
        return found
    logged = [one for history in histories.values() for one in history]
    found += t1_what_was_committed_is_there(world.committed, {row.id for row in rows})
    found += t2_a_key_names_one_delivery(rows)
    found += call_findings(histories, world.calls)
    found += n2_a_lease_is_exclusive(histories, world.leases)
    found += r1_a_reader_sees_all_once(logged, world.seen)
    found += _effects(world, rows, histories)
    return found


def _effects(world: World, rows: list[Any], histories: dict[UUID, list[Recorded]]) -> list[Finding]:
    """What the streams say of effects is so."""
    found = []
    for row in rows:
        events = [one.event for one in histories[row.id]]
        done = world.effects[str(row.id)]
        if isinstance(events[-1], e.Succeeded) and not done:
            found.append(Finding("E2", row.version, "succeeded, and nothing was done", row.id))
        again = any(isinstance(one, e.Rescheduled) and one.cause == "released" for one in events)
        if row.channel != "keyed" and done > 1 and not again:
            found.append(Finding("E3", row.version, f"done {done} times, though unsafe", row.id))
    return found
