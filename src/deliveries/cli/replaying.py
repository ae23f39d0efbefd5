"""The verbs about the past: replay, diff, rebuild."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deliveries.cli.failures import FOUND, UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from deliveries.core.delivery import Delivery

FROM_ENVIRONMENT = Database()

PAST = frozenset({"recipient", "payload", "created"})
"""What a state of the past leaves out: events hold none of it."""

SHOWN = 50


def replay(
    id: str | None = None,
    *,
    until: datetime | None = None,
    version: int | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Show a delivery, or count all of them, as they were at a moment, from events alone.

    Args:
        id: The delivery; all if omitted: how many stood where, and with --json each of them, one a line.
        until: What had been recorded by then: ISO 8601 with an offset; now if omitted.
        version: After so many events, instead of a moment; for one delivery.
        json: Print JSON.
        database: Which database.
    """
    if version is not None and (id is None or until is not None):
        raise UsageError("--version is for one delivery, and instead of --until")
    with database.opened() as app:
        if id is None:
            return _all(app.replay_all(until), json=json)
        given = {"version": version} if version is not None else {"at": until or _now()}
        delivery = app.replay(id, **given)
    from deliveries.cli.show import fields, state

    if json:
        data(fields(delivery, PAST))
    else:
        write(state(delivery))
    return 0


def _now() -> datetime:
    from datetime import UTC

    return datetime.now(UTC)


def _all(found: Iterable[Delivery], *, json: bool) -> int:
    from deliveries.cli.show import fields

    counts: Counter[tuple[str, str]] = Counter()
    for delivery in found:
        if json:
            data(fields(delivery, PAST))
        else:
            counts[delivery.channel, delivery.status.value] += 1
    if not json:
        write(_counts(("channel", "status", "deliveries"), counts))
    return 0


def diff(
    a: datetime,
    b: datetime,
    *,
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"))] = False,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Show what happened between two moments: what came, and what went from where to where.

    Args:
        a: The first moment: ISO 8601 with an offset, such as 2030-01-31T09:00Z.
        b: The second.
        verbose: Name each delivery, and the fields that changed.
        json: Print each delivery that changed, one a line.
        database: Which database.
    """
    moves: Counter[tuple[str, str, str]] = Counter()
    with database.opened() as app:
        for one in app.diff(a, b):
            before = "" if one.before is None else one.before.status.value
            if json:
                changes = {name: {"from": old, "to": new} for name, (old, new) in one.changes.items()}
                data({"id": one.id, "from": before or None, "to": one.after.status, "changes": changes})
                continue
            moves[one.after.channel, before or "(new)", one.after.status.value] += 1
            if verbose:
                told = ", ".join(f"{name} {_said(old)} -> {_said(new)}" for name, (old, new) in _few(one))
                write(f"{one.id}  {told}", wrap=False)
    if not json:
        write(_counts(("channel", "from", "to", "deliveries"), moves))
    return 0


def _few(one: Any) -> list[tuple[str, tuple[Any, Any]]]:
    """The changes that people want to see: of a new delivery only where it stands."""
    wanted = ("status", "version") if one.before is None else tuple(one.changes)
    return [(name, change) for name, change in one.changes.items() if name in wanted and name != "rules"]


def _said(value: Any) -> str:
    return "-" if value is None else plain(value.isoformat() if isinstance(value, datetime) else str(value))


def rebuild(
    id: str | None = None,
    *,
    dry_run: bool = False,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Make rows what their events amount to, in place, while processors run. Exits with 1 if one was not.

    Leases stay. What cannot be corrected is named: streams that make no sense, rows without events.

    Args:
        id: Only this delivery.
        dry_run: Only look.
        json: Print one line of JSON.
        database: Which database.
    """
    with database.opened() as app:
        report = app.rebuild(id, dry_run=dry_run)
    if json:
        from msgspec import structs

        named = [{"id": one, "wrong": said} for one, said in report.named]
        data(structs.asdict(report) | {"ok": report.ok, "named": named})
    else:
        for one, said in report.named[:SHOWN]:
            write(f"{one}  {plain(said)}", wrap=False)
        if len(report.named) > SHOWN:
            write("...")
        verb = "to correct" if dry_run else "corrected"
        write(
            f"{report.seen} deliveries: {report.corrected} {verb}, {report.remade} without a row, "
            f"{report.unreadable} unreadable, {report.without_events} rows without events"
        )
    return 0 if report.ok else FOUND


def _counts(titles: tuple[str, ...], counts: Counter[Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title == "deliveries" else "left")
    for names, number in sorted(counts.items()):
        table.add_row(*(Text(plain(name)) for name in names), Text(f"{number:,}"))
    return table
