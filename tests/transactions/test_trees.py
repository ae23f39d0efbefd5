"""T1 for every tree of savepoints: what is visible afterwards is what a model of the tree keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from deliveries import Deliveries, Draft, IdempotencyConflict
from support.apps import Calls, plain
from support.drawing import FIXTURE_IS_SHARED
from transactions.debts import owed

KEYS = ["a", "b", "c"]


@dataclass(frozen=True)
class Schedule:
    """One debt; with a key its payload is the key's own, so that it is the same debt each time."""

    key: str | None


@dataclass(frozen=True)
class Many:
    """Several at once, which is a savepoint of its own; with `conflict` it is refused as a whole."""

    number: int
    conflict: bool


@dataclass(frozen=True)
class Cancel:
    """Of a delivery that is visible here, counted from the last."""

    back: int


@dataclass(frozen=True)
class Perform:
    """A processor drains what it can see."""


@dataclass(frozen=True)
class Node:
    """A transaction or a savepoint, and how it ends."""

    steps: tuple[Any, ...]
    end: str


ENDS = ["commit", "commit", "rollback", "raise"]
LEAVES = st.one_of(
    st.builds(Schedule, st.none() | st.sampled_from(KEYS)),
    st.builds(Many, st.integers(0, 3), st.booleans()),
    st.builds(Cancel, st.integers(1, 4)),
    st.just(Perform()),
)


def node(steps: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[Node]:
    return st.builds(Node, st.lists(steps, max_size=size).map(tuple), st.sampled_from(ENDS))


TREES = node(st.recursive(LEAVES, lambda within: node(within, 5), max_leaves=15), 6)
TRANSACTIONS = st.lists(TREES, min_size=1, max_size=3)


@dataclass
class Model:
    """What a transaction sees: payload -> whether it was told to cancel."""

    debts: dict[Any, bool] = field(default_factory=dict)

    def copy(self) -> Model:
        return Model(dict(self.debts))


class Interpreter:
    """Does to the database and to the model what a tree says, and compares the answers on the way."""

    def __init__(self, app: Deliveries, bind: Any, tenant: str) -> None:
        self.app, self.bind, self.tenant = app, bind, tenant
        self.given = bind.raw if isinstance(bind, PlainBind) else bind
        self.numbers = iter(range(1_000_000))
        self.ids: dict[Any, Any] = {}
        self.depth = 0

    def transaction(self, tree: Node, before: Model) -> Model:
        after = before.copy()
        self.steps(tree, after)
        if tree.end == "commit":
            self.bind.commit()
            return after
        self.bind.rollback()
        return before

    def savepoint(self, tree: Node, before: Model) -> Model:
        after, savepoint = before.copy(), self.bind.begin_nested()
        self.depth += 1
        event(f"savepoints deep: {self.depth}")
        if tree.end == "raise":
            with pytest.raises(ZeroDivisionError):
                self.raising(tree, after, savepoint)
        else:
            self.steps(tree, after)
            getattr(savepoint, tree.end)()
        self.depth -= 1
        return after if tree.end == "commit" else before

    def raising(self, tree: Node, model: Model, savepoint: Any) -> None:
        with savepoint:
            self.steps(tree, model)
            raise ZeroDivisionError

    def steps(self, tree: Node, model: Model) -> None:
        for step in tree.steps:
            match step:
                case Node():
                    model.debts = self.savepoint(step, model).debts
                case Schedule(key):
                    self.schedule(key, model)
                case Many(number, conflict):
                    self.many(number, conflict, model)
                case Cancel(back):
                    self.cancel(back, model)
                case Perform():
                    self.perform()

    def schedule(self, key: str | None, model: Model) -> None:
        payload = f"of key {key}" if key else next(self.numbers)
        made = self.app.schedule(self.given, "email", payload, key=key, tenant=self.tenant)
        assert made.created is (payload not in model.debts)
        if made.created:
            self.born(payload, made.id, model)
        assert made.id == self.ids[payload]

    def many(self, number: int, conflict: bool, model: Model) -> None:
        payloads = [next(self.numbers) for _ in range(number)]
        drafts = [Draft(payload, tenant=self.tenant) for payload in payloads]
        taken = [key for key in KEYS if f"of key {key}" in model.debts]
        if conflict and taken:
            drafts.append(Draft("another debt", key=taken[0], tenant=self.tenant))
            with pytest.raises(IdempotencyConflict):
                self.app.schedule_many(self.given, "email", drafts)
            return
        made = self.app.schedule_many(self.given, "email", drafts)
        for payload, delivery in zip(payloads, made, strict=True):
            self.born(payload, delivery.id, model)

    def born(self, payload: Any, id: Any, model: Model) -> None:
        self.ids[payload] = id
        model.debts[payload] = False

    def cancel(self, back: int, model: Model) -> None:
        if back <= len(model.debts):
            payload = list(model.debts)[-back]
            self.app.cancel(self.given, self.ids[payload])
            model.debts[payload] = True

    def perform(self) -> None:
        if self.app.engine.dialect.name == "postgresql":  # there a processor waits for no open transaction
            self.app.drain()


class PlainBind:
    """A psycopg connection without SQLAlchemy, under SQLAlchemy's names for what ends a transaction."""

    def __init__(self, raw: Any) -> None:
        self.raw, self.commit, self.rollback = raw, raw.commit, raw.rollback

    def begin_nested(self) -> Any:
        return PlainSavepoint(self.raw)


class PlainSavepoint:
    """Ends as a savepoint of SQLAlchemy's does."""

    numbers = iter(range(1_000_000))

    def __init__(self, raw: Any) -> None:
        self._raw, self._name = raw, f"tree_{next(self.numbers)}"
        raw.execute(f"SAVEPOINT {self._name}")

    def commit(self) -> None:
        self._raw.execute(f"RELEASE SAVEPOINT {self._name}")

    def rollback(self) -> None:
        self._raw.execute(f"ROLLBACK TO SAVEPOINT {self._name}")
        self.commit()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        self.rollback()


@pytest.fixture(params=["session", "plain"])
def bind(request: pytest.FixtureRequest, app: Deliveries) -> Iterator[Any]:
    """A session; or what lies below it: SQLAlchemy's connection, on PostgreSQL psycopg's."""
    engine: Engine = app.engine
    if request.param == "session":
        with Session(engine) as session:
            yield session
    elif engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            yield connection
    else:
        with plain(app) as raw:
            yield PlainBind(raw)


@settings(suppress_health_check=FIXTURE_IS_SHARED)
@given(trees=TRANSACTIONS)
def test_what_is_visible_is_what_was_committed_at_every_level(
    app: Deliveries, bind: Any, calls: Calls, trees: list[Node]
) -> None:
    tenant, model, never = uuid4().hex, Model(), set()  # each example has a tenant to itself
    interpreter = Interpreter(app, bind, tenant)
    del calls.made[:]
    for tree in trees:
        model = interpreter.transaction(tree, model)
        assert sorted(map(str, owed(app, tenant))) == sorted(map(str, model.debts))
        cancelled_now = {interpreter.ids[payload] for payload, cancelled in model.debts.items() if cancelled}
        never |= cancelled_now - {id for id, _ in calls.made}
    app.drain()
    called = {id for id, _ in calls.made}
    assert len(calls) == len(called)
    assert not called & never
    assert called <= {interpreter.ids[payload] for payload in model.debts}
    for payload, cancelled in model.debts.items():
        id = interpreter.ids[payload]
        was_called = id in called
        assert app.get(id).status == ("succeeded" if was_called else "cancelled")
        assert was_called or cancelled
