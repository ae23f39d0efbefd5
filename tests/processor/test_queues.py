"""What is wanted of queues is honoured by every processor, and costs nothing where nothing is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import update

from deliveries import Deliveries, Draft, NotDone, Status
from deliveries.store.schema import queues
from support.apps import Apps, Calls, Gate, eventually, kinds, schedule, statements
from support.limits import most_open

NEVER = 3_600.0
"""A poll that no test waits for: what wakes a processor is a hint, or a moment that it knows of."""


def nothing(delivery: Any, attempt: Any) -> None: ...


def many(app: Deliveries, number: int, channel: str = "email", **fields: Any) -> None:
    with app.engine.begin() as connection:
        app.schedule_many(connection, channel, [Draft(n, **fields) for n in range(number)])


def succeeded(app: Deliveries) -> int:
    return len(app.find(status="succeeded", limit=10_000))


class Crowd:
    """An adapter that counts how many are inside at once, in all threads."""

    def __init__(self) -> None:
        self.inside = self.most = self.done = 0
        self._changed = threading.Condition()

    def __call__(self, delivery: Any, attempt: Any) -> None:
        with self._changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._changed.wait_for(lambda: self.inside > 3, 0.005)  # long enough to meet others
            self.inside -= 1
            self.done += 1


# -- pause and resume ------------------------------------------------------------------------------


def test_paused_nothing_starts_and_resumed_everything_does(app: Deliveries, calls: Calls) -> None:
    app.adapter("email", queue="mail")(calls(nothing))
    many(app, 3)
    with app.engine.begin() as connection:
        app.queues.pause(connection, "mail")
    assert app.drain().attempted == 0
    with app.engine.begin() as connection:
        app.queues.resume(connection, "mail")
    assert app.drain().succeeded == 3


def test_what_runs_goes_on(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("email", queue="mail")(gate)
    ids = [schedule(app).id for _ in range(2)]
    with app.running({"mail": 1}):
        gate.wait_for()
        with app.engine.begin() as connection:
            app.queues.pause(connection, "mail")
        gate.open()
        eventually(lambda: succeeded(app) == 1)
    assert [app.get(id).status for id in ids] == [Status.SUCCEEDED, Status.PENDING]


def test_resuming_wakes_at_once(database_url: str, apps: Apps, dialect: str) -> None:
    """On PostgreSQL whoever resumes may be anywhere; on SQLite, where nobody can call, in this process."""
    app = apps(database_url)
    operator = apps(database_url) if dialect == "postgresql" else app
    for one in (app, operator):
        if not one.channels:
            one.adapter("email", queue="mail")(nothing)
    schedule(app)
    with operator.engine.begin() as connection:
        operator.queues.pause(connection, "mail")
    with app.running(poll=NEVER) as processor:
        eventually(lambda: processor._claims.limits.next_look)
        assert app.find()[0].status is Status.PENDING
        with operator.engine.begin() as connection:
            operator.queues.resume(connection, "mail")
        eventually(lambda: succeeded(app) == 1)


def test_a_pause_holds_for_every_claim_after_its_commit(database_url: str, apps: Apps) -> None:
    """Of processors that know of the queue's row, however old their knowledge is: nobody is hinted here."""
    made, gate = [apps(database_url) for _ in range(3)], Gate()
    gate.open()
    for app in made:
        app.adapter("email", queue="mail")(nothing)
        app.adapter("sms")(gate)
    with made[0].engine.begin() as connection:
        made[0].queues.scale(connection, "mail", 50)
    with contextlib.ExitStack() as stack:
        for app in made:
            processor = stack.enter_context(app.running(poll=NEVER))
            eventually(lambda limits=processor._claims.limits: "mail" in limits._wanted)
        with made[0].engine.begin() as connection:  # past the API, so that no hint follows
            connection.execute(update(queues).values(paused_at=queues.c.changed_at))
        for app in made:
            schedule(app, priority=0)
            schedule(app, "sms")
            gate.wait_for()  # the same claim, which has seen both
        eventually(lambda: succeeded(made[0]) == 3)
    assert [one.status for one in made[0].find(queue="mail")] == [Status.PENDING] * 3


def test_the_first_word_about_a_queue_is_heard_within_a_poll(app: Deliveries) -> None:
    """Where a hint is lost."""
    app.adapter("email", queue="mail")(nothing)
    with app.running(poll=0.05) as processor:
        eventually(lambda: processor._claims.limits.next_look)
        with app.engine.begin() as connection:
            app.queues.pause(connection, "mail")
            del connection.info["deliveries.hint"]
        eventually(lambda: processor._claims.limits._wanted)
        schedule(app)
        schedule(app)
    assert {one.status for one in app.find()} == {Status.PENDING}


def test_an_explicit_perform_is_an_operators_word_too(app: Deliveries) -> None:
    app.adapter("email", queue="mail")(nothing)
    id = schedule(app).id
    with app.engine.begin() as connection:
        app.queues.pause(connection, "mail")
    assert app.perform(id).delivery.status is Status.SUCCEEDED


def test_what_a_batch_refused_is_not_started_alone_in_a_paused_queue(app: Deliveries) -> None:
    app.adapter("email", queue="mail")(nothing)
    id = schedule(app).id
    claims = app.processor({"mail": 1})._claims
    with app.engine.begin() as connection:
        app.queues.pause(connection, "mail")
    claims.limits.look()
    assert claims.isolate([id]) == []
    with app.engine.begin() as connection:
        app.queues.resume(connection, "mail")
        app.queues.limit(connection, "mail", 1)
        app.queues.rate(connection, "mail", 1, "day")
    (change,) = claims.isolate([id])
    assert change.recorded.type == "Attempted"
    assert claims.isolate([schedule(app).id]) == []


def test_nobody_is_asked_about_a_paused_queue(timed: Deliveries, clock: Any) -> None:
    asked = []

    def lookup(delivery: Any, attempt: Any) -> Any:
        asked.append(delivery.id)
        return NotDone()

    def fails(delivery: Any, attempt: Any) -> None:
        raise OSError

    timed.adapter("charge", queue="pay", effect="unsafe", lookup=lookup)(fails)
    timed.adapter("email")(nothing)
    id = schedule(timed, "charge").id
    timed.drain()
    with timed.engine.begin() as connection:
        timed.queues.pause(connection, "pay")
    clock.advance(3_600)
    timed.drain()
    assert (timed.get(id).status, asked) == (Status.HELD, [])
    with timed.engine.begin() as connection:
        timed.queues.resume(connection, "pay")
    timed.drain()
    assert asked == [id]


# -- scale -----------------------------------------------------------------------------------------


def test_scaled_while_it_runs(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("email", queue="mail")(gate)
    many(app, 6)
    with app.running({"mail": 1}, poll=NEVER):
        gate.wait_for()
        for concurrency, more in ((3, 2), (5, 2)):
            with app.engine.begin() as connection:
                app.queues.scale(connection, "mail", concurrency)
            gate.wait_for(more)
        assert not gate.entered.acquire(blocking=False)
        with app.engine.begin() as connection:
            app.queues.scale(connection, "mail", 1)
        gate.open()
        eventually(lambda: succeeded(app) == 6)


def test_a_scale_counts_instead_of_what_the_processor_was_started_with(app: Deliveries) -> None:
    crowd = Crowd()
    app.adapter("email", queue="mail")(crowd)
    many(app, 30)
    with app.engine.begin() as connection:
        app.queues.scale(connection, "mail", 2)
    assert app.drain({"mail": 20}).succeeded == 30
    assert crowd.most <= 2


# -- a bound for all processors ----------------------------------------------------------------------


def test_several_processors_never_exceed_a_total(database_url: str, apps: Apps) -> None:
    made, crowd = [apps(database_url) for _ in range(3)], Crowd()
    for app in made:
        app.adapter("email", queue="mail")(crowd)
    many(made[0], 60)
    with made[0].engine.begin() as connection:
        made[0].queues.limit(connection, "mail", 3)
    with contextlib.ExitStack() as stack:
        for app in made:
            stack.enter_context(app.running({"mail": 20}, poll=0.05))
        eventually(lambda: succeeded(made[0]) == 60, 60)
    assert crowd.most <= 3
    assert most_open(made[0].engine, "mail") == 3


def test_a_total_of_one_drains_everything(app: Deliveries) -> None:
    """Each outcome makes room for the next attempt, at once."""
    app.adapter("email", queue="mail")(nothing)
    many(app, 12)
    with app.engine.begin() as connection:
        app.queues.limit(connection, "mail", 1)
    assert app.drain(poll=NEVER).succeeded == 12
    assert most_open(app.engine, "mail") == 1


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_room_that_one_processor_leaves_wakes_the_others(database_url: str, apps: Apps) -> None:
    one, other, gate = apps(database_url), apps(database_url), Gate()
    one.adapter("email", queue="mail")(gate)
    other.adapter("sms", queue="mail")(nothing)
    with one.engine.begin() as connection:
        one.queues.limit(connection, "mail", 1)
    schedule(one)
    with one.running(poll=NEVER):
        gate.wait_for()
        id = schedule(other, "sms").id
        with other.running(poll=NEVER) as processor:
            eventually(lambda: processor._claims.limits._wanted)
            assert kinds(other, id) == ["Scheduled"]
            gate.open()
            eventually(lambda: other.get(id).status is Status.SUCCEEDED)


# -- nobody waits for a lock -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_an_operator_who_takes_his_time_keeps_no_other_queue_waiting(database_url: str, apps: Apps) -> None:
    app, operator = apps(database_url), apps(database_url)
    app.adapter("email", queue="mail")(nothing)
    app.adapter("sms")(nothing)
    with operator.engine.begin() as connection:
        operator.queues.limit(connection, "mail", 5)
    mail, sms = schedule(app), schedule(app, "sms")
    with operator.engine.connect() as connection, app.running(poll=NEVER):
        operator.queues.scale(connection, "mail", 9)  # not committed
        eventually(lambda: app.get(sms.id).status is Status.SUCCEEDED)
        late = schedule(app, "sms").id
        eventually(lambda: app.get(late).status is Status.SUCCEEDED)
        assert app.get(mail.id).status is Status.PENDING
        connection.rollback()
        eventually(lambda: app.get(mail.id).status is Status.SUCCEEDED)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_drain_does_not_end_while_it_could_not_look(database_url: str, apps: Apps) -> None:
    app, operator = apps(database_url), apps(database_url)
    app.adapter("email", queue="mail")(nothing)
    with operator.engine.begin() as connection:
        operator.queues.limit(connection, "mail", 5)
    schedule(app)
    done: list[int] = []
    with operator.engine.connect() as connection:
        operator.queues.scale(connection, "mail", 9)
        thread = threading.Thread(target=lambda: done.append(app.drain().succeeded))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        connection.rollback()
    thread.join(15)
    assert done == [1]


# -- no queue starves another ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_backlog_in_one_queue_keeps_no_other_waiting(app: Deliveries, way: str) -> None:
    seen: list[str] = []

    async def async_crowd(delivery: Any, attempt: Any) -> None:
        await asyncio.sleep(0.01)  # so that a slow machine has its time to schedule
        seen.append(delivery.channel)

    def crowd(delivery: Any, attempt: Any) -> None:
        threading.Event().wait(0.01)
        seen.append(delivery.channel)

    app.adapter("bulk")(crowd if way == "sync" else async_crowd)
    app.adapter("urgent")(crowd if way == "sync" else async_crowd)
    many(app, 1_500, "bulk")
    with app.running({"bulk": 20, "urgent": 1}):
        eventually(lambda: seen)
        schedule(app, "urgent")
        eventually(lambda: "urgent" in seen)
    assert seen.index("urgent") < 1_400


def test_a_queue_whose_calls_hang_holds_its_own_slots_only(app: Deliveries) -> None:
    gate = Gate()
    app.adapter("slow")(gate)
    app.adapter("email")(nothing)
    many(app, 60, "slow")
    with app.running({"slow": 50, "email": 1}):
        gate.wait_for(50)
        many(app, 20)
        eventually(lambda: succeeded(app) == 20)
        gate.open()


def test_a_slot_that_becomes_free_is_used_at_once(app: Deliveries) -> None:
    """Not at the next poll: the hint was for a claim that had no slot in this queue."""
    gate, other = Gate(), Gate()
    other.open()
    app.adapter("slow")(gate)
    app.adapter("email")(other)
    schedule(app, "slow")
    with app.running({"slow": 1, "email": 5}, poll=NEVER):
        gate.wait_for()
        late = schedule(app, "slow").id
        schedule(app)
        other.wait_for()
        schedule(app)
        other.wait_for()  # every hint has been taken
        gate.open()
        eventually(lambda: app.get(late).status is Status.SUCCEEDED)


# -- what is not used costs nothing ------------------------------------------------------------------


def test_a_claim_of_a_queue_of_which_nothing_is_wanted_is_the_plain_one(app: Deliveries) -> None:
    """One look at the rows of queues per poll, and no other statement than without any limits."""
    app.adapter("email", queue="mail")(nothing)
    app.adapter("sms")(nothing)
    with app.engine.begin() as connection:
        app.queues.pause(connection, "sms")  # another queue's limits cost this one nothing
    many(app, 30)
    with statements(app.engine) as seen:
        assert app.drain({"mail": 10}, poll=NEVER).succeeded == 30
    ours = [one for one in seen if "delivery_queues" in one or "delivery_shares" in one]
    assert len(ours) == 1
    claims = [one for one in seen if "LIMIT" in one and "'pending'" in one and "delivery_contents" in one]
    assert 3 <= len(claims) <= 8
    assert all(one == claims[0] for one in claims)
