"""Asking policies while something is scheduled, in the caller's thread and transaction.

Before the insert they decide; after it their decision is an event of its own, in the same
transaction, so that the history says what was asked for and what became of it. No processor ever
sees the delivery in between.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import CoroutineType
from typing import Any
from uuid import UUID

from msgspec import structs
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from deliveries.births import newborn
from deliveries.core import commands as c
from deliveries.core.delivery import Delivery
from deliveries.core.notes import Note, describe
from deliveries.core.outcomes import Outcome, text_of
from deliveries.core.policy import Defer, Proceed, decision_of
from deliveries.core.stream import Change, advance
from deliveries.errors import InvalidSchedule
from deliveries.policies.registered import Policies, Policy, Present
from deliveries.store.failures import cause
from deliveries.store.rows import Birth, Write
from deliveries.store.store import Store

_log = logging.getLogger("deliveries")


def decided(
    policies: Policies, store: Store, connection: Connection, births: Sequence[Birth]
) -> dict[UUID, Change]:
    """Delivery -> what its policies add to its birth; those that may proceed are left out.

    Raises: InvalidSchedule where a policy gave no answer that is not asked again before the attempt.
    """
    found: dict[UUID, Change] = {}
    asked: Present | None = None
    for birth in births:
        for policy in policies.of(birth.scheduled.channel, "schedule"):
            asked = asked or Present(store, connection)
            command = _command(policy, newborn(birth), asked)
            change = None if command is None else advance(birth.change.stream, command)
            if change is not None:
                found[birth.change.after.id] = change
                break
    return found


def record(
    store: Store, connection: Connection, decisions: Mapping[UUID, Change], delivered: Sequence[Delivery]
) -> list[Delivery]:
    """Append the decisions about those that were created; `delivered` as they are then."""
    changes = [decisions[one.id] for one in delivered if one.created and one.id in decisions]
    store.append(connection, [Write(change) for change in changes])
    after = {change.after.id: change.after for change in changes}
    return [
        structs.replace(after[one.id], recipient=one.recipient, payload=one.payload)
        if one.created and one.id in after
        else one
        for one in delivered
    ]


def _command(policy: Policy, delivery: Delivery, asked: Present) -> c.Command | None:
    said: Any = _said(policy, delivery, asked)
    if said is None:
        return None
    decision, text = decision_of(said), text_of(said)
    note = None if text is None else Note(describe(text), os.urandom(16))
    if isinstance(decision, Defer):
        until = _not_before(delivery, decision.due_at(asked.now))
        return c.Defer(now=asked.now, until=until, actor=policy.name, note=note) if until else None
    return c.Suppress(now=asked.now, by="policy", actor=policy.name, note=note)


def _said(policy: Policy, delivery: Delivery, asked: Present) -> Outcome | None:
    """Its objection; None where it has none, or will be asked again before the attempt."""
    try:
        said = _returned(policy, delivery, asked)
        decision = decision_of(said)
    except SQLAlchemyError:
        raise  # the caller's own transaction failed under it
    except Exception as error:
        _log.error(
            "policy %s gave no answer while %s is scheduled: %s", policy.name, delivery.id, cause(error)
        )
        if not policy.speaks_of(delivery.channel, "attempt"):
            raise InvalidSchedule("policy", f"{policy.name} gave no answer: {cause(error)}") from error
        return None
    return None if isinstance(decision, Proceed) else said


def _returned(policy: Policy, delivery: Delivery, asked: Present) -> Any:
    try:
        said = policy.ask(delivery, asked)
    except Outcome as raised:
        return raised
    if issubclass(type(said), CoroutineType):
        said.close()
    return said


def _not_before(delivery: Delivery, until: datetime) -> datetime | None:
    """A deferral moves the due time on, and never forward to an earlier one."""
    return until if delivery.due_at is None or until > delivery.due_at else None
