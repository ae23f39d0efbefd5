"""A worker process that stops at a point and says so, until it is told to go on, or killed.

    python worker.py '{"url": ..., "receiver": ..., "stop_at": "after Attempted", "max_attempts": 5}'

It writes a line to stdout when it runs ("running"), at the point that it was told, and when SIGTERM
has come ("stopping"). At the point it waits for a line on stdin. Points: `entered` and `called`,
inside the adapter; `before X` and `after X`, around the first commit that writes an event of type X.
Only the first time counts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from typing import Any

from sqlalchemy import Engine, event

from deliveries import Delivery
from support.kill_app import QUEUES, SETTINGS, application

_WROTE = "worker.wrote"


class Gate:
    """Lets everybody pass but the first one at `stop_at`."""

    def __init__(self, stop_at: str | None) -> None:
        self._stop_at = stop_at
        self._lock = threading.Lock()

    def __call__(self, point: str, delivery: Delivery | None = None) -> None:
        with self._lock:
            if point != self._stop_at:
                return
            self._stop_at = None
        say(point)
        if not sys.stdin.readline():
            os._exit(1)  # whoever started us is gone


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def watch_commits(engine: Engine, gate: Gate) -> None:
    """Stop before and after the commit of what a statement has written.

    SQLAlchemy tells of a commit before it happens; afterwards the connection goes back to its pool.
    """

    def executed(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if "delivery_events" in statement:
            connection.info.setdefault(_WROTE, set()).update(_event_types(parameters))

    def committing(connection: Any) -> None:
        for name in connection.info.get(_WROTE, ()):
            gate(f"before {name}")

    def given_back(dbapi_connection: Any, record: Any) -> None:
        for name in record.info.pop(_WROTE, ()):
            gate(f"after {name}")

    event.listen(engine, "after_cursor_execute", executed)
    event.listen(engine, "commit", committing)
    event.listen(engine, "checkin", given_back)


def _event_types(parameters: Any) -> set[str]:
    if isinstance(parameters, str):  # PostgreSQL gets many values as one text
        return set(re.findall(r"\w+", parameters)) & {"Attempted", "Succeeded"}
    if isinstance(parameters, dict):
        parameters = parameters.values()
    if isinstance(parameters, (list, tuple, type({}.values()))):
        return {name for one in parameters for name in _event_types(one)}
    return set()


def main(url: str, receiver: str, stop_at: str | None = None, max_attempts: int = 5) -> None:
    gate = Gate(stop_at)
    app = application(url, receiver, gate, max_attempts)
    watch_commits(app.engine, gate)
    processor = app.processor(QUEUES, **SETTINGS)

    def stop(signum: int, frame: Any) -> None:
        processor.stop()
        say("stopping")

    signal.signal(signal.SIGTERM, stop)
    processor.start()
    say("running")
    while processor.is_alive:
        processor.join(0.05)  # a signal is handled between two joins
    app.close()
    sys.exit(0 if processor.error is None else 1)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
