"""The verb that proves what is there: audit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from deliveries.cli.failures import FOUND, UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, say, write
from deliveries.cli.which import Which

if TYPE_CHECKING:
    from rich.table import Table

    from deliveries.audit.invariants import Finding
    from deliveries.audit.proof import Proof
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
    seal: str | None = None,
    private_key: str | None = None,
    names: bool = False,
    against: str | None = None,
    public_key: str | None = None,
    new_key: str | None = None,
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
        seal: Where all is in order, write what there is to this new file, signed with --private-key.
        private_key: A file with a private key.
        names: In the seal, name each delivery: some 50 bytes for each.
        against: Instead, hold the database against this seal, signed with the other half of --public-key.
        public_key: A file with a public key.
        new_key: Instead, make a private key in this new file, and a public one beside it.
        json: Print one line of JSON.
        database: Which database.
    """
    if new_key is not None:
        return _made(new_key)
    if (seal is None) != (private_key is None) or (against is None) != (public_key is None):
        raise UsageError("--seal goes with --private-key, and --against with --public-key")
    wanted: dict[str, Any] = which.filter() | ({"id": ids} if ids else {})
    if (seal or against) and wanted:
        raise UsageError("a seal is of the whole database, without ids or a filter")
    with database.opened() as app:
        if against is not None:
            return _proved(app.against(against, public_key=public_key or ""), json=json)
        with _progress() as progress:
            report = app.audit(jobs=jobs, progress=progress, **wanted)
        if json:
            data(told(report))
        else:
            show(report)
        if seal is not None and report.ok:
            made = app.seal(seal, key=private_key or "", names=names)
            say(f"sealed {made.deliveries} deliveries up to position {made.position}: {made.heads.hex()}")
    return 0 if report.ok else FOUND


def _made(path: str) -> int:
    from deliveries.audit.signing import new_key

    write(f"private key in {plain(path)}, public key in {plain(str(new_key(path)))}", wrap=False)
    return 0


def _proved(proof: Proof, *, json: bool) -> int:
    sealed = proof.seal
    if json:
        data(
            {
                "ok": proof.ok,
                "sealed_at": sealed.made_at,
                "position": sealed.position,
                "deliveries": sealed.deliveries,
                "events": sealed.events,
                "unproven": proof.unproven,
                "found": proof.found,
                "findings": proof.findings,
            }
        )
        return 0 if proof.ok else FOUND
    if proof.findings:
        write(_table(proof.findings))
    verdict = "nothing of it has changed" if proof.ok else f"{proof.found} findings"
    unknown = f", {proof.unproven} cannot be told: pruned since" if proof.unproven else ""
    at = sealed.made_at.isoformat(timespec="seconds")
    write(f"{sealed.deliveries} deliveries, {sealed.events} events sealed at {at}: {verdict}{unknown}")
    return 0 if proof.ok else FOUND


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
        write(_table(report.findings))
    if report.found > SHOWN:
        write(f"... and {report.found - SHOWN} more; --json tells the first {len(report.findings)}")
    write(str(report))


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("delivery", "version", "rule"):
        table.add_column(name, no_wrap=True)
    table.add_column("finding", overflow="fold")
    for one in findings[:SHOWN]:
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
