"""The page of states is what the code does: the drawn part byte by byte, the tables row by row."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery
from deliveries.core.machine import fold
from deliveries.testing.examples import NOW, attempted, held, scheduled
from unit.docs.pages import ROOT

PAGE = ROOT / "docs" / "states.md"

SAID: dict[str, o.Outcome] = {
    "None": o.outcome_of(None),
    "Delivered(receipt)": o.Delivered("r-1"),
    "Retry(error, after=)": o.Retry("busy"),
    "Cancel(reason)": o.Cancel("no"),
    "Bounced(reason)": o.Bounced("gone"),
    "Discard(reason)": o.Discard("no"),
    "Snooze(for_)": o.Snooze(1),
    "Snooze(until=)": o.Snooze(until=NOW),
    "Suppress(reason)": o.Suppress("no"),
    "Unknown(reason)": o.Unknown("who knows"),
    "NotDone()": o.NotDone(),
}

AMPLE = {"max_attempts": 9, "max_interruptions": 9, "max_snoozes": 9}
SPENT = {"max_attempts": 1, "max_interruptions": 1, "max_snoozes": 0}

Row = tuple[str, str]
Kinds = set[tuple[str, str | None]]


def rows(heading: str) -> list[Row]:
    """The first two cells of each row of the table under `heading`."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [(cells[0], cells[1]) for cells in table[2:]]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def outcomes(cell: str) -> list[o.Outcome]:
    return [SAID[span] for span in spans(cell) if span in SAID]


def promised(cell: str) -> Kinds:
    """Event and cause: a span in lower case is the cause of the event before it."""
    return set(re.findall(r"`([A-Z]\w+)`(?: with cause `(\w+)`)?", cell))


def kind(events: tuple[e.Event, ...]) -> tuple[str, str]:
    """As `promised` has it; causes that the page leaves out are left out."""
    (event,) = events
    unsaid = isinstance(event, e.Failed) and event.cause == "error"
    return type(event).__name__, "" if unsaid else getattr(event, "cause", "")


def state(*history: e.Event) -> Delivery:
    delivery = fold([scheduled(), *history])
    assert delivery is not None
    return delivery


ADAPTERS, RESOLVERS = "What adapters say", "What resolves a held delivery"


@pytest.mark.parametrize("row", rows(ADAPTERS), ids=lambda row: row[0])
def test_what_adapters_say(row: Row) -> None:
    ways = re.findall(r'"(\w+)"', row[0]) or ["retry"]
    said = outcomes(row[0])
    found = set()
    for outcome in said:
        unknown: dict[str, Any] = {"cause": "unknown"} if isinstance(outcome, o.Unknown) else {}
        report = c.Report(now=NOW, attempt=1, outcome=outcome, **unknown)
        for way in ways:
            for limits in (AMPLE, SPENT):
                found.add(kind(decide(report, state(attempted(on_unknown=way, **limits)))))
    assert said
    assert found == promised(row[1])


@pytest.mark.parametrize("row", rows(RESOLVERS), ids=lambda row: row[0])
def test_what_resolves_a_held_delivery(row: Row) -> None:
    said = outcomes(row[0])
    found: dict[str, Kinds] = {"lookup": set(), "operator": set()}
    for outcome in said:
        for by, kinds in found.items():
            for limits in (AMPLE, SPENT):
                delivery = state(attempted(on_unknown="hold", **limits), held())
                kinds.add(kind(decide(c.Resolve(now=NOW, outcome=outcome, by=by), delivery)))
    everybody, _, lookups = row[1].partition("; from a lookup ")
    assert said
    assert found["operator"] == promised(everybody)
    assert {name for name, _ in found["lookup"]} == {name for name, _ in promised(everybody + lookups)}


def test_every_outcome_is_on_the_page() -> None:
    ours = (cls for cls in vars(o).values() if isinstance(cls, type) and issubclass(cls, o.Outcome))
    known = {cls.__name__ for cls in ours} - {"Outcome"}
    shown = {span for heading in (ADAPTERS, RESOLVERS) for cell, _ in rows(heading) for span in spans(cell)}
    assert {name.partition("(")[0] for name in SAID} - {"None"} == known
    assert set(SAID) <= shown


def test_the_drawn_part_is_the_code() -> None:
    """After a change of the table: `python docs/generate.py`."""
    rewritten = runpy.run_path(str(ROOT / "docs" / "generate.py"))["rewritten"]
    page = PAGE.read_text()
    assert rewritten(page) == page


def test_the_schema_of_events_is_what_the_code_says() -> None:
    """After a change of an event: `python docs/generate.py`."""
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["events"]
    assert (ROOT / "docs" / "events.schema.json").read_text() == made()
