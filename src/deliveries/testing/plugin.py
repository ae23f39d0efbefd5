"""The pytest plugin, by entry point. It imports pytest, and nothing of ours before a fixture is asked for.

pytest imports it at every start, for everybody who has the library installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deliveries import Deliveries
    from deliveries.testing import Kit, VirtualClock


@pytest.fixture
def deliveries_app() -> Deliveries | None:
    """The application to put under test; override it to return yours. None: a new one."""
    return None


@pytest.fixture
def deliveries_database() -> Any:
    """Where it is put: a new database in memory. Override it to return a URL or an engine.

    A PostgreSQL URL gets a schema of its own, dropped after the test.
    """
    return "sqlite://"


@pytest.fixture
def deliveries_clock() -> VirtualClock:
    """Its time: stands still at the moment at which the test began. Override it for another start."""
    from deliveries.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def deliveries_mode() -> str:
    """`manual`: performed when drained. Override it to return `inline`: performed at commit."""
    return "manual"


@pytest.fixture
def deliveries_kit(
    deliveries_app: Deliveries | None,
    deliveries_database: Any,
    deliveries_clock: VirtualClock,
    deliveries_mode: Any,
) -> Iterator[Kit]:
    """The application under test, and everything to be done with it; see `deliveries.testing.Kit`."""
    from deliveries.testing import under_test

    with under_test(
        deliveries_app, database=deliveries_database, clock=deliveries_clock, mode=deliveries_mode
    ) as kit:
        yield kit


# -- each verb by its own name -------------------------------------------------------------------


@pytest.fixture
def assert_scheduled(deliveries_kit: Kit) -> Callable[..., Any]:
    """`deliveries_kit.assert_scheduled`."""
    return deliveries_kit.assert_scheduled


@pytest.fixture
def refute_scheduled(deliveries_kit: Kit) -> Callable[..., Any]:
    """`deliveries_kit.refute_scheduled`."""
    return deliveries_kit.refute_scheduled


@pytest.fixture
def all_scheduled(deliveries_kit: Kit) -> Callable[..., Any]:
    """`deliveries_kit.all_scheduled`."""
    return deliveries_kit.all_scheduled


@pytest.fixture
def perform_delivery(deliveries_kit: Kit) -> Callable[..., Any]:
    """`deliveries_kit.perform_delivery`."""
    return deliveries_kit.perform_delivery


@pytest.fixture
def drain(deliveries_kit: Kit) -> Callable[..., Any]:
    """`deliveries_kit.drain`."""
    return deliveries_kit.drain
