"""What must become of a delivery, told a second time in plain Python.

Nothing here asks the library: the table, the budgets and the due times are written down anew, so
that the machine compares two independent tellings. An act that comes too late returns False.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

STEP = 10.0
"""The backoff of every channel, in seconds: after the n-th ending that counts, n times so long."""
SNOOZE = AFTER = 5.0


@dataclass(frozen=True)
class Channel:
    """A channel's rules. `asks`: an unknown outcome is looked up; `unsafe`: an exception is one."""

    name: str
    queue: str
    unsafe: bool = False
    asks: bool = False
    max_attempts: int = 3
    max_interruptions: int = 2
    max_snoozes: int = 1
    max_lookups: int = 2

    @property
    def holds(self) -> bool:
        return self.unsafe


CHANNELS = (
    Channel("keyed", "fast"),
    Channel("asked", "fast", unsafe=True, asks=True),
    Channel("unsafe", "slow", unsafe=True),
)

SAID = (
    "delivered",
    "retry",
    "retry after",
    "error",
    "timeout",
    "cancel",
    "bounced",
    "discard",
    "snooze",
    "suppress",
    "unknown",
)
"""What an adapter can say or do."""
ANSWERED = (
    "delivered",
    "not done",
    "retry after",
    "error",
    "cancel",
    "discard",
    "snooze",
    "suppress",
    "unknown",
)
"""What a lookup can say."""
UNDECIDED = ("unknown", "error", "snooze")
"""After these a lookup is asked again."""
RESOLVED = ("delivered", "not done", "retry after", "cancel", "bounced", "discard")
"""What a person can say."""


@dataclass
class Debt:
    """A delivery as it should stand."""

    id: UUID
    channel: Channel
    due_at: datetime | None
    priority: int = 5
    expires_at: datetime | None = None
    own_max_attempts: int | None = None
    status: str = "pending"
    attempt: int = 0
    endings: int = 0
    interruptions: int = 0
    snoozes: int = 0
    cancel_requested: str | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    lookup_at: datetime | None = None
    lookups: int = 0
    evidence: int = 0
    retry_in: float = 0.0
    happened: list[tuple[str, Any]] = field(default_factory=lambda: [("Scheduled", None)])

    @property
    def version(self) -> int:
        return len(self.happened)

    @property
    def max_attempts(self) -> int:
        return self.own_max_attempts or self.channel.max_attempts

    def due(self, now: datetime) -> bool:
        return self.status == "pending" and self.due_at is not None and self.due_at <= now

    def abandoned(self, now: datetime) -> bool:
        return self.lease_until is not None and self.lease_until <= now

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def wants_lookup(self, now: datetime) -> bool:
        return self.status == "held" and self.lookup_at is not None and self.lookup_at <= now

    # -- acts of processors --------------------------------------------------------------------

    def start(self, now: datetime, worker: str, lease: float) -> bool:
        """A claim: True where an attempt begins."""
        assert self.due(now), f"claimed while {self.status}, due at {self.due_at}"
        if self.expired(now):
            return self._end("exhausted", "Exhausted", "deadline") and False
        self.retry_in = STEP * (self.endings + 1)
        self.attempt += 1
        self._go("attempting", "Attempted", None)
        self.lease_owner, self.lease_until = worker, now + timedelta(seconds=lease)
        return True

    def report(self, attempt: int, said: str, now: datetime, written_at: datetime) -> bool:
        """The outcome of attempt `attempt`, told at `now`."""
        if self.status != "attempting" or attempt != self.attempt:
            return False
        cause = said if said in ("error", "timeout") else "error"
        if said in ("error", "timeout"):
            said = "unknown" if self.channel.unsafe else "retry"
        elif said == "unknown":
            cause = "unknown"
        if said == "delivered":
            return self._end("succeeded", "Succeeded", None)
        if self.cancel_requested is not None:
            return self._end("cancelled", "Cancelled", self.cancel_requested)
        if said == "unknown" and self.channel.holds:
            return self._hold(cause, written_at)
        if said == "suppress":
            return self._end("suppressed", "Suppressed", None)
        if said == "snooze":
            return self._snooze(now)
        if self._final(said):
            return True
        if self.endings + 1 >= self.max_attempts:
            return self._end("exhausted", "Exhausted", "attempts")
        self.endings += 1
        wait = AFTER if said == "retry after" else self.retry_in
        return self._go("pending", "Failed", cause, now + timedelta(seconds=wait))

    def interrupt(self, attempt: int, now: datetime, written_at: datetime) -> bool:
        """Nobody knows what became of the attempt."""
        if self.status != "attempting" or attempt != self.attempt:
            return False
        if self.cancel_requested is not None:
            return self._end("cancelled", "Cancelled", self.cancel_requested)
        if self.channel.holds:
            return self._hold("crashed", written_at)
        if self.endings + 1 >= self.max_attempts:
            return self._end("exhausted", "Exhausted", "attempts")
        if self.interruptions + 1 >= self.channel.max_interruptions:
            return self._end("exhausted", "Exhausted", "interruptions")
        self.endings += 1
        self.interruptions += 1
        return self._go("pending", "Interrupted", "crashed", now + timedelta(seconds=self.retry_in))

    def give_back(self, attempt: int, now: datetime) -> bool:
        """The attempt never entered its adapter."""
        if self.status != "attempting" or attempt != self.attempt:
            return False
        if self.cancel_requested is not None:
            return self._end("cancelled", "Cancelled", self.cancel_requested)
        return self._go("pending", "Interrupted", "given_back", now)

    def expire(self) -> None:
        self._end("exhausted", "Exhausted", "deadline")

    def renew(self, worker: str, until: datetime) -> bool:
        if self.status != "attempting" or self.lease_owner != worker:
            return False
        assert self.lease_until is not None
        self.lease_until = max(self.lease_until, until)
        return True

    def ask(self, now: datetime, lease: float) -> None:
        """Somebody asks the provider, and nobody else does for a while; or there is no question left."""
        self.lookups += 1
        spent = self.lookups > self.channel.max_lookups
        self.lookup_at = None if spent else now + timedelta(seconds=lease)

    def answer(self, attempt: int, question: int, said: str, told: datetime, now: datetime) -> bool:
        """A lookup's answer, told at `told` and written at `now`; True where it decides."""
        if self.status != "held" or attempt != self.attempt:
            return False
        if said in UNDECIDED:
            if question == self.lookups:  # nobody has asked again meanwhile
                wait = SNOOZE if said == "snooze" else STEP * question
                spent = question >= self.channel.max_lookups
                self.lookup_at = None if spent else now + timedelta(seconds=wait)
            return False
        return self.resolve(said, told, "lookup")

    # -- acts of people ------------------------------------------------------------------------

    def cancel(self, cause: str = "operator") -> bool:
        if self.status == "attempting" and self.cancel_requested is None:
            self.cancel_requested = cause
            self.happened.append(("CancelRequested", cause))
            return True
        if self.status in ("pending", "held"):
            return self._end("cancelled", "Cancelled", cause)
        return False

    def suppress(self) -> bool:
        if self.status == "pending":
            return self._end("suppressed", "Suppressed", None)
        return self.status == "attempting" and self.cancel("suppressed")

    def reschedule(self, due_at: datetime) -> bool:
        return self.status == "pending" and self._go("pending", "Rescheduled", "operator", due_at)

    def resolve(self, said: str, now: datetime, by: str = "operator") -> bool:
        if self.status != "held":
            return False
        if said == "delivered":
            return self._end("succeeded", "Succeeded", None)
        if said == "suppress":
            return self._end("cancelled", "Cancelled", "suppressed")
        if self._final(said):
            return True
        if by == "lookup" and self.endings >= self.max_attempts:
            return self._end("exhausted", "Exhausted", "attempts")
        if by == "lookup" and self.interruptions >= self.channel.max_interruptions:
            return self._end("exhausted", "Exhausted", "interruptions")
        wait = self.retry_in if by == "lookup" else 0.0
        if said == "retry after":
            wait = AFTER
        return self._go("pending", "Rescheduled", "released", now + timedelta(seconds=wait))

    # -- steps ---------------------------------------------------------------------------------

    def _hold(self, cause: str, written_at: datetime) -> bool:
        self.endings += 1
        self.interruptions += cause == "crashed"
        self._go("held", "Held", cause)
        self.lookups = 0
        if self.channel.asks:
            self.lookup_at = written_at + timedelta(seconds=self.retry_in)
        return True

    def _snooze(self, now: datetime) -> bool:
        if self.snoozes >= self.channel.max_snoozes:
            return self._end("exhausted", "Exhausted", "snoozes")
        self.snoozes += 1
        return self._go("pending", "Rescheduled", "snoozed", now + timedelta(seconds=SNOOZE))

    def _final(self, said: str) -> bool:
        if said in ("cancel", "bounced"):
            cause = "permanent_failure" if said == "cancel" else "bounced"
            return self._end("cancelled", "Cancelled", cause)
        return said == "discard" and self._end("exhausted", "Exhausted", "discarded")

    def _end(self, status: str, event: str, cause: Any) -> bool:
        return self._go(status, event, cause)

    def _go(self, status: str, event: str, cause: Any, due_at: datetime | None = None) -> bool:
        self.status, self.due_at = status, due_at
        self.lease_owner = self.lease_until = self.lookup_at = None
        self.happened.append((event, cause))
        return True
