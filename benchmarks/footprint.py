"""Start-up and memory: what importing, asking for help and standing by cost.

    python benchmarks/footprint.py [--rounds 15] [--stores sqlite,postgresql] [-n 2000]

Times are medians of whole processes, the interpreter's own start included and shown beside them.
Memory is that of `deliveries worker`, the command, after it has performed -n deliveries: resident
pages, and the proportional share of them (PSS), since libraries on disk are shared with others.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from bench import database
from deliveries import Deliveries, Draft
from deliveries.store.schema import deliveries

COMMAND = Path(sys.executable).with_name("deliveries")
STARTS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import deliveries": [sys.executable, "-c", "import deliveries"],
    "from deliveries import Retry": [sys.executable, "-c", "from deliveries import Retry"],
    "from deliveries import Deliveries": [sys.executable, "-c", "from deliveries import Deliveries"],
    "import sqlalchemy.orm": [sys.executable, "-c", "import sqlalchemy.orm"],
    "deliveries --help": [str(COMMAND), "--help"],
}
APPLICATION = """
from deliveries import Deliveries

app = Deliveries()


@app.adapter("noop")
async def noop(delivery, attempt): ...
"""


def started(command: list[str]) -> float:
    """Milliseconds from its start to its end."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - begun)


def worker(url: str, folder: Path, n: int) -> str:
    """Have the command perform `n` deliveries, and look at it."""
    (folder / "footprint_app.py").write_text(APPLICATION)
    app = Deliveries(url)
    app.create_schema()
    app.adapter("noop")(print)  # never called here: only a registered channel can be scheduled
    with app.engine.begin() as connection:
        app.schedule_many(connection, "noop", [Draft({"i": i}) for i in range(n)])
    environment = os.environ | {"DELIVERIES_URL": url}
    command = [str(COMMAND), "worker", "--app", "footprint_app:app"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_done(app, n)
            kib = memory(process.pid)
        finally:
            process.terminate()
    app.close()
    return "   ".join(f"{name} {size / 1024:.0f} MiB" for name, size in kib.items())


def wait_until_done(app: Deliveries, n: int, seconds: float = 120.0) -> None:
    statement = select(func.count()).where(deliveries.c.status == "succeeded")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        with app.engine.connect() as connection:
            reader = connection.execution_options(deliveries_read_only=True)
            if reader.scalar(statement) == n:
                return
        time.sleep(0.1)
    raise SystemExit(f"the worker did not perform {n} deliveries in {seconds:g} s")


def memory(pid: int) -> dict[str, int]:
    """KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss):\s+(\d+)", rollup, re.MULTILINE))
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    return {"resident": int(found["Rss"]), "share": int(found["Pss"]), "peak": int(peak.group(1))}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--stores", default="sqlite,postgresql")
    parser.add_argument("-n", type=int, default=2_000)
    parser.add_argument("--url", help="a PostgreSQL URL; its role may create databases")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(options.rounds):  # in turn, so that a slow moment is everybody's
        for name, command in STARTS.items():
            times[name].append(started(command))
    for name, found in times.items():
        print(f"{name:36}{statistics.median(found):>6.0f} ms  ({min(found):.0f}..{max(found):.0f})")
    with tempfile.TemporaryDirectory(prefix="deliveries-footprint-") as folder:
        for store in options.stores.split(","):
            with database(store, Path(folder), options.url) as url:
                print(f"deliveries worker, {store:18}{worker(url, Path(folder), options.n)}", flush=True)


if __name__ == "__main__":
    main()
