"""The verbs that only read: list, show, explain."""

from __future__ import annotations

import sys
from typing import Literal

from deliveries.cli.options import Database
from deliveries.cli.output import data, say, write
from deliveries.core.delivery import Status

FROM_ENVIRONMENT = Database()


def list_(
    *,
    status: Status | None = None,
    channel: str | None = None,
    queue: str | None = None,
    tenant: str | None = None,
    key: str | None = None,
    limit: int = 100,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """List deliveries, newest first, without recipients and payloads.

    Args:
        status: Only those that are in this status.
        channel: Only those of this channel.
        queue: Only those of this queue.
        tenant: Only those of this tenant.
        key: Only the one that was scheduled with this key (one per tenant).
        limit: At most so many, 1 to 10000; 100 if omitted.
        json: Print one line of JSON for each.
        database: Where to look.
    """
    from deliveries.cli import show as view

    with database.opened() as app:
        found = app.find(status=status, channel=channel, queue=queue, tenant=tenant, key=key, limit=limit)
    if json:
        for delivery in found:
            data(view.fields(delivery, view.LISTED))
    elif found:
        write(view.listing(found), wrap=False)
    else:
        say("no deliveries")
    if len(found) == limit:
        say(f"these are the newest {limit}; --limit shows more")
    return 0


def show(id: str, /, *, json: bool = False, database: Database = FROM_ENVIRONMENT) -> int:
    """Show one delivery: its fields, recipient, payload and recorded events.

    Args:
        id: The delivery's id.
        json: Print one line of JSON.
        database: Where to look.
    """
    from deliveries.cli import show as view

    with database.opened() as app:
        delivery = app.get(id)
        history = app.history(id)[: delivery.version]  # what came between the two reads is left out
    if json:
        data(view.fields(delivery) | {"history": [view.recorded(one) for one in history]})
    else:
        write(view.page(delivery, history))
    return 0


def explain(
    id: str,
    /,
    *,
    format: Literal["text", "json", "html", "markdown"] = "text",  # noqa: A002 - the option's name
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Say why a delivery is where it is, and what happens next, from its events.

    What is known beside the events, such as leases and limits of its queue, is kept apart.

    Args:
        id: The delivery's id.
        format: text, json, html (a whole page) or markdown; text if omitted.
        json: The same as --format json: one line of JSON.
        database: Where to look.
    """
    with database.opened() as app:
        explanation = app.explain(id)
    if format in ("html", "markdown") and not json:
        page = explanation.to_html() if format == "html" else explanation.to_markdown()
        sys.stdout.flush()
        sys.stdout.buffer.write(page.encode())  # in UTF-8 whatever the locale says, as the page declares
        return 0
    from deliveries.cli import show as view

    if json or format == "json":
        data(view.explained(explanation))
    else:
        write(view.answer(explanation))
    return 0
