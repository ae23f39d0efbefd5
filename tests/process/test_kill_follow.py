"""A follower that is killed between its projection's rows and their commit, and right after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deliveries import Deliveries, Draft
from support.followed import logged, noting, seen
from support.kill_process import WorkerProcess

BATCH, BATCHES = 4, 5


class FollowProcess(WorkerProcess):
    script = "follow_worker.py"


@pytest.fixture
def app(database_url: str) -> Iterator[Deliveries]:
    made = Deliveries(database_url)
    made.adapter("email")(lambda delivery, attempt: None)
    with made.engine.begin() as connection:
        made.schedule_many(connection, "email", [Draft() for _ in range(BATCH * BATCHES)])
    yield made
    made.close()


@pytest.mark.parametrize(("point", "batches"), [("handled", 2), ("committed", 3)])
def test_nothing_is_lost_and_nothing_comes_twice(
    app: Deliveries, database_url: str, point: str, batches: int
) -> None:
    projection = noting(app)
    with FollowProcess(url=database_url, stop_at=point, batch=BATCH) as worker:
        worker.wait_for(point)
        worker.kill()
    assert seen(app) == logged(app)[: BATCH * batches], "what was committed is there, and no more"
    done = app.follow(projection, until_caught_up=True)
    assert done.seen == BATCH * (BATCHES - batches)
    assert seen(app) == logged(app)
