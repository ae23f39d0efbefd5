"""Every event survives its bytes; every other row is unreadable, and nothing worse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deliveries.core import codec
from deliveries.core import events as e
from deliveries.errors import UnreadableEvent
from deliveries.testing.examples import NOW
from deliveries.testing.strategies import EVENT_KINDS, instants, structs_of

any_event = st.one_of(*map(structs_of, EVENT_KINDS))
names = st.sampled_from(sorted(codec.REGISTERED))
prefixes = st.binary(min_size=32, max_size=32)
int64 = st.integers(-(2**63), 2**63 - 1)


def read(name: str, schema_version: int, body: bytes) -> e.Event | None:
    """The event, or None where it is unreadable; anything else that is raised fails the test."""
    try:
        return codec.decode(name, schema_version, body)
    except UnreadableEvent:
        return None


@pytest.mark.parametrize("kind", EVENT_KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_event_comes_back_equal(kind: type[e.Event], data: Any) -> None:
    event = data.draw(structs_of(kind))
    body = codec.encode(event)
    again = codec.decode(kind.__name__, kind.schema_version, body)
    assert again == event
    assert type(again) is kind
    assert codec.encode(again) == body


@given(any_event, st.sampled_from([-1, 0, 2, 3]) | int64)
def test_other_versions_are_unreadable(event: e.Event, version: int) -> None:
    assume(version != 1)
    assert read(type(event).__name__, version, codec.encode(event)) is None


@given(any_event, st.one_of(st.text(), st.text(st.characters(categories=["Cs", "Cc"]), min_size=1)))
def test_other_names_are_unreadable(event: e.Event, name: str) -> None:
    assume(name not in codec.REGISTERED)
    assert read(name, 1, codec.encode(event)) is None


@given(any_event, st.sampled_from("_.: \x00/'\""), st.integers(0, 20))
def test_names_that_are_nearly_ours_are_unreadable(event: e.Event, character: str, place: int) -> None:
    name = type(event).__name__
    assert read(name[:place] + character + name[place:], 1, codec.encode(event)) is None
    assert read(name.lower(), 1, codec.encode(event)) is None


@given(any_event, st.data())
def test_truncated_bodies_are_unreadable(event: e.Event, data: Any) -> None:
    body = codec.encode(event)
    length = data.draw(st.integers(0, len(body) - 1))
    assert read(type(event).__name__, 1, body[:length]) is None


@given(names, st.binary())
def test_any_bytes_are_an_event_or_unreadable(name: str, body: bytes) -> None:
    event = read(name, 1, body)
    assert event is None or type(event).__name__ == name


@given(any_event, st.data())
def test_damaged_bodies_are_an_event_or_unreadable(event: e.Event, data: Any) -> None:
    body = bytearray(codec.encode(event))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not body:
            break
    damaged = read(type(event).__name__, 1, bytes(body))
    assert damaged is None or type(damaged) is type(event)


FIELDS = sorted({field for kind in EVENT_KINDS for field in kind.__struct_fields__})
utf8 = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | utf8,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=6,
)


@given(names, st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_json_is_an_event_or_unreadable(name: str, value: object) -> None:
    event = read(name, 1, json.dumps(value).encode())
    assert event is None or type(event).__name__ == name


PARTS = {
    "previous": prefixes,
    "delivery_id": st.uuids(),
    "version": int64,
    "name": utf8,
    "schema_version": int64,
    "recorded_at": instants,
    "body": st.binary(),
}
all_parts = st.fixed_dictionaries(PARTS)


@pytest.mark.parametrize("part", PARTS)
@given(parts=all_parts, data=st.data())
def test_one_changed_part_changes_the_digest(part: str, parts: dict[str, Any], data: Any) -> None:
    changed = data.draw(PARTS[part])
    assume(changed != parts[part])
    assert codec.digest(**(parts | {part: changed})) != codec.digest(**parts)


@given(parts=all_parts, other=all_parts)
def test_equal_digests_mean_equal_parts(parts: dict[str, Any], other: dict[str, Any]) -> None:
    assert (codec.digest(**parts) == codec.digest(**other)) is (parts == other)


@given(all_parts, utf8.filter(bool), st.data())
def test_bytes_that_move_between_name_and_body_change_the_digest(
    parts: dict[str, Any], name: str, data: Any
) -> None:
    cut = data.draw(st.integers(0, len(name) - 1))
    moved = parts | {"name": name[:cut], "body": name[cut:].encode() + parts["body"]}
    assert codec.digest(**moved) != codec.digest(**(parts | {"name": name}))


@given(prefixes, st.uuids())
def test_bytes_that_move_between_the_previous_digest_and_the_id_change_the_digest(
    previous: bytes, delivery_id: UUID
) -> None:
    run = previous + delivery_id.bytes
    rotated = run[1:] + run[:1]
    assume(rotated != run)
    rest = (1, "Failed", 1, datetime(2024, 1, 1, tzinfo=UTC), b"{}")
    assert codec.digest(rotated[:32], UUID(bytes=rotated[32:]), *rest) != codec.digest(
        previous, delivery_id, *rest
    )


@given(any_event, st.data())
def test_one_flipped_bit_in_a_body_changes_the_digest(event: e.Event, data: Any) -> None:
    body = codec.encode(event)
    place, bit = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 7))
    flipped = body[:place] + bytes([body[place] ^ 1 << bit]) + body[place + 1 :]
    rest = (codec.GENESIS, UUID(int=1), 1, type(event).__name__, 1, NOW)
    assert codec.digest(*rest, flipped) != codec.digest(*rest, body)


@given(st.datetimes(timezones=st.timezones()).filter(lambda at: 1 < at.year < 9_999))
def test_instants_survive_as_microseconds(at: datetime) -> None:
    again = codec.instant(codec.micros(at))
    assert again == at.astimezone(UTC)
    assert again.tzinfo is UTC
    assert codec.micros(again) == codec.micros(at)


@given(instants, st.integers(1, 10**12))
def test_later_instants_have_more_microseconds(at: datetime, micros: int) -> None:
    assert codec.micros(at + timedelta(microseconds=micros)) == codec.micros(at) + micros
