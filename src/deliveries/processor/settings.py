"""How a processor behaves. All durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from deliveries.errors import CallerError, shown

DEFAULT_CONCURRENCY = 100
"""Calls at a time in a queue for which nobody said otherwise: a bound, since threads are made on demand."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bounds and intervals of one processor."""

    queues: Mapping[str, int] = field(default_factory=dict)
    """Queue -> calls at a time, at least 1. Other queues are left alone; without any, nothing is claimed."""
    lease: float = 30.0
    """How long a claimed delivery is ours without a heartbeat; at least 0.1."""
    poll: float = 1.0
    """How long a due delivery may wait without a hint; more than 0."""
    sweep_every: float = 5.0
    """Between two looks for attempts that nobody reported; more than 0."""
    grace: float = 10.0
    """What `stop` waits for running calls; at least 0."""
    listen: bool = True
    """On PostgreSQL: listen for notifications."""
    listen_url: str | None = None
    """A direct connection string for LISTEN, where a transaction pooler stands in between."""
    linger: float = 0.05
    """With a backlog: how long at most to wait for further outcomes, while they come, to write together."""
    patience: int = 5
    """Database errors in a row before `drain` gives up."""

    def __post_init__(self) -> None:
        for name, limit in self.queues.items():
            if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10_000:
                raise CallerError(f"queue {name!r}: concurrency must be 1..10000, not {shown(limit)}")
        for name, value, least in (
            ("lease", self.lease, 0.1),
            ("poll", self.poll, 0.001),
            ("sweep_every", self.sweep_every, 0.001),
            ("grace", self.grace, 0.0),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 86_400:
                raise CallerError(f"{name} must be {least}..86400 seconds, not {shown(value)}")

    @cached_property
    def lease_margin(self) -> float:
        """How long before the end of a lease no call is entered any more."""
        return min(1.0, self.lease / 10)

    def retry_after(self, failures: int) -> float:
        """Seconds until the next try after so many database errors in a row."""
        return float(min(5.0, 0.05 * 2 ** min(failures, 10)))
