"""Stores whose clock stands still, and acts on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from deliveries.store.store import Store
from store.acts import Acts, StoppedClock


@pytest.fixture
def clock() -> StoppedClock:
    """The clock of `acts`; it has authority on both databases."""
    return StoppedClock()


@pytest.fixture
def acts(database_url: str, engines: Callable[..., Engine], clock: StoppedClock) -> Acts:
    """Acts on a database of its own, at the time that `clock` says."""
    return Acts(Store(engines(database_url), clock))
