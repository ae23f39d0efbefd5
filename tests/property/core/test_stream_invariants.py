"""I1 to I7 over lives that were constructed, and over commands from everywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deliveries.audit.invariants import findings
from deliveries.core import events as e
from deliveries.core.delivery import Status
from deliveries.core.machine import fold
from deliveries.core.stream import START, advance
from deliveries.testing.lives import Life
from deliveries.testing.strategies import lives, rambles


@given(lives())
def test_constructed_lives_keep_the_invariants(life: Life) -> None:
    assert findings(life.events) == []


@given(rambles())
def test_no_order_of_commands_breaks_the_invariants(life: Life) -> None:
    assert findings(life.events) == []


@given(st.one_of(lives(), rambles()))
def test_every_prefix_keeps_the_invariants(life: Life) -> None:
    for length in range(len(life.events)):
        assert findings(life.events[:length]) == []


@given(rambles())
def test_recorded_streams_keep_the_invariants_too(life: Life) -> None:
    stream, history = START, []
    for command in life.commands:
        change = advance(stream, command)
        if change is not None:
            history.append(change.recorded)
            stream = change.stream
    assert findings(history) == []
    assert [recorded.event for recorded in history] == life.events
    times = [recorded.recorded_at for recorded in history]
    assert times == sorted(times)


@given(rambles())
def test_budgets_are_counted_from_the_stream(life: Life) -> None:
    """The counters say what a count over the events says; snoozes and give-backs count no ending."""
    counted = [
        event
        for event in life.events
        if isinstance(event, (e.Failed, e.Held))
        or (isinstance(event, e.Interrupted) and event.cause == "crashed")
    ]
    crashes = [event for event in counted if event.cause == "crashed"]
    snoozes = [event for event in life.events if getattr(event, "cause", None) == "snoozed"]
    assert life.delivery is not None
    assert life.delivery.endings == len(counted)
    assert life.delivery.interruptions == len(crashes)
    assert life.delivery.snoozes == len(snoozes)
    assert life.delivery.attempt == sum(isinstance(event, e.Attempted) for event in life.events)


@given(rambles())
def test_no_budget_is_ever_overdrawn(life: Life) -> None:
    """After a failure or a crash that was not held, something of each budget is left."""
    for length in range(1, len(life.events) + 1):
        event, after = life.events[length - 1], fold(life.events[:length])
        assert after is not None
        if isinstance(event, e.Failed):
            assert after.rules is not None
            assert after.endings < after.rules.max_attempts
        if isinstance(event, e.Interrupted) and event.cause == "crashed":
            assert after.rules is not None
            assert after.endings < after.rules.max_attempts
            assert after.interruptions < after.rules.max_interruptions
        if isinstance(event, e.Rescheduled) and event.cause == "snoozed":
            assert after.rules is not None
            assert after.snoozes <= after.rules.max_snoozes


@given(rambles())
def test_no_attempt_starts_at_or_after_the_deadline(life: Life) -> None:
    told = Life(life.scheduled)
    for command in life.commands:
        happened = told.tell(command)
        if happened and isinstance(told.events[-1], e.Attempted) and life.scheduled.expires_at is not None:
            assert command.now < life.scheduled.expires_at


@given(rambles())
def test_an_unknown_outcome_is_never_followed_by_an_attempt_on_its_own(life: Life) -> None:
    """E3 in the stream: between Held and the next attempt stands a release, naming what was held."""
    for place, event in enumerate(life.events):
        if isinstance(event, e.Held) and place + 1 < len(life.events):
            after = life.events[place + 1]
            assert isinstance(after, (e.Rescheduled, e.Succeeded, e.Cancelled, e.Exhausted))
            assert after.attempt == event.attempt
            if isinstance(after, e.Rescheduled):
                assert after.cause == "released"


@given(rambles())
def test_after_a_cancel_was_asked_no_attempt_starts(life: Life) -> None:
    for place, event in enumerate(life.events):
        if isinstance(event, e.CancelRequested):
            rest = life.events[place + 1 :]
            assert len(rest) <= 1
            assert all(isinstance(after, (e.Succeeded, e.Cancelled)) for after in rest)


@given(rambles())
def test_pending_has_a_due_time_and_nothing_else_has(life: Life) -> None:
    for length in range(1, len(life.events) + 1):
        delivery = fold(life.events[:length])
        assert delivery is not None
        assert (delivery.due_at is not None) is (delivery.status is Status.PENDING)
