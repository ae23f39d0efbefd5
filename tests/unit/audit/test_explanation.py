"""What an explanation says, whatever stands in the events."""

from __future__ import annotations

from datetime import timedelta, timezone

from deliveries.audit.explain import explain
from support.histories import NOW, at, scheduled
from support.records import record


def test_times_are_utc_whatever_offset_an_event_was_written_with() -> None:
    elsewhere = at(3_600).astimezone(timezone(timedelta(hours=14)))
    said = explain(record(scheduled(due_at=elsewhere), times=[NOW]), NOW)
    assert "2024-01-01 13:00:00" in said.timeline[0].text
