"""I8: at every moment of every life, the fold over the stored stream equals the projection row.

Lease columns are no part of it, nor are the rules of an attempt, which the row does not repeat. Where
a delivery is due "at once" its first due time is the deciding clock's present in the row and the
event's own time in the fold; the clock stands still here, so they are equal.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from deliveries.audit.invariants import findings
from deliveries.core.delivery import Delivery
from deliveries.testing.lives import DETOURS, ENDINGS, Life, life
from store.acts import Acts
from support.drawing import FIXTURE_IS_SHARED


def check(acts: Acts, id: UUID, told: Delivery) -> None:
    """Row, stored stream and the life as it was told say the same."""
    folded = acts.stream(id).delivery
    assert folded == told
    assert acts.projected(id) == structs.replace(told, rules=None)


def tell(acts: Acts, life: Life) -> UUID:
    """Lead a delivery through `life`, checking after every event."""
    id = acts.schedule(**structs.asdict(life.scheduled))
    for place, command in enumerate(life.commands):
        if place:
            acts.do(id, command, lookup_seconds=5.0)
        stream = acts.stream(id)
        assert stream.delivery is not None
        check(acts, id, stream.delivery)
    assert life.delivery is not None
    check(acts, id, life.delivery)
    history = acts.history(id)
    assert [recorded.event for recorded in history] == life.events
    assert findings(history) == []
    return id


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_way_a_life_can_stand(acts: Acts, ending: str) -> None:
    tell(acts, life(ending, delivery_id=uuid4()))


def test_every_detour_in_one_life(acts: Acts) -> None:
    tell(acts, life("succeeded", DETOURS, delivery_id=uuid4()))


@settings(suppress_health_check=FIXTURE_IS_SHARED)  # each example has a delivery of its own
@given(
    ending=st.sampled_from(sorted(ENDINGS)),
    detours=st.lists(st.sampled_from(sorted(DETOURS)), max_size=4),
    fields=st.fixed_dictionaries(
        {
            "priority": st.integers(0, 9),
            "tags": st.lists(st.sampled_from(["a", 'a "quoted" one', "ñ", ","])).map(tuple),
            "tenant": st.sampled_from(["", "acme"]),
            "max_attempts": st.none() | st.integers(1, 2**31 - 1),
            "root_id": st.none() | st.uuids(),
            "correlation_id": st.none() | st.just("ñ"),
        }
    ),
)
def test_any_life(acts: Acts, ending: str, detours: list[str], fields: dict[str, Any]) -> None:
    tell(acts, life(ending, detours, delivery_id=uuid4(), **fields))
