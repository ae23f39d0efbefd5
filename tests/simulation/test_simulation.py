"""A thousand histories without a broken rule; many more with `make simulate N=...`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from simulation.ground import Ground
from simulation.history import live

SEEDS = [range(start, start + 100) for start in range(0, 1_000, 100)]

REPLAY = """
import json, sys
from simulation.history import live
from simulation.ground import Ground
print(json.dumps([live(seed, Ground()).log for seed in json.loads(sys.argv[1])]))
"""


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_no_history_breaks_a_rule(seeds: range) -> None:
    ground = Ground()
    events: Counter[str] = Counter()
    for seed in seeds:
        history = live(seed, ground)
        assert not history.findings, f"make simulate ONLY={seed} lives it again\n{history}"
        events += history.events
    ground.close()
    rare = {"Held", "Interrupted", "Failed", "Cancelled", "Exhausted", "Suppressed", "Rescheduled"}
    assert rare | {"Scheduled", "Attempted", "Succeeded"} <= events.keys(), "these histories are too calm"


def test_a_seed_is_one_history_whatever_was_lived_before_and_whoever_lives_it() -> None:
    seeds = [3, 14, 15, 92]
    ground = Ground()
    here = [live(seed, ground).log for seed in seeds]
    again = [live(seed, ground).log for seed in reversed(seeds)][::-1]
    ground.close()
    tests = Path(__file__).parent.parent
    elsewhere = subprocess.run(
        [sys.executable, "-c", REPLAY, json.dumps(seeds)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tests), *sys.path)), "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert here == again
    assert json.loads(elsewhere.stdout) == json.loads(json.dumps(here))
    assert all(here)
