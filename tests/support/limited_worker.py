"""A worker process on a limited queue: `python limited_worker.py URL LEASE`. It says when it runs.

Its calls end when a line on stdin says so; those that follow take a moment only. Another line ends it.
"""

from __future__ import annotations

import os
import sys
import threading

from deliveries import Deliveries

QUEUES = {"mail": 10}


def main(url: str, lease: float) -> None:
    app, opened = Deliveries(url), threading.Event()

    @app.adapter("email", queue="mail")
    def email(delivery: object, attempt: object) -> None:
        opened.wait(60)

    processor = app.processor(QUEUES, lease=lease, poll=0.1, sweep_every=0.2)
    processor.start()
    os.write(1, b"running\n")
    sys.stdin.readline()
    opened.set()
    sys.stdin.readline()
    processor.stop()
    processor.join(20)
    app.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
