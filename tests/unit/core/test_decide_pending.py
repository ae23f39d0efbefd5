"""What can be asked before an attempt."""

from __future__ import annotations

import pytest

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.delivery import Status
from deliveries.testing.examples import (
    NOTE,
    NOW,
    at,
    attempted,
    failed,
    held,
    report,
    resolve,
    rules,
    scheduled,
    start,
)
from deliveries.testing.stories import given


def test_scheduling_writes_the_debt_down() -> None:
    given().when(c.Schedule(now=NOW, scheduled=scheduled())).then(scheduled())


def test_scheduling_twice_changes_nothing() -> None:
    again = c.Schedule(now=at(1), scheduled=scheduled(channel="sms"))
    given(scheduled()).when(again).then_nothing_happened()
    given(scheduled(), attempted(1)).when(again).then_nothing_happened()
    given(scheduled(), attempted(1), held(1)).when(again).then_nothing_happened()


def test_a_start_is_attempt_one_with_its_rules() -> None:
    given(scheduled()).when(start(max_attempts=9)).then(
        e.Attempted(attempt=1, worker="w1", rules=rules(max_attempts=9))
    )


def test_the_next_start_is_the_next_number() -> None:
    given(scheduled(), attempted(1), failed(1)).when(start()).then(attempted(2))


def test_two_workers_cannot_start_the_same_delivery() -> None:
    given(scheduled()).when(start()).then(attempted(1)).when(start()).then_nothing_happened()


def test_whether_it_is_due_is_not_decided_here() -> None:
    given(scheduled(due_at=at(3600))).when(start()).then(attempted(1))


@pytest.mark.parametrize("late", [0, 0.000_001, 3600])
def test_no_attempt_starts_at_or_after_the_deadline(late: float) -> None:
    command = c.Start(now=at(10 + late), worker="w1", rules=rules())
    given(scheduled(expires_at=at(10))).when(command).then(e.Exhausted(cause="deadline"))


def test_an_attempt_starts_until_the_last_microsecond_before_the_deadline() -> None:
    command = c.Start(now=at(9.999_999), worker="w1", rules=rules())
    given(scheduled(expires_at=at(10))).when(command).then(attempted(1))


def test_a_later_attempt_keeps_to_the_deadline_too() -> None:
    command = c.Start(now=at(10), worker="w1", rules=rules())
    given(scheduled(expires_at=at(10)), attempted(1), failed(1)).when(command).then(
        e.Exhausted(cause="deadline")
    )


@pytest.mark.parametrize("late", [0, 3600])
def test_the_sweep_ends_a_pending_delivery_past_its_deadline(late: float) -> None:
    given(scheduled(expires_at=at(10))).when(c.Expire(now=at(10 + late))).then(e.Exhausted(cause="deadline"))


def test_the_sweep_leaves_a_delivery_before_its_deadline_alone() -> None:
    given(scheduled(expires_at=at(10))).when(c.Expire(now=at(9.999_999))).then_nothing_happened()


def test_a_delivery_without_deadline_never_expires() -> None:
    given(scheduled()).when(c.Expire(now=at(1e9))).then_nothing_happened()


def test_a_running_attempt_outlives_the_deadline() -> None:
    history = given(scheduled(expires_at=at(10)), attempted(1))
    history.when(c.Expire(now=at(99))).then_nothing_happened()
    late_success = c.Report(now=at(99), attempt=1, outcome=o.Delivered())
    history.when(late_success).then(e.Succeeded(attempt=1))


def test_held_knows_no_deadline() -> None:
    given(scheduled(expires_at=at(10)), attempted(1), held(1)).when(
        c.Expire(now=at(99))
    ).then_nothing_happened()


def test_a_policy_defers() -> None:
    given(scheduled()).when(c.Defer(now=NOW, until=at(60), note=NOTE)).then(
        e.Rescheduled(due_at=at(60), cause="deferred", note=NOTE.digest)
    )


def test_deferring_into_the_past_means_now() -> None:
    given(scheduled()).when(c.Defer(now=NOW, until=at(-60))).then(e.Rescheduled(due_at=NOW, cause="deferred"))


def test_deferring_again_and_again_spends_no_budget() -> None:
    history = given(scheduled())
    for hour in range(1, 50):
        history = history.when(c.Defer(now=NOW, until=at(hour))).then(
            e.Rescheduled(due_at=at(hour), cause="deferred")
        )
    assert history.delivery is not None
    assert (history.delivery.endings, history.delivery.snoozes) == (0, 0)


def test_an_operator_moves_the_due_time() -> None:
    given(scheduled()).when(c.Reschedule(now=NOW, due_at=at(60), actor="ann", note=NOTE)).then(
        e.Rescheduled(due_at=at(60), cause="operator", actor="ann", note=NOTE.digest)
    )


def test_an_operator_may_move_it_forward_to_the_past() -> None:
    given(scheduled(due_at=at(60))).when(c.Reschedule(now=NOW, due_at=at(-60))).then(
        e.Rescheduled(due_at=at(-60), cause="operator")
    )


def test_a_pending_delivery_is_cancelled_at_once() -> None:
    given(scheduled()).when(c.Cancel(now=NOW, actor="ann", note=NOTE)).then(
        e.Cancelled(cause="operator", actor="ann", note=NOTE.digest)
    )


def test_a_cancel_may_name_its_own_cause() -> None:
    given(scheduled()).when(c.Cancel(now=NOW, cause="superseded")).then(e.Cancelled(cause="superseded"))


def test_cancelling_between_attempts_leaves_no_doubt() -> None:
    given(scheduled(), attempted(1), failed(1)).when(c.Cancel(now=NOW)).then(e.Cancelled(cause="operator"))


@pytest.mark.parametrize("by", ["policy", "operator"])
def test_a_pending_delivery_is_suppressed_at_once(by: str) -> None:
    given(scheduled()).when(c.Suppress(now=NOW, by=by, actor="ann", note=NOTE)).then(
        e.Suppressed(by=by, actor="ann", note=NOTE.digest)
    )


@pytest.mark.parametrize(
    "command",
    [
        report(0, o.Delivered()),
        report(1, o.Delivered()),
        c.Interrupt(now=NOW, attempt=1),
        c.GiveBack(now=NOW, attempt=1),
        resolve(o.Delivered(), "operator"),
        resolve(o.NotDone(), "lookup"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_without_an_open_attempt_there_is_nothing_to_close(command: c.Command) -> None:
    given(scheduled()).when(command).then_nothing_happened()
    given(scheduled(), attempted(1), failed(1)).when(command).then_nothing_happened()


EVERY_COMMAND = (
    start(),
    report(1, o.Delivered()),
    c.Interrupt(now=NOW, attempt=1),
    c.GiveBack(now=NOW, attempt=1),
    c.Defer(now=NOW, until=at(1)),
    c.Cancel(now=NOW),
    c.Suppress(now=NOW),
    c.Reschedule(now=NOW, due_at=at(1)),
    resolve(o.Delivered(), "operator"),
    c.Expire(now=at(1e9)),
)


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda command: type(command).__name__)
def test_of_nothing_nothing_comes(command: c.Command) -> None:
    given().when(command).then_nothing_happened()


def test_which_commands_can_lead_somewhere_from_where() -> None:
    """The forgiving half of the machine as a table: every other cell leads nowhere."""
    states = {
        Status.PENDING: given(scheduled(expires_at=at(1e6))),
        Status.ATTEMPTING: given(scheduled(expires_at=at(1e6)), attempted(1)),
        Status.HELD: given(scheduled(expires_at=at(1e6)), attempted(1), held(1)),
    }
    leading = {
        status: {type(command).__name__ for command in EVERY_COMMAND if history.when(command).events}
        for status, history in states.items()
    }
    assert leading == {
        Status.PENDING: {"Start", "Defer", "Reschedule", "Cancel", "Suppress", "Expire"},
        Status.ATTEMPTING: {"Report", "Interrupt", "GiveBack", "Cancel", "Suppress"},
        Status.HELD: {"Resolve", "Cancel"},
    }
