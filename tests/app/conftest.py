"""Applications on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from deliveries import Deliveries

pytest.register_assert_rewrite("support.apps")

from support.apps import (  # noqa: E402, F401 - fixtures; imported after the line above, which must come first
    RunningClock,
    app,
    apps,
    calls,
    clock,
    common_postgresql_url,
    fresh_postgresql_url,
    fresh_url,
    postgresql_url,
    timed,
)


@pytest.fixture
def nowhere() -> Iterator[Deliveries]:
    """An application whose database does not exist: the first statement would fail."""
    engine = create_engine(
        "postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 2}
    )
    made = Deliveries(engine, clock=RunningClock())
    made.adapter("email")(lambda delivery, attempt: None)
    yield made
    made.close()
