"""The demo's application: it takes orders, each with its webhook in one transaction.

Some transactions end badly on purpose. What the shop remembers of them is kept here, in memory,
and held against the database and the receiver's log at the end.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from typing import Self

from sqlalchemy import Column, Integer, MetaData, Table, Text, insert
from sqlalchemy.orm import Session

from deliveries import Deliveries
from deliveries.cli.demo_worker import CHANNEL

_metadata = MetaData()
orders = Table(
    "orders",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("cents", Integer, nullable=False),
    Column("state", Text, nullable=False),
)


class Fate(Enum):
    """How an order's transaction ends."""

    COMMIT = "commit"
    ROLLBACK = "rollback"
    """The transaction is rolled back after `schedule`: neither order nor webhook."""
    SAVEPOINT = "savepoint"
    """A savepoint is rolled back after `schedule`, the rest commits: the order without the webhook."""


def draw_fates(deliveries: int, chance: random.Random) -> list[Fate]:
    """As many committed webhooks as `deliveries`, and one in twenty more that end badly."""
    fates = [Fate.COMMIT] * deliveries
    fates += [Fate.ROLLBACK] * max(1, deliveries // 25) + [Fate.SAVEPOINT] * max(1, deliveries // 100)
    chance.shuffle(fates)
    return fates


class _Declined(Exception):
    """The payment failed after the webhook was scheduled."""


class Shop:
    """Takes one order for each of `fates`, numbered from 1, and remembers what it did.

    A context manager: inside, it works in a thread of its own, as an application beside its workers.
    """

    def __init__(self, app: Deliveries, address: str, fates: Sequence[Fate]) -> None:
        self.committed: dict[str, int] = {}
        """Idempotency key -> order number."""
        self.undone: dict[str, int] = {}
        """The same for webhooks that were rolled back after `schedule`."""
        self.fates = fates
        self._app, self._address = app, address
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, "shop")
        self._day: Future[None] | None = None

    @property
    def owed(self) -> int:
        """How many webhooks are to be committed."""
        return sum(fate is Fate.COMMIT for fate in self.fates)

    @property
    def is_done(self) -> bool:
        """True once all orders are taken. Raises: what went wrong in its thread."""
        return self._day is not None and self._day.done() and self._day.result() is None

    def __enter__(self) -> Self:
        self._day = self._thread.submit(self._take_orders)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        self._thread.shutdown()

    def _take_orders(self) -> None:
        _metadata.create_all(self._app.engine)
        for number, fate in enumerate(self.fates, start=1):
            if self._closing.is_set():
                return
            self._take(number, fate)

    def _take(self, number: int, fate: Fate) -> None:
        with suppress(_Declined), Session(self._app.engine) as session, session.begin():
            session.execute(insert(orders).values(number=number, cents=100 * number, state="paid"))
            if fate is Fate.SAVEPOINT:
                with suppress(_Declined), session.begin_nested():
                    self.undone[self._owe(session, number)] = number
                    raise _Declined
                return
            key = self._owe(session, number)
            if fate is Fate.ROLLBACK:
                self.undone[key] = number
                raise _Declined
        if fate is Fate.COMMIT:
            self.committed[key] = number

    def _owe(self, session: Session, number: int) -> str:
        delivery = self._app.schedule(
            session,
            CHANNEL,
            {"event": "order.paid", "order": number},
            recipient=self._address,
            key=f"order:{number}:paid",
        )
        return delivery.idempotency_key
