"""The application that is killed, and the one that finishes its work: same channels, same receiver."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from deliveries import Attempt, Backoff, Deliveries, Delivery

LEASE = 1.0
"""Seconds; the heartbeat renews it every third."""
QUEUES = {"pay": 1}
"""One call at a time, so that the most urgent delivery is the one that is hit."""
SETTINGS = {"lease": LEASE, "poll": 0.05, "sweep_every": 0.1, "grace": 10.0}

Gate = Callable[[str, Delivery], None]
"""Called with the name of a point that has been reached; may never return."""


def open_gate(point: str, delivery: Delivery) -> None:
    """Nobody waits."""


def application(url: str, receiver: str, gate: Gate = open_gate, max_attempts: int = 5) -> Deliveries:
    """`keyed` and `unsafe` POST to `receiver`; the payload names the path."""
    app = Deliveries(url)

    def post(delivery: Delivery, attempt: Attempt) -> Any:
        gate("entered", delivery)
        status = _post(receiver, delivery.payload["path"], delivery.idempotency_key)
        gate("called", delivery)
        return {"status": status}

    options: dict[str, Any] = {
        "queue": "pay",
        "timeout": 30.0,
        "max_attempts": max_attempts,
        "backoff": Backoff.linear(0.05),
    }
    app.adapter("keyed", **options)(post)
    app.adapter("unsafe", effect="unsafe", on_unknown="hold", **options)(post)
    return app


def _post(receiver: str, path: str, key: str) -> int:
    parts = urlsplit(receiver)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("POST", path, b"{}", {"Idempotency-Key": key})
        return connection.getresponse().status
    finally:
        connection.close()
