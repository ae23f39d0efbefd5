"""What a lost commit answer and a call that outlives its lease may not lead to: each did once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from deliveries import Backoff, Deliveries
from support.apps import Calls, Gate, eventually, kinds, last, row, schedule


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_a_call_that_comes_back_while_a_commit_is_in_doubt_is_no_orphan(
    app: Deliveries, calls: Calls, done: bool
) -> None:
    """N1: an attempt whose adapter was entered is never given back."""
    gate, broken = Gate(), []

    @app.adapter("email")
    @calls
    def email(delivery: Any, attempt: Any) -> None:
        if delivery.payload == "slow":
            gate()
        else:
            gate.wait_for()  # both are under way

    slow, quick = schedule(app, "email", "slow").id, schedule(app, "email", "quick").id

    @event.listens_for(app.engine, "commit")
    def lose_the_answer(connection: Any) -> None:
        cursor = connection.connection.dbapi_connection.cursor()
        cursor.execute("SELECT count(*) FROM delivery_events WHERE type = 'Succeeded'")
        if not broken and cursor.fetchone()[0]:
            broken.append(1)
            if done:
                connection.connection.dbapi_connection.commit()
            gate.open()  # the other call comes back before the next turn
            raise OperationalError("COMMIT", {}, ConnectionError("the connection broke"))

    app.drain()
    app.drain()
    assert broken
    for id in (slow, quick):
        assert kinds(app, id) == ["Scheduled", "Attempted", "Succeeded"]
        assert calls.of(id) == [1]


def test_the_retry_of_a_sync_call_that_timed_out_is_not_due_before_its_lease_ends(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("email", timeout=0.5, backoff=Backoff.schedule([0]))(lambda delivery, attempt: gate())
    id = schedule(app).id
    with app.running(lease=20):
        gate.wait_for()
        lease_until = row(app, id).lease_until
        eventually(lambda: "Failed" in kinds(app, id))
        gate.open()
    assert last(app, id).due_at >= lease_until
