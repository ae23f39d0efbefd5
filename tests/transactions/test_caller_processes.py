"""T1 and T2 with callers in processes of their own: killed, ended, left behind, and racing each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deliveries import Deliveries
from support.apps import Apps, Calls, eventually, kinds, schedule
from support.kill_process import TESTS, WorkerProcess
from transactions.debts import assert_key_is_free, assert_nothing_left, owed
from transactions.watch import watching

PROCESSES = 8


class CallerProcess(WorkerProcess):
    """`caller_process.py` with these arguments; killed at the end of the `with`, if it lives."""

    def __init__(self, **arguments: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "caller_process.py"), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), *sys.path))},
        )
        self._lines = b""

    def said(self, word: str) -> list[str]:
        """The rest of each line that begins with `word`."""
        return [
            line.removeprefix(f"{word} ")
            for line in self._lines.decode().splitlines()
            if line.startswith(word)
        ]


Start = Callable[..., CallerProcess]


@pytest.fixture
def start(database_url: str) -> Start:
    return lambda **arguments: CallerProcess(url=database_url, **arguments)


@pytest.mark.parametrize("savepoint", [False, True], ids=["plain", "in a savepoint"])
def test_a_caller_killed_in_his_transaction_owes_nothing(
    app: Deliveries, start: Start, savepoint: bool, calls: Calls
) -> None:
    with start(end="killed", keys=["k", "other"], savepoint=savepoint) as caller:
        caller.wait_for("ready")
        caller.let_go()
        caller.wait_for("scheduled 2")
        caller.kill()
    eventually(lambda: schedule(app, "email", "somebody else's", key="k").created)
    assert owed(app) == ["somebody else's"]
    assert app.drain().attempted == len(calls) == 1
    assert_key_is_free(app, "other")


@pytest.mark.parametrize("end", ["returned", "exit", "gone", "raised"])
def test_a_program_that_is_over_without_a_commit_owes_nothing(
    app: Deliveries, start: Start, end: str, calls: Calls
) -> None:
    with start(end=end, keys=["k"]) as caller:
        caller.wait_for("ready")
        caller.let_go()
        caller.wait_for("scheduled 1")
        assert caller.wait() == (1 if end == "raised" else 0)
    assert_nothing_left(app, calls)
    assert_key_is_free(app, "k")


def test_a_caller_killed_after_his_commit_owes(app: Deliveries, start: Start, calls: Calls) -> None:
    with start(end="committed", keys=["a", "b"]) as caller:
        caller.wait_for("ready")
        caller.let_go()
        caller.wait_for("committed")
        caller.kill()
    assert owed(app) == [{"of": "a"}, {"of": "b"}]
    assert app.drain().succeeded == len(calls) == 2


def test_who_waits_for_a_killed_caller_goes_on(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    with ExitStack() as stack:
        watch = stack.enter_context(watching(app.engine))
        killed, waiting = (
            stack.enter_context(CallerProcess(url=postgresql_url, end=end, keys=["k"]))
            for end in ("killed", "commit")
        )
        killed.wait_for("ready")
        waiting.wait_for("ready")
        killed.let_go()
        killed.wait_for("scheduled 1")
        waiting.let_go()
        eventually(lambda: watch.waiting_for(None))
        killed.signal(signal.SIGKILL)
        waiting.wait_for("scheduled 1")
        assert waiting.wait() == 0
    assert owed(app) == [{"of": "k"}]


def test_processes_at_once_on_the_same_keys(app: Deliveries, start: Start) -> None:
    """Half of them roll back. Whoever commits finds all keys taken by one delivery each."""
    keys = [f"k{n}" for n in range(5)]
    with ExitStack() as stack:
        callers = [
            stack.enter_context(start(end="rollback" if n % 2 else "commit", keys=keys))
            for n in range(PROCESSES)
        ]
        for caller in callers:
            caller.wait_for("ready")
        for caller in callers:
            caller.let_go()
        for n, caller in enumerate(callers):
            caller.wait_for("rolled back" if n % 2 else "committed")
            assert caller.wait() == 0
    created = [int(caller.said("scheduled")[0]) for caller in callers]
    assert sum(created[::2]) == len(keys), "only who commits first creates"
    assert owed(app) == [{"of": key} for key in keys]
    assert all(kinds(app, found.id) == ["Scheduled"] for found in app.find())
