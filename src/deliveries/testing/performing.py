"""The product's own processor, with its calls made one by one in the thread that asks for them.

So what a test drains is decided and recorded as in production, and adapters can be stepped through.
Instead of a heartbeat and deadlines there is the virtual clock: a call during which it passes the
adapter's timeout has timed out, and a process that dies leaves its lease to the sweep.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Struct

from deliveries.audit.invariants import Called
from deliveries.clock import Clock
from deliveries.core.delivery import Attempt, Delivery
from deliveries.processor import ticks
from deliveries.processor.ask import Ask
from deliveries.processor.call import Call
from deliveries.processor.executor import Executor
from deliveries.processor.ledger import Summary
from deliveries.processor.processor import Processor

if TYPE_CHECKING:
    from deliveries.app import Deliveries

MAX_CALLS = 10_000
"""Calls in one drain; whoever needs more owes something new with every call."""


class Crash(BaseException):
    """Raised in an adapter that the kit calls: its process dies here, and reports nothing."""


class AdapterCall(Struct, frozen=True, kw_only=True):
    """One call of an adapter, or of its lookup."""

    delivery: Delivery
    attempt: Attempt
    is_lookup: bool
    entered_at: datetime
    """UTC, by the virtual clock."""

    @property
    def called(self) -> Called:
        """As the judges want it."""
        return Called(
            delivery_id=self.delivery.id,
            attempt=self.attempt.number,
            key=self.delivery.idempotency_key,
            entered_at=self.entered_at,
        )


class Loop:
    """One event loop for all asynchronous calls of a kit, in a thread of its own, as in production."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Wait for `coroutine`; it sees the caller's context variables."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="deliveries-loop")
        context = contextvars.copy_context()
        self._thread.submit(lambda: self._runner.run(coroutine, context=context)).result()

    def close(self) -> None:
        """End the loop."""
        if self._thread is not None:
            self._thread.submit(self._runner.close).result()
            self._thread.shutdown()


class Caller(Executor):
    """Makes calls one by one, remembers them on the `stage`, and lets some die as it says."""

    def __init__(self, done: Callable[[Call], None], lost: Callable[[Call], None], stage: Stage) -> None:
        super().__init__(done)
        self._lost, self._stage = lost, stage

    def submit(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if self.make(call):
                self._over(call)
            else:
                self._lost(call)

    def make(self, call: Call) -> bool:
        """Call the adapter, its lookup or a policy. False where the process died."""
        stage = self._stage
        if isinstance(call, Ask):
            self._call(call)
            return True
        dies = stage.crashes.popleft() if stage.crashes and not call.is_lookup else None
        if dies == "before":
            return False
        stage.calls.append(
            AdapterCall(
                delivery=call.delivery,
                attempt=call.attempt,
                is_lookup=call.is_lookup,
                entered_at=stage.clock.now(),
            )
        )
        self._call(call)
        return dies is None and not isinstance(call.error, Crash)

    def _call(self, call: Call) -> None:
        began = self._stage.clock.now()
        if call.is_async:
            self._stage.loop.run(self._run_async(call))
        else:
            self._run(call)
        if self._stage.clock.now() - began >= timedelta(seconds=call.timeout):
            call.time_out()


class Stage:
    """What the drains of one kit share."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.loop = clock, Loop()
        self.calls: list[AdapterCall] = []
        """Every call that the kit made, in order."""
        self.left = MAX_CALLS
        """Calls until a drain is given up."""
        self.room_at: datetime | None = None
        """When a queue whose rate is spent has room again, as the last drain saw it."""
        self.crashes: deque[str] = deque()
        """For the next calls: `before` or `after` the adapter the process dies."""

    def aside(self) -> Stage:
        """The same clock and loop, for calls that belong to no delivery."""
        other = copy.copy(self)
        other.calls, other.crashes = [], deque()
        return other

    def close(self) -> None:
        """End the event loop."""
        self.loop.close()


def perform(app: Deliveries, stage: Stage, id: UUID) -> Summary:
    """Attempt one delivery now, in this thread, if it is due and free."""
    processor = _processor(app, stage, {})
    processor.perform(id)
    return processor.summary


def drain(app: Deliveries, stage: Stage, queues: Mapping[str, int] | None) -> Summary:
    """Perform all that is due now, in this thread. Raises: AssertionError where no call is `left`."""
    processor = _processor(app, stage, queues)
    summary = processor.run(until_idle=True)
    wait = processor._claims.limits.wake_at - ticks.monotonic()
    stage.room_at = stage.clock.now() + timedelta(seconds=max(wait, 0.001)) if wait < math.inf else None
    if stage.left <= 0:
        raise AssertionError(f"more than {MAX_CALLS} calls in one drain: every call owes something new")
    return summary


def _processor(app: Deliveries, stage: Stage, queues: Mapping[str, int] | None) -> Processor:
    """A processor as the application makes it, without threads of its own."""
    processor = app.processor(queues, linger=0.0)

    def done(call: Call) -> None:
        processor._returned(call)
        stage.left -= 1
        if stage.left <= 0:
            processor.stop(0)

    def lost(call: Call) -> None:
        call.returned = True
        processor._claims.release(call)
        del processor._calls[id(call)]

    processor._executor = Caller(done, lost, stage)
    processor._policing._executor = Caller(processor._policing._returned, lost, stage)
    vars(processor)["_serving"] = nullcontext  # no heartbeat and no watchdog: time stands still
    return processor
