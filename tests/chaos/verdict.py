"""What must hold after the fire: every rule, the business rows, the effects, and the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import structs
from sqlalchemy import func, select

from chaos.shop import orders
from deliveries import Deliveries, Status
from deliveries.audit.invariants import Called, Finding
from deliveries.store.schema import deliveries, events
from deliveries.testing.proof import broken

CLOCK_SKEW = timedelta(seconds=0.5)
"""So far a processor's idea of the time may be behind; far less than a lease."""


def findings(
    app: Deliveries, keys: set[str], calls: Sequence[Called], seen: Sequence[int]
) -> dict[str, list[Finding]]:
    """What each check has found; empty lists are good.

    `keys`: those that callers have scheduled. `calls`: as the receiver has noted them. `seen`: the
    positions, as the reader has.
    """
    return {
        "every rule, every delivery": broken(app.engine, calls=_timeless(calls), ended=True),
        "no call after its attempt was closed (N1)": list(_n1(app, calls)),
        "business rows and deliveries (T1)": list(_t1(app, keys)),
        "one delivery a key (T2, T4)": list(_t2(app)),
        "all ended": list(_ended(app)),
        "effects, at least one, at most attempts": list(_effects(app, calls)),
        "unsafe effects happen once (E3)": list(_e3(app, calls)),
        "the reader saw all once, in order (R1)": list(_r1(app, seen)),
    }


def numbers(app: Deliveries, calls: Sequence[Called]) -> dict[str, int]:
    """What happened, for the table."""
    with app.engine.connect() as connection:
        kinds = select(events.c.type, func.count()).group_by(events.c.type)
        found = {name: int(number) for name, number in connection.execute(kinds)}
    return {
        "deliveries": found.get("Scheduled", 0),
        "attempts": found.get("Attempted", 0),
        "failed": found.get("Failed", 0),
        "interrupted": found.get("Interrupted", 0),
        "held": found.get("Held", 0),
        "events": sum(found.values()),
        "effects": len(calls),
        "effects repeated": len(calls) - len({call.key for call in calls}),
    }


def _timeless(calls: Sequence[Called]) -> list[Called]:
    """Without their times: a processor's clock is some milliseconds behind the database's."""
    return [structs.replace(call, entered_at=None) for call in calls]


def _n1(app: Deliveries, calls: Sequence[Called]) -> Iterator[Finding]:
    closed: dict[tuple[UUID, int], datetime] = {}
    wanted = select(events.c.delivery_id, events.c.type, events.c.recorded_at).order_by(events.c.position)
    open_attempt: Counter[UUID] = Counter()
    with app.engine.connect() as connection:
        for id, kind, at in connection.execute(wanted):
            if kind == "Attempted":
                open_attempt[id] += 1
            else:
                closed.setdefault((id, open_attempt[id]), at)
    for call in calls:
        until = closed.get((call.delivery_id, call.attempt))
        assert call.entered_at is not None
        if until is not None and call.entered_at > until + CLOCK_SKEW:
            yield Finding("N1", 0, f"called at {call.entered_at}, closed at {until}", call.delivery_id)


def _t1(app: Deliveries, keys: set[str]) -> Iterator[Finding]:
    with app.engine.connect() as connection:
        business = set(connection.scalars(select(orders.c.key)))
        owed = set(connection.scalars(select(deliveries.c.key)))
    for what, missing in (
        ("a business row without its delivery", business - owed),
        ("a delivery without its business row", owed - business),
        ("committed, and not there", keys - owed),
        ("never committed, and there", owed - keys),
    ):
        for key in sorted(map(str, missing)):
            yield Finding("T1", 0, f"{what}: {key}")


def _t2(app: Deliveries) -> Iterator[Finding]:
    doubled = select(deliveries.c.key).group_by(deliveries.c.key).having(func.count() > 1)
    with app.engine.connect() as connection:
        for key in connection.scalars(doubled):
            yield Finding("T2", 0, f"two deliveries with key {key}")


def _ended(app: Deliveries) -> Iterator[Finding]:
    wrong = select(deliveries.c.id, deliveries.c.status).where(deliveries.c.status != Status.SUCCEEDED)
    with app.engine.connect() as connection:
        for id, status in connection.execute(wrong):
            yield Finding("N4", 0, f"it is {status}", id)


def _effects(app: Deliveries, calls: Sequence[Called]) -> Iterator[Finding]:
    made = Counter(call.delivery_id for call in calls)
    with app.engine.connect() as connection:
        for id, attempts in connection.execute(select(deliveries.c.id, deliveries.c.attempt)):
            if not 1 <= made[id] <= attempts:
                yield Finding("E2", 0, f"{made[id]} effects of {attempts} attempts", id)


def _e3(app: Deliveries, calls: Sequence[Called]) -> Iterator[Finding]:
    made = Counter(call.delivery_id for call in calls)
    unsafe = select(deliveries.c.id).where(deliveries.c.channel == "unsafe")
    with app.engine.connect() as connection:
        for id in connection.scalars(unsafe):
            if made[id] != 1:
                yield Finding("E3", 0, f"{made[id]} effects of an unsafe adapter", id)


def _r1(app: Deliveries, seen: Sequence[int]) -> Iterator[Finding]:
    with app.engine.connect() as connection:
        there = list(connection.scalars(select(events.c.position).order_by(events.c.position)))
    if there == list(seen):
        return
    times = Counter(seen)
    for position in there:
        if times[position] != 1:
            yield Finding("R1", 0, f"position {position} seen {times[position]} times")
    for position in sorted(times.keys() - set(there)):
        yield Finding("R1", 0, f"position {position} seen, and not there")
    if list(seen) != sorted(seen):
        yield Finding("R1", 0, "not in the order of the log")
