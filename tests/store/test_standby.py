"""On a hot standby nobody can tell what is still open on the primary, so the log is refused there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, make_url, text

from deliveries.audit.doctor import examine
from deliveries.clock import SystemClock
from deliveries.errors import StandbyReader
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.store import Store
from support.databases import DRIVER, create_schema, own_server


class Standby:
    """A streaming copy of a primary, made by the server's own tools and run by the same user."""

    def __init__(self, primary: Any) -> None:
        self.primary = primary
        self.directory = Path(primary.pgdata).parent / "standby"
        self.data = self.directory / "data"  # the socket is not in there: the copy has the primary's lock
        self.directory.mkdir()
        shutil.chown(self.directory, Path(primary.pgdata).owner())

    def start(self) -> URL:
        url = make_url(self.primary.get_uri())
        host = str(url.query["host"])
        backup = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata", str(self.data)]
        self._run("pg_basebackup", "--host", host, "--username", "postgres", *backup)
        options, log = f"-h '' -k {self.directory}", str(self.directory / "log")
        self._run("pg_ctl", "-w", "-D", str(self.data), "-l", log, "-o", options, "start")
        return url.set(drivername=DRIVER, query={"host": str(self.directory)})

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self.data), "stop")

    def _run(self, command: str, *arguments: str) -> None:
        subprocess.run(
            [self.primary.bin_path / command, *arguments],
            check=True,
            user=self.primary.system_user,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server that pg_ctl leaves behind would keep a pipe open
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


@pytest.fixture
def standby_url() -> Iterator[URL]:
    """A hot standby of a server that has our schema."""
    with own_server() as primary:
        create_schema(make_url(primary.get_uri()).set(drivername=DRIVER))
        standby = Standby(primary)
        try:
            yield standby.start()
        finally:
            standby.stop()


READS: tuple[Callable[[DeliveryRecorder], Any], ...] = (
    lambda recorder: recorder.select_notifications(None, 10),
    lambda recorder: recorder.max_notification_id(),
    lambda recorder: next(recorder.subscribe()),
)


def test_the_log_is_not_read_on_a_standby(standby_url: URL, engines: Callable[..., Engine]) -> None:
    store = Store(engines(standby_url), SystemClock())
    with store.reading() as connection:
        assert connection.scalar(text("SELECT pg_is_in_recovery()"))
    for read in READS:
        with pytest.raises(StandbyReader, match="read the primary"):
            read(DeliveryRecorder(store))
    found = {one.name: one.verdict for one in examine(store, []).checks}
    assert found["primary"] == "problem"
    assert {name for name, verdict in found.items() if verdict == "unknown"} == {"channels"}
