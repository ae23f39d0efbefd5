"""The verbs that take the history along: export, view."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from deliveries.cli.failures import FOUND, UsageError
from deliveries.cli.options import Common, Database
from deliveries.cli.output import data, write

if TYPE_CHECKING:
    from deliveries.audit.view import View

FROM_ENVIRONMENT = Database()
COMMON = Common()


def export(
    file: str | None = None,
    *,
    format: Literal["jsonl", "cloudevents", "parquet"] = "jsonl",
    after: NonNegativeInt = 0,
    contents: bool = False,
    resume: bool = False,
    source: str = "/deliveries",
    schema: bool = False,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Write all events to a file, one a line, in the order of the log.

    Args:
        file: A new file, packed if it ends in .gz; stdout if omitted.
        format: jsonl if omitted; CloudEvents 1.0; or Parquet, with deliveries[parquet].
        after: Only what stands behind this position.
        contents: With recipients, payloads and notes, as far as they were not erased.
        resume: Go on in that file, behind its last event.
        source: In whose name CloudEvents are told.
        schema: Print the JSON Schema of all events instead.
        json: Say in JSON how far it went.
        database: Which database.
    """
    if schema:
        from deliveries.audit.lines import schema as made

        data(made())
        return 0
    given: dict[str, Any] = {"format": format, "after": after, "contents": contents, "source": source}
    with database.opened() as app:
        done = app.export(sys.stdout.buffer if file is None else file, resume=resume, **given)
    if file is None:
        return 0
    if json:
        data({"events": done.events, "position": done.position})
    else:
        write(f"{done.events} events, up to position {done.position}")
    return 0


def view(
    file: str,
    what: Literal["list", "audit", "explain", "replay"] = "list",
    id: str | None = None,
    *,
    version: Annotated[int | None, Parameter(name="--version")] = None,
    json: bool = False,
    common: Common = COMMON,
) -> int:
    """Read an export, without a database: which deliveries, what of one, is it whole.

    Args:
        file: What export or prune wrote.
        what: list, audit (exits with 1 on findings), explain or replay; list if omitted.
        id: The delivery to explain or replay.
        version: Replay so many events of it; all if omitted.
        json: Print JSON.
        common: What every verb takes.
    """
    from deliveries.audit.view import View

    opened = View(file)
    if what == "audit":
        return _audit(opened, json=json)
    if what == "list":
        return _list(opened, json=json)
    if id is None:
        raise UsageError(f"view {what}: give the id of a delivery")
    return _one(opened, what, id, version, json=json)


def _audit(opened: View, *, json: bool) -> int:
    from deliveries.cli.audit import show, told

    report = opened.audit()
    if json:
        data(told(report))
    else:
        show(report)
    return 0 if report.ok else FOUND


def _list(opened: View, *, json: bool) -> int:
    """Each event, one a line."""
    from deliveries.audit.lines import Line

    for number, line in opened.lines():
        if isinstance(line, Line):
            if json:
                data(line)
            else:
                at = line.recorded_at.isoformat(timespec="milliseconds")
                write(f"{line.position}  {at}  {line.delivery_id}  {line.version}  {line.type}", wrap=False)
        else:
            write(f"line {number}: {line}", wrap=False)
    return 0


def _one(opened: View, what: str, id: str, version: int | None, *, json: bool) -> int:
    from datetime import UTC, datetime

    from deliveries.cli import show
    from deliveries.cli.replaying import PAST
    from deliveries.scheduling import parse_id

    if what == "replay":
        delivery = opened.replay(parse_id(id), version=version)
        if json:
            data(show.fields(delivery, PAST))
        else:
            write(show.state(delivery))
        return 0
    explanation = opened.explain(parse_id(id), datetime.now(UTC))
    if json:
        data(show.explained(explanation))
    else:
        write(show.answer(explanation))
    return 0
