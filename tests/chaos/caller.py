"""A caller process: schedules `count` deliveries beside its business rows, whatever happens.

    python caller.py '{"url": ..., "name": "a", "count": 1000, "seconds": 60, "seed": 1}'

Each of its transactions is run again, with the same keys, until its commit is known. Some others it
rolls back on purpose. At the end it writes one JSON line of numbers to stdout.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from chaos.shop import application, orders
from deliveries import ConcurrentSchedule, Draft

SIZES = [1, 1, 1, 1, 2, 3, 5, 10, 20, 40]
CHANNELS = ["keyed"] * 6 + ["waiting"] * 3 + ["unsafe"]
RETRY_SECONDS = 0.05


class RolledBack(Exception):
    """On purpose."""


class Caller:
    """One process's share of the deliveries."""

    def __init__(self, url: str, name: str, seed: int) -> None:
        self.app, self.name, self.chance = application(url), name, random.Random(seed)
        self.numbers: Counter[str] = Counter()

    def schedule(self, count: int, seconds: float) -> None:
        """All of them, spread over about `seconds`."""
        start, done = time.monotonic(), 0
        while done < count:
            size = min(self.chance.choice(SIZES), count - done)
            keys = [f"{self.name}:{number}" for number in range(done, done + size)]
            if self.chance.random() < 0.1:
                self.until_known([f"rolled-back:{key}" for key in keys], roll_back=True)
            self.until_known(keys)
            done += size
            ahead = start + seconds * done / count - time.monotonic()
            time.sleep(max(0.0, ahead))

    def until_known(self, keys: list[str], *, roll_back: bool = False) -> None:
        """One transaction, tried until it is known to have been committed, or rolled back."""
        channel = self.chance.choice(CHANNELS)
        while True:
            try:
                known = self.transaction(channel, keys, roll_back)
            except RolledBack:
                self.numbers["rolled back"] += 1
                return
            except (DBAPIError, ConcurrentSchedule) as error:
                self.numbers["tried again"] += 1
                self.numbers[type(error).__name__] += 1
                time.sleep(RETRY_SECONDS)
            else:
                self.numbers["transactions"] += 1
                self.numbers["committed unknown"] += known
                return

    def transaction(self, channel: str, keys: list[str], roll_back: bool) -> bool:
        """True where an earlier try had committed already."""
        with self.app.engine.begin() as connection:
            rows = [{"key": key} for key in keys]
            connection.execute(insert(orders).on_conflict_do_nothing(), rows)
            if len(keys) < 3:
                owed = [
                    self.app.schedule(connection, channel, {"order": key}, recipient="ann", key=key)
                    for key in keys
                ]
            else:
                drafts = [Draft({"order": key}, recipient="ann", key=key) for key in keys]
                owed = self.app.schedule_many(connection, channel, drafts)
            if roll_back:
                raise RolledBack
        created = {delivery.created for delivery in owed}
        assert len(created) == 1, f"half of a transaction was there: {keys}"
        return created == {False}


def main(url: str, name: str, count: int, seconds: float, seed: int) -> None:
    caller = Caller(url, name, seed)
    caller.schedule(count, seconds)
    caller.app.close()
    sys.stdout.write(json.dumps(caller.numbers) + "\n")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
