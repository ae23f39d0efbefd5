"""Beyond one machine: what limits one PostgreSQL, and what a billion deliveries a day would need.

    python benchmarks/beyond.py [--a-day 1e9] [--cores 16] [--log-mb 200] [--fsyncs 5000] [--busy 0.5]

The first block below holds measured figures, each with the command that measures it: put yours there.
Everything else is arithmetic on them and a simulation of one day in steps of a minute. It knows of no
network, no replica and no other user of the database.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

# -- measured, for one delivery: `server.py`, `growth.py --phases left` -----------------------------
# What a debt adds to a transaction that its cause commits anyway, and what performing it costs.

LOG_BYTES = 1_140 + 1_686
"""Write-ahead log to schedule and to perform, full-page images aside."""
LEFT_BYTES = 506 + 1_063 + 115 + 4
"""Tables and indexes, once finished, with an empty payload."""
SERVER_SECONDS = (170 + 44) * 1e-6
"""CPU of PostgreSQL."""
OUR_SECONDS = (205 + 46) * 1e-6
"""CPU of the processes that schedule and perform, without the adapters' own."""
COMMITS = 1 + 0.006
"""The caller's own, and its share of the processor's: 6 for 1,000 deliveries with 500 slots."""

# -- assumed: say yours on the command line --------------------------------------------------------

DAY = 86_400
PEAK = 3.0
"""The busiest minute of a day, over its mean."""


class Limits(NamedTuple):
    """Deliveries a second that one database allows, by what ends first."""

    cpu: float
    log: float
    fsync: float

    @property
    def least(self) -> float:
        """What ends first decides."""
        return min(self)


def limits(cores: float, log_bytes: float, fsyncs: float, group: float, busy: float) -> Limits:
    """`busy`: the share of each resource that may be used up; `group`: commits that share an fsync."""
    return Limits(
        cpu=busy * cores / SERVER_SECONDS,
        log=busy * log_bytes / LOG_BYTES,
        fsync=busy * fsyncs * group / COMMITS,
    )


class Day(NamedTuple):
    """The worst that a day did to the queue of one database."""

    backlog: float
    """Deliveries that were due and waited."""
    wait: float
    """Seconds that one of them waited, first in first out."""


def arrivals(minute: int) -> float:
    """Of a day whose mean is 1: one hump, PEAK high at noon, over as flat a night as that leaves."""
    width, floor = min(1.0, 2 / PEAK), max(0.0, 2 - PEAK)
    from_noon = abs(minute - 720) / 720 / width
    return floor + (PEAK - floor) * (1 + math.cos(math.pi * from_noon)) / 2 if from_noon < 1 else floor


def simulate(per_second: float, capacity: float, down: range = range(0)) -> Day:
    """A day of one database, which performs nothing in the minutes `down`."""
    waiting = backlog = wait = 0.0
    for minute in range(1440):
        able = 0.0 if minute in down else capacity * 60
        waiting = max(0.0, waiting + arrivals(minute) * per_second * 60 - able)
        still_down = (down.stop - minute - 1) * 60 if minute in down else 0
        backlog, wait = max(backlog, waiting), max(wait, still_down + waiting / capacity if waiting else 0.0)
    return Day(backlog, wait)


def shard(id: UUID, databases: int) -> int:
    """Which database a delivery without a key lives in.

    A hash, since the first bits of an id are its time: a range of ids is a moment, not a share. One
    with a key goes by tenant and key, or two databases could both be first to take it.
    """
    return int.from_bytes(sha256(id.bytes).digest()[:8], "big") % databases


def skew(databases: int, n: int = 200_000) -> float:
    """The fullest database's share over the mean."""
    shares = Counter(shard(uuid7(), databases) for _ in range(n))
    return max(shares.values()) / (n / databases)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--a-day", type=float, default=1e9)
    parser.add_argument("--cores", type=float, default=16, help="of one database server")
    parser.add_argument("--log-mb", type=float, default=200, help="MB/s of log that its disk takes for good")
    parser.add_argument("--fsyncs", type=float, default=5_000, help="a second, of the log's disk")
    parser.add_argument("--group", type=float, default=8, help="commits of callers that share one fsync")
    parser.add_argument("--busy", type=float, default=0.5, help="share of each that may be used up")
    parser.add_argument("--keep-days", type=float, default=30, help="finished deliveries are kept so long")
    options = parser.parse_args()
    found = limits(options.cores, options.log_mb * 1e6, options.fsyncs, options.group, options.busy)
    mean = options.a_day / DAY
    databases = math.ceil(mean * PEAK / found.least)
    print(f"one database   {', '.join(f'{name} {rate:,.0f}/s' for name, rate in found._asdict().items())}")
    print(f"{options.a_day:,.0f} a day is {mean:,.0f}/s, {mean * PEAK:,.0f}/s at the peak")
    print(f"databases      {databases}, or the peak waits for the night")
    print(f"processors     {math.ceil(mean * PEAK * OUR_SECONDS / options.busy)} cores, adapters not counted")
    print(f"log            {options.a_day * LOG_BYTES / 1e12:.1f} TB a day in all")
    kept = options.a_day * LEFT_BYTES * options.keep_days / databases
    print(f"kept           {kept / 1e12:.1f} TB on each for {options.keep_days:g} days, payloads not counted")
    print(f"fullest shard  {skew(databases):.3f} of the mean")
    for count in sorted({max(1, databases - 1), databases, databases + 1}):
        for name, down in (("a calm day", range(0)), ("an hour down before noon", range(660, 720))):
            day = simulate(mean / count, found.least, down)
            worst = f"{day.backlog:>13,.0f} wait on each at most, {day.wait / 60:.0f} min"
            print(f"{count:>3} databases, {name:25}{worst}")


if __name__ == "__main__":
    main()
