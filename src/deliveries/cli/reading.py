"""The verbs that only read: list, show, explain, trace."""

from __future__ import annotations

import sys
from typing import Literal

from deliveries.cli.options import Database
from deliveries.cli.output import data, say, write
from deliveries.cli.which import Which

FROM_ENVIRONMENT = Database()
EVERYTHING = Which()


def list_(
    *,
    which: Which = EVERYTHING,
    after: str | None = None,
    limit: int = 100,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """List deliveries, newest first, without recipients and payloads.

    Args:
        which: Those that fit.
        after: Go on behind this id, the last one of the page before.
        limit: At most so many, 1 to 10000; 100 if omitted.
        json: Print one line of JSON for each.
        database: Where to look.
    """
    from deliveries.cli import show as view

    with database.opened() as app:
        found = app.find(which.filter(), after=after, limit=limit)
    if json:
        for delivery in found:
            data(view.fields(delivery, view.LISTED))
    elif found:
        write(view.listing(found), wrap=False)
    else:
        say("no deliveries" if after is None else "no more deliveries")
    if len(found) == limit:
        these = "newest" if after is None else "next"
        say(f"these are the {these} {limit}; --after {found[-1].id} goes on, --limit shows more")
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
    format: Literal["text", "json", "html", "markdown"] = "text",
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


def trace(
    correlation_id: str,
    /,
    *,
    limit: int = 1_000,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Show all deliveries of a correlation id, as a tree of what caused what.

    Args:
        correlation_id: What they belong to.
        limit: At most so many, the oldest, 1 to 10000; 1000 if omitted.
        json: Print one line of JSON for each, causes first, with depth and parent.
        database: Where to look.
    """
    from deliveries.cli import show as view

    with database.opened() as app:
        found = app.trace(correlation_id, limit=limit)
    if json:
        for link in found.links:
            data(view.linked(link))
    elif found.links:
        write(view.tree(found), wrap=False)
    else:
        say("no deliveries")
    if not found.is_complete:
        say(f"these are the oldest {limit}; --limit shows more")
    return 0
