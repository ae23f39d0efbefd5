"""A process that has imported everything and forks others in milliseconds.

It has no threads, no engine and no connection, so that what it forks inherits none: a SQLite file's
locks, for one, would be taken for the child's own.

    with Zygote() as zygote:
        child = zygote.fork("worker", url=...)
        child.wait_for("at ")
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL

Whatever still runs when the `with` ends, or when its owner dies, is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

PATIENCE = 30.0
"""Seconds for anything that must happen; nothing waits so long unless it fails."""

_TESTS = Path(__file__).parent.parent
_MESSAGE = 65_536


class Child:
    """A forked process: it reports lines, gets signals, and ends."""

    def __init__(self, zygote: Zygote, pid: int, report: int) -> None:
        self.pid, self.lines = pid, list[str]()
        self._zygote, self._report, self._rest = zygote, report, b""
        self._code: int | None = None

    def read(self, timeout: float = 0.0) -> bool:
        """Take what it has reported; False once it has closed its end, by dying."""
        if self._report < 0:
            return False
        if not select.select([self._report], [], [], timeout)[0]:
            return True
        got = os.read(self._report, _MESSAGE)
        *lines, self._rest = (self._rest + got).split(b"\n")
        self.lines += [line.decode() for line in lines]
        if not got:
            self._forget()
        return bool(got)

    def wait_for(self, start: str, timeout: float = PATIENCE) -> str:
        """The first line that starts so."""
        until = time.monotonic() + timeout
        while True:
            if found := [line for line in self.lines if line.startswith(start)]:
                return found[0]
            assert time.monotonic() < until, f"no {start!r} in {self.lines}"
            assert self.read(0.05), f"ended without {start!r}: {self.lines}"

    def is_ready(self) -> bool:
        """Wait until it says that it runs, waking it if it was halted; False where it has ended before."""
        until = time.monotonic() + PATIENCE
        while "running" not in self.lines:
            assert time.monotonic() < until, f"{self.pid} does not start: {self.lines[-3:]}"
            if self.is_halted():
                self.signal(signal.SIGCONT)
            if not self.read(0.2):
                return False
        return True

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended gets none."""
        if self._code is None:
            os.kill(self.pid, number)  # not reaped before `wait`, so that the number is still its own

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, or minus the signal that ended it; reads what it still reported."""
        until = time.monotonic() + timeout
        while self._code is None:
            if not self.read(max(0.0, until - time.monotonic())) or self._report < 0:
                self._code = self._zygote.ask({"wait": self.pid})["code"]
            assert self._code is not None or time.monotonic() < until, f"{self.pid} does not end"
        return self._code

    def is_halted(self) -> bool:
        """Whether SIGSTOP has come to it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def where_it_is(self) -> str:
        """What its threads do, by a signal that it answers with that."""
        known = len(self.lines)
        self.signal(signal.SIGUSR1)
        while self.read(0.5) and len(self.lines) > known:
            known = len(self.lines)
        return " | ".join(line.strip() for line in self.lines if "/deliveries/" in line or "Thread" in line)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def _forget(self) -> None:
        os.close(self._report)
        self._report = -1


class Zygote:
    """Starts the process and speaks with it; a context manager."""

    def __init__(self) -> None:
        paths = (str(_TESTS), os.environ.get("PYTHONPATH"))
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crash.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        self._children: list[Child] = []
        self._lock = threading.Lock()

    def fork(self, role: str, **arguments: Any) -> Child:
        """A new process in this role (see `ROLES`)."""
        ours, theirs = os.pipe()
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 2**20)  # nobody waits until it is read
        try:
            pid = self.ask({"role": role, "arguments": arguments}, theirs)["pid"]
        finally:
            os.close(theirs)
        self._children.append(Child(self, pid, ours))
        return self._children[-1]

    def ask(self, request: dict[str, Any], *files: int) -> dict[str, Any]:
        """One question, one answer."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(files))
            answer = self._socket.recv(_MESSAGE)
        assert answer, "the zygote has died"
        return dict(json.loads(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()
        self._process.wait(PATIENCE)
        for child in self._children:
            if child._report >= 0:
                child._forget()


# -- in the process itself -----------------------------------------------------------------------


def serve(requests: socket.socket) -> None:
    """Fork and reap as asked, until the other end is closed; then kill what still runs."""
    children: set[int] = set()
    while True:
        message, files, _, _ = socket.recv_fds(requests, _MESSAGE, 1)
        if not message:
            break
        request = json.loads(message)
        if "wait" in request:
            children.discard(request["wait"])
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                requests.close()
                _be(request["role"], files[0], request["arguments"])
            children.add(pid)
            os.close(files[0])
            answer = {"pid": pid}
        requests.send(json.dumps(answer).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _be(role: str, report: int, arguments: dict[str, Any]) -> None:
    """Play the role, in the forked process, and end."""
    code = 70
    try:
        code = roles()[role](report, **arguments)
    except BaseException as error:
        said = " ".join(f"error {type(error).__name__}: {error}".split())
        os.write(report, f"{said}\n".encode())
    finally:
        os._exit(code)


def roles() -> dict[str, Callable[..., int]]:
    """What a forked process can be."""
    from crash import receiver, worker

    return {"worker": worker.main, "receiver": receiver.main}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever owns us ends us, by hanging up
    roles()
    gc.collect()
    gc.freeze()  # what is never collected is never copied
    serve(socket.socket(fileno=int(sys.argv[1])))
