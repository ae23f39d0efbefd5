"""The verb that writes one debt down: schedule."""

from __future__ import annotations

import json as standard_json
import sys
from datetime import datetime, timedelta
from typing import Annotated, Any

from cyclopts import Parameter

from deliveries.cli.failures import UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, write

FROM_ENVIRONMENT = Database()

MAX_INPUT = 64 * 1024 * 1024
"""Bytes read from stdin; the application's own bound of a payload is far below."""


def schedule(
    channel: str,
    payload: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    recipient: str | None = None,
    key: str | None = None,
    due_at: datetime | None = None,
    delay: float | timedelta | None = None,
    expires_at: datetime | None = None,
    priority: int = 5,
    max_attempts: int | None = None,
    tag: tuple[str, ...] = (),
    correlation_id: str | None = None,
    tenant: str = "",
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Schedule one delivery, in a transaction of its own. Needs an application.

    Args:
        channel: A channel of the application.
        payload: JSON; read from stdin if omitted or -.
        recipient: Whom it is for.
        key: Idempotency key: with one that is taken nothing new is scheduled.
        due_at: Not before then: ISO 8601 with an offset, such as 2030-01-31T09:00Z.
        delay: Not before so long from now: seconds, or such as 90m, 1h30m, 2d.
        expires_at: No attempt starts after then.
        priority: 0 (first) to 9; 5 if omitted.
        max_attempts: Instead of the adapter's bound.
        tag: A tag; repeatable.
        correlation_id: What it belongs to.
        tenant: Whose it is; keys are unique within it.
        json: Print the delivery as one line of JSON.
        database: Where to write.
    """
    value = _decode(_read(payload))
    with database.opened(channels=True) as app, app.engine.begin() as connection:
        delivery = app.schedule(
            connection,
            channel,
            value,
            recipient=recipient,
            key=key,
            due_at=due_at,
            delay=delay,
            expires_at=expires_at,
            priority=priority,
            max_attempts=max_attempts,
            tags=tag,
            correlation_id=correlation_id,
            tenant=tenant,
        )
    if json:
        from deliveries.cli.show import fields

        data(fields(delivery) | {"created": delivery.created})
    elif delivery.created:
        write(f"Delivery {delivery.id} is scheduled")
    else:
        had = f"Delivery {delivery.id} has this key already, and is {delivery.status.value}"
        write(f"{had}: nothing new is scheduled")
    return 0


def _read(payload: str | None) -> str | bytes:
    if payload is not None and payload != "-":
        return payload
    if payload is None and sys.stdin.isatty():
        raise UsageError("no payload: give JSON as an argument or through a pipe, null for none")
    text = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(text) > MAX_INPUT:
        raise UsageError(f"the payload on stdin is larger than {MAX_INPUT} bytes")
    return text


def _decode(text: str | bytes) -> Any:
    """The JSON value in `text`; what else a payload must be is checked by the library."""
    try:
        return standard_json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the payload is not JSON: {error}") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers of JSON differ in which of two equal names they keep (RFC 8259, 4), so neither is."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found
