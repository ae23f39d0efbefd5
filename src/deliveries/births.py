"""Writing debts down, and knowing those that were written down before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from msgspec import Struct, structs
from sqlalchemy import Connection

from deliveries.core.delivery import Delivery
from deliveries.errors import ConcurrentSchedule, IdempotencyConflict
from deliveries.scheduling import Debt, born
from deliveries.store.rows import Birth, Contents, Ready, with_contents
from deliveries.store.store import Store

FIRST, MOST = 500, 2_000
"""Deliveries that are made and written at a time: few at first, so that the database soon has work,"""
GROWTH = 1.25
"""and more each time, since they are made in less time than those before them are written in."""

T = TypeVar("T")


class Litter(Struct, frozen=True, gc=False):
    """Deliveries about to be born together: all that can be done of it without a connection."""

    ready: Ready
    newborns: list[Delivery]

    @classmethod
    def of(cls, store: Store, births: Sequence[Birth]) -> Litter:
        """Those of `births`, in their order."""
        return cls(store.backend.ready(births), [newborn(birth) for birth in births])


def bear(store: Store, connection: Connection, births: Sequence[Birth]) -> list[Delivery]:
    """Insert these deliveries; where a key is taken, find whose it is. In the order of `births`.

    Raises: IdempotencyConflict, ConcurrentSchedule.
    """
    return _bear(store, connection, Litter.of(store, births))


def bear_many(store: Store, connection: Connection, debts: Sequence[Debt]) -> list[Delivery]:
    """As `bear`: while the database writes some of them, those that follow are made.

    In the order of `debts`. Raises: as `bear`.
    """
    order: Sequence[int] = range(len(debts))
    if any(debt.key is not None for debt in debts):
        # by key, so that two callers with the same keys wait for each other and never cross
        order = sorted(order, key=lambda place: (debts[place].key or "", debts[place].tenant))
    batches = list(_batches(order))
    made = (Litter.of(store, [born(debts[place]) for place in batch]) for batch in batches)
    found: dict[int, Delivery] = {}
    for batch, litter in zip(batches, _ahead(made) if len(batches) > 1 else made, strict=True):
        found.update(zip(batch, _bear(store, connection, litter), strict=True))
    return [found[place] for place in range(len(debts))]


def _bear(store: Store, connection: Connection, litter: Litter) -> list[Delivery]:
    created = store.write_down(connection, litter.ready)
    if len(created) == len(litter.newborns):  # as nearly always: the database is waiting for the next ones
        return litter.newborns
    births = litter.ready.births
    keys = dict.fromkeys(key_of(birth) for birth in births if birth.change.after.id not in created)
    owners = store.by_key(connection, list(keys)) if keys else {}
    return [
        one if one.id in created else same_debt(birth, owners.get(key_of(birth)))
        for birth, one in zip(births, litter.newborns, strict=True)
    ]


def _batches(order: Sequence[int]) -> Iterator[Sequence[int]]:
    start, size = 0, float(FIRST)
    while start < len(order):
        yield order[start : start + int(size)]
        start, size = start + int(size), min(size * GROWTH, MOST)


def _ahead(made: Iterator[T]) -> Iterator[T]:
    """Each of `made`, while the next is made in a thread."""
    with ThreadPoolExecutor(1, "deliveries-births") as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one


def key_of(birth: Birth) -> tuple[str, str]:
    """Tenant and key, as keys are unique."""
    return birth.scheduled.tenant, birth.scheduled.key or ""


def newborn(birth: Birth) -> Delivery:
    """The delivery as it is born, with its contents."""
    return with_contents(birth.change.after, birth.contents.recipient, birth.contents.payload)


def same_debt(birth: Birth, owner: tuple[Delivery, Contents | None] | None) -> Delivery:
    """The delivery that has the key. Raises: IdempotencyConflict where it owes something else."""
    if owner is None:
        raise ConcurrentSchedule(f"key {birth.scheduled.key!r} is taken by a transaction not visible here")
    delivery, beside = owner
    differs = None
    if delivery.channel != birth.scheduled.channel:
        differs = "channel"
    elif beside is not None and beside.recipient != birth.contents.recipient:
        differs = "recipient"
    elif beside is not None and beside.payload != birth.contents.payload:
        differs = "payload"
    if differs is not None:
        raise IdempotencyConflict(birth.scheduled.key or "", delivery.id, differs)
    return structs.replace(delivery, created=False)
