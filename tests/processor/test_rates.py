"""Rates, and tenants that take turns."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from deliveries import Deliveries, Draft, Status
from deliveries.store.schema import deliveries, shares
from support.apps import Apps, RunningClock, eventually, kinds, row, schedule
from support.limits import most_within, starts

NEVER = 3_600.0
"""A poll that no test waits for."""


class Seen(list[Any]):
    """An adapter that keeps whom it was called for, in order: tasks of one loop begin in theirs."""

    async def __call__(self, delivery: Any, attempt: Any) -> None:
        self.append(delivery)

    def tenants(self) -> str:
        return "".join(delivery.tenant for delivery in self)

    def recipients(self) -> Counter[str | None]:
        return Counter(delivery.recipient for delivery in self)


@pytest.fixture
def seen(timed: Deliveries) -> Seen:
    """The adapter of `email`, in the queue `mail`."""
    made = Seen()
    timed.adapter("email", queue="mail")(made)
    return made


def owe(app: Deliveries, *drafts: Draft) -> None:
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", drafts)


def rate(app: Deliveries, amount: int, per: Any = "minute", by: Any = None) -> None:
    with app.engine.begin() as connection:
        app.queues.rate(connection, "mail", amount, per, by=by)


# -- of the whole queue ----------------------------------------------------------------------------


def test_the_amount_and_no_more_until_a_period_is_over(
    timed: Deliveries, seen: Seen, clock: RunningClock
) -> None:
    owe(timed, *(Draft(n) for n in range(12)))
    rate(timed, 5)
    assert [timed.drain().attempted for _ in range(2)] == [5, 0]
    clock.advance(59)
    assert timed.drain().attempted == 0
    clock.advance(1)
    assert timed.drain().attempted == 5
    clock.advance(60)
    assert [timed.drain().attempted for _ in range(2)] == [2, 0]


def test_room_left_is_used_later(timed: Deliveries, seen: Seen, clock: RunningClock) -> None:
    rate(timed, 3)
    owe(timed, Draft(1))
    assert timed.drain().attempted == 1
    clock.advance(30)
    owe(timed, *(Draft(n) for n in range(5)))
    assert timed.drain().attempted == 2
    clock.advance(30.5)  # the first is a period old, the others are not
    assert timed.drain().attempted == 1
    assert most_within(starts(timed.engine, "mail"), timedelta(minutes=1)) == 3


def test_a_rate_is_kept_when_it_changes(timed: Deliveries, seen: Seen, clock: RunningClock) -> None:
    """What has started counts on; only another way of counting begins anew."""
    owe(timed, *(Draft(n) for n in range(20)))
    rate(timed, 5)
    timed.drain()
    rate(timed, 7)
    assert timed.drain().attempted == 2
    rate(timed, 2)
    assert timed.drain().attempted == 0
    rate(timed, 3, by="tenant")
    assert timed.drain().attempted == 3


@pytest.mark.parametrize("by", [None, "tenant", "recipient"])
def test_several_processors_never_exceed_a_rate_in_any_window(database_url: str, apps: Apps, by: Any) -> None:
    """On the real clock; what waits is woken when there is room, and not by a poll."""
    made = [apps(database_url) for _ in range(3)]
    for app in made:
        app.adapter("email", queue="mail")(lambda delivery, attempt: None)
    drafts = [Draft(n, tenant="acme", recipient="ann@example.org") for n in range(14)]
    with made[0].engine.begin() as connection:
        made[0].queues.rate(connection, "mail", 4, 0.4, by=by)
        made[0].schedule_many(connection, "email", drafts)
    with contextlib.ExitStack() as stack:
        for app in made:
            stack.enter_context(app.running({"mail": 20}, poll=NEVER))
        eventually(lambda: len(made[0].find(status="succeeded")) == 14, 40)
    moments = starts(made[0].engine, "mail")
    assert most_within(moments, timedelta(seconds=0.4)) == 4
    assert moments[-1] - moments[0] < timedelta(seconds=15)


# -- of each tenant ----------------------------------------------------------------------------------


def test_each_tenant_has_its_own_rate(timed: Deliveries, seen: Seen, clock: RunningClock) -> None:
    owe(timed, *(Draft(n, tenant="a") for n in range(30)), Draft(tenant="b"), Draft())
    rate(timed, 2, by="tenant")
    timed.drain()
    assert Counter(one.tenant for one in seen) == {"a": 2, "b": 1, "": 1}
    clock.advance(60)
    timed.drain()
    assert Counter(one.tenant for one in seen) == {"a": 4, "b": 1, "": 1}
    assert {one.lease_until for one in rows(timed)} == {None}  # nobody is put off: tenants are passed by


def rows(app: Deliveries) -> list[Any]:
    with app.engine.connect() as connection:
        pending = select(deliveries).where(deliveries.c.status == "pending")
        return list(connection.execute(pending))


# -- of each recipient -------------------------------------------------------------------------------


def test_a_flood_to_one_recipient_keeps_no_other_waiting(
    timed: Deliveries, seen: Seen, clock: RunningClock
) -> None:
    owe(timed, *(Draft(n, recipient="ann") for n in range(300)), Draft(recipient="bob"), Draft())
    rate(timed, 2, by="recipient")
    timed.drain({"mail": 10})
    assert seen.recipients() == {"ann": 2, "bob": 1, None: 1}
    before = {one.id: one.lease_until for one in rows(timed)}
    assert len(before) == 298
    assert None not in before.values()
    timed.drain({"mail": 10})
    assert {one.id: one.lease_until for one in rows(timed)} == before  # nobody was looked at again
    for minute in range(2, 6):
        clock.advance(60)
        timed.drain({"mail": 10})
        assert seen.recipients()["ann"] == 2 * minute
    assert most_within(starts(timed.engine, "mail")[2:], timedelta(seconds=59)) == 2


def test_who_is_put_off_is_still_pending_and_nothing_was_recorded(timed: Deliveries, seen: Seen) -> None:
    owe(timed, Draft(1, recipient="ann"), Draft(2, recipient="ann"))
    rate(timed, 1, by="recipient")
    timed.drain()
    (waiting,) = timed.find(status="pending")
    assert kinds(timed, waiting.id) == ["Scheduled"]
    assert "1 attempts in 60 s for each recipient" in timed.explain(waiting.id).next
    with timed.engine.begin() as connection:
        timed.cancel(connection, waiting.id)
    assert timed.get(waiting.id).status is Status.CANCELLED


def test_a_deadline_passes_also_for_those_who_are_put_off(
    timed: Deliveries, seen: Seen, clock: RunningClock
) -> None:
    rate(timed, 1, "hour", by="recipient")
    ends = clock.now() + timedelta(seconds=30)
    owe(timed, Draft(1, recipient="ann"), Draft(2, recipient="ann", expires_at=ends))
    timed.drain()
    clock.advance(31)
    assert timed.drain().exhausted == 1


def test_a_new_rate_looks_again_at_those_who_were_put_off(timed: Deliveries, seen: Seen) -> None:
    owe(timed, *(Draft(n, recipient="ann") for n in range(9)))
    rate(timed, 1, "day", by="recipient")
    assert timed.drain().attempted == 1
    rate(timed, 5, "day", by="recipient")
    assert timed.drain().attempted == 4
    with timed.engine.begin() as connection:
        timed.queues.clear(connection, "mail")
    assert timed.drain().attempted == 4


def test_no_address_is_kept(timed: Deliveries, seen: Seen, clock: RunningClock) -> None:
    owe(timed, Draft(1, recipient="ann@example.org"))
    rate(timed, 1, by="recipient")
    timed.drain()
    kept = select(shares)
    with timed.engine.connect() as connection:
        (one,) = connection.execute(kept)
        assert "ann" not in repr(one)
    clock.advance(61)
    owe(timed, Draft(2, recipient="bob@example.org"))
    assert timed.drain().attempted == 1
    with timed.engine.begin() as connection:
        assert one.share not in {row.share for row in connection.execute(kept)}  # what is over is forgotten
        timed.queues.rate(connection, "mail", 1, by="tenant")
        assert list(connection.execute(kept)) == []


def test_a_window_that_somebody_spoilt_counts_as_empty(timed: Deliveries, seen: Seen) -> None:
    owe(timed, Draft(1), Draft(2))
    rate(timed, 1)
    timed.drain()
    with timed.engine.begin() as connection:
        connection.execute(shares.update().values(state=b"junk"))
    assert timed.drain().attempted == 1


# -- in turn -------------------------------------------------------------------------------------------


def fair(app: Deliveries) -> None:
    with app.engine.begin() as connection:
        app.queues.fair(connection, "mail")


@pytest.mark.parametrize("slots", [1, 2, 3, 100])
def test_tenants_take_turns(timed: Deliveries, seen: Seen, slots: int) -> None:
    """However many slots a claim has, and however long one line is."""
    owe(timed, *(Draft(n, tenant="a") for n in range(20)))
    owe(timed, *(Draft(n, tenant=tenant) for n in range(3) for tenant in "bc"))
    fair(timed)
    timed.drain({"mail": slots})
    counts = [Counter(seen.tenants()[:first]) for first in range(3, 10, 3)]
    assert counts == [Counter(a=n, b=n, c=n) for n in (1, 2, 3)]
    assert seen.tenants()[9:] == "a" * 17


def test_a_crowd_of_tenants(timed: Deliveries, seen: Seen) -> None:
    """More than one statement looks at, most of them with nothing due."""
    tomorrow = [Draft(n, tenant=f"t{n:03}", delay=86_400) for n in range(450)]
    owe(timed, *tomorrow, *(Draft(n, tenant=f"t{n:03}") for n in (0, 7, 220, 449) for _ in range(3)), Draft())
    fair(timed)
    timed.drain({"mail": 4})
    names = [one.tenant for one in seen]
    assert Counter(names) == {"": 1, "t000": 3, "t007": 3, "t220": 3, "t449": 3}
    assert len(set(names[:4])) == 4


def test_each_tenants_most_urgent_comes_first(timed: Deliveries, seen: Seen) -> None:
    owe(timed, *(Draft(p, tenant=t, priority=p) for t in "ab" for p in (9, 0, 5)))
    fair(timed)
    timed.drain({"mail": 1})
    assert [(one.tenant, one.priority) for one in seen] == [(t, p) for p in (0, 5, 9) for t in "ab"]


def test_turns_and_rates_together(timed: Deliveries, seen: Seen, clock: RunningClock) -> None:
    owe(timed, *(Draft(n, tenant=t, recipient=f"{t}{n % 2}") for t in "ab" for n in range(6)))
    fair(timed)
    rate(timed, 1, by="recipient")
    timed.drain({"mail": 3})
    assert seen.recipients() == {"a0": 1, "a1": 1, "b0": 1, "b1": 1}
    clock.advance(61)
    timed.drain({"mail": 3})
    assert seen.recipients() == {"a0": 2, "a1": 2, "b0": 2, "b1": 2}


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_what_somebody_holds_is_passed_by(database_url: str, apps: Apps) -> None:
    app, operator, seen = apps(database_url), apps(database_url), Seen()
    app.adapter("email", queue="mail")(seen)
    fair(app)
    held = schedule(app, tenant="a").id
    schedule(app, tenant="a")
    with operator.engine.connect() as connection:
        operator.cancel(connection, held)
        assert app.drain({"mail": 1}).succeeded == 1
        connection.rollback()
    assert row(app, held).status == "pending"
