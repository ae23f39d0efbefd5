"""T4: a commit that happened, or did not, and nobody knows. Every event exactly once, nothing lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from deliveries import Deliveries, Retry, Status
from support.apps import Apps, Calls, assert_called_once_each, eventually, history, kinds, schedule


class Fault:
    """From the `after`-th commit on, `times` commits fail: after they were done, or instead of it."""

    def __init__(self, app: Deliveries, after: int, done: bool, times: int = 1) -> None:
        self.left, self._after, self._done = times, after, done
        self._lock = threading.Lock()
        event.listen(app.engine, "commit", self._commit)

    def _commit(self, connection: Any) -> None:
        with self._lock:
            self._after -= 1
            if self._after > 0 or self.left == 0:
                return
            self.left -= 1
        if self._done:
            connection.connection.dbapi_connection.commit()
        raise OperationalError("COMMIT", {}, ConnectionError("the connection broke"))


@pytest.fixture
def says(app: Deliveries, calls: Calls) -> dict[str, Any]:
    """What the adapter answers, by payload; anything else is a success."""
    answers: dict[str, Any] = {"fails": Retry("503", after=0), "ok": None}
    app.adapter("email")(calls(lambda delivery, attempt: answers.get(delivery.payload)))
    return answers


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_drain_goes_on(app: Deliveries, calls: Calls, says: Any, after: int, done: bool) -> None:
    ids = [schedule(app, "email", "ok").id for _ in range(6)]
    failing = schedule(app, "email", "fails").id
    fault = Fault(app, after, done)
    app.drain(queues={"email": 3})
    app.drain(queues={"email": 3})  # what was given back is due now
    if after < 4:
        assert fault.left == 0, "there was no such commit"
    for id in ids:
        assert app.get(id).status is Status.SUCCEEDED
        events = [kind for kind in kinds(app, id) if kind == "Succeeded"]
        assert events == ["Succeeded"]
        assert len(calls.of(id)) == 1
    assert "Failed" in kinds(app, failing)
    assert_called_once_each(app, calls)


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_a_running_processor_goes_on(
    database_url: str, app: Deliveries, apps: Apps, calls: Calls, says: Any, done: bool
) -> None:
    elsewhere = apps(database_url)
    elsewhere.adapter("email")(lambda delivery, attempt: None)
    fault = Fault(app, after=4, done=done, times=3)
    with app.running(queues={"email": 2}, poll=0.1) as processor:
        ids = [schedule(elsewhere, "email", "ok").id for _ in range(10)]
        eventually(lambda: fault.left == 0 and all(elsewhere.get(id).is_terminal for id in ids))
        assert processor.error is None
    assert {app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert all(kinds(app, id).count("Succeeded") == 1 for id in ids)
    assert_called_once_each(app, calls)


def test_orphaned_starts_are_given_back(app: Deliveries, calls: Calls, says: Any) -> None:
    """The claim was committed and nobody was told: no adapter was entered, no budget is used."""
    id = schedule(app, "email", "ok").id
    starts: list[int] = []

    @event.listens_for(app.engine, "commit")
    def lose_the_claims_answer(connection: Any) -> None:
        if not starts and attempted(connection):
            starts.append(1)
            connection.connection.dbapi_connection.commit()
            raise OperationalError("COMMIT", {}, ConnectionError("the connection broke"))

    app.drain()
    app.drain()
    assert starts
    assert kinds(app, id) == ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]
    assert history(app, id)[2].cause == "given_back"
    assert (app.get(id).endings, app.get(id).interruptions) == (0, 0)
    assert calls.of(id) == [2]
    assert_called_once_each(app, calls)


def attempted(connection: Any) -> bool:
    cursor = connection.connection.dbapi_connection.cursor()
    cursor.execute("SELECT count(*) FROM delivery_events WHERE type = 'Attempted'")
    return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_a_drain_gives_up_on_a_database_that_stays_away(
    app: Deliveries, calls: Calls, says: Any, done: bool
) -> None:
    schedule(app, "email", "ok")
    Fault(app, after=1, done=done, times=1_000)
    with pytest.raises(OperationalError):
        app.drain(patience=2)


def test_notes_are_there_once(database_url: str, apps: Apps, calls: Calls) -> None:
    """The report is the same report each time it is written: its salt too."""
    app = apps(database_url)
    app.adapter("email")(calls(lambda delivery, attempt: Retry("503 from ann", after=100)))
    id = schedule(app).id
    Fault(app, after=2, done=True)
    app.drain()
    app.drain()
    assert kinds(app, id).count("Failed") == 1
    assert [recorded.note for recorded in app.history(id)][-1] == "503 from ann"
