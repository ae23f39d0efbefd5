"""Hours of channels, drawn with characters: bars and sparklines, at any width of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from deliveries.audit.statistics import Hour, Latency
from deliveries.cli.output import plain

BAR = 30
"""Characters of the longest bar."""

_RAMPS = ("·▁▂▃▄▅▆▇█", " .:-=+*#@")
"""From nothing to most, for terminals that have blocks and for those that do not."""

_COUNTS = (
    ("scheduled", "cyan"),
    ("attempted", "blue"),
    ("succeeded", "green"),
    ("failed", "red"),
    ("interrupted", "red"),
    ("held", "yellow"),
    ("suppressed", "dim"),
    ("cancelled", "dim"),
    ("exhausted", "red"),
)
_ALWAYS = ("scheduled", "attempted", "succeeded", "failed")


def page(found: Sequence[Hour], first: datetime, hours: int, channels: Sequence[str]) -> RenderableType:
    """One channel hour by hour, or a row for each channel."""
    if len(channels) == 1:
        return by_hour(found, first, hours)
    return by_channel(found, first, hours)


def by_channel(found: Sequence[Hour], first: datetime, hours: int) -> Table:
    """A row for each channel: sums, latencies, and attempts as they came, hour by hour."""
    totals: dict[str, Hour] = {}
    for one in found:
        totals.setdefault(one.channel, Hour(channel=one.channel, hour=first)).absorb(one)
    names = _shown(totals.values())
    table = _table("channel", names, f"attempts, last {hours} h")
    for channel, total in sorted(totals.items()):
        attempts = {one.hour: one.attempted for one in found if one.channel == channel}
        row = [attempts.get(first + timedelta(hours=n), 0) for n in range(hours)]
        table.add_row(
            Text(plain(channel or "?")), *_cells(total, names), Text(spark(row[-BAR * 2 :]), style="blue")
        )
    return table


def by_hour(found: Sequence[Hour], first: datetime, hours: int) -> Table:
    """A row for each hour, with a bar of what was attempted: green succeeded, red failed."""
    names = _shown(found)
    table = _table("hour", names, "attempts")
    there = {one.hour: one for one in found}
    most = max((one.attempted for one in found), default=0)
    begun = False
    for n in range(hours):
        at = first + timedelta(hours=n)
        one = there.get(at)
        begun = begun or one is not None
        if not begun:  # the hours before anything happened
            continue
        one = one or Hour(channel="", hour=at)
        table.add_row(Text(f"{at:%m-%d %H}:00Z"), *_cells(one, names), bar(one, most))
    return table


def bar(hour: Hour, most: int) -> Text:
    """As long as there were attempts, `BAR` where there were `most` of them."""
    block = "█" if _has_blocks() else "#"
    length = -(-hour.attempted * BAR // most) if most else 0
    ended = max(hour.attempted, hour.succeeded + hour.failed, 1)
    good = min(length, round(length * hour.succeeded / ended))
    bad = min(length - good, round(length * hour.failed / ended))
    return Text.assemble(
        (block * good, "green"), (block * bad, "red"), (block * (length - good - bad), "blue")
    )


def spark(values: Sequence[int]) -> str:
    """One character for each value, as high as it is beside the highest; nothing is a dot."""
    ramp = _RAMPS[0 if _has_blocks() else 1]
    most = max(values, default=0)
    return "".join(ramp[-(-value * (len(ramp) - 1) // most)] if most else ramp[0] for value in values)


def span(seconds: float | None) -> str:
    """A length of time, in the unit that suits it."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1), ("ms", 0.001)):
        if seconds >= size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"
    return f"{seconds * 1e6:.0f} us"


def _shown(found: Collection[Hour]) -> list[str]:
    """The counts that are worth a column."""
    return [name for name, _ in _COUNTS if name in _ALWAYS or any(getattr(one, name) for one in found)]


def _table(title: str, names: Sequence[str], drawn: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    for name in (*names, "wait p50", "p99", "run p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(drawn, no_wrap=True)
    return table


def _cells(hour: Hour, names: Sequence[str]) -> list[Text]:
    styles = dict(_COUNTS)
    values = ((name, getattr(hour, name)) for name in names)
    counts = [Text(f"{value:,}", style=styles[name] if value else "dim") for name, value in values]
    return [*counts, *_latencies(hour.wait), *_latencies(hour.run)]


def _latencies(latency: Latency) -> list[Text]:
    return [Text(span(latency.quantile(share))) for share in (0.5, 0.99)]


def _has_blocks() -> bool:
    try:
        _RAMPS[0].encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
