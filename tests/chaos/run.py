"""`make chaos`: the long run, its table, and exit code 1 where a rule is broken.

python tests/chaos/run.py --deliveries 50000 --minutes 6 --seed 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chaos.scenario import Plan, chaos


def main() -> int:
    parser = argparse.ArgumentParser(description="PostgreSQL under fire, and the verdict.")
    parser.add_argument("--deliveries", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=6.0, help="under fire at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="copy the processes' logs to this directory")
    given = parser.parse_args()
    report = chaos(Plan(given.deliveries, given.minutes * 60, given.seed), given.keep)
    sys.stdout.write(f"seed {given.seed}\n{report}\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
