"""Events as rows hold them, and the digest that chains them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from msgspec import structs

from deliveries.core import codec
from deliveries.core import events as e
from deliveries.errors import CorruptHistory, UnreadableEvent
from deliveries.testing.examples import (
    ID,
    NOW,
    at,
    attempted,
    cancel_requested,
    crashed,
    failed,
    held,
    scheduled,
)

GOLDEN: list[tuple[e.Event, str]] = [
    (
        scheduled(payload_digest="ab"),
        (
            '{"delivery_id":"018cc4f5-7a00-7000-8000-00000000cafe","channel":"email","queue":"email",'
            '"scheduled_at":"2024-01-01T12:00:00Z","payload_digest":"ab"}'
        ),
    ),
    (
        scheduled(
            payload_digest="ab",
            recipient_digest="cd",
            due_at=at(0.000_001),
            expires_at=at(3600),
            priority=0,
            max_attempts=7,
            tenant="acme",
            key="order:1:paid",
            tags=("a", "ü"),
            correlation_id="corr",
            causation_id="cause",
            root_id=UUID(int=7),
        ),
        (
            '{"delivery_id":"018cc4f5-7a00-7000-8000-00000000cafe","channel":"email","queue":"email",'
            '"scheduled_at":"2024-01-01T12:00:00Z","payload_digest":"ab","recipient_digest":"cd",'
            '"due_at":"2024-01-01T12:00:00.000001Z","expires_at":"2024-01-01T13:00:00Z","priority":0,'
            '"max_attempts":7,"tenant":"acme","key":"order:1:paid","tags":["a","ü"],'
            '"correlation_id":"corr","causation_id":"cause",'
            '"root_id":"00000000-0000-0000-0000-000000000007"}'
        ),
    ),
    (
        e.Rescheduled(due_at=NOW, cause="snoozed", attempt=1),
        '{"due_at":"2024-01-01T12:00:00Z","cause":"snoozed","attempt":1}',
    ),
    (
        attempted(1),
        (
            '{"attempt":1,"worker":"w1","rules":{"max_attempts":3,"max_interruptions":2,"max_snoozes":1,'
            '"on_unknown":"retry","timeout":30.0,"retry_in":60.0}}'
        ),
    ),
    (failed(1), '{"attempt":1,"due_at":"2024-01-01T12:01:00Z"}'),
    (
        e.Failed(attempt=1, due_at=NOW, cause="timeout", error_type="Timeout", note="ab"),
        '{"attempt":1,"due_at":"2024-01-01T12:00:00Z","cause":"timeout","error_type":"Timeout","note":"ab"}',
    ),
    (crashed(1), '{"attempt":1,"due_at":"2024-01-01T12:01:00Z"}'),
    (held(1, "crashed", lookup=True), '{"attempt":1,"cause":"crashed","lookup":true}'),
    (cancel_requested(1), '{"attempt":1}'),
    (e.Succeeded(attempt=1), '{"attempt":1}'),
    (e.Suppressed(), "{}"),
    (e.Suppressed(attempt=1, by="adapter"), '{"attempt":1,"by":"adapter"}'),
    (
        e.Cancelled(cause="operator", attempt=1, outcome_unknown=True),
        '{"cause":"operator","attempt":1,"outcome_unknown":true}',
    ),
    (e.Exhausted(cause="deadline"), '{"cause":"deadline"}'),
]


@pytest.mark.parametrize(("event", "body"), GOLDEN, ids=lambda value: type(value).__name__)
def test_bodies_of_version_one_never_change(event: e.Event, body: str) -> None:
    """Bytes in databases of the field: a change here needs a new schema version."""
    assert codec.encode(event).decode() == body
    assert codec.decode(type(event).__name__, 1, body.encode()) == event


def test_every_event_has_a_golden_body() -> None:
    assert {type(event) for event, _ in GOLDEN} == set(e.EVENTS)


def test_the_public_names_never_change() -> None:
    assert {
        "Scheduled",
        "Rescheduled",
        "Attempted",
        "Failed",
        "Interrupted",
        "Held",
        "CancelRequested",
        "Succeeded",
        "Suppressed",
        "Cancelled",
        "Exhausted",
    } == codec.REGISTERED


LEFT_OUT: dict[type[e.Event], dict[str, object]] = {
    e.Scheduled: {"priority": 5, "tenant": "", "tags": ()},
    e.Rescheduled: {},
    e.Attempted: {},
    e.Failed: {"cause": "error"},
    e.Interrupted: {"cause": "crashed"},
    e.Held: {"lookup": False},
    e.CancelRequested: {"cause": "operator"},
    e.Succeeded: {"by": "adapter"},
    e.Suppressed: {"by": "operator"},
    e.Cancelled: {"outcome_unknown": False},
    e.Exhausted: {"outcome_unknown": False},
}


@pytest.mark.parametrize(
    ("kind", "meant"), LEFT_OUT.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_what_a_body_leaves_out_means_the_same_for_ever(
    kind: type[e.Event], meant: dict[str, object]
) -> None:
    """Pinned: rows were written that rely on it. Everything that may be missing but is not named: None."""
    defaults = {
        field.name: field.default for field in structs.fields(kind) if field.default is not msgspec.NODEFAULT
    }
    assert {name: default for name, default in defaults.items() if default is not None} == meant


def test_what_a_body_leaves_out_is_filled_in() -> None:
    assert codec.decode("Succeeded", 1, b'{"attempt":1}') == e.Succeeded(attempt=1, by="adapter")
    scheduled_body = codec.encode(scheduled())
    assert b"priority" not in scheduled_body
    assert codec.decode("Scheduled", 1, scheduled_body) == scheduled(priority=5, tenant="", tags=())


@pytest.mark.parametrize("event", [event for event, _ in GOLDEN], ids=lambda event: type(event).__name__)
def test_what_has_happened_cannot_be_changed(event: e.Event) -> None:
    for field in structs.fields(event):
        with pytest.raises(AttributeError):
            setattr(event, field.name, None)


@pytest.mark.parametrize("kind", e.EVENTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("version", [-1, 0, 2, 99, 2**63])
def test_versions_that_this_library_does_not_know(kind: type[e.Event], version: int) -> None:
    with pytest.raises(
        UnreadableEvent, match=f"^'{kind.__name__}' version {version} is a version of the future$"
    ):
        codec.decode(kind.__name__, version, b"{}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "scheduled",
        "Scheduled ",
        "Event",
        "Rules",
        "os.system",
        "os:system",
        "deliveries.core.events:Scheduled",
        "__import__('os').system('true')",
        "builtins:eval",
        "../../etc/passwd",
        "Scheduled\x00",
        "\ud800",
        "Ѕcheduled",  # noqa: RUF001 - a Cyrillic letter that looks like ours
        "x" * 1_000_000,
    ],
    ids=lambda name: ascii(name[:20]).replace("\\", "/"),
)
def test_hostile_names_are_unreadable_and_nothing_else(name: str) -> None:
    with pytest.raises(UnreadableEvent) as caught:
        codec.decode(name, 1, b"{}")
    assert str(caught.value) == f"{name[:80]!r} version 1 is an unknown type"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{",
        b"{}",
        b'{"attempt":1}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z"',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z"}}',
        b'{"attempt":"1","due_at":"2024-01-01T12:00:00Z"}',
        b'{"attempt":1.5,"due_at":"2024-01-01T12:00:00Z"}',
        b'{"attempt":null,"due_at":"2024-01-01T12:00:00Z"}',
        b'{"attempt":1,"due_at":"yesterday"}',
        b'{"attempt":1,"due_at":1704110400}',
        b'{"attempt":1,"due_at":"2024-13-01T12:00:00Z"}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z","cause":"boredom"}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z","schema_version":1}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z","extra":0}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z","__class__":"os.system"}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z","note":"\\ud800"}',
        b'{"attempt":1,"due_at":"2024-01-01T12:00:00Z","note":"\xff"}',
        b'{"attempt":NaN,"due_at":"2024-01-01T12:00:00Z"}',
        b'{"attempt":' + b"9" * 5_000 + b',"due_at":"2024-01-01T12:00:00Z"}',
        b'{"\xff":1}',
        b"\xef\xbb\xbf{}",
        b"\x80\x04N.",
        b"[" * 1_000_000,
        b'{"note":' * 1_000_000,
    ],
    ids=lambda body: ascii(body[-40:]).replace("\\", "/"),
)
def test_bodies_that_are_not_what_they_should_be(body: bytes) -> None:
    with pytest.raises(UnreadableEvent, match=r"^Failed version 1: "):
        codec.decode("Failed", 1, body)


@pytest.mark.parametrize("field", ["timeout", "retry_in"])
@pytest.mark.parametrize("seconds", ["-0.001", "-1", "31622400.1", "1e30"])
def test_durations_below_nothing_or_above_a_leap_year_are_unreadable(field: str, seconds: str) -> None:
    rules = {"timeout": "30.0", "retry_in": "60.0"}
    old, new = f'"{field}":{rules[field]}'.encode(), f'"{field}":{seconds}'.encode()
    body = codec.encode(attempted(1))
    assert body.count(old) == 1
    with pytest.raises(UnreadableEvent, match=field):
        codec.decode("Attempted", 1, body.replace(old, new))


def test_durations_from_nothing_to_a_leap_year_are_read() -> None:
    event = attempted(1, timeout=366 * 86_400.0, retry_in=0.0)
    assert codec.decode("Attempted", 1, codec.encode(event)) == event


def test_a_rule_that_this_library_does_not_know_is_unreadable() -> None:
    body = codec.encode(attempted(1)).replace(b'"rules":{', b'"rules":{"max_sorrow":1,')
    with pytest.raises(UnreadableEvent, match="max_sorrow"):
        codec.decode("Attempted", 1, body)


@pytest.mark.parametrize("number", [b"1e400", b"Infinity", b"NaN", b"null", b"true", b'"1"'])
def test_numbers_that_are_none_are_unreadable(number: bytes) -> None:
    body = codec.encode(attempted(1)).replace(b'"retry_in":60.0', b'"retry_in":' + number)
    with pytest.raises(UnreadableEvent):
        codec.decode("Attempted", 1, body)


def test_an_unreadable_event_is_a_corrupt_history() -> None:
    assert issubclass(UnreadableEvent, CorruptHistory)


PARTS = {
    "previous": codec.GENESIS,
    "delivery_id": ID,
    "version": 1,
    "name": "Failed",
    "schema_version": 1,
    "recorded_at": NOW,
    "body": b"{}",
}


def test_the_digest_is_pinned() -> None:
    """Written into databases and into exported seals: it must never change."""
    assert codec.digest(**PARTS).hex() == "df8db57d6be738f18278b92481fc5614ebea26db993b6ebedd06507e2c765b33"


def test_the_digest_is_what_the_documentation_says() -> None:
    parts = (
        bytes(32)
        + ID.bytes
        + (1).to_bytes(8, "big")
        + (1).to_bytes(8, "big")
        + codec.micros(NOW).to_bytes(8, "big")
        + len(b"Failed").to_bytes(4, "big")
        + b"Failed"
        + len(b"{}").to_bytes(8, "big")
        + b"{}"
    )
    assert codec.digest(**PARTS) == hashlib.sha256(parts).digest()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("previous", b"\x01" + bytes(31)),
        ("previous", bytes(31) + b"\x01"),
        ("delivery_id", UUID(int=ID.int + 1)),
        ("version", 2),
        ("name", "Failee"),
        ("schema_version", 2),
        ("recorded_at", NOW + timedelta(microseconds=1)),
        ("body", b"{} "),
        ("body", b""),
    ],
)
def test_any_changed_part_changes_the_digest(part: str, value: object) -> None:
    assert codec.digest(**(PARTS | {part: value})) != codec.digest(**PARTS)


def test_version_and_schema_version_cannot_be_swapped() -> None:
    one = codec.digest(**(PARTS | {"version": 1, "schema_version": 2}))
    other = codec.digest(**(PARTS | {"version": 2, "schema_version": 1}))
    assert one != other


def test_bytes_cannot_move_from_the_name_into_the_body() -> None:
    one = codec.digest(**(PARTS | {"name": "Fail", "body": b"ed{}"}))
    assert one != codec.digest(**PARTS)


def test_two_names_that_are_no_text_have_two_digests() -> None:
    one, other = (codec.digest(**(PARTS | {"name": name})) for name in ("\udcfe", "\udcff"))
    assert len({one, other, codec.digest(**(PARTS | {"name": "?"}))}) == 3


def test_instants_are_microseconds_since_the_epoch() -> None:
    assert codec.micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert codec.micros(NOW) == 1_704_110_400_000_000
    assert codec.micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    assert codec.instant(1_704_110_400_000_001) == NOW + timedelta(microseconds=1)


def test_the_digest_knows_instants_not_time_zones() -> None:
    abroad = NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert codec.digest(**(PARTS | {"recorded_at": abroad})) == codec.digest(**PARTS)
