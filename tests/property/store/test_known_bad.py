"""The machine is not blind: known-bad stores fail on it, each by the invariant that it breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine

from property.store.machine import STEPS, Broken, StoreMachine
from property.store.workers import World
from support.drawing import drawing
from support.variants import VARIANTS, variant


@pytest.mark.parametrize("accepts", VARIANTS, ids=lambda accepts: accepts.__name__)
def test_a_store_without_the_fence_is_caught(
    database_url: str, dialect: str, engines: Callable[..., Engine], accepts: Callable[[Any, Any], bool]
) -> None:
    world = World.on(engines(database_url), variant(dialect, accepts))
    with pytest.raises(Broken) as caught:
        run_state_machine_as_test(
            lambda: StoreMachine(world),
            settings=settings(drawing, max_examples=500, stateful_step_count=STEPS, derandomize=True),
        )
    assert caught.value.invariant in {"I4", "I5", "I6", "I7", "N3", "model"}
