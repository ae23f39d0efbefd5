"""The verb that looks for what is wrong: doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deliveries.cli.failures import FOUND
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, write

if TYPE_CHECKING:
    from rich.table import Table

    from deliveries.audit.doctor import Diagnosis

FROM_ENVIRONMENT = Database()

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "unknown": "dim"}


def doctor(
    *,
    late: float = 60.0,
    long: float = 60.0,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Say why nothing moves: the database, its server, and who works on it.

    Exits with 1 where there is a problem. With --app it knows which channels have adapters.

    Args:
        late: Seconds for which something may be due; 60 if omitted.
        long: Seconds for which a transaction may be open; 60 if omitted.
        json: Print one line of JSON.
        database: Where to look.
    """
    with database.opened() as app:
        found = app.doctor(late=late, long=long)
    if json:
        data({"ok": found.ok, "database": found.database, "at": found.at, "checks": found.checks})
    else:
        from deliveries.audit.doctor.report import counts

        write(_table(found))
        write(f"{plain(found.database)}: {counts(found)}")
    return 0 if found.ok else FOUND


def _table(found: Diagnosis) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in found.checks:
        seen = Text("\n".join(map(plain, one.seen)))
        if one.advice:
            seen.append(f"\n→ {plain(one.advice)}", style="italic")
        table.add_row(Text(one.verdict, style=_STYLES[one.verdict]), Text(one.name), seen)
    return table
