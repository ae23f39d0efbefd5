"""A kit with two channels, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deliveries import Backoff
from deliveries.testing import Kit, VirtualClock, under_test
from deliveries.testing.examples import NOW
from support.databases import Server


@pytest.fixture(params=["memory", "file", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Everywhere that a kit can be: in memory, in a file, in a schema of its own."""
    if request.param == "memory":
        return "sqlite://"
    if request.param == "file":
        return str(request.getfixturevalue("empty_sqlite_url"))
    server: Server = request.getfixturevalue("postgresql_server")
    return server.url.render_as_string(hide_password=False)


@pytest.fixture
def kit(database: str) -> Iterator[Kit]:
    with under_test(database=database, clock=VirtualClock(NOW)) as kit:
        kit.app.adapter("email", max_attempts=3, backoff=Backoff.linear(60))(lambda delivery, attempt: None)
        kit.app.adapter("charge", effect="unsafe", on_unknown="hold")(lambda delivery, attempt: None)
        yield kit
        assert kit.findings() == []
