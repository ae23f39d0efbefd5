"""Limits and pauses over real processes, also while one of them is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from deliveries import Deliveries, Draft
from deliveries.store.schema import deliveries
from support.apps import assert_sound
from support.kill_process import TESTS, until
from support.limits import most_open

TOTAL, DEBTS = 3, 40


class Worker:
    """A process of `limited_worker.py`."""

    def __init__(self, url: str, lease: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "support" / "limited_worker.py"), url, str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), *sys.path))},
        )
        assert self.process.stdout is not None
        self.read = self.process.stdout.readline
        assert self.read() == b"running\n"

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")


@pytest.fixture
def app(database_url: str) -> Iterator[Deliveries]:
    made = Deliveries(database_url)
    made.adapter("email", queue="mail")(lambda delivery, attempt: None)
    with made.engine.begin() as connection:
        made.schedule_many(connection, "email", [Draft(n) for n in range(DEBTS)])
    yield made
    assert_sound(made.engine)
    made.close()


@pytest.fixture
def workers(database_url: str, app: Deliveries, request: pytest.FixtureRequest) -> Iterator[list[Worker]]:
    """Three, on a queue that is limited already, under leases of so many seconds."""
    with app.engine.begin() as connection:
        app.queues.limit(connection, "mail", TOTAL)
    started = [Worker(database_url, request.param) for _ in range(3)]
    yield started
    for worker in started:
        with worker.process:
            worker.process.kill()


def number(app: Deliveries, status: str) -> int:
    counted = select(func.count()).where(deliveries.c.status == status)
    with app.engine.connect() as connection:
        return int(connection.scalar(counted) or 0)


def owner(app: Deliveries) -> int:
    """The process id of a worker that has an open attempt."""
    with app.engine.connect() as connection:
        name = connection.scalar(select(deliveries.c.lease_owner).where(deliveries.c.status == "attempting"))
    return int(str(name).split(":")[-2])


@pytest.mark.parametrize("workers", [3.0], indirect=True)
def test_a_total_holds_while_a_worker_is_killed(app: Deliveries, workers: list[Worker]) -> None:
    until(lambda: number(app, "attempting") == TOTAL, "the limit was not reached")
    (victim,) = [worker for worker in workers if worker.process.pid == owner(app)]
    victim.process.kill()
    victim.process.wait(30)
    for worker in workers:
        if worker is not victim:
            worker.tell()
    until(lambda: number(app, "succeeded") == DEBTS, "the others did not finish")
    assert most_open(app.engine, "mail") == TOTAL


@pytest.mark.parametrize("workers", [30.0], indirect=True)
def test_a_pause_holds_over_processes(app: Deliveries, workers: list[Worker]) -> None:
    until(lambda: number(app, "attempting") == TOTAL, "the limit was not reached")
    with app.engine.begin() as connection:
        app.queues.pause(connection, "mail")
    begun = number(app, "attempting") + number(app, "succeeded")
    for worker in workers:
        worker.tell()
    until(lambda: number(app, "succeeded") == begun, "what ran did not end")
    assert (number(app, "attempting"), number(app, "succeeded")) == (0, begun)
    with app.engine.begin() as connection:
        app.queues.resume(connection, "mail")
    until(lambda: number(app, "succeeded") == DEBTS, "nobody went on")
