"""The verb that proves what is there: audit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from deliveries.cli.failures import FOUND
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, write
from deliveries.cli.which import Which

if TYPE_CHECKING:
    from rich.table import Table

    from deliveries.audit.verify import AuditReport
    from deliveries.auditing import Progress

FROM_ENVIRONMENT = Database()
EVERYTHING = Which()

SHOWN = 50
"""Findings that a page for people shows."""


def audit(
    *ids: str,
    which: Which = EVERYTHING,
    jobs: Annotated[PositiveInt, Parameter(name=("--jobs", "-j"))] = 1,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Hold every delivery to every rule, from its events. Exits with 1 where something is wrong.

    Events, digests, rows, contents, notes, evidence and tombstones, at one moment. With ids or a filter
    only deliveries whose row fits, and nothing that belongs to none.

    Args:
        ids: Only these deliveries.
        which: Only deliveries that fit.
        jobs: Processes; 1 if omitted.
        json: Print one line of JSON.
        database: Which database.
    """
    wanted: dict[str, Any] = which.filter() | ({"id": ids} if ids else {})
    with database.opened() as app, _progress() as progress:
        report = app.audit(jobs=jobs, progress=progress, **wanted)
    if json:
        data(told(report))
    else:
        show(report)
    return 0 if report.ok else FOUND


def told(report: AuditReport) -> dict[str, Any]:
    """A report as data."""
    return {
        "ok": report.ok,
        "deliveries": report.deliveries,
        "events": report.events,
        "seconds": round(report.seconds, 3),
        "found": report.found,
        "findings": report.findings,
    }


def show(report: AuditReport) -> None:
    """A report for people."""
    if report.findings:
        write(_table(report))
    if report.found > SHOWN:
        write(f"... and {report.found - SHOWN} more; --json tells the first {len(report.findings)}")
    write(str(report))


def _table(report: AuditReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("delivery", "version", "rule"):
        table.add_column(name, no_wrap=True)
    table.add_column("finding", overflow="fold")
    for one in report.findings[:SHOWN]:
        cells = (str(one.delivery_id or ""), str(one.version or ""), one.rule, plain(one.text))
        table.add_row(*map(Text, cells))
    return table


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on a terminal, with the rate and the time that is left."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("deliveries, {task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate="")

        def told(deliveries: int, events: int, of: int | None) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{events / elapsed:,.0f} events/s" if elapsed else ""
            bar.update(task, completed=deliveries, total=of, rate=rate)

        yield told
