"""The store beside the model, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine

from property.store.machine import STEPS, StoreMachine
from property.store.workers import World


@pytest.fixture
def world(database_url: str, engines: Callable[..., Engine]) -> Iterator[World]:
    engine = engines(database_url)
    yield World.on(engine)
    engine.dispose()


def test_the_store_and_the_model_agree(world: World) -> None:
    run_state_machine_as_test(
        lambda: StoreMachine(world),
        settings=settings(stateful_step_count=STEPS, suppress_health_check=list(HealthCheck)),
    )
