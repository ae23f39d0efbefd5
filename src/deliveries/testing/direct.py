"""One attempt of one adapter, without a database: what it would be given, and what it says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from msgspec import structs

from deliveries import scheduling
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.events import Attempted
from deliveries.core.stream import Stream, advance
from deliveries.processor.call import Call
from deliveries.registration import Registration
from deliveries.store.rows import with_contents
from deliveries.testing.performing import Caller, Stage

if TYPE_CHECKING:
    from deliveries.app import Deliveries


def perform(
    app: Deliveries, stage: Stage, channel: str, payload: Any, number: int, **draft: Any
) -> o.Outcome:
    """What the adapter of `channel` says to attempt `number` of such a delivery.

    Raises: what the adapter raises, outcomes aside; TimeoutError; TypeError where it returned the
    class of an outcome; UnknownChannel, InvalidPayload, InvalidSchedule.
    """
    registration = app._registration(channel)
    call = _call(app, stage, registration, scheduling.Draft(payload=payload, **draft), number)
    Caller(_ignore, _ignore, stage).make(call)
    if call.cause == "timeout":
        raise TimeoutError(f"no answer within {call.timeout:g} s")
    if call.error is not None and not isinstance(call.error, o.Outcome):
        raise call.error
    said = call.value if call.error is None else call.error
    if isinstance(said, type) and issubclass(said, o.Outcome):
        raise TypeError(f"the adapter returned the class {said.__name__}, not an instance")
    outcome = o.outcome_of(said)
    o.sound(outcome)
    return outcome


def _call(
    app: Deliveries, stage: Stage, registration: Registration, draft: scheduling.Draft, number: int
) -> Call:
    now = stage.clock.now()
    birth = scheduling.prepare(draft, registration, now, app._max_payload_bytes)
    born = birth.change.stream
    assert born.delivery is not None
    beside = birth.contents
    stream = structs.replace(born, delivery=with_contents(born.delivery, beside.recipient, beside.payload))
    for attempt in range(1, number):
        stream = _then(
            _started(stream, registration, now), c.Report(now=now, attempt=attempt, outcome=o.Retry())
        )
    return Call(_started(stream, registration, now), registration, now, lease_until=math.inf)


def _started(stream: Stream, registration: Registration, now: Any) -> Stream:
    assert stream.delivery is not None
    rules = registration.rules(stream.delivery)
    return _then(stream, c.Start(now=now, worker="test", rules=rules), Attempted)


def _then(stream: Stream, command: c.Command, kind: type[Any] = object) -> Stream:
    change = advance(stream, command)
    if change is None or not isinstance(change.event, kind):
        attempt = 0 if stream.delivery is None else stream.delivery.attempt
        raise ValueError(f"there is no attempt after number {attempt}: its budget or its time is spent")
    return change.stream


def _ignore(call: Call) -> None:
    """Nobody records it."""
