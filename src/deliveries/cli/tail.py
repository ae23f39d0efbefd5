"""The verb that reads the log: tail, until now or as events come."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deliveries.cli.failures import UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, write
from deliveries.core.delivery import Status

if TYPE_CHECKING:
    from deliveries.core.events import Event
    from deliveries.store.positions import Entry

FROM_ENVIRONMENT = Database()

LINES = 20

TOLD = frozenset({"channel", "scheduled_at", "rules"})
"""What a line leaves out: it has it already, or it is too much for a line."""


def tail(
    *,
    type: tuple[str, ...] = (),  # noqa: A002 - the option's name
    status: tuple[Status, ...] = (),
    channel: tuple[str, ...] = (),
    tenant: tuple[str, ...] = (),
    lines: Annotated[int | None, Parameter(alias="-n")] = None,
    after: int | None = None,
    since: datetime | timedelta | None = None,
    name: str | None = None,
    follow: Annotated[bool, Parameter(alias="-f")] = False,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Print the events of all deliveries in the order of the log: the newest, and with -f those to come.

    Args:
        type: Only events of this type, such as Succeeded; repeatable, as all of these.
        status: Only events that lead to this status.
        channel: Only events of deliveries of this channel.
        tenant: Only events of deliveries of this tenant.
        lines: Begin with the last so many, 0 for none; 20 if nothing else is said.
        after: Begin above this position in the log.
        since: Begin with what was recorded then or later: a time with its zone, or how long ago, such as 2h.
        name: Go on where the tail of this name stopped; the first one begins with the first event.
        follow: Wait for more, until Ctrl-C.
        json: Print one line of JSON for each.
        database: Where to look.
    """
    kinds = _kinds(type, status)
    begins = [given for given in (lines, after, since) if given is not None]
    if len(begins) > 1:
        raise UsageError("give one of --lines, --after and --since")
    if not begins and name is None:
        lines = LINES
    with database.opened() as app:
        show = _document if json else _line
        for entry in app.tail(
            *kinds,
            channels=channel or None,
            tenants=tenant or None,
            after=after,
            since=_instant(since),
            last=lines,
            name=name,
            follow=follow,
        ):
            show(entry)
    return 0


def _kinds(named: tuple[str, ...], status: tuple[Status, ...]) -> list[type[Event]]:
    """The types that are wanted; none for all. Raises: UsageError."""
    from deliveries.core.events import EVENTS
    from deliveries.core.machine import TRANSITIONS

    known = {kind.__name__: kind for kind in EVENTS}
    for name in named:
        if name not in known:
            raise UsageError(f"--type {name!r}: one of {', '.join(known)}")
    wanted = [
        kind
        for name, kind in known.items()
        if (not named or name in named) and (not status or TRANSITIONS[kind][1] in status)
    ]
    if not wanted:
        leads = ", ".join(f"{name} leads to {TRANSITIONS[known[name]][1]}" for name in named)
        raise UsageError(f"no event fits --type and --status: {leads}")
    return wanted if named or status else []


def _instant(since: datetime | timedelta | None) -> datetime | None:
    if isinstance(since, timedelta):
        try:
            return datetime.now(UTC) - since
        except OverflowError:
            raise UsageError("--since is longer ago than there are years") from None
    if since is not None and since.utcoffset() is None:
        raise UsageError("--since needs an offset, such as 2030-01-31T09:00Z")
    return since


def _document(entry: Entry) -> None:
    import msgspec

    body: Any = msgspec.Raw(msgspec.json.format(entry.body, indent=-1)) if entry.problem is None else None
    problem = {} if entry.problem is None else {"problem": entry.problem}
    data(
        {
            "position": entry.position,
            "delivery_id": entry.delivery_id,
            "version": entry.version,
            "type": entry.type,
            "schema_version": entry.schema_version,
            "recorded_at": entry.recorded_at,
            "channel": entry.channel,
            "tenant": entry.tenant,
            "event": body,
        }
        | problem
    )


def _line(entry: Entry) -> None:
    from rich.text import Text

    from deliveries.cli import show as view
    from deliveries.core.machine import TRANSITIONS

    at = entry.recorded_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:23] + "Z"
    style = "bold red"
    said = f"cannot be read: {entry.problem}"
    if entry.problem is None:
        style = str(view.status(TRANSITIONS[entry.event.__class__][1]).style)
        said = ", ".join(view.facts(entry.body, TOLD))
    parts = (
        (at, "dim"),
        (f"{entry.position:>8}", "dim"),
        (str(entry.delivery_id), ""),
        (f"{plain(entry.channel or '?'):<12}", ""),
        (f"{entry.version:>3}", "dim"),
        (f"{plain(entry.type):<15}", style),
        (plain(said), ""),
    )
    if sys.stdout.isatty():
        write(Text("  ").join(Text(text, style=style) for text, style in parts), wrap=False)
    else:
        sys.stdout.write("  ".join(text for text, _ in parts).rstrip() + "\n")
        sys.stdout.flush()
