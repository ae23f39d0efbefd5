"""From a command to an event to be stored, and back from stored events to the state."""

from __future__ import annotations

from uuid import UUID

import pytest
from msgspec import structs

from deliveries.audit.invariants import findings
from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.machine import fold
from deliveries.core.stream import START, Recorded, Stream, advance, replay
from deliveries.errors import CorruptHistory, UnreadableEvent
from deliveries.testing.examples import ID, NOTE, NOW, at, attempted, report, scheduled
from deliveries.testing.lives import DETOURS, life


def recorded(*commands: c.Command) -> list[Recorded]:
    """What `commands`, all of which lead to something, leave in the store."""
    stream, history = START, []
    for command in commands:
        change = advance(stream, command)
        assert change is not None
        history.append(change.recorded)
        stream = change.stream
    return history


def whole_life() -> list[Recorded]:
    return recorded(*life("attempts spent", DETOURS).commands)


SCHEDULE = c.Schedule(now=NOW, scheduled=scheduled())
START_ATTEMPT = c.Start(now=at(1), worker="w1", rules=attempted().rules)


def test_the_first_event_opens_the_stream() -> None:
    change = advance(START, SCHEDULE)
    assert change is not None
    assert change.event == scheduled()
    assert change.after == fold([scheduled()])
    body = codec.encode(scheduled())
    assert change.recorded == Recorded(
        delivery_id=ID,
        version=1,
        type="Scheduled",
        schema_version=1,
        recorded_at=NOW,
        body=body,
        digest=codec.digest(codec.GENESIS, ID, 1, "Scheduled", 1, NOW, body),
    )


def test_a_command_that_comes_too_late_adds_nothing() -> None:
    assert advance(START, START_ATTEMPT) is None
    change = advance(START, SCHEDULE)
    assert change is not None
    assert advance(change.stream, SCHEDULE) is None


def test_each_event_is_chained_to_its_predecessor() -> None:
    previous = codec.GENESIS
    history = whole_life()
    for row in history:
        assert row.digest == codec.digest(
            previous, row.delivery_id, row.version, row.type, row.schema_version, row.recorded_at, row.body
        )
        previous = row.digest
    assert len({row.digest for row in history}) == len(history)


def test_recorded_time_never_runs_backwards() -> None:
    early = c.Start(now=at(-60), worker="w1", rules=attempted().rules)
    first, second, third = recorded(SCHEDULE, early, report(1, o.Delivered()))
    assert (first.recorded_at, second.recorded_at, third.recorded_at) == (NOW, NOW, NOW)


def test_the_note_travels_beside_the_event() -> None:
    history = recorded(SCHEDULE, START_ATTEMPT)
    change = advance(replay(history), report(1, o.Delivered("250 ok"), note=NOTE))
    assert change is not None
    assert change.note == NOTE
    assert change.event == e.Succeeded(attempt=1, note=NOTE.digest)
    assert NOTE.text.encode() not in change.recorded.body


def test_a_text_whose_digest_no_event_holds_is_not_kept() -> None:
    """Nobody could prove later that it is the text of then."""
    history = recorded(SCHEDULE, START_ATTEMPT)
    change = advance(replay(history), c.Interrupt(now=at(2), attempt=1, note=NOTE))
    assert change is not None
    assert isinstance(change.event, e.Interrupted)
    assert change.note is None


def test_a_replay_is_where_the_stream_left_off() -> None:
    walked = life("attempts spent", DETOURS)
    stream = START
    for command in walked.commands:
        change = advance(stream, command)
        assert change is not None
        stream = change.stream
    assert replay(recorded(*walked.commands)) == stream
    assert stream.delivery == walked.delivery


def test_nothing_replays_to_the_start() -> None:
    assert replay([]) == START == Stream(None, bytes(32), codec.instant(0))


def test_recorded_events_keep_the_stream_invariants() -> None:
    assert findings(whole_life()) == []
    assert {found.rule for found in findings(whole_life()[1:])} >= {"I1", "I2"}


def test_a_hole_in_the_versions_is_corrupt() -> None:
    history = whole_life()
    with pytest.raises(CorruptHistory, match="version 3 where 2 was expected"):
        replay([history[0], *history[2:]])


def test_a_doubled_version_is_corrupt() -> None:
    history = whole_life()
    with pytest.raises(CorruptHistory, match="version 1 where 2 was expected"):
        replay([history[0], *history])


def test_swapped_events_are_corrupt() -> None:
    first, second, third, *rest = whole_life()
    with pytest.raises(CorruptHistory):
        replay([first, third, second, *rest])


def test_an_event_of_another_delivery_is_corrupt() -> None:
    [stranger] = recorded(c.Schedule(now=NOW, scheduled=scheduled(delivery_id=UUID(int=1))))
    with pytest.raises(CorruptHistory, match="belongs to delivery"):
        replay([structs.replace(stranger, delivery_id=ID)])


def test_an_unreadable_event_is_named_by_its_version() -> None:
    first, second, *_ = whole_life()
    for broken in (
        structs.replace(second, body=second.body[:-1]),
        structs.replace(second, type="os.system"),
        structs.replace(second, schema_version=0),
    ):
        with pytest.raises(UnreadableEvent, match=r"^version 2: "):
            replay([first, broken])


def test_a_forbidden_event_is_named_by_its_version() -> None:
    first, second, *_ = whole_life()
    forged = structs.replace(second, type="Succeeded", body=b'{"attempt":1}')
    with pytest.raises(CorruptHistory, match=r"^version 2: Succeeded cannot follow pending") as caught:
        replay([first, forged])
    assert not isinstance(caught.value, UnreadableEvent)
