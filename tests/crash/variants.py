"""Known-bad products, made of the good one in a worker process.

A harness that finds nothing wrong with them has gone blind.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from deliveries import Deliveries, Delivery
from deliveries.processor import processor
from deliveries.processor.call import Call
from deliveries.processor.claims import Claims


def calls_before_it_writes(app: Deliveries) -> None:
    """The adapter is called, and `Attempted` committed afterwards."""
    claim = Claims.claim

    def claim_and_call(self: Claims, *arguments: Any, **options: Any) -> Any:
        starts, full = claim(self, *arguments, **options)
        for _, change in starts:
            registration = app.channels[change.after.channel]
            if not registration.is_async:
                call = Call(
                    stream=change.stream,
                    registration=registration,
                    started_at=datetime.now(UTC),
                    lease_until=time.monotonic(),
                )
                registration.function(call.delivery, call.attempt)
        return starts, full

    Claims.claim = claim_and_call  # type: ignore[method-assign]


def never_sweeps(app: Deliveries) -> None:
    """Nobody closes what nobody reported."""
    processor.sweep = lambda store, page=0: []  # type: ignore[assignment]


def takes_unsafe_for_safe(app: Deliveries) -> None:
    """A crash during a call that must not be repeated is taken for a failure."""
    for channel, registration in app.channels.items():
        app._registrations[channel] = dataclasses.replace(
            registration, effect="keyed", on_unknown="retry", lookup=None
        )


def makes_a_key_for_each_attempt(app: Deliveries) -> None:
    """The receiver cannot tell that two attempts are for one debt."""
    Delivery.idempotency_key = property(lambda self: f"{self.id}-{self.attempt}")  # type: ignore[assignment]


VARIANTS: dict[str, Callable[[Deliveries], None]] = {
    one.__name__: one
    for one in (calls_before_it_writes, never_sweeps, takes_unsafe_for_safe, makes_a_key_for_each_attempt)
}
