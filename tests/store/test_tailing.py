"""R1, by force: eight writers with delays, rollbacks and savepoints, and a reader at their heels."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, insert, select

from deliveries.clock import SystemClock
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.schema import events
from deliveries.store.store import Store
from store.acts import event_row

WRITERS = 8
SECONDS = 3.0


class Writer(threading.Thread):
    """Transactions of every shape, one after the other, until told to stop."""

    def __init__(self, store: Store, seed: int, until: float) -> None:
        super().__init__(name=f"writer-{seed}")
        self.store = store
        self.chance = random.Random(seed)
        self.until = until
        self.committed: list[UUID] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.until:
                self.transaction()
        except BaseException as error:
            self.error = error

    def transaction(self) -> None:
        written: list[UUID] = []
        with self.store.engine.connect() as connection:
            for _ in range(self.chance.randint(1, 3)):
                written += (
                    self.savepoint(connection) if self.chance.random() < 0.3 else self.write(connection)
                )
                self.dawdle()
            if self.chance.random() < 0.2:
                connection.rollback()
                return
            connection.commit()
        self.committed += written

    def savepoint(self, connection: Connection) -> list[UUID]:
        with connection.begin_nested() as savepoint:
            written = self.write(connection)
            self.dawdle()
            if self.chance.random() < 0.5:
                savepoint.rollback()
                return []
        return written

    def write(self, connection: Connection) -> list[UUID]:
        rows = [event_row() for _ in range(self.chance.choice([1, 1, 2, 20]))]
        if self.chance.random() < 0.5:
            connection.execute(insert(events), rows)
        else:
            for row in rows:
                connection.execute(insert(events), row)
        return [row["delivery_id"] for row in rows]

    def dawdle(self) -> None:
        time.sleep(self.chance.choice([0, 0, 0.001, 0.005, 0.03]))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_tailing_reader_loses_and_doubles_nothing(
    database_url: str, engines: Callable[..., Engine]
) -> None:
    engine = engines(database_url, pool_size=WRITERS)
    until = time.monotonic() + SECONDS
    writers = [Writer(Store(engine, SystemClock()), seed, until) for seed in range(WRITERS)]
    recorder = DeliveryRecorder(Store(engines(database_url), SystemClock()))
    seen: list[tuple[int, object]] = []
    after = pages = 0

    def read() -> None:
        nonlocal after, pages
        page, safe = recorder.page(after, 200)
        seen.extend((found.id, found.originator_id) for found in page)
        after = page[-1].id if len(page) == 200 else max(after, safe)
        pages += bool(page)

    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        read()
    for writer in writers:
        writer.join()
    for _ in range(100):
        read()

    assert [writer.error for writer in writers] == [None] * WRITERS
    with engine.connect() as connection:
        everything = connection.execute(
            select(events.c.position, events.c.delivery_id).order_by(events.c.position)
        ).all()
    assert seen == [tuple(row) for row in everything], "each once, in the order of the log"
    assert {id for _, id in seen} == {id for writer in writers for id in writer.committed}
    assert pages > 5, "the reader was at their heels, not behind them"
