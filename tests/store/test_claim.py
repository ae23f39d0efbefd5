"""Claims: what is due, in which order, and never twice at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from sqlalchemy import Engine

from deliveries.core.codec import instant
from deliveries.core.delivery import Status
from deliveries.store.store import Store
from deliveries.testing.examples import NOW, at
from deliveries.testing.lives import ENDINGS, life
from store.acts import Acts, StoppedClock, WrongClock, birth

HOUR = timedelta(hours=1)


# -- order and limit ---------------------------------------------------------------------------


def test_the_most_urgent_come_first(acts: Acts) -> None:
    """By priority, 0 first; within one by due time. Scheduled in another order than that."""
    urgency = [(priority, -due) for due in range(3) for priority in (7, 0, 9, 5)]
    ids = {key: acts.schedule(priority=key[0], due_at=at(key[1])) for key in urgency}
    assert acts.claim() == [ids[key] for key in sorted(urgency)]


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 100])
def test_never_more_than_the_limit(acts: Acts, limit: int) -> None:
    ids = [acts.schedule(priority=priority, due_at=at(-due)) for priority in (1, 2) for due in (9, 5)]
    assert acts.claim(limit) == ids[:limit]


def test_crowds_of_tomorrow_hide_nothing_due_today(acts: Acts) -> None:
    for _ in range(20):
        acts.schedule(priority=0, due_at=at(86_400))
    id = acts.schedule(priority=9)
    assert acts.claim(1) == [id]


# -- what is due -------------------------------------------------------------------------------


def test_nothing_is_claimed_before_its_time(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule(due_at=at(10))
    clock.pass_by(9.999999)
    assert acts.claim() == []
    clock.pass_by(0.000001)
    assert acts.claim() == [id]


def test_a_delivery_without_a_due_time_is_due_at_once(acts: Acts) -> None:
    id = acts.schedule(due_at=None)
    assert acts.claim() == [id]


def test_a_cutoff_leaves_out_what_became_due_later(acts: Acts, clock: StoppedClock) -> None:
    early, late = acts.schedule(due_at=at(1)), acts.schedule(due_at=at(2))
    clock.pass_by(5)
    assert acts.claim(cutoff=at(1)) == [early]
    assert acts.claim(cutoff=None) == [early, late]


def test_a_cutoff_makes_nothing_due_sooner(acts: Acts) -> None:
    acts.schedule(due_at=at(1))
    assert acts.claim(cutoff=at(60)) == []


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_the_databases_clock_decides_on_postgresql(
    postgresql_url: str, engines: Callable[..., Engine], hours: int
) -> None:
    """N5: a process whose clock is an hour off neither claims early nor leaves anything behind."""
    now = datetime.now(UTC)
    wrong = now + hours * HOUR
    acts = Acts(Store(engines(postgresql_url), WrongClock(wrong)))
    due = acts.schedule(scheduled_at=wrong, due_at=now - HOUR / 2)
    at_once = acts.schedule(scheduled_at=wrong, due_at=None)
    acts.schedule(scheduled_at=wrong, due_at=now + HOUR / 2)
    assert acts.claim() == [due, at_once]


def test_a_claim_tells_the_databases_time(store: Store) -> None:
    acts = Acts(store)
    acts.schedule(due_at=None, scheduled_at=datetime.now(UTC))
    with store.transaction() as connection:
        (claimed,) = acts.claimed(connection)
    assert abs(claimed.now - datetime.now(UTC)) < timedelta(minutes=1)
    assert claimed.now.tzinfo == instant(0).tzinfo


# -- what is claimed ---------------------------------------------------------------------------


def test_only_channels_that_are_asked_for(acts: Acts) -> None:
    email, sms = acts.schedule(), acts.schedule(channel="sms")
    acts.schedule(channel="fax")
    assert acts.claim(channels=["sms"]) == [sms]
    assert set(acts.claim(channels=["sms", "email"])) == {email, sms}
    assert acts.claim(channels=[]) == []


def test_only_the_queue_that_is_asked_for(acts: Acts) -> None:
    acts.schedule()
    bulk = acts.schedule(queue="bulk")
    assert acts.claim(queue="bulk") == [bulk]
    assert acts.claim(queue="nobody's") == []


def test_only_what_is_pending(acts: Acts, clock: StoppedClock) -> None:
    """Every way a life can stand, told in the database; a claim finds those that wait."""
    waiting = set()
    for ending in ENDINGS:
        id = told(acts, life(ending, delivery_id=birth().change.after.id))
        if ENDINGS[ending].status is Status.PENDING:
            waiting.add(id)
    clock.pass_by(1e6)
    assert set(acts.claim()) == waiting


def told(acts: Acts, life: Any) -> UUID:
    id = acts.schedule(**structs.asdict(life.scheduled))
    for command in life.commands[1:]:
        acts.do(id, command)
    return id


def test_a_claim_brings_the_delivery_and_the_end_of_its_stream(acts: Acts) -> None:
    id = acts.schedule("bob@example.org", tags=("a", "b"), key="order:7", tenant="acme", priority=2)
    with acts.store.transaction() as connection:
        (claimed,) = acts.claimed(connection)
        assert claimed.delivery == acts.store.get(connection, id)
    stream = acts.stream(id)
    assert claimed.delivery.recipient == "bob@example.org"
    assert claimed.delivery.payload == {"order": 7}
    assert (claimed.stream.digest, claimed.stream.recorded_at) == (stream.digest, stream.recorded_at)
    assert (claimed.now, claimed.lookups, claimed.problem) == (NOW, 0, None)


# -- not twice at once -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_two_claims_at_once_share_nothing(acts: Acts) -> None:
    ids = [acts.schedule(due_at=at(-10 + place)) for place in range(6)]
    with acts.store.transaction() as one, acts.store.transaction() as other:
        assert [claimed.id for claimed in acts.claimed(one, 4)] == ids[:4]
        assert [claimed.id for claimed in acts.claimed(other, 4)] == ids[4:]
        assert acts.claim() == []
    assert acts.claim() == ids


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_claim_locks_no_more_rows_than_it_returns(acts: Acts) -> None:
    ids = [acts.schedule(priority=priority) for priority in (0, 0, 5, 5, 9)]
    with acts.store.transaction() as one, acts.store.transaction() as other:
        first = [claimed.id for claimed in acts.claimed(one, 3)]
        assert {claimed.id for claimed in acts.claimed(other)} == set(ids) - set(first)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_claim_passes_by_what_a_caller_holds(acts: Acts) -> None:
    held, free = acts.schedule(), acts.schedule()
    with acts.store.transaction() as caller:
        acts.store.backend.lock(caller, [held], skip_locked=False)
        assert acts.claim() == [free]


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_locking_leaves_out_what_others_hold(acts: Acts) -> None:
    ids = [acts.schedule() for _ in range(3)]
    with acts.store.transaction() as one, acts.store.transaction() as other:
        assert set(acts.store.backend.lock(one, ids[:1], skip_locked=False)) == {ids[0]}
        assert set(acts.store.backend.lock(other, ids, skip_locked=True)) == set(ids[1:])


def test_locking_finds_what_there_is(acts: Acts) -> None:
    id = acts.schedule()
    with acts.store.transaction() as connection:
        assert set(acts.store.backend.lock(connection, [id, UUID(int=7)], skip_locked=True)) == {id}
