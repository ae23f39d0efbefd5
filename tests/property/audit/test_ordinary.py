"""What is known at a glance is held to the judges: where it says that all is well, they find nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from msgspec import structs

from deliveries.audit.ordinary import is_sound
from deliveries.audit.verify import verdict
from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core.delivery import Delivery
from deliveries.core.events import EVENTS
from deliveries.core.notes import salted
from deliveries.core.stream import START, advance
from deliveries.store.rows import encode_tags
from deliveries.store.scan import Snapshot, Whole
from deliveries.store.schema import deliveries
from deliveries.testing.lives import Life, life
from deliveries.testing.strategies import lives, rambles

SNAPSHOT = Snapshot(SimpleNamespace(dialect=SimpleNamespace(name="sqlite")))  # type: ignore[arg-type]
SALT, PAYLOAD = b"s" * 16, '{"n":1}'
NAMES = [column.name for column in deliveries.c]
ORDINARY = {"Scheduled", "Attempted", "Failed", "Succeeded"}


def micros(at: Any) -> int | None:
    return None if at is None else codec.micros(at)


def row_of(delivery: Delivery, recorded_at: int, digest: bytes) -> tuple[Any, ...]:
    attempting = delivery.status == "attempting"
    values = {
        **{name: getattr(delivery, name) for name in NAMES if hasattr(delivery, name)},
        **{name: micros(getattr(delivery, name)) for name in ("scheduled_at", "due_at", "expires_at")},
        "id": delivery.id.bytes,
        "status": delivery.status.value,
        "tags": encode_tags(delivery.tags),
        "root_id": delivery.root_id and delivery.root_id.bytes,
        "recorded_at": recorded_at,
        "digest": digest,
        "lease_owner": "worker" if attempting else None,
        "lease_until": recorded_at + 30_000_000 if attempting else None,
        "lookup_at": None,
        "lookups": 0,
    }
    return tuple(values[name] for name in NAMES)


def whole_of(life: Life) -> Whole:
    """As a database would hold it."""
    stream, changes = START, []
    for command in life.commands:
        if isinstance(command, c.Schedule):
            digest = salted(SALT, PAYLOAD.encode())
            first = structs.replace(command.scheduled, payload_digest=digest, recipient_digest=None)
            command = structs.replace(command, scheduled=first)  # noqa: PLW2901 - the same, with contents
        change = advance(stream, command)
        if change is not None:
            changes.append(change)
            stream = change.stream
    assert stream.delivery is not None
    id = stream.delivery.id.bytes
    events = [
        (id, r.version, r.type, r.schema_version, codec.micros(r.recorded_at), r.body, r.digest, place * 3)
        for place, r in enumerate((change.recorded for change in changes), start=1)
    ]
    noted = [(change.recorded.version, change.note) for change in changes if change.note is not None]
    return Whole(
        id,
        events,
        row_of(stream.delivery, codec.micros(stream.recorded_at), stream.digest),
        (id, None, PAYLOAD, SALT),
        [(id, version, note.text, note.salt) for version, note in noted],
        (),
        None,
    )


@given(st.one_of(lives(), rambles()))
def test_no_honest_life_is_found_fault_with(life: Life) -> None:
    whole = whole_of(life)
    wrong = verdict(SNAPSHOT, whole)
    assert {one.rule for one in wrong} <= {"N5"}  # no processor asked whether it was due
    known = is_sound(whole, 0)
    event(f"known at a glance: {known}")
    kinds = {one[2] for one in whole.events}
    cancelled = any(isinstance(command, c.Cancel) for command in life.commands)
    if kinds <= ORDINARY and not cancelled and not wrong:
        assert known or any(b'"by":"lookup"' in one[5] or b'"unknown"' in one[5] for one in whole.events)


# -- tampering ---------------------------------------------------------------------------------


def other(draw: st.DrawFn, value: Any) -> Any:
    """Another value in the place of this one."""
    if isinstance(value, bytes):
        if not value or draw(st.booleans()):
            return value + b"x"
        place = draw(st.integers(0, len(value) - 1))
        return value[:place] + bytes([value[place] ^ 1 << draw(st.integers(0, 7))]) + value[place + 1 :]
    if isinstance(value, int):
        return value + draw(st.sampled_from([-1, 1, 1_000_000, -60_000_000]))
    if isinstance(value, str):
        return draw(st.sampled_from([value + "x", *(kind.__name__ for kind in EVENTS)]))
    return draw(st.sampled_from([None, 0, 1, "x", b"x"]))


def changed(draw: st.DrawFn, row: Any) -> Any:
    place = draw(st.integers(1, len(row) - 1))  # the id is what its rows were gathered by
    return (*row[:place], other(draw, row[place]), *row[place + 1 :])


@st.composite
def tampered(draw: st.DrawFn) -> Whole:
    """A life that somebody has laid hands on, some with a chain that was made anew."""
    whole = whole_of(draw(lives()))
    events = list(whole.events)
    act = draw(st.sampled_from(["event", "drop", "double", "swap", "row", "contents", "notes", "parts"]))
    place = draw(st.integers(0, len(events) - 1))
    if act == "event":
        events[place] = changed(draw, events[place])
    elif act == "drop":
        del events[place]
    elif act == "double":
        events.insert(draw(st.integers(0, len(events))), events[place])
    elif act == "swap":
        other_place = draw(st.integers(0, len(events) - 1))
        events[place], events[other_place] = events[other_place], events[place]
    row, beside, notes = whole.row, whole.contents, list(whole.notes)
    if act == "row":
        row = changed(draw, row)
    elif act == "contents":
        beside = changed(draw, beside)
    elif act == "notes" and notes:
        noted = draw(st.integers(0, len(notes) - 1))
        notes[noted : noted + 1] = draw(st.sampled_from([[], [changed(draw, notes[noted])]]))
    elif act == "parts":
        row, beside = draw(st.sampled_from([(None, beside), (row, None)]))
    if draw(st.booleans()):
        events = chained(events)
        if events and row is not None and draw(st.booleans()):
            row = (*row[:22], events[-1][6], *row[23:])
    return Whole(whole.id, events, row, beside, notes, (), None)


def chained(events: list[Any]) -> list[Any]:
    """The same with digests that follow from one another, as far as they can be made."""
    previous, found = codec.GENESIS, []
    for one in events:
        id, version, name, schema_version, at, body, _, position = one
        try:
            previous = codec.stored_digest(previous, id, version, name, schema_version, at, body)
        except Exception:
            return events
        found.append((id, version, name, schema_version, at, body, previous, position))
    return found


@given(tampered())
def test_at_a_glance_nothing_passes_that_the_judges_would_find(whole: Whole) -> None:
    wrong = verdict(SNAPSHOT, whole)
    event(f"wrong: {bool(wrong)}")
    assert not (is_sound(whole, 0) and wrong)


@given(st.data())
def test_any_bit_of_what_is_digested_is_found(data: st.DataObject) -> None:
    """R3: in the columns that the chain is over, and in the chain."""
    whole = whole_of(data.draw(lives()))
    place, column = data.draw(st.integers(0, len(whole.events) - 1)), data.draw(st.sampled_from([3, 4, 5, 6]))
    row = list(whole.events[place])
    row[column] = other(data.draw, row[column]) if column != 4 else row[column] + 1
    events = [*whole.events[:place], tuple(row), *whole.events[place + 1 :]]
    wrong = verdict(SNAPSHOT, structs.replace(whole, events=events))
    assert {one.rule for one in wrong} & {"I10", "I9"}
    assert all(one.delivery_id is not None for one in wrong)


def test_an_ordinary_life_is_known_at_a_glance() -> None:
    whole = whole_of(life("succeeded"))
    assert is_sound(whole, 0)
    late = (whole.id, 1, "late", 0, b"{}", b"", None, None)
    assert not is_sound(structs.replace(whole, evidence=[late]), 0)
