"""Whatever is asked of what has ended: the check passes, and is not blind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from deliveries import Bounced, Deliveries, Discard, Suppress
from deliveries.store.schema import deliveries
from deliveries.testing import Kit, check_terminal_idempotency, under_test
from deliveries.testing.examples import NOW


@pytest.mark.parametrize("says", [None, Bounced("gone"), Discard("stale"), Suppress("opted out")])
def test_every_end_is_left_alone(kit: Kit, says: object) -> None:
    script = kit.script("email", then=says)
    delivery = kit.schedule("email", {"n": 1}, recipient="ann@example.org")
    kit.drain()
    check_terminal_idempotency(kit.app, delivery.id)
    check_terminal_idempotency(kit.app, str(delivery.id))
    assert len(script.calls) == 1
    assert kit.app.channels["email"].function is script


def test_what_has_not_ended_is_refused(kit: Kit) -> None:
    with pytest.raises(ValueError, match="is pending: it has not ended"):
        check_terminal_idempotency(kit.app, kit.schedule("email").id)


def revive(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        connection.execute(update(deliveries).values(status="pending", due_at=NOW))


def meddle(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        connection.execute(update(deliveries).values(priority=0))


def call(app: Deliveries) -> None:
    app.channels["email"].function(app.find()[0], None)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (revive, "changed it\n  status was 'succeeded'"),
        (meddle, "priority was 5 and is 0"),
        (call, "called the adapter of email"),
    ],
    ids=["revive", "meddle", "call"],
)
def test_it_is_not_blind(fault: Callable[[Deliveries], None], told: str) -> None:
    """Known bad: applications whose `perform` does something to what has ended."""

    class Faulty(Deliveries):
        def perform(self, *arguments: Any, **options: Any) -> Any:
            fault(self)

    with under_test(Faulty("sqlite://")) as kit:
        kit.script("email")
        delivery = kit.schedule("email")
        kit.drain()
        with pytest.raises(AssertionError, match="perform on a succeeded delivery") as caught:
            check_terminal_idempotency(kit.app, delivery.id)
        assert told in str(caught.value)
