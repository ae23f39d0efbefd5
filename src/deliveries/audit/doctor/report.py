"""What a doctor says: one verdict for each check, what was seen, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from deliveries.plain import plain

Verdict = Literal["ok", "warning", "problem", "unknown"]
"""`unknown`: it could not be looked at, which is no verdict on it."""

MOST_LINES = 20
"""Of what one check has seen."""

Sight = tuple[Verdict, str]
"""One thing that was seen, and how bad it is."""


class Check(Struct, frozen=True, kw_only=True):
    """The outcome of one check."""

    name: str
    verdict: Verdict
    seen: tuple[str, ...]
    """At least one line."""
    advice: str | None = None
    """What to do; None where nothing is to be done."""


class Diagnosis(Struct, frozen=True, kw_only=True):
    """The outcome of all checks. `str()` of it is for people."""

    database: str
    """Which one, without its password."""
    at: datetime
    """When, by this machine's clock."""
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True where no check found a problem; there may be warnings."""
        return not self.problems

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that found one."""
        return tuple(one for one in self.checks if one.verdict == "problem")

    def __str__(self) -> str:
        lines = [f"{self.database}: {counts(self)}"]
        for one in self.checks:
            lines += [f"  {one.verdict:<8} {one.name:<13} {text}" for text in one.seen[:1]]
            lines += [f"  {'':<22} {text}" for text in one.seen[1:]]
            lines += [f"  {'':<22} do: {one.advice}"] if one.advice else []
        return "\n".join(map(plain, lines))


def counts(of: Diagnosis) -> str:
    """How many verdicts of each kind."""
    found = [one.verdict for one in of.checks]
    kinds: tuple[Verdict, ...] = ("problem", "warning", "unknown", "ok")
    return ", ".join(f"{found.count(kind)} {kind}" for kind in kinds if kind in found)


def judged(name: str, sights: Sequence[Sight], fine: str, advice: str) -> Check:
    """The check that saw these; the worst of them is its verdict. `fine` is said where there are none."""
    bad = [(verdict, text) for verdict, text in sights if verdict != "ok"]
    if not bad:
        return Check(name=name, verdict="ok", seen=tuple(text for _, text in sights) or (fine,))
    order: tuple[Verdict, ...] = ("problem", "warning", "unknown")
    worst = min((verdict for verdict, _ in bad), key=order.index)
    said = [text for _, text in sorted(bad, key=lambda one: order.index(one[0]))]
    if len(said) > MOST_LINES:
        said = [*said[:MOST_LINES], f"and {len(said) - MOST_LINES} more"]
    return Check(name=name, verdict=worst, seen=tuple(said), advice=advice)
