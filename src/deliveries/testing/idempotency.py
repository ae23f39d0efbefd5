"""Terminal-state idempotency, in an application: whatever is asked of what has ended, nothing happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import select

from deliveries.app import Deliveries, Id
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.delivery import Delivery
from deliveries.store.schema import deliveries
from deliveries.testing.examples import rules, scheduled


def check_terminal_idempotency(app: Deliveries, id: Id) -> None:
    """A finished delivery of `app` is left alone by everybody, in its own database.

    It is performed, claimed, cancelled, suppressed, rescheduled and resolved, and gets every command
    of the core, late reports of its last attempt among them. Its stream and its row stay as they are,
    byte by byte, and no adapter is called.

    Raises: AssertionError, naming what did something; ValueError where the delivery has not ended.
    """
    delivery = app.get(id)
    if not delivery.is_terminal:
        raise ValueError(f"delivery {id} is {delivery.status}: it has not ended")
    before = _stands(app, delivery.id)
    with _watched(app) as called:
        for name, act in _acts(app, delivery):
            act()
            what = f"{name} on a {delivery.status} delivery"
            if called:
                raise AssertionError(f"{what} called the adapter of {', '.join(called)}")
            after = _stands(app, delivery.id)
            if after != before:
                raise AssertionError(f"{what} changed it\n{_differs(before, after)}")


def _acts(app: Deliveries, delivery: Delivery) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that can be asked, by people, processors and late workers."""
    yield "perform", partial(app.perform, delivery.id)
    yield "a processor's claim", partial(app.processor({}).perform, delivery.id)
    verbs: dict[str, Mapping[str, Any]] = {
        "cancel": {"reason": "too late"},
        "suppress": {"reason": "too late"},
        "reschedule": {"delay": 0},
        "resolve": {"outcome": o.NotDone()},
    }
    for verb, options in verbs.items():
        yield verb, partial(_in_a_transaction, app, verb, delivery.id, **options)
    for command in _commands(app, delivery):
        yield f"a late {type(command).__name__}", partial(_tell, app, delivery.id, command)


def _in_a_transaction(app: Deliveries, verb: str, id: UUID, **options: Any) -> None:
    with app.engine.begin() as connection:
        getattr(app, verb)(connection, id, **options)


def _tell(app: Deliveries, id: UUID, command: c.Command) -> None:
    with app._store.transaction() as connection:
        app._store.command(connection, id, lambda _: command)


def _commands(app: Deliveries, delivery: Delivery) -> list[c.Command]:
    """One of each kind, as its last attempt, its sweep or its operator would give it."""
    now, attempt = app._store.clock.now(), delivery.attempt
    later = now + timedelta(days=1)
    return [
        c.Schedule(now=now, scheduled=scheduled(delivery_id=delivery.id)),
        c.Start(now=now, worker="late", rules=rules()),
        *(
            c.Report(now=now, attempt=attempt, outcome=outcome)
            for outcome in (o.Delivered(), o.Retry("503"), o.Unknown(), o.Snooze(1), o.Cancel(), o.Suppress())
        ),
        c.Interrupt(now=now, attempt=attempt),
        c.GiveBack(now=now, attempt=attempt),
        c.Defer(now=now, until=later),
        c.Cancel(now=now),
        c.Suppress(now=now),
        c.Reschedule(now=now, due_at=later),
        c.Resolve(now=now, outcome=o.NotDone(), by="lookup", attempt=attempt),
        c.Resolve(now=now, outcome=o.Delivered(), by="operator"),
        c.Expire(now=later),
    ]


@contextmanager
def _watched(app: Deliveries) -> Iterator[list[str]]:
    """The channels whose adapter is entered meanwhile; none of them does anything."""
    called: list[str] = []

    def wire(delivery: Delivery, attempt: Any) -> None:
        called.append(delivery.channel)

    kept = dict(app._registrations)
    for channel, registration in kept.items():
        app._registrations[channel] = replace(registration, function=wire)
    try:
        yield called
    finally:
        app._registrations.clear()
        app._registrations.update(kept)


def _stands(app: Deliveries, id: UUID) -> dict[str, Any]:
    """The delivery's stream and row, to be compared."""
    with app._store.reading() as connection:
        row = connection.execute(select(deliveries).where(deliveries.c.id == id)).one()
        stream = [(one.version, one.type, one.digest) for one in app._store.history(connection, id)]
    return {"stream": stream, **row._mapping}


def _differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [name for name in before if before[name] != after[name]]
    return "\n".join(f"  {name} was {before[name]!r} and is {after[name]!r}" for name in changed)
