"""One database with deliveries, the workers that come and die on it, and the verdict at the end."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

from msgspec import json as msgspec_json
from sqlalchemy import Select, func, or_, select

from crash.plots import Plot
from crash.points import Gate
from crash.shop import application
from crash.zygote import PATIENCE, Child, Zygote
from deliveries import Delivered, NotDone, Status
from deliveries.audit.invariants import Called
from deliveries.core import events as e
from deliveries.core.stream import Recorded
from deliveries.store.schema import deliveries, events
from deliveries.testing.proof import broken


def until(condition: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Look again and again; False where the condition did not come to hold in time."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class World:
    """A context manager: a database with our schema at `url`, and a receiver in a process of its own."""

    def __init__(
        self,
        zygote: Zygote,
        url: str,
        *,
        lease: float,
        variant: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._receiver = zygote.fork("receiver")
        receiver = self._receiver.wait_for("http")
        self._address = urlsplit(receiver)
        self.app = application(url, receiver, Gate(lambda line: None))
        self.lease, self._patience = lease, patience
        self.findings: list[str] = []
        """What went wrong on the way; `judge` adds what is wrong at the end."""
        self._zygote = zygote
        self._arguments = {"url": url, "receiver": receiver, "lease": lease, "variant": variant}
        self._plots: dict[UUID, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.app.close()
        self._receiver.kill()

    # -- deliveries ----------------------------------------------------------------------------

    def owe(self, *plots: Plot, priority: int = 5) -> list[UUID]:
        """Schedule one delivery for each plot."""
        made: dict[UUID, str] = {}
        with self.app.engine.begin() as connection:
            for plot in plots:
                options = dict(plot.options)
                if seconds := options.pop("expires_in", None):
                    options["expires_at"] = datetime.now(UTC) + timedelta(seconds=seconds)
                payload = msgspec_json.decode(msgspec_json.encode(plot.order))
                delivery = self.app.schedule(connection, plot.channel, payload, priority=priority, **options)
                made[delivery.id] = plot.name
        self._plots |= made
        return list(made)

    def live_plots(self) -> set[str]:
        """Plots that are not at their end."""
        live = deliveries.c.status.in_((Status.PENDING, Status.ATTEMPTING, Status.HELD))
        return {self._plots[row.id] for row in self._rows(select(deliveries.c.id).where(live))}

    def is_still(self) -> bool:
        """Whether a processor has nothing left to do, now or later."""
        busy = or_(
            deliveries.c.status.in_((Status.PENDING, Status.ATTEMPTING)),
            (deliveries.c.status == Status.HELD) & deliveries.c.lookup_at.is_not(None),
        )
        return not self._count(busy)

    def _count(self, condition: Any) -> int:
        return int(self._rows(select(func.count()).where(condition))[0][0])

    def _rows(self, statement: Select[Any]) -> list[Any]:
        with self.app._store.reading() as connection:
            return list(connection.execute(statement))

    # -- workers -------------------------------------------------------------------------------

    def worker(self, **arguments: Any) -> Child:
        """A worker process; see `crash.worker.main`."""
        return self._zygote.fork("worker", **self._arguments, **arguments)

    def until_hit(self, worker: Child, patience: float = 4.0) -> bool:
        """Wait until the worker has come to its point, or there is nothing more that leads there."""
        end = time.monotonic() + patience
        look = time.monotonic() + 0.2
        while worker.read(0.02):
            if any(line.startswith("at ") for line in worker.lines):
                return True
            if time.monotonic() > look:
                if time.monotonic() > end or self.is_still():
                    return False
                look = time.monotonic() + 0.05
        return any(line.startswith("at ") for line in worker.lines)

    def stop(self, worker: Child, *codes: int) -> int:
        """SIGTERM; it must end with one of these codes (0 if none), and leave nothing open."""
        worker.is_ready()  # before, a signal ends it as it ends everybody
        worker.signal(signal.SIGTERM)
        return self.ended(worker, *codes or (0,))

    def ended(self, worker: Child, *codes: int) -> int:
        """Its exit code, which must be one of these; who was told to end leaves nothing open."""
        try:
            code = worker.wait()
        except AssertionError:
            self.findings.append(f"a worker does not end: {worker.where_it_is()}")
            worker.signal(signal.SIGKILL)
            code = worker.wait()
        self.findings += [
            f"a worker said: {line}" for line in worker.lines if line.startswith(("log", "error"))
        ]
        if code not in codes:
            self.findings.append(f"a worker ended with {code}, not {codes}: {worker.lines[-3:]}")
        if code in (0, -signal.SIGTERM) and (open_ := self._of(worker)):
            self.findings.append(f"a worker that ended properly left open: {open_}")
        return code

    def _of(self, worker: Child) -> list[Any]:
        """Attempts that this worker has under a lease."""
        mine = deliveries.c.lease_owner.contains(f":{worker.pid}:")
        columns = (deliveries.c.id, deliveries.c.channel)
        return self._rows(select(*columns).where(deliveries.c.status == Status.ATTEMPTING, mine))

    def sleep(self, worker: Child, *codes: int) -> None:
        """It was halted: for three leases another one works, then it goes on, and has come too late."""
        until(worker.is_halted)
        asleep = time.monotonic()
        other = self.worker()
        until(lambda: time.monotonic() > asleep + 3 * self.lease)
        worker.signal(signal.SIGCONT)
        self.stop(worker, 0, *codes)
        self.stop(other)

    # -- the end -------------------------------------------------------------------------------

    def finish(self) -> Child:
        """A healthy worker does the rest, and a person decides what is held for one."""
        worker = self.worker()
        while self._comes_to_rest() and self._decide_held():
            pass
        self.stop(worker)
        return worker

    def _comes_to_rest(self) -> bool:
        """Wait as long as something happens; False where nothing does, and work is left."""
        seen = -1
        while seen != (seen := self._rows(select(func.max(events.c.position)))[0][0]):
            if until(self.is_still, self._patience):
                return True
        return False

    def _decide_held(self) -> int:
        effects = self._ask("/all")["effects"]
        with self.app.engine.begin() as connection:
            held = [
                row.id for row in connection.execute(select(deliveries).where(deliveries.c.status == "held"))
            ]
            for id in held:
                happened = effects.get(str(id), 0) > 0
                self.app.resolve(connection, id, Delivered() if happened else NotDone(), actor="ann")
        return len(held)

    def judge(self) -> list[str]:
        """Everything that is wrong with this world, once it has been finished; empty is good."""
        seen = self._ask("/all")
        rows = self._rows(select(deliveries))
        ids = {str(row.id): row for row in rows}
        effects = {id: count for id, count in seen["effects"].items() if id in ids}
        calls = [
            Called(
                delivery_id=UUID(id),
                attempt=one["attempt"],
                key=one["key"],
            )
            for id, requests in seen["requests"].items()
            if id in ids
            for one in requests
        ]
        keyed = {id: count for id, count in effects.items() if ids[id].channel.startswith("keyed")}
        found = [
            f"{one.rule}: {one.text} (version {one.version} of {one.delivery_id})"
            for one in broken(self.app.engine, calls=calls, effects=keyed, ended=True)
        ]
        for id, row in ids.items():
            found += self._truth(row, effects.get(id, 0), seen["requests"].get(id, []))
        return self.findings + found

    def _truth(self, row: Any, effects: int, requests: list[dict[str, Any]]) -> list[str]:
        """Is what the record says what the receiver has seen?"""
        found = []
        history = self.app.history(row.id)
        if effects > 1 and not row.channel.startswith("keyed") and not _overtaken(history, requests):
            found.append(f"E3: {effects} effects of {row.channel} {row.id}: {requests} in {history}")
        if row.status == Status.SUCCEEDED and not effects:
            found.append(f"lost: {row.channel} {row.id} succeeded without an effect")
        if row.status == Status.HELD:
            found.append(f"lost: {row.channel} {row.id} is still held")
        entered = {one["attempt"]: datetime.fromisoformat(one["entered"]) for one in requests}
        for one in history:
            called = entered.get(getattr(one.event, "attempt", None) or 0)
            if called is None or isinstance(one.event, e.Attempted):
                continue
            if isinstance(one.event, e.Interrupted) and one.event.cause == "given_back":
                found.append(f"N1: given back, but called: attempt {one.event.attempt} of {row.id}")
            elif (called - one.recorded_at).total_seconds() > self.lease:
                # a processor's clock is as late as the answer that told it the time was
                found.append(
                    f"N1: called {called}, closed {one.recorded_at}: attempt {one.event} of {row.id}"
                )
        return found

    def counts(self) -> tuple[int, int, int]:
        """Deliveries, attempts and effects."""
        rows = self._rows(select(deliveries.c.id, deliveries.c.attempt))
        effects = self._ask("/all")["effects"]
        return len(rows), sum(row.attempt for row in rows), sum(effects.get(str(row.id), 0) for row in rows)

    def _ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=20)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _overtaken(history: Sequence[Recorded], requests: Sequence[dict[str, Any]]) -> bool:
    """Whether a request came when its attempt had been closed: sent by one that was halted, or starved,
    for longer than its lease, or that had timed out. No lookup and no person can have known of it."""
    for one in requests:
        closed = [
            event.recorded_at
            for event in history
            if getattr(event.event, "attempt", None) == one["attempt"]
            and not isinstance(event.event, (e.Attempted, e.CancelRequested))
        ]
        if closed and datetime.fromisoformat(one["arrived"]) > closed[0]:
            return True
    return False
