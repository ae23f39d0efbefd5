"""tail as a process: it shows what comes, and ends without a word on Ctrl-C and when nobody reads."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from deliveries import Deliveries, Draft

DEADLINE_SECONDS = 30


@pytest.fixture
def app(database_url: str) -> Iterator[Deliveries]:
    made = Deliveries(database_url)
    made.adapter("email")(lambda delivery, attempt: None)
    yield made
    made.close()


def owe(app: Deliveries, count: int = 1) -> None:
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft() for _ in range(count)])


def tailing(url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deliveries", "tail", "--url", url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: Any) -> str:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return str(line)


def test_it_follows_until_it_is_interrupted(app: Deliveries, database_url: str) -> None:
    owe(app)
    with tailing(database_url, "-f") as process:
        try:
            for _ in range(3):
                assert "Scheduled" in line_of(process)
                owe(app)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_it_ends_when_nobody_reads_any_more(app: Deliveries, database_url: str) -> None:
    owe(app, 5_000)
    with tailing(database_url, "--after", "0") as process:
        try:
            line_of(process)
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(DEADLINE_SECONDS) == 141
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_statistics_grow_on_a_terminal_until_they_are_interrupted(app: Deliveries, database_url: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "deliveries", "stats", "--url", database_url, "--follow"]
    env = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=env) as process:
        try:
            os.close(theirs)
            owe(app, 7)
            app.drain()
            drawn = b""
            while not re.search(rb"email +7 +7 +7", re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", drawn)):
                assert select.select([ours], [], [], DEADLINE_SECONDS)[0], drawn[-500:]
                drawn += os.read(ours, 4_096)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # the other end is closed
                while os.read(ours, 4_096):
                    pass
            assert process.wait(DEADLINE_SECONDS) == 130
            assert process.stderr is not None
            assert process.stderr.read() == b""
        finally:
            process.kill()
            os.close(ours)
    assert sum(hour.succeeded for hour in app.statistics()) == 7
