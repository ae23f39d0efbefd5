"""What goes into a row comes out of it, every column."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import structs

from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.delivery import Delivery
from deliveries.errors import CorruptHistory
from deliveries.store.rows import encode_tags, with_contents
from deliveries.testing.examples import NOW, at, report
from store.acts import Acts

FIELDS = {
    "channel": "fax",
    "queue": "machines",
    "due_at": at(7),
    "expires_at": at(9_999),
    "priority": 3,
    "tenant": "acme",
    "key": "order:7",
    "tags": ("paid", "first"),
    "correlation_id": "request-1",
    "causation_id": "order-7",
    "root_id": uuid4(),
    "max_attempts": 8,
}


def read(acts: Acts, id: UUID) -> Delivery:
    """The delivery in its row, which is the fold (I8), rules aside."""
    folded, projected = acts.stream(id).delivery, acts.projected(id)
    assert folded is not None
    assert projected == structs.replace(folded, rules=None)
    return projected


def test_every_column_is_read_as_it_was_written(acts: Acts) -> None:
    id = acts.schedule(**FIELDS)
    born = read(acts, id)
    assert {name: getattr(born, name) for name in FIELDS} == FIELDS
    for outcome in (o.Snooze(for_=5), o.Retry()):
        acts.do(id, report(acts.attempt(id).after.attempt, outcome))
    acts.do(id, c.Interrupt(now=NOW, attempt=acts.attempt(id).after.attempt))
    acts.attempt(id)
    acts.do(id, c.Cancel(now=NOW))
    old = read(acts, id)
    assert (old.attempt, old.endings, old.interruptions, old.snoozes) == (4, 2, 1, 1)
    assert (old.status, old.cancel_requested) == ("attempting", "operator")
    positions: list[Any] = [recorded.position for recorded in acts.history(id)]
    assert positions == sorted(positions)


def test_what_was_erased_is_none(acts: Acts) -> None:
    projected = acts.projected(acts.schedule())
    assert with_contents(projected, None, None) == projected
    told = with_contents(projected, "ann@example.org", '{"a":[1]}')
    assert (told.recipient, told.payload) == ("ann@example.org", {"a": [1]})


@pytest.mark.parametrize("payload", ["{broken", "", "[" * 100_000])
def test_what_cannot_be_read_is_named(acts: Acts, payload: str) -> None:
    projected = acts.projected(acts.schedule())
    with pytest.raises(CorruptHistory, match=f"^the payload of delivery {projected.id} cannot be read: "):
        with_contents(projected, None, payload)


def test_no_tags_are_none() -> None:
    assert (encode_tags(()), encode_tags(("a", "b"))) == (None, '["a","b"]')


def test_the_log_is_complete_up_to_its_last_event(acts: Acts) -> None:
    def position() -> int:
        with acts.store.reading() as connection:
            return acts.store.backend.safe_position(connection)

    assert position() == 0
    for _ in range(2):
        id = acts.schedule()
        assert position() == acts.history(id)[-1].position
