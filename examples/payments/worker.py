"""A worker process, which can be made to die where it hurts most.

    python -m examples.payments.worker DATABASE GATEWAY [--die ORDER:POINT ...]

POINT is `before`, `during` or `after` the order's charge. Prints its name once it works, and ends
when its standard input is closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from deliveries import Delivery

from .shop import Point, nowhere, payments


def dying(stops: list[str]) -> Point:
    """`kill -9` once all these charges have come to their points: no handler, no last word."""
    together = threading.Barrier(len(stops), action=lambda: os.kill(os.getpid(), signal.SIGKILL))

    def point(name: str, delivery: Delivery) -> None:
        if f"{delivery.key}:{name}" in stops:
            together.wait()

    return point


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("gateway")
    parser.add_argument("--die", nargs="+")
    options = parser.parse_args()
    point = dying(options.die) if options.die else nowhere
    app = payments(options.database, options.gateway, point)
    with app.running({"payments": 10}, lease=1.0, poll=0.1, sweep_every=0.2) as processor:
        print(processor.worker, flush=True)
        sys.stdin.read()
    app.close()
