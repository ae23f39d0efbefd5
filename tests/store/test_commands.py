"""One command to one delivery, one row by its id, and what their errors tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import DBAPIError, OperationalError

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.stream import START
from deliveries.errors import ConcurrentChange, ConcurrentSchedule, DeliveryNotFound
from deliveries.store.rows import Claimed
from deliveries.store.schema import deliveries
from deliveries.store.store import Store
from deliveries.testing.examples import NOW, at, report, start
from store.acts import Acts, StoppedClock, birth


def command(acts: Acts, id: Any, make: Callable[..., c.Command]) -> Any:
    with acts.store.transaction() as connection:
        return acts.store.command(connection, id, make)


def test_a_command_is_done_at_the_deciding_clocks_present(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    clock.pass_by(7)
    change = command(acts, id, lambda now: c.Cancel(now=now))
    assert (change.after.id, type(change.event), change.recorded.recorded_at) == (id, e.Cancelled, at(7))
    assert acts.history(id)[-1].digest == change.recorded.digest


def test_a_command_that_comes_too_late_is_nothing(acts: Acts) -> None:
    id = acts.schedule()
    acts.do(id, c.Cancel(now=NOW))
    assert command(acts, id, lambda now: c.Suppress(now=now)) is None
    assert len(acts.history(id)) == 2


def test_a_command_to_nobody(acts: Acts) -> None:
    id = uuid4()
    with pytest.raises(DeliveryNotFound, match=str(id)):
        command(acts, id, lambda now: c.Cancel(now=now))


def test_a_command_to_who_is_out_of_step_with_his_row(acts: Acts) -> None:
    id = acts.schedule()
    with acts.store.transaction() as connection:
        connection.execute(update(deliveries).values(version=7))
    with pytest.raises(ConcurrentChange) as told:
        command(acts, id, lambda now: c.Cancel(now=now))
    assert str(told.value) == f"delivery {id} changed meanwhile, or its row is out of step"


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_command_waits_for_who_holds_the_row(acts: Acts) -> None:
    id = acts.schedule()
    with acts.store.transaction() as operator, acts.store.engine.begin() as connection:
        operator.execute(select(deliveries.c.id).with_for_update())
        connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        with pytest.raises(OperationalError, match="lock timeout"):
            acts.store.command(connection, id, lambda now: c.Cancel(now=now))


# -- a lookup is asked after its backoff -------------------------------------------------------------


@pytest.mark.parametrize(("on_unknown", "seconds"), [("lookup", 60.0), ("hold", None)])
def test_what_is_held_is_asked_about_after_its_wait(
    acts: Acts, on_unknown: str, seconds: float | None
) -> None:
    id = acts.schedule()
    begun = acts.next(id, start(on_unknown=on_unknown))
    plain = acts.store.write_of(begun, lease_owner="w1", lease_seconds=5.0)
    assert (plain.change, plain.lease_owner, plain.lease_seconds) == (begun, "w1", 5.0)
    assert plain.lookup_seconds is None, "only what is held is asked about"
    acts.append(plain)
    held = acts.store.write_of(acts.next(id, report(1, o.Unknown())))
    assert (held.lease_owner, held.lease_seconds, held.lookup_seconds) == (None, None, seconds)


# -- one row -----------------------------------------------------------------------------------------


def test_one_row_is_claimed_whatever_its_state(acts: Acts, clock: StoppedClock) -> None:
    id, done = acts.schedule(), acts.schedule()
    acts.do(done, c.Cancel(now=NOW))
    clock.pass_by(7)
    with acts.store.transaction() as connection:
        one, other = (acts.store.claimed(connection, each) for each in (id, done))
    assert one is not None
    assert (one.id, one.now, one.lookups, one.problem) == (id, at(7), 0, None)
    assert (one.delivery.recipient, one.delivery.payload) == ("ann@example.org", {"order": 7})
    assert one.stream.digest == acts.history(id)[-1].digest
    assert other is not None
    assert (other.id, other.delivery.status) == (done, "cancelled")


def test_a_row_that_cannot_be_read_is_claimed_with_its_problem(acts: Acts, clock: StoppedClock) -> None:
    id = acts.schedule()
    clock.pass_by(7)
    with acts.store.transaction() as connection:
        connection.execute(update(deliveries).values(tags="nonsense"))
        one = acts.store.claimed(connection, id)
    problem = f"the row of delivery {id} cannot be read: DecodeError"
    assert one == Claimed(id, START, at(7), problem=problem)


def test_nobody_cannot_be_claimed(acts: Acts) -> None:
    acts.schedule()
    id = uuid4()
    with pytest.raises(DeliveryNotFound, match=str(id)), acts.store.transaction() as connection:
        acts.store.claimed(connection, id)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_who_is_held_by_somebody_is_not_claimed(acts: Acts) -> None:
    id = acts.schedule()
    with acts.store.transaction() as operator:
        operator.execute(select(deliveries.c.id).with_for_update())
        with acts.store.transaction() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")  # a wait is an error
            assert acts.store.claimed(connection, id) is None


def test_whether_anything_is_due(acts: Acts, clock: StoppedClock) -> None:
    def due(*queues: str) -> bool:
        with acts.store.reading() as connection:
            return acts.store.anything_due(connection, queues)

    assert not due("email")
    id = acts.schedule(due_at=at(5))
    assert not due("email")
    clock.pass_by(5)
    assert (due("email"), due("fax", "email"), due("fax")) == (True, True, False)
    acts.attempt(id)
    assert not due("email")


def test_who_is_put_aside_is_left_alone_until_then(acts: Acts, clock: StoppedClock) -> None:
    ids = [acts.schedule() for _ in range(3)]
    clock.pass_by(7)
    with acts.store.transaction() as connection:
        acts.store.put_aside(connection, [*ids[:2], uuid4()], 60.0)
    assert [acts.row(id).lease_until for id in ids] == [at(67), at(67), None]
    assert acts.claim() == ids[2:]
    clock.pass_by(60)
    assert set(acts.claim()) == set(ids)


def test_the_databases_own_clock_is_asked(store: Store) -> None:
    born = birth()
    id = born.change.after.id
    with store.transaction() as connection:
        store.schedule(connection, [born])
    with store.transaction() as connection:
        assert store.anything_due(connection, ["email"])
        one, now = store.claimed(connection, id), store.now(connection)
        store.put_aside(connection, [id], 60.0)
        until = store.lease_until(connection, id)
    assert one is not None
    assert until is not None
    assert abs((now - one.now).total_seconds()) < 30
    assert abs((until - now).total_seconds() - 60) < 30


# -- errors of the database ----------------------------------------------------------------------------


class Refused(Exception):
    """As a driver would tell that another transaction was in the way."""

    sqlstate = "40001"


@contextmanager
def failing(store: Store, error: Exception) -> Iterator[None]:
    """Every statement fails, with recipients among its parameters."""

    def fail(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        raise OperationalError(statement, {"recipient": "ann@example.org"}, error)

    event.listen(store.engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(store.engine, "before_cursor_execute", fail)


ACTS = {
    "schedule": (ConcurrentSchedule, "a concurrent transaction took the same key"),
    "by_key": (ConcurrentSchedule, "a concurrent transaction changed what this one has read"),
    "command": (ConcurrentChange, "delivery {id} changed meanwhile"),
}


def act(store: Store, name: str, connection: Any, id: Any) -> None:
    if name == "schedule":
        store.schedule(connection, [birth()])
    elif name == "by_key":
        store.by_key(connection, [("", "order:7")])
    else:
        store.command(connection, id, lambda now: c.Cancel(now=now))


@pytest.mark.parametrize("name", ACTS)
def test_who_was_in_somebodys_way_may_try_again(acts: Acts, name: str) -> None:
    kind, text = ACTS[name]
    id = acts.schedule()
    with (
        acts.store.engine.connect() as connection,
        connection.begin(),
        failing(acts.store, Refused()),
        pytest.raises(kind) as told,
    ):
        act(acts.store, name, connection, id)
    assert str(told.value) == text.format(id=id)
    assert isinstance(told.value.__cause__, DBAPIError)
    assert "ann@example.org" not in str(told.value.__cause__)


@pytest.mark.parametrize("name", ACTS)
def test_any_other_error_tells_no_contents(acts: Acts, name: str) -> None:
    id = acts.schedule()
    with (
        acts.store.engine.connect() as connection,
        connection.begin(),
        failing(acts.store, ValueError("broken")),
        pytest.raises(OperationalError) as told,
    ):
        act(acts.store, name, connection, id)
    assert "ann@example.org" not in str(told.value)
