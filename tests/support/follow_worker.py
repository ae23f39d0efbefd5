"""A follower in a process of its own, that stops at a point of its third batch and says so.

    python follow_worker.py '{"url": ..., "stop_at": "handled", "batch": 4}'

Points: `handled`, in the handler, when all is written and nothing committed; `committed`, right after the
commit of a batch. There it waits for a line on stdin.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from sqlalchemy import Connection, event

from deliveries import Deliveries, Entry, Projection
from support.followed import note_down

THIRD = 3


class Stop:
    def __init__(self, stop_at: str) -> None:
        self._stop_at, self.batches = stop_at, 0

    def __call__(self, point: str) -> None:
        if point == self._stop_at and self.batches == THIRD:
            os.write(1, f"{point}\n".encode())
            sys.stdin.readline()
            os._exit(1)


def main(url: str, stop_at: str, batch: int) -> None:
    app = Deliveries(url)
    stop = Stop(stop_at)

    def handle(entries: Sequence[Entry], connection: Connection) -> None:
        stop.batches += 1
        note_down(entries, connection)
        stop("handled")

    event.listen(app.engine, "checkin", lambda *_: stop("committed"))
    app.follow(Projection("seen", handle), until_caught_up=True, batch=batch)
    app.close()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
