"""The verb that shows what happened by the hour: stats."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deliveries.cli.failures import UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, log_to_stderr, say, write

if TYPE_CHECKING:
    from deliveries.app import Deliveries
    from deliveries.audit.statistics import Hour

FROM_ENVIRONMENT = Database()

MOST_HOURS = 24 * 366
REDRAWN_SECONDS = 1.0


def stats(
    *,
    channel: tuple[str, ...] = (),
    hours: int = 24,
    catch_up: bool = False,
    rebuild: bool = False,
    follow: Annotated[bool, Parameter(alias="-f")] = False,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Show what happened in the last hours: a line for each channel, or for one channel each hour.

    The numbers come from a projection of the log. Something must keep it up to date: a program of yours
    with app.following("statistics"), this with --follow, or --catch-up each time.

    Args:
        channel: Only this channel; repeatable. One alone is shown hour by hour.
        hours: So many, the current one included, 1 to 8784; 24 if omitted. Hours are UTC.
        catch_up: Count first what was not counted yet.
        rebuild: Count everything anew from the events; what was pruned since is not counted any more.
        follow: Go on counting until Ctrl-C; a terminal shows how the numbers grow.
        json: Print one line of JSON for each hour of each channel.
        database: Where to look.
    """
    if not 1 <= hours <= MOST_HOURS:
        raise UsageError(f"--hours must be 1..{MOST_HOURS}, not {hours}")
    if follow and json:
        raise UsageError("--follow draws: use --json with --catch-up, again and again")
    with database.opened() as app:
        if rebuild:
            with app.engine.begin() as connection:
                app.reset_statistics(connection)
        if follow:
            _follow(app, channel, hours)
            return 0
        found = _found(app, channel, hours, catch_up or rebuild)
        behind = app._uncounted()
    if json:
        for hour in found:
            data(_fields(hour))
    elif found:
        from deliveries.cli import chart

        write(chart.page(found, _first(hours), hours, channel), wrap=False)
    else:
        say(f"nothing was counted in the last {hours} hours")
    if behind:
        say(f"{behind} events are not counted yet: --catch-up counts them")
    return 0


def _first(hours: int) -> datetime:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return now - timedelta(hours=hours - 1)


def _found(app: Deliveries, channel: Sequence[str], hours: int, catch_up: bool = False) -> list[Hour]:
    return app.statistics(channel=channel or None, since=_first(hours), catch_up=catch_up)


def _follow(app: Deliveries, channel: Sequence[str], hours: int) -> None:
    """Keep the projection, and on a terminal show it; ends by Ctrl-C, or by what ends the follower."""
    from rich.live import Live

    from deliveries.cli import chart

    log_to_stderr()
    pause = threading.Event()
    drawing = Live(auto_refresh=False) if sys.stdout.isatty() else None
    with app.following("statistics") as follower, drawing or nullcontext():
        while follower.is_alive:
            if drawing is not None:
                found = _found(app, channel, hours)
                drawing.update(chart.page(found, _first(hours), hours, channel), refresh=True)
            pause.wait(REDRAWN_SECONDS)


def _fields(hour: Hour) -> dict[str, object]:
    """An hour's figures; times in seconds."""
    import msgspec

    from deliveries.audit.statistics import Latency

    found = msgspec.structs.asdict(hour)
    for name, latency in found.items():
        if isinstance(latency, Latency):
            found[name] = {
                "count": latency.count,
                "mean": latency.mean,
                "max": latency.max,
                "p50": latency.quantile(0.5),
                "p99": latency.quantile(0.99),
                "histogram": latency.histogram,
            }
    return found
