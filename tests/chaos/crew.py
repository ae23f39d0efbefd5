"""The processes of a chaos run: started, killed, replaced, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
END_SECONDS = 40.0


class Crew:
    """`processors` processes that perform, and callers that schedule; none is left behind."""

    def __init__(self, url: str, directory: Path, processors: int) -> None:
        self._url, self._directory = url, directory
        self._processors: list[subprocess.Popen[bytes]] = []
        self._callers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        for _ in range(processors):
            self._processors.append(self._processor())

    def call(self, **arguments: Any) -> None:
        """Start a caller."""
        self._callers.append(self._start("caller", url=self._url, **arguments))

    def kill(self, number: int) -> None:
        """SIGKILL for processor `number`, counted around; a new one takes its place."""
        with self._lock:
            place = number % len(self._processors)
            self._processors[place].kill()
            self._processors[place].communicate()
            self._processors[place] = self._processor()

    @property
    def is_calling(self) -> bool:
        """Whether a caller still runs."""
        return any(caller.poll() is None for caller in self._callers)

    def said(self) -> list[dict[str, int]]:
        """What the callers, who are through, have counted. Raises where one has failed."""
        answers = []
        for caller in self._callers:
            out, _ = caller.communicate(timeout=END_SECONDS)
            assert caller.returncode == 0, f"a caller ended with {caller.returncode}: see its log"
            answers.append(json.loads(out))
        return answers

    def end(self) -> list[int]:
        """SIGTERM for the processors; their exit codes."""
        with self._lock:
            for one in self._processors:
                one.terminate()
            return [one.wait(END_SECONDS) for one in self._processors]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for one in (*self._processors, *self._callers):
            with one:
                one.kill()

    def _processor(self) -> subprocess.Popen[bytes]:
        return self._start("processor", url=self._url, directory=str(self._directory))

    def _start(self, program: str, **arguments: Any) -> subprocess.Popen[bytes]:
        with (self._directory / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(HERE / f"{program}.py"), json.dumps(arguments)],
                stdout=subprocess.PIPE if program == "caller" else subprocess.DEVNULL,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE.parent), *sys.path))},
            )
