"""A worker process: a processor as the command runs it, with a gate at every point.

It reports lines: `seen POINT` at the first visit of each, `at POINT` where it acts, `running`, `log ...`
for each error that the product logs, and `warning ...` for what it logs of less.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from crash import variants
from crash.points import Gate, watch
from crash.shop import QUEUES, application
from deliveries import Deliveries
from deliveries.cli.app import run as command
from deliveries.cli.supervise import supervise

app: Deliveries
"""What `--app crash.worker:app` finds, in a process that plays the command."""


def main(
    report: int,
    url: str,
    receiver: str,
    at: str | None = None,
    visit: int = 1,
    sign: int = signal.SIGKILL,
    mode: str = "worker",
    lease: float = 0.5,
    variant: str | None = None,
) -> int:
    """Perform what is due: as `worker` or `command` for ever, or as `drain` until nothing is left."""

    def say(line: str) -> None:
        os.write(report, f"{line}\n".encode())

    global app
    faulthandler.register(signal.SIGUSR1, file=report)
    _redirect(say)
    gate = Gate(say, at, visit, sign)
    app = application(url, receiver, gate)
    watch(app.engine, gate)
    if variant is not None:
        variants.VARIANTS[variant](app)
    if mode == "command":
        sys.modules["crash.worker"] = sys.modules[__name__]
        return _command(lease)
    processor = app.processor(QUEUES, lease=lease, poll=0.05, sweep_every=0.1, grace=10.0)
    code = supervise(processor, until_idle=mode == "drain", ready=lambda: say("running"))
    app.close()
    return code


def _command(lease: float) -> int:
    queues = [f"--queue={name}={slots}" for name, slots in QUEUES.items()]
    return command(["worker", "--app", "crash.worker:app", f"--lease={lease}", "--poll=0.05", *queues])


def _redirect(say: Callable[[str], None]) -> None:
    """Errors go to whoever reads us; nothing else is written."""

    class Errors(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "performs what is due" in record.msg:
                say("running")  # so the command says that signals are handled
            word = "log" if record.levelno >= logging.ERROR else "warning"
            say(f"{word} {' '.join(record.getMessage().split())[:500]}")

    logging.getLogger("deliveries").addHandler(Errors())
    null: Any = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
