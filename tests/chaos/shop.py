"""What the processes of the chaos run share: channels, the business table, and the trace of effects.

The receiver of the effects is a file per processor process, to which each call appends one line
before it answers. What has been appended is there, whatever becomes of the process.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Engine, MetaData, String, Table

from deliveries import Attempt, Backoff, Deliveries, Delivery, Retry
from deliveries.audit.invariants import Called

QUEUES = {"keyed": 20, "waiting": 50, "unsafe": 10}
SETTINGS = {"lease": 3.0, "poll": 0.2, "sweep_every": 0.5, "grace": 10.0}

PLENTY = 1_000
"""So many attempts that no delivery ends for want of one."""

business = MetaData()
orders = Table("orders", business, Column("key", String(100), primary_key=True))
"""The row beside each delivery: one is there if and only if the other is."""


class Trace:
    """The effects of one process, on disk."""

    def __init__(self, directory: str) -> None:
        path = Path(directory) / f"{os.getpid()}.effects"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, delivery: Delivery, attempt: Attempt) -> None:
        line = f"{delivery.idempotency_key} {delivery.id} {attempt.number} {datetime.now(UTC).isoformat()}\n"
        os.write(self._file, line.encode())  # one write: lines of two threads do not mix


def effects(directory: Path) -> Iterator[Called]:
    """What all processes have done."""
    for path in sorted(directory.glob("*.effects")):
        for line in path.read_text().splitlines():
            key, id, attempt, at = line.split(" ")
            yield Called(
                key=key, delivery_id=UUID(id), attempt=int(attempt), entered_at=datetime.fromisoformat(at)
            )


def application(url: str | Engine, trace: Any = None) -> Deliveries:
    """The channels that callers and processors register, some of whose first attempts fail."""
    app = Deliveries(url)
    options: dict[str, Any] = {
        "max_attempts": PLENTY,
        "max_interruptions": PLENTY,
        "backoff": Backoff.linear(0.05),
        "timeout": 20.0,
    }

    @app.adapter("keyed", **options)
    def keyed(delivery: Delivery, attempt: Attempt) -> None:
        fails = _fails(delivery, attempt)
        if fails == 1:
            raise Retry("before the effect")
        trace(delivery, attempt)
        if fails == 2:
            raise RuntimeError("after the effect")

    @app.adapter("waiting", **options)
    async def waiting(delivery: Delivery, attempt: Attempt) -> None:
        trace(delivery, attempt)

    @app.adapter("unsafe", effect="unsafe", on_unknown="hold", **options)
    def unsafe(delivery: Delivery, attempt: Attempt) -> Retry | None:
        if _fails(delivery, attempt):
            return Retry("it did not happen")
        trace(delivery, attempt)
        return None

    return app


def _fails(delivery: Delivery, attempt: Attempt) -> int:
    """Every tenth first attempt fails: half of them before their effect, half after it."""
    if attempt.number > 1:
        return 0
    return {0: 1, 1: 2}.get(zlib.crc32(delivery.id.bytes) % 20, 0)
