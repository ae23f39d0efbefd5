"""The verbs of operators, on one delivery or on all that fit: cancel, suppress, reschedule, redrive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from deliveries.cli.failures import FOUND, UsageError
from deliveries.cli.many import Many
from deliveries.cli.options import Database
from deliveries.cli.output import data, say, write

if TYPE_CHECKING:
    from deliveries.app import Deliveries
    from deliveries.core.delivery import Delivery

FROM_ENVIRONMENT = Database()
NOT_MANY = Many()


def cancel(
    id: str | None = None,
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    many: Many = NOT_MANY,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Cancel a delivery, or all that fit: no attempt follows, and a running one reports truthfully.

    Exits with 1 where it had come to another end before.

    Args:
        id: The delivery's id; without it, --where says which.
        reason: Why; kept beside the events, and erasable.
        actor: Who says so; kept in the events for ever.
        many: Which, instead of an id; reason and actor are needed then.
        json: Print the delivery, or a report, as one line of JSON.
        database: Where to write.
    """
    with database.opened() as app:
        if _is_one(id, many):
            delivery = _one(app, lambda session: app.cancel(session, id or "", reason=reason, actor=actor))
            return _ended(delivery, "cancelled", json)
        where, said = many.filter(), _said(reason, actor)
        return many.do(lambda dry_run: app.cancel_where(where, **said, dry_run=dry_run), json=json)


def suppress(
    id: str | None = None,
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    many: Many = NOT_MANY,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Suppress a delivery, or all that fit: it must not be sent. A held one stays held.

    Exits with 1 where it had come to another end before, or is held.

    Args:
        id: The delivery's id; without it, --where says which.
        reason: Why; kept beside the events, and erasable.
        actor: Who says so; kept in the events for ever.
        many: Which, instead of an id; reason and actor are needed then.
        json: Print the delivery, or a report, as one line of JSON.
        database: Where to write.
    """
    with database.opened() as app:
        if _is_one(id, many):
            delivery = _one(app, lambda session: app.suppress(session, id or "", reason=reason, actor=actor))
            return _ended(delivery, "suppressed", json)
        where, said = many.filter(), _said(reason, actor)
        return many.do(lambda dry_run: app.suppress_where(where, **said, dry_run=dry_run), json=json)


def reschedule(
    id: str | None = None,
    /,
    *,
    due_at: datetime | None = None,
    delay: float | timedelta | None = None,
    reason: str | None = None,
    actor: str | None = None,
    many: Many = NOT_MANY,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Move the due time of a pending delivery, or of all that fit. Any other stays as it is.

    Exits with 1 where the delivery is not pending.

    Args:
        id: The delivery's id; without it, --where says which.
        due_at: To then: ISO 8601 with an offset, such as 2030-01-31T09:00Z.
        delay: To so long from now: seconds, or such as 90m, 1h30m, 2d.
        reason: Why; kept beside the events, and erasable.
        actor: Who says so; kept in the events for ever.
        many: Which, instead of an id; reason and actor are needed then.
        json: Print the delivery, or a report, as one line of JSON.
        database: Where to write.
    """
    when: dict[str, Any] = {"due_at": due_at, "delay": delay}
    with database.opened() as app:
        if _is_one(id, many):
            delivery = _one(
                app, lambda session: app.reschedule(session, id or "", **when, reason=reason, actor=actor)
            )
            return _moved(delivery, json)
        where, said = many.filter(), _said(reason, actor)
        return many.do(lambda dry: app.reschedule_where(where, **when, **said, dry_run=dry), json=json)


def redrive(
    id: str | None = None,
    /,
    *,
    due_at: datetime | None = None,
    delay: float | timedelta | None = None,
    expires_at: datetime | None = None,
    new_key: bool = False,
    may_repeat: bool = False,
    reason: str | None = None,
    actor: str | None = None,
    many: Many = NOT_MANY,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Owe once more what an ended delivery owed, or all that fit: a new delivery, linked to it, once.

    Without an application it is not known which adapters are unsafe by now; the rules that each
    delivery froze still count.

    Args:
        id: The ended delivery's id; without it, --where says which.
        due_at: Not before then: ISO 8601 with an offset, such as 2030-01-31T09:00Z.
        delay: Not before so long from now: seconds, or such as 90m, 1h30m, 2d.
        expires_at: No attempt starts after then; the old deadline is not kept.
        new_key: Give it an idempotency key of its own; its receiver takes it for another effect.
        may_repeat: Also where an effect that happened, or may have, could happen again.
        reason: Why; kept beside the events, and erasable.
        actor: Who says so; kept in the events for ever.
        many: Which, instead of an id; reason and actor are needed then.
        json: Print the new delivery, or a report, as one line of JSON.
        database: Where to write.
    """
    how: dict[str, Any] = {"due_at": due_at, "delay": delay, "expires_at": expires_at}
    how |= {"new_key": new_key, "may_repeat": may_repeat}
    with database.opened() as app:
        if _is_one(id, many):
            made = _one(
                app, lambda session: app.redrive(session, id or "", **how, reason=reason, actor=actor)
            )
            _show(made, json, f"Delivery {id} {'is' if made.created else 'was'} redriven as {made.id}")
            return 0
        where, said = many.filter(), _said(reason, actor)
        return many.do(lambda dry: app.redrive_where(where, **how, **said, dry_run=dry), json=json)


def resolve(
    id: str,
    outcome: Literal["delivered", "not-done", "cancel", "bounced", "discard"],
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Say what became of a held delivery.

    Exits with 1 where it is not held.

    Args:
        id: The delivery's id.
        outcome: delivered: it happened. not-done: it did not, attempt it again. Others: give up.
        reason: Why, or how it is known; kept beside the events, and erasable.
        actor: Who says so; kept in the events for ever.
        json: Print the delivery as one line of JSON.
        database: Where to write.
    """
    from deliveries.core import outcomes as o

    said = {
        "delivered": o.Delivered,
        "not-done": o.NotDone,
        "cancel": o.Cancel,
        "bounced": o.Bounced,
        "discard": o.Discard,
    }[outcome]()
    with database.opened() as app, app.engine.begin() as connection:
        before = app.get(id, session=connection)
        delivery = app.resolve(connection, id, said, reason=reason, actor=actor)
    changed = delivery.version > before.version
    _show(delivery, json, f"Delivery {delivery.id} is {delivery.status.value}" if changed else None)
    if changed:
        return 0
    say(f"delivery {delivery.id} is not held: it is {delivery.status.value}")
    return FOUND


# -- shared ------------------------------------------------------------------------------------


def _is_one(id: str | None, many: Many) -> bool:
    """Whether a single delivery is meant. Raises: UsageError where both are, or neither is."""
    if (id is None) == (not many.given()):
        raise UsageError("give the id of one delivery, or --where for all that fit")
    return id is not None


def _said(reason: str | None, actor: str | None) -> dict[str, Any]:
    if not reason or not actor:
        raise UsageError("an act on many deliveries needs --reason and --actor")
    return {"reason": reason, "actor": actor}


def _one(app: Deliveries, act: Callable[[Any], Delivery]) -> Delivery:
    with app.engine.begin() as connection:
        return act(connection)


def _ended(delivery: Delivery, wanted: str, json: bool) -> int:
    """What became of an act that was to end it."""
    text = None
    if delivery.status == wanted:
        text = f"Delivery {delivery.id} is {wanted}"
    elif delivery.cancel_requested:
        text = f"Delivery {delivery.id} is cancelled unless attempt {delivery.attempt} succeeds"
    _show(delivery, json, text)
    if delivery.status == wanted or (not delivery.is_terminal and (text or wanted == "cancelled")):
        return 0
    if delivery.is_terminal:
        say(f"delivery {delivery.id} had ended before: it is {delivery.status.value}")
    else:
        say(f"delivery {delivery.id} is {delivery.status.value}, and stays so")
    return FOUND


def _moved(delivery: Delivery, json: bool) -> int:
    moved = delivery.due_at is not None
    _show(
        delivery,
        json,
        f"Delivery {delivery.id} is due at {delivery.due_at:%Y-%m-%d %H:%M:%SZ}" if moved else None,
    )
    if moved:
        return 0
    say(f"delivery {delivery.id} is {delivery.status.value}, and is not moved")
    return FOUND


def _show(delivery: Delivery, json: bool, text: str | None) -> None:
    if json:
        from deliveries.cli.show import fields

        data(fields(delivery))
    elif text is not None:
        write(text)
