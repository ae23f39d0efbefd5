"""`Unique`: what it accepts, and what it takes for the same kind."""

from __future__ import annotations

import itertools
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from deliveries.core.delivery import Status
from deliveries.core.events import Scheduled
from deliveries.core.unique import FIELDS, LONGEST, REPLACEABLE, Unique
from deliveries.errors import DeliveriesError, InvalidSchedule
from deliveries.testing.examples import NOW

SCHEDULED = Scheduled(
    delivery_id=UUID(int=1),
    channel="email",
    queue="mail",
    scheduled_at=NOW,
    payload_digest="",
    tags=("a", "b"),
)
PAYLOAD = '{"n":1,"user_id":7}'


def digest(unique: Unique, payload: str = PAYLOAD, recipient: str | None = "ann", **changed: Any) -> bytes:
    return unique.digest(structs.replace(SCHEDULED, **changed), recipient, payload)


# -- what it is told ---------------------------------------------------------------------------------


def test_unsaid_it_is_a_minute_for_what_lives_or_succeeded() -> None:
    unique = Unique()
    assert unique.seconds == 60.0
    assert set(unique.states) == set(Status) - {Status.CANCELLED, Status.SUPPRESSED, Status.EXHAUSTED}
    assert set(unique.fields) == {"channel", "recipient", "payload"}
    assert unique.replace == ()


@pytest.mark.parametrize(
    ("period", "seconds"),
    [(60, 60.0), (0.5, 0.5), (timedelta(hours=1), 3600.0), (LONGEST, LONGEST), (None, None)],
)
def test_periods(period: Any, seconds: float | None) -> None:
    assert Unique(period=period).seconds == seconds


@pytest.mark.parametrize(
    ("period", "problem"),
    [
        (0, "more than 0 and at most 315619200 seconds are needed, not 0"),
        (-1, "more than 0 and at most 315619200 seconds are needed, not -1"),
        (-0.001, "not -0.001"),
        (LONGEST + 1, "not 315619201.0"),
        (timedelta(seconds=-1), "not -1.0"),
        (float("nan"), "not nan"),
        (float("inf"), "not inf"),
        (10**400, "not 1000"),
        (1e300, "not 1e+300"),
        (timedelta.max, "not 86400000000000.0"),
        ("60", "seconds or a timedelta is needed, not str"),
        (True, "seconds or a timedelta is needed, not bool"),
    ],
)
def test_a_period_out_of_range(period: Any, problem: str) -> None:
    with pytest.raises(InvalidSchedule, match=f"^unique.period: .*{re.escape(problem)}") as caught:
        Unique(period=period)
    assert caught.value.field == "unique.period"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("fields", (), "at least one field must count"),
        ("fields", ("tenant",), "at least one field must count"),
        ("fields", ("chanel",), "'chanel': one of channel, queue, recipient, payload, tags, tenant"),
        ("fields", "payload", "a list of names is needed"),
        ("fields", None, "a list of names is needed"),
        ("fields", [1], "a name is needed, not 1"),
        ("keys", "user_id", "a list of names is needed"),
        ("keys", [""], "a name is needed, not ''"),
        ("keys", [None], "a name is needed, not None"),
        ("states", (), "at least one state must count"),
        ("states", ("done",), f"'done': one of {', '.join(Status)}"),
        ("states", [1], "a name is needed, not 1"),
        ("replace", ("channel",), f"'channel': one of {', '.join(REPLACEABLE)}"),
        ("replace", "due_at", "a list of names is needed"),
    ],
)
def test_names_that_make_no_sense(field: str, value: Any, problem: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        Unique(**{field: value})
    assert str(caught.value) == f"unique.{field}: {problem}"
    assert caught.value.field == f"unique.{field}"
    assert isinstance(caught.value, DeliveriesError)


def test_keys_of_a_payload_that_does_not_count() -> None:
    with pytest.raises(InvalidSchedule) as caught:
        Unique(fields=("channel",), keys=("user_id",))
    assert str(caught.value) == "unique.keys: they are names in the payload, which is not among the fields"
    assert caught.value.field == "unique.keys"


def test_the_order_and_kind_of_the_lists_is_nothing() -> None:
    first = Unique(fields=["payload", "channel"], keys={"a", "b"}, states=["held", Status.PENDING])
    assert first == Unique(fields=("channel", "payload"), keys=("b", "a", "b"), states=("pending", "held"))
    assert hash(first) == hash(
        Unique(fields=("payload", "channel"), keys=("a", "b"), states=("held", "pending"))
    )


@pytest.mark.parametrize(("replace", "supersedes"), [((), False), (("due_at",), False), (REPLACEABLE, True)])
def test_what_supersedes(replace: tuple[str, ...], supersedes: bool) -> None:
    assert Unique(replace=replace).supersedes is supersedes


# -- the same kind -------------------------------------------------------------------------------------


CHANGES: dict[str, dict[str, Any]] = {
    "channel": {"channel": "sms"},
    "queue": {"queue": "other"},
    "recipient": {"recipient": "bob"},
    "payload": {"payload": '{"n":2,"user_id":7}'},
    "tags": {"tags": ("a",)},
    "tenant": {"tenant": "acme"},
}
IRRELEVANT: dict[str, Any] = {"delivery_id": UUID(int=2), "priority": 0, "key": "k", "max_attempts": 3}


def test_every_field_has_a_change() -> None:
    assert set(CHANGES) == set(FIELDS)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_what_counts_and_what_does_not(size: int) -> None:
    """For every choice of fields: a change of one of them, or of the tenant, is another kind."""
    for fields in itertools.combinations(FIELDS, size):
        if fields == ("tenant",):
            continue
        unique = Unique(fields=fields)
        assert digest(unique, **IRRELEVANT) == digest(unique)
        for name, change in CHANGES.items():
            differs = digest(unique, **change) != digest(unique)
            assert differs is (name in fields or name == "tenant"), (fields, name)


def test_tags_in_any_order_are_the_same() -> None:
    unique = Unique(fields=("tags",))
    assert digest(unique, tags=("b", "a")) == digest(unique)


def test_keys_narrow_the_payload() -> None:
    unique = Unique(keys=("user_id",))
    assert digest(unique, '{"n":2,"user_id":7}') == digest(unique)
    assert digest(unique, '{"n":1,"user_id":8}') != digest(unique)
    assert digest(unique, '{"n":1,"user_id":"7"}') != digest(unique)
    assert digest(unique, '{"n":1,"user_id":null}') != digest(unique)


def test_other_keys_are_another_kind() -> None:
    """Also where the values would read the same."""
    assert digest(Unique(keys=("n", "user_id"))) != digest(Unique())
    assert digest(Unique(keys=("n",)), '{"n":1}') != digest(Unique(keys=("m",)), '{"m":1}')


def test_values_do_not_run_into_each_other() -> None:
    unique = Unique(fields=("channel", "recipient"))
    assert digest(unique, channel="a", recipient="bc") != digest(unique, channel="ab", recipient="c")
    assert digest(unique, recipient=None) != digest(unique, recipient="null")


@pytest.mark.parametrize("payload", ["null", "[]", '"user_id"', "{}", '{"userid":1}', '[{"user_id":1}]'])
def test_a_payload_without_the_key_is_refused(payload: str) -> None:
    """A misspelt key would make all payloads the same, and swallow all debts but one."""
    with pytest.raises(InvalidSchedule, match="user_id") as caught:
        digest(Unique(keys=("user_id",)), payload)
    assert caught.value.field == "unique.keys"


def test_digests_are_the_same_in_every_process() -> None:
    """Pinned: two versions of the library, running side by side, must meet."""
    assert digest(Unique(keys=("user_id",))).hex() == (
        "7a83dd6414f8818a3b4c5ddf8ba875008c7fc5a621dd9da3bfa8e2dd1ac06a46"
    )
