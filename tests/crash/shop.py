"""The application that is killed: adapters that do as their payload says, and pass a gate at each step.

Channels are named `<what they promise> <how they are called>`: `keyed` goes to a receiver that honours
keys; `held` and `asked` are unsafe, and an unknown outcome of theirs is held for a person, or looked
up. `hasty` ones time out while the receiver still holds its answer.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, convert

from crash.points import Gate
from deliveries import (
    Attempt,
    Backoff,
    Bounced,
    Delivered,
    Deliveries,
    Delivery,
    NotDone,
    Retry,
    Snooze,
    Unknown,
)

QUEUES = {"pay": 4}
HASTE = 0.15
"""Seconds that a hasty adapter is given."""
PROMISES: dict[str, dict[str, Any]] = {
    "keyed": {},
    "held": {"effect": "unsafe", "on_unknown": "hold"},
    "asked": {"effect": "unsafe", "max_lookups": 6},
}
CHANNELS = tuple(
    f"{promise}{haste}-{mode}"
    for haste in ("", "-hasty")
    for promise in PROMISES
    for mode in ("sync", "async")
)


class Order(Struct, frozen=True, kw_only=True):
    """A payload: what shall happen to this delivery."""

    answers: tuple[int, ...] = (200,)
    """What the receiver answers to attempt 1, 2, ...; the last one stays."""
    hold: float = 0.0
    """Seconds for which the receiver holds its first answer."""
    cancel: bool = False
    """Somebody cancels it during the first call."""
    says: str = ""
    """What the adapter says of its first attempt, in place of asking the receiver: snooze, bounce."""
    shy: int = 0
    """So many lookups have no answer."""


class _Step(Struct, frozen=True, kw_only=True):
    """One call as its adapter sees it."""

    name: str
    order: Order
    is_first: bool
    entered: datetime

    @property
    def cancels(self) -> bool:
        return self.order.cancel and self.is_first

    @property
    def says(self) -> str:
        return self.order.says if self.is_first else ""


def application(url: str, receiver: str, gate: Gate) -> Deliveries:
    """The application on this database; nobody watches its engine yet."""
    app = Deliveries(url)
    for channel in CHANNELS:
        _Adapter(app, channel, receiver, gate)
    return app


class _Adapter:
    """One channel: `def` or `async def`, with the same steps."""

    def __init__(self, app: Deliveries, channel: str, receiver: str, gate: Gate) -> None:
        self._app, self._channel, self._gate = app, channel, gate
        parts = urlsplit(receiver)
        self._address = (parts.hostname or "", parts.port or 0)
        promise = channel.partition("-")[0]
        mode = channel.rpartition("-")[2]
        options = PROMISES[promise] | {
            "queue": "pay",
            "timeout": HASTE if "hasty" in channel else 20.0,
            "backoff": Backoff.linear(0.02),
            "max_attempts": 8,
            "max_interruptions": 5,
        }
        if promise == "asked":
            options["lookup"] = self.ask if mode == "sync" else self.ask_async
        app.adapter(channel, **options)(self.call if mode == "sync" else self.call_async)

    # -- attempts ------------------------------------------------------------------------------

    def call(self, delivery: Delivery, attempt: Attempt) -> Any:
        step = self._enter(delivery, attempt)
        if step.cancels:
            cancel(self._app, delivery)
        if step.says:
            return self._say(step.says)
        status = self._post(step, delivery, attempt)
        self._gate(f"{step.name}: after the answer")
        return self._outcome(status)

    async def call_async(self, delivery: Delivery, attempt: Attempt) -> Any:
        step = self._enter(delivery, attempt)
        if step.cancels:
            await asyncio.to_thread(cancel, self._app, delivery)
        if step.says:
            return self._say(step.says)
        status = await asyncio.to_thread(self._post, step, delivery, attempt)
        self._gate(f"{step.name}: after the answer")
        return self._outcome(status)

    def _enter(self, delivery: Delivery, attempt: Attempt) -> _Step:
        order = convert(delivery.payload, Order)
        which = "last" if attempt.is_last else "first" if attempt.number == 1 else "next"
        step = _Step(
            name=f"{self._channel} {which}{' cancelled' if order.cancel else ''}",
            order=order,
            is_first=attempt.number == 1,
            entered=datetime.now(UTC),
        )
        self._gate(f"{step.name}: before the request")
        return step

    def _post(self, step: _Step, delivery: Delivery, attempt: Attempt) -> int:
        """One piece: who is to be signalled by the receiver has sent it something."""
        return self._send("POST", "/", self._request(step, delivery, attempt))[0]

    def _request(self, step: _Step, delivery: Delivery, attempt: Attempt) -> dict[str, Any]:
        moments = ("before", "after")
        due = [
            when for when in moments if self._gate.is_due(f"{step.name}: {when} the effect, at the receiver")
        ]
        answers = step.order.answers
        return {
            "delivery": str(delivery.id),
            "key": delivery.idempotency_key,
            "attempt": attempt.number,
            "entered": step.entered.isoformat(),
            "keyed": self._channel.startswith("keyed"),
            "answer": answers[min(attempt.number, len(answers)) - 1],
            "hold": step.order.hold if step.is_first else 0.0,
            "signal": [due[0], self._gate.sign, os.getpid()] if due else None,
        }

    def _outcome(self, status: int) -> Any:
        if status == 200:
            return Delivered({"status": status})
        if self._channel.startswith("keyed"):
            raise ConnectionError(f"the receiver answered {status}")
        return Retry(f"the receiver answered {status}")  # it says that nothing has happened

    def _say(self, word: str) -> Any:
        return {"snooze": Snooze(for_=0.02), "bounce": Bounced("no such address")}[word]

    # -- lookups -------------------------------------------------------------------------------

    def ask(self, delivery: Delivery, attempt: Attempt) -> Any:
        self._gate(f"{self._channel} lookup: before the question")
        order = convert(delivery.payload, Order)
        done = self._send("GET", f"/done?delivery={delivery.id}&shy={order.shy}")[1]
        self._gate(f"{self._channel} lookup: after the answer")
        return {True: Delivered(), False: NotDone(), None: Unknown("no answer")}[done]

    async def ask_async(self, delivery: Delivery, attempt: Attempt) -> Any:
        return await asyncio.to_thread(self.ask, delivery, attempt)

    def _send(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        try:
            connection.request(method, path, json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def cancel(app: Deliveries, delivery: Delivery) -> None:
    """Somebody gives it up while it is called."""
    with app.engine.begin() as connection:
        app.cancel(connection, delivery.id, reason="changed my mind", actor="ann")
