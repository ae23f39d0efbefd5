"""The verb that shows what recurs: periodic."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from deliveries.cli.failures import UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, say, write

if TYPE_CHECKING:
    from rich.table import Table

    from deliveries.periodic import Periodic

FROM_ENVIRONMENT = Database()

MOST_TICKS = 100


def periodic(*, ticks: int = 1, json: bool = False, database: Database = FROM_ENVIRONMENT) -> int:
    """List what recurs, with its next ticks, each in its own time zone. Needs an application.

    Args:
        ticks: So many ticks of each, 1 to 100; 1 if omitted.
        json: Print one line of JSON for each, ticks in UTC.
        database: The application; its database is not looked at.
    """
    if not 1 <= ticks <= MOST_TICKS:
        raise UsageError(f"--ticks must be 1..{MOST_TICKS}, not {ticks}")
    with database.opened(channels=True, create=True) as app:
        entries = [app.periodics[name] for name in sorted(app.periodics)]
        channels = set(app.channels)
    now = datetime.now(UTC)
    for entry in entries:
        if entry.channel not in channels:
            say(f"periodic {entry.name}: no adapter is registered for its channel {entry.channel!r}")
    if json:
        for entry in entries:
            data(_fields(entry, entry.next(now, ticks)))
    elif entries:
        write(_listing(entries, now, ticks), wrap=False)
    else:
        say("nothing recurs")
    return 0


def _fields(entry: Periodic, ticks: list[datetime]) -> dict[str, object]:
    return {
        "name": entry.name,
        "expression": entry.expression,
        "timezone": entry.timezone,
        "channel": entry.channel,
        "missed": entry.missed,
        "tenant": entry.tenant,
        "next": ticks,
    }


def _listing(entries: list[Periodic], now: datetime, ticks: int) -> Table:
    """A row per tick; what is said of an entry is said once."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "expression", "timezone", "channel", "missed", "next"):
        table.add_column(column, no_wrap=True)
    for entry in entries:
        said = [entry.name, entry.expression, entry.timezone, entry.channel, entry.missed]
        for tick in entry.next(now, ticks):
            local = tick.astimezone(ZoneInfo(entry.timezone))
            table.add_row(*(Text(plain(word)) for word in said), Text(f"{local:%a %Y-%m-%d %H:%M:%S %z}"))
            said = [""] * len(said)
    return table
