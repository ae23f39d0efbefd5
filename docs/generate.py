"""Makes what is generated from the code: a part of `states.md`, and `events.schema.json`."""  # noqa: INP001 - a script beside the pages

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec

from deliveries.audit.lines import schema
from deliveries.core.machine import TRANSITIONS, diagram

PAGE = Path(__file__).parent / "states.md"
SCHEMA = Path(__file__).parent / "events.schema.json"
BEGIN, END = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"


def generated() -> str:
    """The diagram, and the table of events with their docstrings."""
    rows = [
        f"| `{kind.__name__}` | {', '.join(source or 'nothing' for source in sources)} | {target} "
        f"| {' '.join((inspect.getdoc(kind) or '').split())} |"
        for kind, (sources, target) in TRANSITIONS.items()
    ]
    table = "\n".join(["| event | from | to | meaning |", "|---|---|---|---|", *rows])
    return f"```mermaid\n{diagram()}\n```\n\n{table}\n"


def events() -> str:
    """The JSON Schema of all events."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


def rewritten(page: str) -> str:
    """`page` with what stands between the markers generated anew."""
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{generated()}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
    SCHEMA.write_text(events())
