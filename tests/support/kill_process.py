"""A worker process, started, awaited and signalled."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

TESTS = Path(__file__).parent.parent
PATIENCE = 30.0
"""Seconds for anything that must happen; nothing waits so long unless it fails."""


class WorkerProcess:
    """`script` with these arguments; killed at the end of the `with`, if it lives."""

    script = "worker.py"

    def __init__(self, **arguments: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / self.script), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), *sys.path))},
        )
        self._lines = b""

    def wait_for(self, line: str) -> None:
        """Read its lines until `line` comes."""
        until = time.monotonic() + PATIENCE
        assert self._process.stdout is not None
        while f"{line}\n".encode() not in self._lines:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 4_096) if ready else b""
            assert more, f"the worker did not come to {line!r}: {self._lines!r}, {self._process.poll()}"
            self._lines += more

    def let_go(self) -> None:
        """Let it pass the point at which it waits."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        assert self._process.wait(PATIENCE) == -signal.SIGKILL

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._process:
            self._process.kill()


def until(condition: Callable[[], object], what: str) -> None:
    """Look again and again, for a bounded time, until `condition` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"in vain: {what}"
        select.select([], [], [], 0.01)
