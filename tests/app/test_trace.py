"""Traces: the deliveries of one correlation id, under what caused them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from deliveries import Deliveries, Discard, InvalidFilter
from deliveries.audit.trace import MOST_DEEP, Trace
from deliveries.errors import CallerError
from deliveries.store.schema import deliveries
from support.apps import RunningClock, schedule

FLOW = "order-7"


@pytest.fixture
def shop(timed: Deliveries) -> Deliveries:
    """An application whose adapter gives up at once."""
    timed.adapter("email", queue="mail")(lambda delivery, attempt: Discard("no"))
    return timed


def owe(app: Deliveries, cause: object = None, correlation_id: str | None = FLOW) -> UUID:
    causation_id = None if cause is None else str(cause)
    return schedule(app, correlation_id=correlation_id, causation_id=causation_id).id


def shape(found: Trace) -> list[tuple[UUID, int, str]]:
    return [(link.delivery.id, link.depth, link.how) for link in found.links]


def test_causes_stand_before_what_they_caused(shop: Deliveries) -> None:
    first = owe(shop, "order 7")
    second = owe(shop, first)
    third = owe(shop)
    fourth, fifth = owe(shop, second), owe(shop, first)
    owe(shop, correlation_id="another")
    found = shop.trace(FLOW)
    assert shape(found) == [
        (first, 0, "first"),
        (second, 1, "caused"),
        (fourth, 2, "caused"),
        (fifth, 1, "caused"),
        (third, 0, "first"),
    ]
    assert [link.parent for link in found.links] == [None, first, second, first, None]
    assert [link.cause for link in found.links] == ["order 7", None, None, None, None]
    assert found.is_complete
    lines = str(found).splitlines()
    assert lines[0] == f"5 deliveries of correlation {FLOW}"
    branches = [line[: line.index("0")] for line in lines[1:]]
    assert branches == ["", "├─ ", "│  └─ ", "└─ ", ""]


def test_redrives_stand_under_their_source(shop: Deliveries) -> None:
    source = owe(shop)
    shop.drain()
    with shop.engine.begin() as connection:
        again = shop.redrive(connection, source, actor="ann").id
    assert shape(shop.trace(FLOW)) == [(source, 0, "first"), (again, 1, "redriven")]
    assert f"└─ redriven as {again}  pending" in str(shop.trace(FLOW))


def test_a_link_that_was_pruned_is_named(shop: Deliveries, clock: RunningClock) -> None:
    source = owe(shop)
    for _ in range(2):  # a chain of three, of which the first two are old
        shop.drain()
        with shop.engine.begin() as connection:
            (newest,) = shop.find(limit=1)
            last = shop.redrive(connection, newest.id).id
    clock.advance(86_400)
    shop.prune(older_than=timedelta(hours=1))
    (link,) = shop.trace(FLOW).links
    assert (link.delivery.id, link.how) == (last, "first")
    assert link.cause is not None
    assert ", pruned at 2024-01-02 12:0" in link.cause
    assert link.delivery.root_id == source


def test_a_root_stands_in_for_a_cause_that_was_pruned(shop: Deliveries) -> None:
    source = owe(shop)
    shop.drain()
    with shop.engine.begin() as connection:
        again = shop.redrive(connection, source).id
        gone = str(UUID(int=7))
        connection.execute(update(deliveries).where(deliveries.c.id == again).values(causation_id=gone))
        assert shape(shop.trace(FLOW, session=connection)) == [(source, 0, "first"), (again, 1, "redriven")]
        connection.rollback()


def test_causes_elsewhere_are_named(shop: Deliveries) -> None:
    stranger, unnamed = owe(shop, correlation_id="another"), owe(shop, correlation_id=None)
    owe(shop, stranger), owe(shop, unnamed), owe(shop, UUID(int=7)), owe(shop, "order 7")
    assert [link.cause for link in shop.trace(FLOW).links] == [
        f"delivery {stranger} of correlation another",
        f"delivery {unnamed} of correlation none",
        str(UUID(int=7)),
        "order 7",
    ]


def test_a_circle_begins_with_its_oldest(shop: Deliveries) -> None:
    """Nobody can cause what was there before, but anybody can say so: ids are chosen before they are used."""
    first = owe(shop)
    second = owe(shop, first)
    alone = owe(shop)
    with shop.engine.begin() as connection:
        for id, cause in ((first, second), (alone, alone)):
            changed = update(deliveries).where(deliveries.c.id == id).values(causation_id=str(cause))
            connection.execute(changed)
        found = shop.trace(FLOW, session=connection)
        connection.rollback()
    assert shape(found) == [(first, 0, "first"), (second, 1, "caused"), (alone, 0, "first")]
    assert [link.cause for link in found.links] == [f"{second}, in a circle", None, f"{alone}, in a circle"]


def test_the_oldest_of_too_many(shop: Deliveries) -> None:
    ids = [owe(shop) for _ in range(3)]
    found = shop.trace(FLOW, limit=2)
    assert ([link.delivery.id for link in found.links], found.is_complete) == (ids[:2], False)
    assert shop.trace(FLOW, limit=3).is_complete


def test_the_twins(shop: Deliveries) -> None:
    owe(shop)

    async def asked() -> tuple[Trace, bool]:
        return await shop.atrace(FLOW), (await shop.adoctor(long=5)).ok

    assert asyncio.run(asked()) == (shop.trace(FLOW), True)


def test_nothing_is_an_empty_trace(shop: Deliveries) -> None:
    assert shop.trace("nobody's").links == ()
    assert str(shop.trace("nobody's")) == "0 deliveries of correlation nobody's"


@pytest.mark.parametrize("wrong", ["a\0b", "x" * 3_000, 7])
def test_what_is_no_correlation_id_is_refused(nowhere: Deliveries, wrong: Any) -> None:
    with pytest.raises(InvalidFilter):
        nowhere.trace(wrong)


@pytest.mark.parametrize("limit", [0, 10_001, True, "1"])
def test_a_limit_that_is_none(nowhere: Deliveries, limit: Any) -> None:
    with pytest.raises(CallerError, match="limit"):
        nowhere.trace(FLOW, limit=limit)


def test_a_long_chain_is_told_and_drawn(shop: Deliveries) -> None:
    """Longer than Python would recurse, and deeper than anybody would look."""
    with shop.engine.begin() as connection:
        cause = None
        for _ in range(1_100):
            cause = str(shop.schedule(connection, "email", correlation_id=FLOW, causation_id=cause).id)
    found = shop.trace(FLOW, limit=2_000)
    assert [link.depth for link in found.links] == list(range(1_100))
    assert max(map(len, str(found).splitlines())) < 3 * MOST_DEEP + 200
