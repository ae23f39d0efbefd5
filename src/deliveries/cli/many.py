"""Acts on many deliveries at once: which, looked at first, and asked for before they are done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from deliveries.cli.failures import FOUND, UsageError
from deliveries.cli.output import data, plain, say, write

if TYPE_CHECKING:
    from deliveries.bulk import Report

_MANY = Group("Many at once", sort_key=0)

UNFINISHED = frozenset({"busy", "corrupt", "out of step", "refused by the database", "changed meanwhile"})
"""Left for a reason that somebody should look at, or that is gone the next time."""


@Parameter(name="*", group=_MANY)
@dataclass(frozen=True, kw_only=True)
class Many:
    """What every verb takes that acts on all deliveries that fit a filter."""

    where: tuple[str, ...] = ()
    """field=value, such as status=exhausted or ended_after=2030-01-31T09:00Z; repeatable: all must fit."""
    dry_run: bool = False
    """Only tell what would be done."""
    yes: bool = False
    """Do it without asking."""

    def filter(self) -> dict[str, Any]:
        """Field -> values. Raises: UsageError."""
        return filter_of(self.where)

    def given(self) -> bool:
        """Whether an act on many is meant."""
        return bool(self.where or self.dry_run or self.yes)

    def do(self, act: Callable[[bool], Report], *, json: bool, unfinished: Iterable[str] = ()) -> int:
        """A dry run, a question where somebody can answer it, and the act; returns the exit code.

        `act` is called with `dry_run`. Raises: UsageError where nobody was asked and --yes is missing.
        """
        report = act(True)
        if not self.dry_run and report.done:
            if not self.yes:
                _ask(report)
            report = act(False)
        if json:
            data(report)
        else:
            write(told(report))
        return FOUND if not UNFINISHED.union(unfinished).isdisjoint(report.left) else 0


def filter_of(given: Sequence[str], others: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Field -> values, with `others` that options gave; what the fields are is checked by the library.

    Raises: UsageError.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, separator, value = one.partition("=")
        field = name.strip().replace("-", "_")
        if not separator or not field:
            raise UsageError(f"--where {one!r}: field=value is needed, such as status=exhausted")
        if field.endswith(("_after", "_before")):
            if field in found:
                raise UsageError(f"--where {field}: given twice")
            found[field] = _instant(field, value)
        else:
            found.setdefault(field, []).append(value)
    others = others or {}
    if twice := sorted(found.keys() & others.keys()):
        raise UsageError(f"--where {twice[0]}: given as an option too")
    return found | dict(others)


def _instant(field: str, value: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(
            f"--where {field}: ISO 8601 with an offset is needed, such as 2030-01-31T09:00Z, not {value!r}"
        ) from None


def told(report: Report) -> str:
    """A report for people: what was done, what was left and why, and some ids."""
    does = "would change" if report.dry_run else "changed"
    lines = [f"{report.act} {does} {report.done} of {report.matched} deliveries"]
    lines += [f"  left {number}: {why}" for why, number in report.left.items()]
    lines += [f"  {id}" for id in report.sample]
    if report.done > len(report.sample):
        lines.append(f"  and {report.done - len(report.sample)} more")
    return "\n".join(plain(line) for line in lines)


def _ask(report: Report) -> None:
    """Raises: UsageError unless the answer is yes."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"{report.act} would change {report.done} deliveries: give --yes to do it, --dry-run to look"
        )
    say(f"{report.act} will change {report.done} deliveries, the first of them {report.sample[0]}")
    sys.stderr.write("Do it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done")
