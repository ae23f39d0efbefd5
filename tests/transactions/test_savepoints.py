"""T1 with savepoints and nested sessions: what stays is what the caller's outermost commit covers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from deliveries import Deliveries, DeliveryNotFound, Draft, IdempotencyConflict, Status
from support.apps import Calls, schedule
from transactions.debts import assert_key_is_free, assert_nothing_left, owed

Bind = Session | Connection


@contextmanager
def a_session(engine: Engine) -> Iterator[Bind]:
    with Session(engine) as session:
        yield session


@contextmanager
def a_connection(engine: Engine) -> Iterator[Bind]:
    with engine.connect() as connection:
        yield connection


Caller = Callable[[Engine], Any]

callers = pytest.mark.parametrize("caller", [a_session, a_connection], ids=["session", "connection"])


# -- savepoints ------------------------------------------------------------------------------------


@callers
def test_savepoints_within_savepoints(app: Deliveries, caller: Caller, calls: Calls) -> None:
    """Each level ends on its own; only what every level kept is owed."""
    with caller(app.engine) as bind:
        app.schedule(bind, "email", "outer")
        outer = bind.begin_nested()
        app.schedule(bind, "email", "kept")
        inner = bind.begin_nested()
        app.schedule(bind, "email", "lost")
        inner.rollback()
        again = bind.begin_nested()
        app.schedule(bind, "email", "released twice")
        again.commit()
        outer.commit()
        bind.commit()
    assert owed(app) == ["outer", "kept", "released twice"]
    assert app.drain().succeeded == 3
    assert len(calls) == 3


@callers
def test_an_outer_savepoints_rollback_undoes_the_inner_ones_release(app: Deliveries, caller: Caller) -> None:
    with caller(app.engine) as bind:
        app.schedule(bind, "email", "kept")
        outer = bind.begin_nested()
        inner = []
        for depth in range(20):
            inner.append(bind.begin_nested())
            app.schedule(bind, "email", depth, key=f"depth {depth}")
        for savepoint in reversed(inner):
            savepoint.commit()
        outer.rollback()
        app.schedule(bind, "email", "after", key="depth 19")
        bind.commit()
    assert owed(app) == ["kept", "after"]
    assert_key_is_free(app, "depth 0")


@callers
def test_a_rollback_undoes_all_levels(app: Deliveries, caller: Caller, calls: Calls) -> None:
    with caller(app.engine) as bind:
        for depth in range(20):
            savepoint = bind.begin_nested()
            app.schedule(bind, "email", depth, key=f"depth {depth}")
            if depth % 2:
                savepoint.commit()
        bind.rollback()
    assert_nothing_left(app, calls)
    assert_key_is_free(app, "depth 1")


def raising(app: Deliveries, bind: Bind) -> None:
    with bind.begin_nested():
        app.schedule(bind, "email", "lost")
        raise RuntimeError


@callers
def test_a_savepoint_alone(app: Deliveries, caller: Caller) -> None:
    """The transaction begins with the savepoint, before anything of ours."""
    with caller(app.engine) as bind:
        with bind.begin_nested():
            app.schedule(bind, "email", "kept")
        bind.commit()
        with pytest.raises(RuntimeError):
            raising(app, bind)
        bind.commit()
    assert owed(app) == ["kept"]


@callers
def test_what_schedule_refuses_within_a_savepoint_costs_nothing_else(app: Deliveries, caller: Caller) -> None:
    schedule(app, "email", 1, key="k")
    with caller(app.engine) as bind:
        with bind.begin_nested():
            app.schedule(bind, "email", "before")
            with pytest.raises(IdempotencyConflict):
                app.schedule(bind, "email", 2, key="k")
            with pytest.raises(IdempotencyConflict):
                app.schedule_many(bind, "email", [Draft("lost"), Draft(2, key="k")])
            app.schedule(bind, "email", "after")
        bind.commit()
    assert owed(app) == [1, "before", "after"]


@callers
def test_commands_follow_their_savepoint(app: Deliveries, caller: Caller, calls: Calls) -> None:
    ids = [schedule(app, "email", n).id for n in range(3)]
    with caller(app.engine) as bind:
        savepoint = bind.begin_nested()
        assert app.cancel(bind, ids[0], reason="lost").status is Status.CANCELLED
        savepoint.rollback()
        savepoint = bind.begin_nested()
        assert app.suppress(bind, ids[1], reason="kept").status is Status.SUPPRESSED
        savepoint.commit()
        app.cancel(bind, ids[2], reason="kept")
        assert app.get(ids[0], session=bind).status is Status.PENDING
        bind.commit()
    app.drain()
    assert [app.get(id).status for id in ids] == [Status.SUCCEEDED, Status.SUPPRESSED, Status.CANCELLED]
    assert calls.made == [(ids[0], 1)]


@callers
def test_scheduled_and_cancelled_in_one_transaction(app: Deliveries, caller: Caller, calls: Calls) -> None:
    with caller(app.engine) as bind:
        kept = app.schedule(bind, "email", "never wanted", key="k")
        app.cancel(bind, kept.id, reason="changed my mind")
        bind.commit()
        lost = app.schedule(bind, "email", "never wanted", key="other")
        app.cancel(bind, lost.id)
        bind.rollback()
    assert app.get(kept.id).status is Status.CANCELLED
    with pytest.raises(DeliveryNotFound):
        app.get(lost.id)
    assert app.drain().attempted == len(calls) == 0


def test_a_session_used_again_and_again(app: Deliveries) -> None:
    """One session, many transactions: each has its own end, on one pooled connection."""
    with Session(app.engine) as session:
        for n in range(20):
            app.schedule(session, "email", n, key=str(n))
            session.commit() if n % 3 else session.rollback()
    assert owed(app) == [n for n in range(20) if n % 3]


# -- sessions within somebody else's transaction -----------------------------------------------------


MODES = {
    # mode: what is owed after (session.commit, session.rollback), if the outer transaction commits
    "create_savepoint": (["outer", "inner"], ["outer"]),
    "rollback_only": (["outer", "inner"], []),
    "control_fully": (["outer", "inner"], []),
}


@pytest.mark.parametrize("outer_commits", [True, False], ids=["outer commits", "outer rolls back"])
@pytest.mark.parametrize("inner_commits", [True, False], ids=["inner commits", "inner rolls back"])
@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_joining_an_outer_transaction(
    app: Deliveries, mode: Any, inner_commits: bool, outer_commits: bool, calls: Calls
) -> None:
    with app.engine.connect() as connection:
        outer = connection.begin()
        app.schedule(connection, "email", "outer")
        with Session(connection, join_transaction_mode=mode) as session:
            app.schedule(session, "email", "inner", key="k")
            session.commit() if inner_commits else session.rollback()
        if outer.is_active:  # a full control has ended it
            outer.commit() if outer_commits else outer.rollback()
    kept = MODES[mode][0 if inner_commits else 1]
    if not outer_commits and not (mode == "control_fully" and inner_commits):
        kept = []
    assert owed(app) == kept
    if not kept:
        assert_nothing_left(app, calls)
        assert_key_is_free(app, "k")


@pytest.mark.parametrize("mode", [None, "conditional_savepoint", "create_savepoint"])
def test_a_session_joins_an_outer_savepoint(app: Deliveries, mode: Any) -> None:
    """`conditional_savepoint` is what a session does that was told nothing."""
    options = {} if mode is None else {"join_transaction_mode": mode}
    with app.engine.connect() as connection, connection.begin():
        savepoint = connection.begin_nested()
        with Session(connection, **options) as session:
            app.schedule(session, "email", "lost")
            session.commit()
        savepoint.rollback()
        with connection.begin_nested(), Session(connection, **options) as session:
            app.schedule(session, "email", "kept")
            session.commit()
            app.schedule(session, "email", "lost too")
            session.rollback()
    assert owed(app) == ["kept"]


def test_two_sessions_in_one_outer_transaction_see_each_others_debts(app: Deliveries) -> None:
    with app.engine.connect() as connection:
        outer = connection.begin()
        first = Session(connection, join_transaction_mode="create_savepoint")
        debt = app.schedule(first, "email", "x", key="k")
        first.commit()
        second = Session(connection, join_transaction_mode="create_savepoint")
        assert app.schedule(second, "email", "x", key="k").id == debt.id
        assert app.get(debt.id, session=second).payload == "x"
        second.rollback()
        first.close()
        second.close()
        with pytest.raises(DeliveryNotFound):
            app.get(debt.id)
        outer.commit()
    assert owed(app) == ["x"]


# -- callers who leave without a word ------------------------------------------------------------------


class _Lost(Exception):
    pass


def _closed(app: Deliveries) -> None:
    session = Session(app.engine)
    app.schedule(session, "email", 1, key="k")
    session.close()


def _closed_with_a_savepoint_open(app: Deliveries) -> None:
    with Session(app.engine) as session:
        session.begin_nested()
        app.schedule(session, "email", 1, key="k")


def _collected_session(app: Deliveries) -> None:
    session = Session(app.engine)
    app.schedule(session, "email", 1, key="k")
    del session
    gc.collect()


def _collected_connection(app: Deliveries) -> None:
    connection = app.engine.connect()
    app.schedule(connection, "email", 1, key="k")
    del connection
    gc.collect()


def _disposed(app: Deliveries) -> None:
    session = Session(app.engine)
    app.schedule(session, "email", 1, key="k")
    app.engine.dispose()
    session.close()


def _invalidated(app: Deliveries) -> None:
    with Session(app.engine) as session:
        app.schedule(session, "email", 1, key="k")
        session.invalidate()


def _removed(app: Deliveries) -> None:
    registry = scoped_session(sessionmaker(app.engine))
    app.schedule(registry, "email", 1, key="k")
    registry.remove()


def _raised(app: Deliveries) -> None:
    try:
        with Session(app.engine) as session, session.begin():
            with session.begin_nested():
                app.schedule(session, "email", 1, key="k")
            raise _Lost
    except _Lost:
        pass


def _raised_base(app: Deliveries) -> None:
    """What a thread that is interrupted sees."""
    try:
        with app.engine.begin() as connection:
            app.schedule(connection, "email", 1, key="k")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def _generator(app: Deliveries) -> None:
    """A request handler that is dropped half-way."""

    def handler() -> Iterator[None]:
        with Session(app.engine) as session, session.begin():
            app.schedule(session, "email", 1, key="k")
            yield

    half_way = handler()
    next(half_way)
    half_way.close()


LEFT = [
    _closed,
    _closed_with_a_savepoint_open,
    _collected_session,
    _collected_connection,
    _disposed,
    _invalidated,
    _removed,
    _raised,
    _raised_base,
    _generator,
]


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__.strip("_"))
def test_who_leaves_without_a_commit_owes_nothing(
    app: Deliveries, leave: Callable[[Deliveries], None], calls: Calls
) -> None:
    leave(app)
    assert_nothing_left(app, calls)
    assert_key_is_free(app, "k")
