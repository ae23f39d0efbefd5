"""The command in this process, in a directory of its own, without the environment's database."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deliveries import Deliveries, Delivery
from deliveries.cli import main
from unit.cli.commands import SHOP, Command, Result

DEADLINE_SECONDS = 60


@pytest.fixture
def deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs the command with these arguments; `stdin` is what it may read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELIVERIES_URL", raising=False)
    monkeypatch.delenv("DELIVERIES_APP", raising=False)
    path = list(sys.path)
    before = signal.signal(signal.SIGALRM, _hangs)

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        signal.alarm(DEADLINE_SECONDS)
        code = main([str(argument) for argument in arguments])
        signal.alarm(0)
        written = capsys.readouterr()
        return Result(code, written.out, written.err)

    yield run
    signal.signal(signal.SIGALRM, before)
    sys.path[:] = path


def _hangs(number: int, frame: object) -> None:
    """A worker that should have been refused serves for ever: let it fail."""
    raise TimeoutError("the command does not end")


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str) -> Iterator[str]:
    """`module:object` of an application in the current directory, on the database of `app`."""
    name = f"shop_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(SHOP.format(url=sqlite_url))
    yield f"{name}:app"
    sys.modules.pop(name, None)


@pytest.fixture
def app(sqlite_url: str) -> Iterator[Deliveries]:
    """The same database, for making deliveries and looking at them; its `email` always succeeds."""
    app = Deliveries(sqlite_url)

    @app.adapter("email", queue="mail")
    def email(delivery: object, attempt: object) -> None:
        pass

    yield app
    app.close()


@pytest.fixture
def schedule(app: Deliveries) -> Callable[..., Delivery]:
    """Schedules an e-mail in a transaction of its own."""

    def make(payload: Any = None, **options: Any) -> Delivery:
        with app.engine.begin() as connection:
            return app.schedule(connection, "email", payload, **options)

    return make
