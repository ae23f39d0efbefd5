"""Values that lie about themselves, leak secrets, or cannot be chained: each was a bug once."""

from __future__ import annotations

import copy
import pickle
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.backoff import Backoff
from deliveries.core.notes import clean, describe, type_name
from deliveries.errors import CorruptHistory, UnreadableEvent
from deliveries.testing.examples import ID, NOW, attempted, cancel_requested, report, scheduled
from deliveries.testing.stories import given


class NoClass:
    @property
    def __class__(self) -> type:
        sys.exit(3)


class Nameless(type):
    @property
    def __name__(cls) -> str:
        sys.exit(3)


class NoName(metaclass=Nameless):
    def __str__(self) -> str:
        raise ValueError


def test_a_value_that_will_not_tell_its_class_is_described_all_the_same() -> None:
    assert "NoClass" in describe(NoClass())
    assert o.outcome_of(NoClass()) == o.Delivered()


def test_a_class_that_will_not_tell_its_name_is_named_all_the_same() -> None:
    assert describe(NoName()) == "<unprintable NoName>"
    assert type_name(NoName()) == "NoName"


@pytest.mark.parametrize(
    "text",
    [
        "access_token=hunter2x",
        '{"client_secret": "hunter2"}',
        "DB_PASSWORD=hunter2",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "accessToken: hunter2",
        "PWD=hunter2;UID=x",
        "Authorization: Token hunter2",
        "https://u:hun@hunter2@h",
        '{"password": "a\\"hunter2"}',
        'password: "hunter2 never closed',
        '{\\"token\\": \\"hunter2\\"}',
        "postgres://u:" + "hunter2" * 900 + "@h",
        "postgres://u:/" + "hunter2" * 900 + "@h",
        'password="' + "hunter2" * 900 + '"',
        "password=[redacted-hunter2",
    ],
    ids=lambda text: text[:24].replace("\\", "/"),
)
def test_no_secret_is_kept_and_cleaning_twice_changes_nothing(text: str) -> None:
    cleaned = clean(text)
    assert "hunter2" not in cleaned
    assert "[redacted]" in cleaned
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_predecessor_of_another_length_is_no_digest(length: int) -> None:
    with pytest.raises(CorruptHistory, match="32 bytes"):
        codec.digest(bytes(length), ID, 1, "Failed", 1, NOW, b"{}")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("Failed", b'{"attempt":1,"due_at":"2024-01-01T00:00:00"}'),
        ("Attempted", codec.encode(attempted()).replace(b'"timeout":30.0', b'"timeout":1e30')),
    ],
    ids=["a naive instant", "a timeout for ever"],
)
def test_a_body_that_no_decision_could_bear_is_unreadable(name: str, body: bytes) -> None:
    with pytest.raises(UnreadableEvent):
        codec.decode(name, 1, body)


def test_a_snooze_in_a_local_time_zone_is_recorded_in_utc() -> None:
    until = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    now = until.astimezone(UTC) - timedelta(hours=1)
    command = c.Report(now=now, attempt=1, outcome=o.Snooze(until=until))
    [event] = given(scheduled(), attempted(1)).when(command).events
    assert event.due_at.tzinfo is UTC
    assert codec.decode("Rescheduled", 1, codec.encode(event)) == event


@pytest.mark.parametrize(
    "outcome",
    [
        o.Snooze(5, reason="x"),
        o.Snooze(until=NOW),
        o.Retry("x", after=3),
        o.Delivered({"a": 1}),
        o.Cancel(),
    ],
    ids=repr,
)
def test_an_outcome_survives_being_copied(outcome: o.Outcome) -> None:
    pickled = pickle.loads(pickle.dumps(outcome))
    assert copy.copy(outcome) == copy.deepcopy(outcome) == pickled == outcome
    assert pickled.args == outcome.args


def test_a_cancel_after_a_timeout_says_that_the_outcome_is_unknown() -> None:
    given(scheduled(), attempted(1), cancel_requested(1)).when(
        report(1, o.Retry("slow"), cause="timeout")
    ).then(e.Cancelled(cause="operator", attempt=1, outcome_unknown=True))


def test_nothing_times_anything_is_nothing() -> None:
    assert Backoff.exponential(base=0, cap=100, full_jitter=False).delay(2_000) == 0


def test_a_backoff_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="base"):
        Backoff(base=float("nan"))
