from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from deliveries.adapters.logging import Log
from deliveries.core.delivery import Attempt, Delivery, Status
from deliveries.errors import InvalidAdapter

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ID = UUID("01890000-0000-7000-8000-000000000001")
ATTEMPT = Attempt(number=3, is_last=False, timeout=10.0, started_at=NOW)
DELIVERY = Delivery(
    id=ID,
    channel="sms",
    queue="sms",
    status=Status.ATTEMPTING,
    version=2,
    scheduled_at=NOW,
    due_at=None,
    recipient="+1 555 0100\nERROR forged",
    payload={"text": "secret\nERROR forged"},
)


def test_a_line_without_anything_personal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Log()(DELIVERY, ATTEMPT)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("deliveries.sent", logging.INFO)
    assert record.getMessage() == f"{ID} through sms, attempt 3"


def test_contents_only_if_asked_for_and_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "shop"):
        Log("shop", level=logging.DEBUG, contents=True)(DELIVERY, ATTEMPT)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("shop", logging.DEBUG)
    assert record.getMessage() == (
        rf"{ID} through sms, attempt 3, to '+1 555 0100\nERROR forged': {{'text': 'secret\nERROR forged'}}"
    )


@pytest.mark.parametrize("level", ["INFO", None, True, 1.5])
def test_a_level_is_a_number(level: Any) -> None:
    with pytest.raises(InvalidAdapter, match="level"):
        Log(level=level)
