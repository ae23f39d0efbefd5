"""The demo's worker: a process of its own that performs webhooks, made to be killed.

    python -m deliveries.cli.demo_worker sqlite:////tmp/demo.db

Says its name in one line once it works. Ends gracefully on SIGTERM, and when its standard input is
closed: so it never outlives the demo, however that ends.
"""

from __future__ import annotations

import select
import signal
import sys

from deliveries import Backoff, Deliveries

CHANNEL = "webhook"
CONCURRENCY = 32
LEASE_SECONDS = 4.0
"""How long the calls of a killed worker stay out of reach."""
TIMEOUT_SECONDS = 10.0
"""Far above the receiver's slow answers: no call of the demo times out."""


def webhooks(url: str) -> Deliveries:
    """The application: one database, one channel. The shop schedules with it, the worker performs."""
    from deliveries.adapters.webhook import Webhook

    app = Deliveries(url)
    app.adapter(
        CHANNEL, timeout=TIMEOUT_SECONDS, max_attempts=10, backoff=Backoff.exponential(base=0.4, cap=2)
    )(Webhook())
    return app


def main(url: str) -> int:
    """Work until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the demo, which then stops us
    stop = False

    def told(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, told)
    app = webhooks(url)
    with app.running({CHANNEL: CONCURRENCY}, lease=LEASE_SECONDS, sweep_every=0.5, poll=0.1) as processor:
        print(processor.worker, flush=True)
        while not stop and processor.is_alive and not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
    app.close()
    return 1 if processor.error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
