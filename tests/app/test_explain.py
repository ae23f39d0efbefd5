"""What an explanation says of rows: leases, heartbeats, queues; kept apart from what events say."""

from __future__ import annotations

import pytest
from sqlalchemy import text, update

from deliveries import Deliveries, Unknown
from deliveries.processor.heartbeat import Presence
from deliveries.store import asking
from deliveries.store.schema import deliveries
from support.apps import Apps, RunningClock, schedule
from support.lives import lead


@pytest.fixture
def mail(timed: Deliveries) -> Deliveries:
    """An application with one channel, on a clock that it obeys."""
    timed.adapter("email", queue="mail", max_attempts=4)(lambda delivery, attempt: None)
    return timed


def test_what_is_beside_a_waiting_delivery(mail: Deliveries) -> None:
    id = schedule(mail).id
    assert mail.explain(id).beside == ("no live workers serve queue 'mail'",)
    Presence(mail._store, "w1", 30.0, ["mail"]).announce()
    assert mail.explain(id).beside == ("1 live worker serves queue 'mail'",)
    assert "1 live worker serves" in str(mail.explain(id))


def test_the_bounds_are_the_adapters_before_an_attempt_has_frozen_them(mail: Deliveries) -> None:
    found = {one.name: (one.used, one.most) for one in mail.explain(schedule(mail).id).budgets}
    assert found == {"attempts": (0, 4), "interruptions": (0, 5), "snoozes": (0, 100)}
    own = mail.explain(schedule(mail, max_attempts=2).id).budgets
    assert own[0].most == 2


def test_a_program_without_this_adapter_says_so(
    mail: Deliveries, database_url: str, apps: Apps, clock: RunningClock
) -> None:
    id = schedule(mail).id
    other = apps(database_url, clock)
    assert "no adapter" not in str(other.explain(id))  # it has none at all: nothing follows from that
    other.adapter("sms")(lambda delivery, attempt: None)
    assert "this program has no adapter for channel 'email'" in other.explain(id).beside


def test_who_holds_the_lease_and_whether_he_lives(mail: Deliveries, clock: RunningClock) -> None:
    id = lead(mail, clock, "attempting")
    (lease, _) = mail.explain(id).beside
    assert lease.startswith("the lease of w1 ends at 2024-01-01 12:01:0")
    assert lease.endswith("that worker has no heartbeat: it is gone, or works without one, as a drain does")
    Presence(mail._store, "w1", 30.0, ["mail"]).announce()
    assert "; that worker is alive, last seen at 2024-01-01 12:00:0" in mail.explain(id).beside[0]
    clock.advance(31)
    assert "; that worker is silent for longer than a lease" in mail.explain(id).beside[0]
    clock.advance(60)
    found = mail.explain(id)
    assert found.beside[0].startswith("the lease of w1 ended at 2024-01-01 12:01:0")
    assert found.next.startswith("the lease of attempt 1 is over since 2024-01-01 12:01:0")
    assert "the next sweep closes it, as interrupted" in found.next


def test_a_queue_at_its_total(mail: Deliveries, clock: RunningClock) -> None:
    lead(mail, clock, "attempting")
    id = schedule(mail).id
    with mail.engine.begin() as connection:
        mail.queues.limit(connection, "mail", 1)
    found = mail.explain(id)
    assert found.next.endswith("; queue 'mail' runs at most 1 attempts at a time, and is at that now")
    assert found.beside[0] == "queue 'mail' runs at most 1 attempts at a time, and is at that now"


def test_policies_that_are_being_asked(mail: Deliveries, clock: RunningClock) -> None:
    id = schedule(mail).id
    with mail._store.transaction() as connection:
        mail._store.backend.lock(connection, [id], skip_locked=False)
        until = clock.instant.replace(hour=13)
        assert asking.lease(connection, "w1", [id], clock.instant, until) == {id}
    assert mail.explain(id).next == (
        "attempt 1 starts if its policies let it: w1 asks them, until 2024-01-01 13:00:00.000Z at the latest"
    )
    with mail._store.transaction() as connection:
        asking.release(connection, "w1")


def test_what_was_put_aside(mail: Deliveries) -> None:
    id = schedule(mail).id
    with mail._store.transaction() as connection:
        mail._store.put_aside(connection, [id], 3_600)
    assert "no earlier than 2024-01-01 13:00:00" in mail.explain(id).next
    assert "put aside, for a rate or because it could not start" in mail.explain(id).next


def test_the_questions_that_are_left(timed: Deliveries, clock: RunningClock) -> None:
    charge = timed.adapter("charge", effect="unsafe", lookup=lambda *_: Unknown(), max_lookups=2)
    charge(lambda delivery, attempt: Unknown())
    id = schedule(timed, "charge").id
    timed.drain()
    found = timed.explain(id)
    assert "time 1 of 2; if it cannot tell, a person must resolve it" in found.next
    assert str(found.budgets[-1]) == "0 of 2 lookups used, 2 left"
    for _ in range(3):
        clock.advance(86_400)
        timed.drain()
    found = timed.explain(id)
    assert found.next == (
        "nothing by itself: the provider was asked 2 times; "
        "a person must say what became of it (resolve or cancel)"
    )
    assert str(found.budgets[-1]) == "2 of 2 lookups used, 0 left"


def test_a_row_that_is_out_of_step_is_told(mail: Deliveries, apps: Apps) -> None:
    apps.damaged = True
    id = schedule(mail).id
    with mail.engine.begin() as connection:
        wrong = {"status": "held", "version": 7}
        connection.execute(update(deliveries).where(deliveries.c.id == id).values(wrong))
    found = mail.explain(id)
    assert found.status == "pending"
    assert found.beside[0] == (
        "the projection is out of step: it has held at version 7, the events say pending at version 1"
    )
    with mail.engine.begin() as connection:
        connection.execute(text("DELETE FROM deliveries"))
    assert "it has no row" in mail.explain(id).beside[0]


def test_events_answer_where_rows_cannot_be_read(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app).id
    with app.engine.begin() as connection:
        connection.execute(text("DROP TABLE delivery_workers"))
    with app.engine.begin() as connection:
        found = app.explain(id, session=connection)
        assert (found.status, found.next) == ("pending", "attempt 1 starts as soon as a processor is free")
        assert found.beside[0].startswith("it cannot be read: ")
        assert "delivery_workers" in found.beside[0]
        assert app.get(id, session=connection).status == "pending"  # the caller's transaction goes on


def test_time_changes_nothing_at_the_end(mail: Deliveries, clock: RunningClock) -> None:
    id = schedule(mail).id
    mail.drain()
    before = mail.explain(id)
    clock.advance(3_600)
    assert mail.explain(id) == before
    assert (before.beside, before.as_of) == ((), None)
