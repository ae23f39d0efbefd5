"""`make crash N=2000`: so many workers are killed, over every point and both databases.

Ends with 1 where anything was found. `--seed` repeats the choices of a run; what the operating system
made of them is never twice the same.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from crash.matrix import Matrix, play
from crash.world import World
from crash.zygote import Zygote
from support import databases

WORKERS = 10
"""Die in one world."""
ENOUGH = 3
"""With so many kills for each point, one that was never hit is a hole in the matrix."""


class Databases:
    """Makes a database for each world."""

    def __init__(self, directory: Path, server: databases.Server) -> None:
        self._directory, self._server = directory, server
        self._template = directory / "template.db"
        self._lock = threading.Lock()
        self._count = 0
        databases.create_schema(f"sqlite:///{self._template}")

    @contextmanager
    def one(self, dialect: str) -> Iterator[str]:
        """The URL of a new database with our schema."""
        with self._lock:
            self._count += 1
            path = self._directory / f"{self._count}.db"
            url = self._server.create_with_schema() if dialect == "postgresql" else None
        if url is not None:
            yield url.render_as_string(hide_password=False)
            with self._lock:
                self._server.drop(url)
        else:
            shutil.copy(self._template, path)
            yield f"sqlite:///{path}"
            for file in self._directory.glob(f"{path.name}*"):
                file.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=2_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--lanes", type=int, default=8, help="worlds at a time, half of them on each database"
    )
    parser.add_argument("--lease", type=float, default=0.4, help="seconds")
    parser.add_argument("--variant", help="a known-bad product, see variants.py")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either one has the table printed
    print(f"seed {given.seed}, {given.kills} kills", flush=True)
    matrix, began, stopping = Matrix(), time.monotonic(), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="deliveries-crash-") as name,
        databases.server() as server,
        Zygote() as zygote,
    ):
        made = Databases(Path(name), server)

        def lane(number: int) -> None:
            rng = random.Random(f"{given.seed} {number}")
            dialect = ("sqlite", "postgresql")[number % 2]
            while matrix.totals.kills < given.kills and not stopping.is_set():
                with (
                    made.one(dialect) as url,
                    World(zygote, url, lease=given.lease, variant=given.variant) as world,
                ):
                    for one in play(world, matrix, dialect, rng, WORKERS):
                        print(f"FOUND on {one}", flush=True)
                if matrix.totals.worlds % 10 == 0:
                    _progress(matrix, began)

        with ThreadPoolExecutor(given.lanes) as lanes:
            try:
                for done in [lanes.submit(lane, number) for number in range(given.lanes)]:
                    done.result()
            except BaseException as error:  # tell what is there, once the worlds are at their end
                stopping.set()
                matrix.findings.append(f"stopped by {type(error).__name__}: {error}")
        server.close()
    _table(matrix)
    return _verdict(matrix, time.monotonic() - began)


def _progress(matrix: Matrix, began: float) -> None:
    totals = matrix.totals
    print(
        f"{time.monotonic() - began:6.0f} s  {totals.kills} kills, {totals.signals} other signals, "
        f"{totals.deliveries} deliveries, {len(matrix.findings)} findings",
        flush=True,
    )


def _table(matrix: Matrix) -> None:
    names = sorted({point for points in matrix.tallies.values() for point in points})
    width = max(map(len, names), default=0)
    print(f"\n{'point':{width}}  {'sqlite':>18}  {'postgresql':>18}  findings")
    print(f"{'':{width}}  {'kills other misses':>18}  {'kills other misses':>18}")
    for name in names:
        cells, findings = "", 0
        for dialect in ("sqlite", "postgresql"):
            tally = matrix.tallies[dialect].get(name)
            cells += "  " + (f"{tally.kills:5} {tally.signals:5} {tally.misses:6}" if tally else f"{'-':>18}")
            findings += tally.findings if tally else 0
        print(f"{name:{width}}{cells}  {findings:8}")


def _verdict(matrix: Matrix, seconds: float) -> int:
    totals = matrix.totals
    points = {(d, p): tally for d, some in matrix.tallies.items() for p, tally in some.items()}
    holes = [f"{d}: {p}" for (d, p), tally in points.items() if not tally.kills]
    print(
        f"\n{totals.kills} kills and {totals.signals} other signals at {len(points) - len(holes)} of "
        f"{len(points)} points in {totals.worlds} worlds: {totals.deliveries} deliveries, "
        f"{totals.attempts} attempts, {totals.effects} effects, "
        f"{len(matrix.findings)} findings, {seconds:.0f} s"
    )
    for hole in sorted(holes):
        print(f"never killed at {hole}")
    for finding in matrix.findings:
        print(f"FOUND on {finding}")
    return 1 if matrix.findings or not totals.kills else 0


if __name__ == "__main__":
    sys.exit(main())
