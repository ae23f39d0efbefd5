"""The state machine: one table, and the only code that assigns a status.

Theory of operation
-------------------
A delivery is a stream of events. `TRANSITIONS` says, for every event type, from which states it
may come and to which state it leads; terminal states are those with no way out, and the diagram
in the documentation is drawn from the same table. `evolve` applies one event and is *strict*: what
the table forbids raises `CorruptHistory`, since only a damaged or forged stream can hold it.
(`decide`, next door, is *forgiving*: a command that comes too late yields nothing.)

Beyond the table, three rules keep a stream sound. Attempts are numbered 1, 2, ... without a hole.
An event that closes an attempt names the open one; from held, the one that `Held` named. And
budgets count endings: a failure, a crash and an unknown outcome each count one, whatever follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.errors import CorruptHistory

PENDING, ATTEMPTING, HELD = Status.PENDING, Status.ATTEMPTING, Status.HELD

TRANSITIONS: Final[Mapping[type[e.Event], tuple[tuple[Status | None, ...], Status]]] = MappingProxyType(
    {
        e.Scheduled: ((None,), PENDING),
        e.Rescheduled: ((PENDING, ATTEMPTING, HELD), PENDING),
        e.Attempted: ((PENDING,), ATTEMPTING),
        e.Failed: ((ATTEMPTING,), PENDING),
        e.Interrupted: ((ATTEMPTING,), PENDING),
        e.Held: ((ATTEMPTING,), HELD),
        e.CancelRequested: ((ATTEMPTING,), ATTEMPTING),
        e.Succeeded: ((ATTEMPTING, HELD), Status.SUCCEEDED),
        e.Suppressed: ((PENDING, ATTEMPTING), Status.SUPPRESSED),
        e.Cancelled: ((PENDING, ATTEMPTING, HELD), Status.CANCELLED),
        e.Exhausted: ((PENDING, ATTEMPTING, HELD), Status.EXHAUSTED),
    }
)
"""Event type -> (states it may come from, state it leads to). None is: no delivery yet."""

TERMINAL: Final = frozenset(Status) - {source for sources, _ in TRANSITIONS.values() for source in sources}
"""The states with no way out."""

TERMINAL_EVENTS: Final = frozenset(kind for kind, (_, target) in TRANSITIONS.items() if target in TERMINAL)
"""The event types that end a delivery."""


_NOWHERE: Final = ((), PENDING)
_AFTER_A_CANCEL: Final = (e.Succeeded, e.Cancelled)


def evolve(delivery: Delivery | None, event: e.Event) -> Delivery:
    """`delivery` after `event`; None before the first.

    Raises: CorruptHistory where the table forbids the event in this state, or where it names an
    attempt that is not the open (or held) one.
    """
    kind = type(event)
    sources, target = TRANSITIONS.get(kind, _NOWHERE)
    status = None if delivery is None else delivery.status
    if status not in sources:
        raise CorruptHistory(f"{kind.__name__} cannot follow {status or 'nothing'}")
    if delivery is None:
        return _scheduled(event)  # type: ignore[arg-type]  # nothing else may come from nothing
    _check_attempt(delivery, kind, event)
    changes = _CHANGES[kind](delivery, event)
    return structs.replace(delivery, status=target, version=delivery.version + 1, **changes)


def fold(history: Iterable[e.Event], delivery: Delivery | None = None) -> Delivery | None:
    """The state after `history`, starting from `delivery` (None: from nothing).

    Raises: CorruptHistory, naming the version at which the stream stops making sense.
    """
    for event in history:
        try:
            delivery = evolve(delivery, event)
        except CorruptHistory as error:
            version = 1 if delivery is None else delivery.version + 1
            raise CorruptHistory(f"version {version}: {error}") from None
    return delivery


def diagram() -> str:
    """The table as a Mermaid state diagram; the one in the documentation is this text."""
    lines = ["stateDiagram-v2"]
    for kind, (sources, target) in TRANSITIONS.items():
        lines += [f"    {source or '[*]'} --> {target}: {kind.__name__}" for source in sources]
    lines += [f"    {status} --> [*]" for status in Status if status in TERMINAL]
    return "\n".join(lines)


def _scheduled(event: e.Scheduled) -> Delivery:
    return Delivery(
        id=event.delivery_id,
        channel=event.channel,
        queue=event.queue,
        status=PENDING,
        version=1,
        scheduled_at=event.scheduled_at,
        due_at=event.due_at or event.scheduled_at,
        expires_at=event.expires_at,
        priority=event.priority,
        tenant=event.tenant,
        key=event.key,
        tags=event.tags,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        root_id=event.root_id,
        max_attempts=event.max_attempts,
    )


def _check_attempt(delivery: Delivery, kind: type[e.Event], event: Any) -> None:
    """I4 and I7: attempts have no hole, an outcome names the attempt it closes, a cancel sticks."""
    if kind is e.Attempted:
        expected: int | None = delivery.attempt + 1
    else:
        expected = None if delivery.status is PENDING else delivery.attempt
    if event.attempt != expected:
        raise CorruptHistory(f"{kind.__name__} names attempt {event.attempt} where {expected} was expected")
    if delivery.cancel_requested is not None and kind not in _AFTER_A_CANCEL:
        raise CorruptHistory(f"{kind.__name__} after a cancel was requested")


def _rescheduled(delivery: Delivery, event: e.Rescheduled) -> dict[str, Any]:
    snoozed = event.cause == "snoozed"
    return {"due_at": event.due_at, "snoozes": delivery.snoozes + snoozed}


def _attempted(delivery: Delivery, event: e.Attempted) -> dict[str, Any]:
    return {"due_at": None, "attempt": event.attempt, "rules": event.rules}


def _failed(delivery: Delivery, event: e.Failed) -> dict[str, Any]:
    return {"due_at": event.due_at, "endings": delivery.endings + 1}


def _interrupted(delivery: Delivery, event: e.Interrupted) -> dict[str, Any]:
    return {
        "due_at": event.due_at,
        **_counted(delivery, event.cause == "crashed", event.cause == "crashed"),
    }


def _held(delivery: Delivery, event: e.Held) -> dict[str, Any]:
    return _counted(delivery, True, event.cause == "crashed")


def _counted(delivery: Delivery, ending: bool, crash: bool) -> dict[str, Any]:
    return {"endings": delivery.endings + ending, "interruptions": delivery.interruptions + crash}


def _cancel_requested(delivery: Delivery, event: e.CancelRequested) -> dict[str, Any]:
    return {"cancel_requested": event.cause}


def _ended(delivery: Delivery, event: e.Event) -> dict[str, Any]:
    return {"due_at": None}


_CHANGES: Final[Mapping[type[e.Event], Any]] = MappingProxyType(
    {
        e.Rescheduled: _rescheduled,
        e.Attempted: _attempted,
        e.Failed: _failed,
        e.Interrupted: _interrupted,
        e.Held: _held,
        e.CancelRequested: _cancel_requested,
        **dict.fromkeys(TERMINAL_EVENTS, _ended),
    }
)
