"""Deliveries, events and explanations as JSON and as pages for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deliveries.audit.explain import Explanation
from deliveries.audit.explain.pages import Part, answers, parts
from deliveries.audit.trace import Link, Trace, drawn, line
from deliveries.cli.output import plain, plain_lines
from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Recorded
from deliveries.plain import as_json
from deliveries.queues import Queue
from deliveries.store.suppressed import Suppression

LISTED = frozenset({"recipient", "payload", "rules", "idempotency_key"})
"""What a list leaves out: it is not in the projection's row, or can be told from it."""

EXPLAINED = frozenset({"recipient", "payload"})
"""What an explanation leaves out: it is computed from events, which hold neither."""

_STYLES = {
    Status.PENDING: "cyan",
    Status.ATTEMPTING: "blue",
    Status.HELD: "yellow",
    Status.SUCCEEDED: "green",
    Status.EXHAUSTED: "red",
}


# -- as data -----------------------------------------------------------------------------------


def fields(delivery: Delivery, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A delivery's fields; instants as ISO 8601, in UTC."""
    found: dict[str, Any] = msgspec.to_builtins(delivery)
    found["idempotency_key"] = delivery.idempotency_key
    return {name: value for name, value in found.items() if name not in without | {"created"}}


def recorded(one: Recorded) -> dict[str, Any]:
    """An event with its envelope; `event` is its body as stored, but for blanks."""
    return {
        "version": one.version,
        "type": one.type,
        "schema_version": one.schema_version,
        "recorded_at": one.recorded_at,
        "position": one.position,
        "event": msgspec.Raw(msgspec.json.format(one.body, indent=-1)),  # on one line, however stored
        "note": one.note,
        "digest": one.digest.hex(),
    }


def explained(explanation: Explanation) -> dict[str, Any]:
    """An explanation's structure."""
    found: dict[str, Any] = msgspec.to_builtins(explanation)
    return found | {"delivery": fields(explanation.delivery, EXPLAINED)}


def linked(link: Link) -> dict[str, Any]:
    """A delivery of a trace, and its place."""
    place = {"depth": link.depth, "how": link.how, "parent": link.parent, "cause": link.cause}
    return place | {"delivery": fields(link.delivery, LISTED)}


# -- for people --------------------------------------------------------------------------------


def listing(found: Sequence[Delivery]) -> Table:
    """A table with one row per delivery."""
    tenants = any(delivery.tenant for delivery in found)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "status", "channel", "attempt", "due", "key", *(["tenant"] if tenants else [])):
        table.add_column(name, no_wrap=True)
    for delivery in found:
        cells = [
            Text(str(delivery.id)),
            status(delivery.status),
            _text(delivery.channel),
            _text(str(delivery.attempt)),
            _text(_time(delivery.due_at, seconds=True)),
            _text(delivery.key),
        ]
        table.add_row(*cells, *([_text(delivery.tenant)] if tenants else []))
    return table


def page(delivery: Delivery, history: Sequence[Recorded]) -> RenderableType:
    """One delivery: fields, contents and recorded events."""
    return Group(
        state(delivery),
        Text("History", style="bold"),
        _indented(_events(history)),
    )


def state(delivery: Delivery) -> RenderableType:
    """One delivery as it was: its fields."""
    table = _grid()
    for name, value in msgspec.structs.asdict(delivery).items():
        if name not in {"id", "status", "created", "rules"} and value not in (None, "", ()):
            table.add_row(Text(name, style="dim"), _value(value))
    return Group(_heading(delivery.id, delivery.status), _indented(table))


def answer(explanation: Explanation) -> RenderableType:
    """Why, what next, and how it came to that."""
    found: list[RenderableType] = [
        _heading(explanation.delivery.id, explanation.delivery.status),
        _indented(_lines(answers(explanation))),
    ]
    for part in parts(explanation):
        found += [Text(plain(part.title), style=_TITLES.get(part.title, "bold")), _indented(_lines(part))]
    return Group(*found)


_TITLES = {"Conflicts": "bold red"}


def _lines(part: Part) -> Table:
    table = _grid()
    labelled = any(one.label for one in part.lines)
    for one in part.lines:
        table.add_row(*([Text(plain(one.label), style="dim")] if labelled else []), _text(one.text))
        if one.note:
            table.add_row(*([Text()] if labelled else []), _note(one.note))
    return table


def tree(found: Trace) -> RenderableType:
    """Deliveries under what caused them."""
    lines = [
        Text(f"{len(found.links)} deliveries of correlation {plain(found.correlation_id)}", style="bold")
    ]
    for branch, link in drawn(found.links):
        style = _STYLES.get(link.delivery.status, "dim")
        lines.append(Text.assemble((branch, "dim"), (plain(line(link)), style)))
    return Group(*lines)


def queues(found: Sequence[Queue]) -> Table:
    """Queues, and what is wanted of each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("queue", "wanted", "changed", "by", "reason"):
        table.add_column(title, no_wrap=True)
    for queue in found:
        style = "yellow" if queue.is_paused else ""
        table.add_row(
            _text(queue.name),
            Text(wanted(queue), style=style),
            Text(_time(queue.changed_at, seconds=True)),
            _text(queue.actor),
            _text(queue.reason),
        )
    return table


def wanted(queue: Queue) -> str:
    """What is wanted of a queue, in words of our own."""
    said = [f"paused since {_time(queue.paused_at, seconds=True)}"] if queue.is_paused else []
    if queue.concurrency is not None:
        said.append(f"{queue.concurrency} calls in each processor")
    if queue.total is not None:
        said.append(f"{queue.total} in all")
    if queue.rate is not None:
        each = f" for each {queue.by}" if queue.by else ""
        said.append(f"{queue.rate} in {queue.per:g} s{each}")
    if queue.fair:
        said.append("tenants take turns")
    return ", ".join(said) or "runs, without limits"


def suppressed(found: Sequence[Suppression]) -> Table:
    """A table with one row per entry; the digest's beginning tells recipients apart."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("digest", "channel", "tenant", "reason", "actor", "since"):
        table.add_column(name, no_wrap=True)
    for one in found:
        said = (one.digest[:16], one.channel or "all", one.tenant, one.reason, one.actor)
        table.add_row(*(_text(value) for value in said), Text(_time(one.since, seconds=True)))
    return table


def status(of: Status) -> Text:
    """A status in its colour."""
    return Text(of.value, style=_STYLES.get(of, "dim"))


def _heading(id: object, of: Status) -> Text:
    return Text.assemble((f"Delivery {id}", "bold"), "  ", status(of))


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _events(history: Sequence[Recorded]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in history:
        said = ", ".join(facts(one.body))
        table.add_row(
            Text(str(one.version), style="dim"), Text(_time(one.recorded_at)), _text(one.type), _text(said)
        )
        if one.note:
            table.add_row(Text(), Text(), Text(), _note(one.note))
    return table


def facts(body: bytes, without: frozenset[str] = frozenset()) -> Iterator[str]:
    """The body's fields but for digests and ids, which only a machine compares, and those in `without`."""
    for name, value in msgspec.json.decode(body).items():
        if name not in {"delivery_id", "payload_digest", "recipient_digest", "note", *without}:
            yield f"{name} {value if isinstance(value, str) else as_json(value)}"


def _value(value: object) -> Text:
    if isinstance(value, datetime):
        return Text(_time(value))
    if isinstance(value, (dict, list)):
        return Text(plain_lines(msgspec.json.format(as_json(value), indent=2)))
    return _text(", ".join(value) if isinstance(value, tuple) else str(value))


def _note(note: str) -> Text:
    return Text(f"| {plain(note)}", style="italic")


def _text(value: str | None) -> Text:
    return Text(plain(value or ""))


def _time(at: datetime | None, *, seconds: bool = False) -> str:
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M:%S.%f")[: 19 if seconds else 23] + "Z"
