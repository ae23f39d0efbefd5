"""What an explanation says, whatever stands in the events."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from deliveries.audit.explain import explain
from deliveries.testing.examples import NOW, at, scheduled
from support.records import record


def test_times_are_utc_whatever_offset_an_event_was_written_with() -> None:
    elsewhere = at(3_600).astimezone(timezone(timedelta(hours=14)))
    said = explain(record(scheduled(due_at=elsewhere), times=[NOW]), NOW)
    assert "2024-01-01 13:00:00" in said.timeline[0].text


def test_a_time_beyond_the_calendar_is_shown_as_it_is() -> None:
    west = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))
    said = explain(record(scheduled(due_at=west), times=[NOW]), NOW)
    assert "9999-12-31T23:00:00-12:00" in str(said)
