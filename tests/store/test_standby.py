"""On a hot standby nobody can tell what is still open on the primary, so the log is refused there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, make_url, text

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


@pytest.fixture(scope="module")
def standby_url() -> Iterator[URL]:
    """A hot standby of a server that has our schema and one event."""
    with own_server() as primary:
        create_schema(make_url(primary.get_uri()).set(drivername=DRIVER))
        standby = Standby(primary)
        try:
            yield standby.start()
        finally:
            standby.stop()


@pytest.fixture
def store(standby_url: URL, engines: Callable[..., Engine]) -> Store:
    return Store(engines(standby_url), SystemClock())


def test_the_standby_is_one(store: Store) -> None:
    with store.reading() as connection:
        assert connection.scalar(text("SELECT pg_is_in_recovery()"))


READS: dict[str, Callable[[DeliveryRecorder], Any]] = {
    "select_notifications": lambda recorder: recorder.select_notifications(None, 10),
    "max_notification_id": DeliveryRecorder.max_notification_id,
    "subscribe": lambda recorder: next(recorder.subscribe()),
}


@pytest.mark.parametrize("read", READS)
def test_the_log_is_not_read_on_a_standby(store: Store, read: str) -> None:
    with pytest.raises(StandbyReader, match="read the primary"):
        READS[read](DeliveryRecorder(store))
