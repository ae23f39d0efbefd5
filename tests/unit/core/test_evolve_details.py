"""What a state remembers of its events, and the rules beyond the table."""

from __future__ import annotations

from uuid import UUID

import pytest

from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import evolve, fold
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
    rules,
    scheduled,
    snoozed,
)


def folded(*history: e.Event) -> Delivery:
    delivery = fold(history)
    assert delivery is not None
    return delivery


def test_nothing_folds_to_nothing() -> None:
    assert fold([]) is None


def test_scheduled_carries_every_field_over() -> None:
    event = scheduled(
        due_at=at(5),
        expires_at=at(50),
        priority=0,
        max_attempts=7,
        tenant="acme",
        key="order:1:paid",
        tags=("a", "b"),
        correlation_id="corr",
        causation_id="cause",
        root_id=UUID(int=7),
    )
    assert folded(event) == Delivery(
        id=ID,
        channel="email",
        queue="email",
        status=Status.PENDING,
        version=1,
        scheduled_at=NOW,
        due_at=at(5),
        expires_at=at(50),
        priority=0,
        max_attempts=7,
        tenant="acme",
        key="order:1:paid",
        tags=("a", "b"),
        correlation_id="corr",
        causation_id="cause",
        root_id=UUID(int=7),
    )


def test_without_a_due_time_it_is_due_when_scheduled() -> None:
    assert folded(scheduled(due_at=None)).due_at == NOW


def test_a_fresh_delivery_has_counted_nothing() -> None:
    delivery = folded(scheduled())
    assert (delivery.attempt, delivery.endings, delivery.interruptions, delivery.snoozes) == (0, 0, 0, 0)
    assert delivery.cancel_requested is None
    assert delivery.rules is None
    assert delivery.created


def test_attempted_freezes_the_rules_and_takes_the_due_time() -> None:
    delivery = folded(scheduled(due_at=at(1)), attempted(1, max_attempts=9, on_unknown="hold"))
    assert delivery.attempt == 1
    assert delivery.due_at is None
    assert delivery.rules == rules(max_attempts=9, on_unknown="hold")


def test_the_rules_of_the_latest_attempt_govern() -> None:
    delivery = folded(scheduled(), attempted(1, max_attempts=9), failed(1), attempted(2, max_attempts=4))
    assert delivery.rules == rules(max_attempts=4)


@pytest.mark.parametrize(
    ("closing", "endings", "interruptions", "snoozes"),
    [
        (failed(), 1, 0, 0),
        (e.Failed(attempt=1, due_at=at(1), cause="timeout"), 1, 0, 0),
        (e.Failed(attempt=1, due_at=at(1), cause="unknown"), 1, 0, 0),
        (crashed(), 1, 1, 0),
        (e.Interrupted(attempt=1, due_at=at(1), cause="given_back"), 0, 0, 0),
        (held(cause="error"), 1, 0, 0),
        (held(cause="timeout"), 1, 0, 0),
        (held(cause="unknown"), 1, 0, 0),
        (held(cause="crashed"), 1, 1, 0),
        (snoozed(), 0, 0, 1),
        (cancel_requested(), 0, 0, 0),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.cause}" if isinstance(value, e.Event) else "",
)
def test_what_each_closing_counts(closing: e.Event, endings: int, interruptions: int, snoozes: int) -> None:
    delivery = folded(scheduled(), attempted(), closing)
    assert (delivery.endings, delivery.interruptions, delivery.snoozes) == (endings, interruptions, snoozes)


@pytest.mark.parametrize("cause", ["deferred", "operator"])
def test_moving_the_due_time_counts_on_nothing(cause: str) -> None:
    before = folded(scheduled())
    after = folded(scheduled(), e.Rescheduled(due_at=at(9), cause=cause))
    assert after.due_at == at(9)
    assert (after.endings, after.interruptions, after.snoozes) == (0, 0, 0)
    assert after.attempt == before.attempt


def test_a_release_counts_no_second_ending() -> None:
    release = e.Rescheduled(due_at=at(9), cause="released", attempt=1)
    delivery = folded(scheduled(), attempted(), held(), release)
    assert (delivery.status, delivery.endings, delivery.due_at) == (Status.PENDING, 1, at(9))


def test_counts_add_up_over_a_life() -> None:
    delivery = folded(
        scheduled(),
        attempted(1),
        failed(1),
        attempted(2),
        crashed(2),
        attempted(3),
        snoozed(3),
        attempted(4),
        held(4, "crashed"),
        e.Rescheduled(due_at=at(1), cause="released", attempt=4),
        attempted(5),
        e.Interrupted(attempt=5, due_at=at(1), cause="given_back"),
        attempted(6),
    )
    assert (delivery.attempt, delivery.endings, delivery.interruptions, delivery.snoozes) == (6, 3, 2, 1)
    assert delivery.version == 13


@pytest.mark.parametrize(
    "end",
    [
        e.Succeeded(attempt=1),
        e.Suppressed(attempt=1, by="adapter"),
        e.Cancelled(attempt=1, cause="bounced"),
        e.Exhausted(attempt=1, cause="attempts"),
    ],
    ids=lambda end: type(end).__name__,
)
def test_the_end_is_due_no_more_and_counts_nothing(end: e.Event) -> None:
    before = folded(scheduled(), attempted())
    after = folded(scheduled(), attempted(), end)
    assert after.due_at is None
    assert (after.attempt, after.endings, after.rules) == (before.attempt, before.endings, before.rules)


def test_the_end_of_a_pending_delivery_is_due_no_more() -> None:
    assert folded(scheduled(due_at=at(9)), e.Exhausted(cause="deadline")).due_at is None


@pytest.mark.parametrize("attempt", [0, 1, 3, -1])
def test_attempts_have_no_hole(attempt: int) -> None:
    delivery = folded(scheduled(), attempted(1), failed(1))
    with pytest.raises(CorruptHistory, match=f"^Attempted names attempt {attempt} where 2 was expected"):
        evolve(delivery, attempted(attempt))


def test_the_first_attempt_is_number_one() -> None:
    with pytest.raises(CorruptHistory):
        evolve(folded(scheduled()), attempted(0))


@pytest.mark.parametrize(
    "event",
    [
        snoozed(2),
        failed(2),
        crashed(2),
        held(2),
        cancel_requested(2),
        e.Succeeded(attempt=2),
        e.Suppressed(attempt=2),
        e.Cancelled(attempt=2, cause="operator"),
        e.Exhausted(attempt=2, cause="attempts"),
        e.Rescheduled(due_at=NOW, cause="operator"),
        e.Suppressed(),
        e.Cancelled(cause="operator"),
        e.Exhausted(cause="deadline"),
    ],
    ids=lambda event: f"{type(event).__name__}-{event.attempt}",
)
def test_while_attempting_an_event_names_the_open_attempt(event: e.Event) -> None:
    with pytest.raises(CorruptHistory, match="where 1 was expected"):
        evolve(folded(scheduled(), attempted(1)), event)


@pytest.mark.parametrize(
    "event",
    [
        e.Rescheduled(due_at=NOW, cause="released", attempt=2),
        e.Rescheduled(due_at=NOW, cause="operator"),
        e.Succeeded(attempt=2),
        e.Cancelled(attempt=2, cause="operator"),
        e.Cancelled(cause="operator"),
        e.Exhausted(attempt=2, cause="attempts"),
        e.Exhausted(cause="deadline"),
    ],
    ids=lambda event: f"{type(event).__name__}-{event.attempt}",
)
def test_from_held_an_event_names_the_held_attempt(event: e.Event) -> None:
    with pytest.raises(CorruptHistory, match="where 1 was expected"):
        evolve(folded(scheduled(), attempted(1), held(1)), event)


@pytest.mark.parametrize(
    "event",
    [
        snoozed(1),
        e.Suppressed(attempt=1),
        e.Cancelled(attempt=1, cause="operator"),
        e.Exhausted(attempt=1, cause="attempts"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_while_pending_an_event_names_no_attempt(event: e.Event) -> None:
    with pytest.raises(CorruptHistory, match="where None was expected"):
        evolve(folded(scheduled(), attempted(1), failed(1)), event)


def test_a_requested_cancel_is_remembered_by_its_cause() -> None:
    delivery = folded(scheduled(), attempted(), cancel_requested(cause="superseded"))
    assert (delivery.status, delivery.cancel_requested) == (Status.ATTEMPTING, "superseded")


@pytest.mark.parametrize(
    "event",
    [
        snoozed(1),
        failed(1),
        crashed(1),
        held(1),
        cancel_requested(1),
        e.Suppressed(attempt=1),
        e.Exhausted(attempt=1, cause="attempts"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_after_a_requested_cancel_only_success_and_cancelled_fit(event: e.Event) -> None:
    delivery = folded(scheduled(), attempted(1), cancel_requested(1))
    with pytest.raises(CorruptHistory, match=f"^{type(event).__name__} after a cancel was requested"):
        evolve(delivery, event)
    assert evolve(delivery, e.Succeeded(attempt=1)).status is Status.SUCCEEDED
    assert evolve(delivery, e.Cancelled(attempt=1, cause="operator")).status is Status.CANCELLED


def test_a_fold_can_go_on_from_a_state() -> None:
    history = (scheduled(), attempted(1), failed(1), attempted(2), e.Succeeded(attempt=2))
    halfway = fold(history[:3])
    assert fold(history[3:], halfway) == fold(history)


@pytest.mark.parametrize(
    ("history", "version"),
    [
        ([failed(1)], 1),
        ([scheduled(), scheduled()], 2),
        ([scheduled(), attempted(1), failed(1), e.Succeeded(attempt=1)], 4),
    ],
)
def test_a_fold_names_the_version_that_makes_no_sense(history: list[e.Event], version: int) -> None:
    with pytest.raises(CorruptHistory, match=f"^version {version}: ") as caught:
        fold(history)
    assert not isinstance(caught.value, UnreadableEvent)


def test_states_cannot_be_changed() -> None:
    delivery = folded(scheduled())
    with pytest.raises(AttributeError):
        delivery.status = Status.SUCCEEDED  # type: ignore[misc]  # the point of the test


def test_evolve_leaves_the_state_it_was_given_alone() -> None:
    before, same = folded(scheduled()), folded(scheduled())
    evolve(before, attempted(1))
    assert before == same


def test_receivers_get_one_key_for_all_attempts() -> None:
    history = (scheduled(), attempted(1), failed(1), attempted(2))
    keys = {folded(*history[:length]).idempotency_key for length in range(1, 5)}
    assert keys == {str(ID)}
    assert "." not in str(ID)


def test_a_redriven_delivery_keeps_the_key_of_its_root() -> None:
    assert folded(scheduled(root_id=UUID(int=7))).idempotency_key == str(UUID(int=7))
