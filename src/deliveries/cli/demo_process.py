"""Starting, killing and stopping the demo's worker processes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from typing import Self

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
MAX_COMPLAINT = 2_000
"""Bytes shown of what a worker wrote on standard error."""


class DemoFailed(Exception):
    """The demo could not be played to its end; the text says why."""


class Worker:
    """One worker process, gone at the end of the `with` whatever happens."""

    def __init__(self, url: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "deliveries.cli.demo_worker", url],
            stdin=subprocess.PIPE,  # its end tells the worker that we are gone
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.pid = self._process.pid
        self.name = ""
        """What it calls itself in the events; known once it is ready."""

    def ready(self) -> Self:
        """Wait until it works. Raises: DemoFailed."""
        assert self._process.stdout is not None
        if select.select([self._process.stdout], [], [], READY_SECONDS)[0]:
            self.name = self._process.stdout.readline().decode().strip()
        if not self.name:
            raise DemoFailed(f"worker {self.pid} did not start{self.complaint()}")
        return self

    def check(self) -> None:
        """Raises: DemoFailed if it ended by itself."""
        if self._process.poll() is not None:
            raise DemoFailed(f"worker {self.pid} ended by itself{self.complaint()}")

    def kill(self) -> None:
        """`kill -9`: no handler runs, nothing is written, sockets are closed by the kernel."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end. Raises: DemoFailed if it does not, or says that something went wrong."""
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"worker {self.pid} did not end in {STOP_SECONDS:g} s") from None
        if code:
            raise DemoFailed(f"worker {self.pid} ended with {code}{self.complaint()}")

    def complaint(self) -> str:
        """The end of what it wrote on standard error, as the end of a sentence; empty for nothing."""
        size = os.fstat(self._errors.fileno()).st_size
        # Not a seek: the file's position is the worker's, too.
        text = os.pread(self._errors.fileno(), MAX_COMPLAINT, max(0, size - MAX_COMPLAINT))
        return f":\n{text.decode(errors='replace').strip()}" if text.strip() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
