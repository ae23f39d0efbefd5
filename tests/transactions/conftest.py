"""Callers of all kinds, on both databases."""

from collections.abc import Callable

import pytest

pytest.register_assert_rewrite(
    "support.apps", "transactions.callers", "transactions.debts", "transactions.watch"
)

from deliveries import Deliveries  # noqa: E402 - after the line above, which must come first
from support.apps import (  # noqa: E402, F401 - fixtures
    Apps,
    Calls,
    apps,
    calls,
    common_postgresql_url,
    fresh_postgresql_url,
    fresh_url,
    postgresql_url,
)
from transactions.callers import CALLERS  # noqa: E402


@pytest.fixture
def app(database_url: str, apps: Apps, calls: Calls) -> Deliveries:  # noqa: F811 - it is a fixture
    """An application whose only adapter keeps count."""
    app = apps(database_url)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    return app


@pytest.fixture
def wide_on(apps: Apps, calls: Calls) -> Callable[[str], Deliveries]:  # noqa: F811 - it is a fixture
    """Applications with a connection for every caller, and some for those who watch."""

    def made(url: str, **options: object) -> Deliveries:
        if url.startswith("postgresql"):  # who would hang for ever fails instead
            options["connect_args"] = {"options": "-c statement_timeout=60000"}
        app = apps(url, pool_size=CALLERS, max_overflow=8, pool_timeout=60, **options)
        app.adapter("email")(calls(lambda delivery, attempt: None))
        return app

    return made


@pytest.fixture
def wide(database_url: str, wide_on: Callable[[str], Deliveries]) -> Deliveries:
    """An application with a connection for every caller."""
    return wide_on(database_url)
