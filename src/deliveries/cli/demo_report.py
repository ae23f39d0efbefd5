"""What the demo shows: short, and readable where nothing can be redrawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from rich import box, progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deliveries import Explanation, Recorded
from deliveries.cli.demo_proof import Proof
from deliveries.cli.demo_receiver import Habit
from deliveries.cli.demo_shop import Fate


def introduce(console: Console, fates: Sequence[Fate]) -> None:
    """Who plays, and what is at stake."""
    count = Counter(fates)
    console.print(
        f"[bold]A shop[/] takes {len(fates):,} orders, each with its webhook in one transaction. "
        f"{count[Fate.ROLLBACK]} are rolled\nback after schedule(); {count[Fate.SAVEPOINT]} keep the "
        "order, but lose the webhook with a savepoint.\n"
        f"[bold]A worker[/], another process, performs the other {count[Fate.COMMIT]:,}. "
        "Half-way it gets kill -9.\n"
        "[bold]A receiver[/] answers 500, 503, 429 and 410, answers slowly, resets connections; "
        "it keeps a log.\n",
        highlight=False,
        soft_wrap=True,
    )


class Progress:
    """Two bars; without a terminal, only how they ended."""

    def __init__(self, console: Console, orders: int, owed: int) -> None:
        self._bars = progress.Progress(
            progress.TextColumn("{task.description:<17}"),
            progress.BarColumn(bar_width=32),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=console,
        )
        self._orders = self._bars.add_task("orders taken", total=orders)
        self._done = self._bars.add_task("webhooks settled", total=owed)

    def show(self, orders: int, done: int) -> None:
        """Move the bars."""
        self._bars.update(self._orders, completed=orders)
        self._bars.update(self._done, completed=done)

    def tell(self, text: str) -> None:
        """One line, above the bars."""
        self._bars.console.print(f"[yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.stop()


_COLUMNS = {
    "Scheduled": "owed",
    "Attempted": "attempts",
    "Failed": "failed",
    "Interrupted": "cut off",
    "Succeeded": "succeeded",
    "Cancelled": "cancelled",
}


def show_outcomes(
    console: Console, habits: Mapping[str, Habit], streams: Mapping[str, Sequence[Recorded]]
) -> None:
    """The table of outcomes, counted from the events; one row for each of the receiver's habits."""
    counts = {habit: Counter[str]() for habit in Habit}
    for key, history in streams.items():
        if key in habits:
            counts[habits[key]].update(recorded.type for recorded in history)
    total = sum(counts.values(), Counter[str]())
    columns = _COLUMNS | {kind: kind.lower() for kind in sorted(total) if kind not in _COLUMNS}
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("the receiver", "in all", no_wrap=True)
    for kind, title in columns.items():
        table.add_column(title, f"{total[kind]:,}", justify="right", no_wrap=True)
    for habit, count in counts.items():
        table.add_row(habit.label, *(f"{count[kind]:,}" if count[kind] else "." for kind in columns))
    console.print()
    console.print(table)
    console.print()


def show_explanation(console: Console, explanation: Explanation, repeated: bool) -> None:
    """Why one of them is where it is."""
    question = "Why did the receiver get this one twice?" if repeated else "What became of this one?"
    console.print(f"[bold]{question}[/] app.explain(id) says:", highlight=False)
    console.print(str(explanation), style="cyan", highlight=False, markup=False, soft_wrap=True)


def show_proof(console: Console, proof: Proof, seconds: float) -> None:
    """The claims, what speaks against them, and the verdict."""
    console.print("\n[bold]The receiver's own log, held against the events[/]")
    for claim in proof.claims:
        mark = "[green]ok[/] " if claim.holds else "[bold red]NO[/] "
        console.print(f"  {mark} {claim.text:<48} {claim.count:>26}", highlight=False, soft_wrap=True)
        for finding in claim.findings[:5]:
            console.print(f"       [red]{escape(finding)}[/]", highlight=False, soft_wrap=True)
        if len(claim.findings) > 5:
            console.print(f"       [red]and {len(claim.findings) - 5:,} more[/]")
    verdict = "[bold green]The proof holds.[/]" if proof.holds else "[bold red]The proof does not hold.[/]"
    console.print(
        f"{verdict} In {seconds:.1f} s the receiver accepted {proof.acceptances:,} requests for "
        f"{proof.effects:,} webhooks;\nby their key it can tell that "
        f"{proof.acceptances - proof.effects:,} of them were repetitions.",
        highlight=False,
        soft_wrap=True,
    )
