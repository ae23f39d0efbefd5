"""Processes of the examples, and waiting for them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 30.0
ROOT = Path(__file__).parents[1]


class Process(subprocess.Popen[str]):
    """`python -m module` with these arguments and these variables; gone at the end of the `with`."""

    def __init__(self, module: str, *arguments: str, **variables: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        env = {**os.environ, **variables}
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)

    def says(self) -> str:
        """The next line that it prints."""
        assert self.stdout is not None
        said = select.select([self.stdout], [], [], PATIENCE_SECONDS)[0] and self.stdout.readline().strip()
        if not said:
            raise TimeoutError("it did not start")
        return said

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self.communicate()


def until(condition: Callable[[], object], what: str) -> None:
    """Look again and again until `condition` holds. Raises: TimeoutError."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"in vain: {what}")
        time.sleep(0.02)
