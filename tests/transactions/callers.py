"""Many callers at once, who run their transactions again when they are told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from deliveries import ConcurrentSchedule, Deliveries, Delivery
from transactions.watch import PATIENCE

CALLERS = 64
"""Callers at once, each with a connection of its own."""

SERIALIZATION_FAILURE = "40001"


def at_once(act: Callable[[int], Any]) -> list[Any]:
    """What all callers answer, each in a thread, all let go together. Nobody may hang."""
    barrier = threading.Barrier(CALLERS)

    def caller(n: int) -> Any:
        barrier.wait(PATIENCE)
        return act(n)

    with ThreadPoolExecutor(CALLERS) as pool:
        futures = [pool.submit(caller, n) for n in range(CALLERS)]
        answers = wait(futures, PATIENCE)
        assert not answers.not_done, f"{len(answers.not_done)} callers hang"
        return [future.result() for future in futures]


class Caller:
    """Runs its transaction again as long as it is told to, and counts how often."""

    def __init__(self, app: Deliveries, level: str | None = None, rounds: int = 30) -> None:
        self.app, self.level, self.rounds = app, level, rounds
        self.retries: Counter[str] = Counter()

    def __call__(self, act: Callable[[Connection], Delivery]) -> Delivery:
        options = {"isolation_level": self.level} if self.level else {}
        with self.app.engine.connect().execution_options(**options) as connection:
            for _ in range(self.rounds):
                try:
                    delivery = act(connection)
                except ConcurrentSchedule:
                    self.retries["schedule"] += 1
                    connection.rollback()
                    continue
                try:
                    connection.commit()
                except DBAPIError as error:  # the caller's own commit tells him in the database's words
                    if getattr(error.orig, "sqlstate", None) != SERIALIZATION_FAILURE:
                        raise
                    self.retries["commit"] += 1
                    connection.rollback()
                    continue
                return delivery
        raise AssertionError(f"no end after {self.rounds} rounds: {self.retries}")
