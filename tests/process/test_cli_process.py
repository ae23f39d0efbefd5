"""The command as a process: signals, streams, terminals, and what it costs to start.

Adapters say when they are entered and wait for a word on stdin, so that nothing here waits for time
to pass: every wait is for a line or for an end, and a deadline kills what hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliveries import Deliveries, Delivery

DEADLINE_SECONDS = 60.0

SHOP = """\
import asyncio, logging, sys, threading
from deliveries import Deliveries

app = Deliveries("sqlite:///deliveries.db")


@app.adapter("waiting", queue="slow", timeout=3600)
def waiting(delivery, attempt):
    print("entered", flush=True)
    assert sys.stdin.readline() == "go\\n"


@app.adapter("hanging", timeout=3600)
def hanging(delivery, attempt):
    print("entered", flush=True)
    threading.Event().wait()


@app.adapter("blocking", timeout=3600)
async def blocking(delivery, attempt):
    print("entered", flush=True)
    threading.Event().wait()


@app.adapter("sleeping", timeout=3600)
async def sleeping(delivery, attempt):
    print("entered", flush=True)
    await asyncio.Event().wait()


@app.adapter("logging")
def shouting(delivery, attempt):
    logging.getLogger("shop").warning("[red]x[/red]\\x1b[31m\\n2000-01-01 INFO forged")
    print("entered", flush=True)
"""


class Running:
    """A command that runs; it is killed at the deadline, and at the end of the test."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deliveries", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._deadline = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        self._deadline.start()
        self.err = ""

    def until(self, words: str) -> None:
        """Read stderr up to a line with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.err += line
            if words in line:
                return
        raise AssertionError(f"{words!r} was never said: {self.err}")

    def entered(self) -> None:
        """Wait until an adapter says that it was entered."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "entered\n", self.end()

    def go(self) -> None:
        """Let a waiting adapter return."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        _, err = self.process.communicate()
        self.err += err
        return self.process.returncode

    def close(self) -> None:
        self._deadline.cancel()
        self._deadline.join()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def directory(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: `shop:app` is here, on the database of `app`."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    for name in ("DELIVERIES_URL", "DELIVERIES_APP", "NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run(directory: Path) -> Iterator[type[Running]]:
    """Starts commands."""
    with contextlib.ExitStack() as stack:

        class Started(Running):
            def __init__(self, *arguments: str) -> None:
                super().__init__(*arguments)
                stack.callback(self.close)

        yield Started


@pytest.fixture
def app(sqlite_url: str) -> Iterator[Deliveries]:
    """The same database, for making deliveries and looking at them."""
    app = Deliveries(sqlite_url)
    for channel in ("waiting", "hanging", "blocking", "sleeping", "logging"):
        app.adapter(channel, queue="slow" if channel == "waiting" else channel)(lambda d, a: None)
    yield app
    app.close()


def schedule(app: Deliveries, channel: str) -> Delivery:
    with app.engine.begin() as connection:
        return app.schedule(connection, channel)


def finish(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `deliveries` as installed, to its end."""
    script = Path(sys.executable).parent / "deliveries"
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
        **options,
    )


# -- the whole way -----------------------------------------------------------------------------


def test_from_nothing_to_delivered(run: type[Running], directory: Path) -> None:
    (directory / "deliveries.db").unlink()
    assert finish("db", "upgrade", "--url", "sqlite:///deliveries.db").returncode == 0
    scheduled = finish("schedule", "waiting", "--app", "shop:app", "--json", input='{"n": 1}')
    id = json.loads(scheduled.stdout)["id"]
    worker = run("worker", "--app", "shop:app", "--queue", "slow=2", "--poll", "0.05")
    worker.entered()
    assert json.loads(finish("show", id, "--url", "sqlite:///deliveries.db", "--json").stdout)["attempt"] == 1
    worker.go()
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    explained = finish("explain", id, "--app", "shop:app")
    assert "succeeded" in explained.stdout
    assert (explained.returncode, explained.stderr) == (0, "")


# -- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_calls_finish(run: type[Running], app: Deliveries, number: int) -> None:
    delivery = schedule(app, "waiting")
    worker = run("worker", "--app", "shop:app", "--grace", "3600")
    worker.entered()
    later = schedule(app, "waiting")
    worker.signal(number)
    worker.until("stopping")
    worker.go()
    assert worker.end() == 0
    assert app.get(delivery.id).status == "succeeded"
    assert app.get(later.id).attempt <= 1  # seen in time or not: it never stays half done
    assert app.get(later.id).status != "attempting"
    assert "Traceback" not in worker.err


def test_an_idle_worker_stops_at_once(run: type[Running]) -> None:
    worker = run("worker", "--app", "shop:app", "--grace", "3600")
    worker.until("performs")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert "has stopped: nothing was due" in worker.err


def test_grace_has_an_end(run: type[Running], app: Deliveries) -> None:
    delivery = schedule(app, "hanging")
    worker = run("worker", "--app", "shop:app", "--grace", "0.1")
    worker.entered()
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert app.get(delivery.id).status == "attempting"


@pytest.mark.parametrize("channel", ["hanging", "blocking"])
@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)]
)
def test_a_second_signal_stops_at_once_whatever_hangs(
    run: type[Running], app: Deliveries, channel: str, first: int, second: int
) -> None:
    delivery = schedule(app, channel)
    worker = run("worker", "--app", "shop:app", "--grace", "3600")
    worker.entered()
    worker.signal(first)
    worker.until("stopping")
    worker.signal(second)
    assert worker.end() == 128 + second
    assert "stopped at once" in worker.err
    assert app.get(delivery.id).status == "attempting"


def test_a_second_signal_still_closes_what_can_be_cancelled(run: type[Running], app: Deliveries) -> None:
    delivery = schedule(app, "sleeping")
    worker = run("worker", "--app", "shop:app", "--grace", "3600")
    worker.entered()
    worker.signal(signal.SIGTERM)
    worker.until("stopping")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 128 + signal.SIGTERM
    assert [one.type for one in app.history(delivery.id)] == ["Scheduled", "Attempted", "Interrupted"]


def test_drain_stops_early_but_properly(run: type[Running], app: Deliveries) -> None:
    deliveries = [schedule(app, "waiting") for _ in range(2)]
    drain = run("drain", "--app", "shop:app", "--queue", "slow=1")
    drain.entered()
    drain.signal(signal.SIGINT)
    drain.until("stopping")
    drain.go()
    assert drain.end() == 128 + signal.SIGINT
    assert [app.get(one.id).status for one in deliveries] == ["succeeded", "pending"]


def test_a_reader_that_is_interrupted(run: type[Running], directory: Path) -> None:
    (directory / "interrupted.py").write_text("print('entered', flush=True); import sys; sys.stdin.read()")
    reader = run("list", "--app", "interrupted:app")
    reader.entered()
    reader.signal(signal.SIGINT)
    assert reader.end() == 130
    assert reader.err == ""


# -- streams and terminals ---------------------------------------------------------------------


def test_a_log_message_cannot_forge_another(run: type[Running], app: Deliveries) -> None:
    schedule(app, "logging")
    worker = run("worker", "--app", "shop:app")
    worker.entered()
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    (line,) = [line for line in worker.err.splitlines() if "forged" in line]
    assert line.endswith(r"shop: [red]x[/red]\x1b[31m\n2000-01-01 INFO forged")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nobody_reads_to_the_end(directory: Path, app: Deliveries, options: list[str]) -> None:
    schedule(app, "logging")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "deliveries", "list", "--url", "sqlite:///deliveries.db", *options]
    try:
        result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the command writes when stdout is a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "deliveries", *arguments]
    with subprocess.Popen(
        command, stdout=slave, env={**os.environ, "TERM": "xterm-256color", **environment}
    ) as process:
        os.close(slave)
        written = b""
        with contextlib.suppress(OSError):  # Linux says EIO when the last writer is gone
            while chunk := os.read(master, 65_536):
                written += chunk
    os.close(master)
    assert process.returncode == 0
    return written.decode()


@pytest.mark.parametrize("verb", ["list", "show", "explain"])
def test_colours_are_for_terminals_that_want_them(directory: Path, app: Deliveries, verb: str) -> None:
    delivery = schedule(app, "logging")
    arguments = [verb, *([] if verb == "list" else [str(delivery.id)]), "--url", "sqlite:///deliveries.db"]
    assert "\x1b[" in on_a_terminal(*arguments)
    if verb == "list":  # one console for all verbs, and each start takes half a second
        assert "\x1b" not in on_a_terminal(*arguments, NO_COLOR="1")
        assert "\x1b" not in on_a_terminal(*arguments, "--json")
        assert "\x1b" not in finish(*arguments).stdout


# -- starting ----------------------------------------------------------------------------------


def test_without_the_extra_it_says_what_to_install(directory: Path) -> None:
    program = (
        "import sys; sys.modules['{}'] = None; from deliveries.cli import main; sys.exit(main(['list']))"
    )
    for module in ("cyclopts", "rich"):
        result = subprocess.run(
            [sys.executable, "-c", program.format(module)], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == ("deliveries: the command line is an extra: pip install 'deliveries[cli]'\n")


def test_help_needs_no_database_library(directory: Path) -> None:
    """Importing SQLAlchemy takes longer than all else: no verb may need it before it runs.

    The package is put in place by hand, since it imports its public names, the database's too.
    """
    import deliveries

    program = f"""
import sys, types
package = types.ModuleType("deliveries")
package.__path__ = {list(deliveries.__path__)!r}
sys.modules["deliveries"] = package
from deliveries.cli import main
for arguments in ([], ["--help"], ["list", "--help"], ["worker", "--help"], ["demo", "--help"], ["lst"]):
    main(arguments)
names = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(names & {{"sqlalchemy", "eventsourcing", "psycopg"}}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == "[]", result
