"""Leases: renewed by their owner, found when they are over, and so are deadlines and lookups."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.store.rows import Claimed
from deliveries.store.store import Store
from deliveries.testing.examples import NOW, at, report
from deliveries.testing.lives import DEADLINE
from store.acts import Acts, StoppedClock, WrongClock

# -- renewing ----------------------------------------------------------------------------------


def renew(acts: Acts, owner: str, *ids: UUID, seconds: float = 60.0) -> set[UUID]:
    with acts.store.transaction() as connection:
        waits = [seconds] * len(ids)
        return acts.store.backend.renew(connection, owner, ids, waits, acts.store.deciding_now)


def until(acts: Acts, id: UUID) -> float:
    """Seconds after `NOW` at which the lease ends."""
    return float((acts.row(id).lease_until - NOW).total_seconds())


def test_the_owner_moves_its_leases_on(acts: Acts, clock: StoppedClock) -> None:
    ids = [acts.schedule() for _ in range(3)]
    for id in ids:
        acts.attempt(id, owner="w1", seconds=60)
    clock.pass_by(30)
    assert renew(acts, "w1", *ids[:2], seconds=60) == set(ids[:2])
    assert [until(acts, id) for id in ids] == [90, 90, 60]


def test_nobody_else_does(acts: Acts, clock: StoppedClock) -> None:
    """N2, N3: after a lease is taken over, its former holder is told so and changes nothing."""
    id = acts.schedule()
    acts.attempt(id, owner="w1", seconds=60)
    clock.pass_by(60)
    acts.do(id, c.Interrupt(now=clock.now(), attempt=1))
    acts.attempt(id, owner="w2", seconds=60)
    assert renew(acts, "w1", id, seconds=600) == set()
    assert until(acts, id) == 120


def test_renewing_never_shortens(acts: Acts) -> None:
    id = acts.schedule()
    acts.attempt(id, owner="w1", seconds=60)
    assert renew(acts, "w1", id, seconds=5) == {id}
    assert until(acts, id) == 60


def test_an_attempt_that_is_closed_has_no_lease_to_renew(acts: Acts) -> None:
    id = acts.schedule()
    acts.attempt(id, owner="w1")
    acts.do(id, report(1, o.Retry()))
    assert renew(acts, "w1", id, uuid4()) == set()
    assert acts.row(id).lease_until is None


def test_each_lease_is_renewed_for_its_own_time(acts: Acts) -> None:
    short, long = acts.schedule(), acts.schedule()
    for id in (short, long):
        acts.attempt(id, owner="w1", seconds=1)
    with acts.store.transaction() as connection:
        now = acts.store.deciding_now
        kept = acts.store.backend.renew(connection, "w1", [short, long], [10.0, 99.5], now)
    assert kept == {short, long}
    assert (until(acts, short), until(acts, long)) == (10, 99.5)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_row_that_somebody_holds_stops_no_other_renewal(acts: Acts) -> None:
    ids = [acts.schedule() for _ in range(3)]
    for id in ids:
        acts.attempt(id, owner="w1")
    with acts.store.transaction() as operator:
        acts.store.backend.lock(operator, ids[:1], skip_locked=False)
        assert renew(acts, "w1", *ids) == set(ids[1:])


# -- the sweep ---------------------------------------------------------------------------------


def expired(acts: Acts, limit: int = 100) -> list[UUID]:
    with acts.store.transaction() as connection:
        return acts.store.backend.expired(connection, limit, acts.store.deciding_now)


def test_a_lease_that_is_over_is_found(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    acts.attempt(id, seconds=60)
    clock.pass_by(59.999999)
    assert expired(acts) == []
    clock.pass_by(0.000001)
    assert expired(acts) == [id]


def test_a_renewed_lease_is_not_over(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    acts.attempt(id, owner="w1", seconds=60)
    clock.pass_by(50)
    renew(acts, "w1", id)
    clock.pass_by(20)
    assert expired(acts) == []


def test_a_deadline_that_has_passed_is_found_while_pending(acts: Acts, clock: StoppedClock) -> None:
    pending, running, held = (acts.schedule(expires_at=DEADLINE) for _ in range(3))
    acts.attempt(running, seconds=1e6)
    acts.attempt(held, on_unknown="hold")
    acts.do(held, report(1, o.Unknown()))
    clock.travel(DEADLINE - timedelta(microseconds=1))
    assert expired(acts) == []
    clock.travel(DEADLINE)
    assert expired(acts) == [pending]


def test_a_deadline_is_found_before_the_delivery_is_due(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule(due_at=at(90), expires_at=at(60))
    clock.pass_by(60)
    assert expired(acts) == [id]


def test_a_page_of_the_sweep_is_bounded(acts: Acts, clock: StoppedClock) -> None:
    ids = [acts.schedule() for _ in range(4)]
    for place, id in enumerate(ids):
        acts.attempt(id, seconds=10 + place)
    clock.pass_by(60)
    assert expired(acts, limit=3) == ids[:3], "the longest overdue first"


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_sweeps_at_once_share_nothing(acts: Acts, clock: StoppedClock) -> None:
    leased, late = acts.schedule(), acts.schedule(expires_at=at(5))
    acts.attempt(leased, seconds=5)
    clock.pass_by(60)
    with acts.store.transaction() as connection:
        now = acts.store.deciding_now
        assert set(acts.store.backend.expired(connection, 100, now)) == {leased, late}
        assert expired(acts) == []
    assert set(expired(acts)) == {leased, late}


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_the_databases_clock_ends_leases_on_postgresql(
    postgresql_url: str, engines: Callable[..., Engine], hours: int
) -> None:
    now = datetime.now(UTC)
    acts = Acts(Store(engines(postgresql_url), WrongClock(now + timedelta(hours=hours))))
    over, running = acts.schedule(), acts.schedule()
    acts.attempt(over, seconds=-1)
    acts.attempt(running, seconds=1800)
    passed = acts.schedule(due_at=now + timedelta(days=1), expires_at=now - timedelta(minutes=1))
    acts.schedule(due_at=now + timedelta(days=1), expires_at=now + timedelta(minutes=30))
    assert set(expired(acts)) == {over, passed}


# -- lookups -----------------------------------------------------------------------------------


def held(acts: Acts, lookup_seconds: float | None = 20.0, channel: str = "email") -> UUID:
    """A delivery whose outcome is unknown, to be looked up so many seconds from now."""
    id = acts.schedule(channel=channel)
    acts.attempt(id, on_unknown="lookup")
    acts.do(id, report(1, o.Unknown()), lookup_seconds=lookup_seconds)
    return id


def lookups(acts: Acts, *channels: str, limit: int = 100, lease: float = 60.0) -> list[Claimed]:
    with acts.store.transaction() as connection:
        now = acts.store.deciding_now
        return acts.store.backend.claim_lookups(connection, channels or ["email"], limit, lease, now)


def test_a_lookup_is_due_at_its_time(acts: Acts, clock: StoppedClock) -> None:
    id = held(acts, lookup_seconds=20)
    clock.pass_by(19)
    assert lookups(acts) == []
    clock.pass_by(1)
    (claimed,) = lookups(acts)
    assert (claimed.id, claimed.delivery.status, claimed.lookups) == (id, "held", 1)
    assert claimed.now == clock.now()
    assert claimed.delivery.payload == {"order": 7}


def test_a_claimed_lookup_is_leased(acts: Acts, clock: StoppedClock) -> None:
    """Nobody else asks meanwhile; if the one who asks dies, somebody asks again."""
    held(acts, lookup_seconds=0)
    assert len(lookups(acts, lease=60)) == 1
    clock.pass_by(59)
    assert lookups(acts) == []
    clock.pass_by(1)
    assert [claimed.lookups for claimed in lookups(acts)] == [2]


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_who_ask_at_once_share_nothing(acts: Acts) -> None:
    held(acts, lookup_seconds=0)
    with acts.store.transaction() as connection:
        now = acts.store.deciding_now
        assert len(acts.store.backend.claim_lookups(connection, ["email"], 9, 60, now)) == 1
        assert lookups(acts) == []


def test_lookups_of_channels_and_up_to_a_limit(acts: Acts) -> None:
    ids = [held(acts, lookup_seconds=place - 5) for place in range(3)]
    held(acts, lookup_seconds=0, channel="fax")
    assert lookups(acts, "sms") == []
    assert {claimed.id for claimed in lookups(acts, limit=2)} == set(ids[:2]), "the longest due first"
    assert [claimed.id for claimed in lookups(acts)] == ids[2:]


def next_lookup(acts: Acts, id: UUID, seconds: float | None) -> None:
    with acts.store.transaction() as connection:
        acts.store.backend.next_lookup(connection, id, seconds, acts.store.deciding_now)


def test_the_next_lookup_is_when_it_is_said(acts: Acts, clock: StoppedClock) -> None:
    id = held(acts)
    next_lookup(acts, id, 90)
    clock.pass_by(89)
    assert lookups(acts) == []
    clock.pass_by(1)
    assert len(lookups(acts)) == 1


def test_there_is_no_next_lookup_where_a_person_must_tell(acts: Acts, clock: StoppedClock) -> None:
    ids = [held(acts), held(acts, lookup_seconds=None)]
    next_lookup(acts, ids[0], None)
    clock.pass_by(1e6)
    assert lookups(acts) == []


def test_only_what_is_held_is_looked_up(acts: Acts, clock: StoppedClock) -> None:
    id = held(acts)
    acts.do(id, c.Cancel(now=NOW))
    next_lookup(acts, id, 0)
    clock.pass_by(1e6)
    assert lookups(acts) == []
    assert acts.row(id).lookup_at is None


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_putting_aside_waits_for_nobody(acts: Acts) -> None:
    """A row that somebody holds is left for the next time."""
    held, free = acts.schedule(), acts.schedule()
    with acts.store.transaction() as operator:
        acts.store.command(operator, held, lambda now: c.Cancel(now=now))
        with acts.store.transaction() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # a wait is an error
            acts.store.put_aside(connection, [held, free], 60.0)
    assert acts.row(free).lease_until is not None
    assert acts.row(held).lease_until is None
