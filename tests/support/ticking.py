"""Durations in the hands of a test."""

from __future__ import annotations

import pytest

from deliveries.processor import ticks


class Time:
    """A clock for durations that stands still unless it is moved."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """What the processor takes for the time that passes."""
    made = Time()
    monkeypatch.setattr(ticks, "monotonic", made.monotonic)
    return made
