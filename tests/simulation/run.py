"""Live many histories, on all cores, and say what came of them.

python -m simulation 100000 [--seed 0] [--jobs 2]
python -m simulation --only 4711        one seed, with its log
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context

from deliveries import Deliveries
from deliveries.engine import engine_of
from property.store.model import CHANNELS
from property.store.workers import World
from simulation.ground import Ground
from simulation.history import History, live
from simulation.small_model import Luck, SmallWorld, explore

CHUNK = 200
"""Histories on one database: its log grows for ever."""


def lives(seeds: range) -> tuple[Counter[str], Counter[str], int, list[str]]:
    """Events, luck and turns of these seeds together, and the histories in which a rule was broken."""
    events: Counter[str] = Counter()
    luck: Counter[str] = Counter()
    turns, broken, ground = 0, [], Ground()
    for seed in seeds:
        history = live(seed, ground)
        events += history.events
        luck += history.luck
        turns += history.turns
        if history.findings:
            broken.append(str(history))
    ground.close()
    return events, luck, turns, broken


def chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, CHUNK):
        yield range(start, min(start + CHUNK, first + count))


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", type=int, help="live one seed and print its log")
    parser.add_argument("--small", action="store_true", help="explore the small world instead")
    given = parser.parse_args()
    if given.small:
        return _explore()
    if given.only is not None:
        history: History = live(given.only, Ground())
        print(history)
        return bool(history.findings)
    events: Counter[str] = Counter()
    luck: Counter[str] = Counter()
    turns = done = wrong = 0
    begun = time.monotonic()
    with get_context("spawn").Pool(given.jobs) as pool:
        for batch in pool.imap_unordered(lives, chunks(given.seed, given.count)):
            events += batch[0]
            luck += batch[1]
            turns += batch[2]
            for text in batch[3]:
                wrong += 1
                print(text, flush=True)
            done = min(done + CHUNK, given.count)
            rate = done / (time.monotonic() - begun)
            print(f"\r{done:,} of {given.count:,}, {rate:.0f}/s, {wrong} broken", end="", file=sys.stderr)
    seconds = time.monotonic() - begun
    print(file=sys.stderr)
    print(f"{given.count:,} histories from seed {given.seed} in {seconds:,.0f} s on {given.jobs} processes:")
    print(f"  {given.count / seconds:,.0f} histories/s, {turns:,} turns, {wrong} with a broken rule")
    for title, counted in (("events", events), ("luck", luck)):
        print(f"  {title}: " + ", ".join(f"{name} {count:,}" for name, count in counted.most_common()))
    return 1 if wrong else 0


def _explore() -> int:
    """Every interleaving for each kind of adapter; a broken rule raises."""
    engine = engine_of("sqlite://")
    Deliveries(engine).create_schema()
    world = World.on(engine)
    for lost in (0, 1):
        for channel in CHANNELS:
            explored = explore(SmallWorld(world, channel.name, Luck(lost=lost)))
            print(f"{channel.name}, {lost} lost answers: {explored}", flush=True)
    return 0
