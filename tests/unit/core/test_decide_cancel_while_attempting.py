"""A cancel waits for the running attempt, which reports truthfully."""

from __future__ import annotations

import pytest

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.testing.examples import (
    NOTE,
    NOW,
    at,
    attempted,
    cancel_requested,
    failed,
    report,
    resolve,
    scheduled,
    start,
)
from deliveries.testing.stories import Given, given


def cancelling(cause: str = "operator", **limits: object) -> Given:
    return given(scheduled(), attempted(1, **limits), cancel_requested(1, cause))


def test_a_cancel_while_attempting_is_a_request() -> None:
    given(scheduled(), attempted(1)).when(c.Cancel(now=NOW, actor="ann", note=NOTE)).then(
        e.CancelRequested(attempt=1, cause="operator", actor="ann", note=NOTE.digest)
    )


def test_the_request_names_the_running_attempt_and_its_cause() -> None:
    given(scheduled(), attempted(1), failed(1), attempted(2)).when(
        c.Cancel(now=NOW, cause="superseded")
    ).then(e.CancelRequested(attempt=2, cause="superseded"))


@pytest.mark.parametrize("by", ["policy", "operator"])
def test_a_suppression_while_attempting_is_a_cancel_request(by: str) -> None:
    given(scheduled(), attempted(1)).when(c.Suppress(now=NOW, by=by, actor="ann", note=NOTE)).then(
        e.CancelRequested(attempt=1, cause="suppressed", actor="ann", note=NOTE.digest)
    )


def test_one_request_is_enough() -> None:
    cancelling().when(c.Cancel(now=at(1), cause="superseded")).then_nothing_happened()
    cancelling().when(c.Suppress(now=at(1))).then_nothing_happened()


def test_success_is_reported_in_spite_of_the_cancel() -> None:
    cancelling().when(report(1, o.Delivered(), note=NOTE)).then(e.Succeeded(attempt=1, note=NOTE.digest))


@pytest.mark.parametrize(
    "outcome",
    [o.Retry("503"), o.Cancel(), o.Bounced(), o.Discard(), o.Snooze(1), o.Suppress(), o.NotDone()],
    ids=repr,
)
def test_every_other_answer_is_the_cancel_that_was_asked_for(outcome: o.Outcome) -> None:
    cancelling("superseded").when(report(1, outcome, error_type="HTTPError", note=NOTE)).then(
        e.Cancelled(cause="superseded", attempt=1, error_type="HTTPError", note=NOTE.digest)
    )


@pytest.mark.parametrize("on_unknown", ["retry", "hold", "lookup"])
def test_an_unknown_outcome_is_cancelled_saying_so(on_unknown: str) -> None:
    cancelling(on_unknown=on_unknown).when(report(1, o.Unknown(), cause="unknown")).then(
        e.Cancelled(cause="operator", attempt=1, outcome_unknown=True)
    )


@pytest.mark.parametrize("on_unknown", ["retry", "hold", "lookup"])
def test_a_crash_is_cancelled_saying_that_the_outcome_is_unknown(on_unknown: str) -> None:
    cancelling(on_unknown=on_unknown).when(c.Interrupt(now=NOW, attempt=1)).then(
        e.Cancelled(cause="operator", attempt=1, outcome_unknown=True)
    )


def test_what_is_given_back_is_cancelled_without_doubt() -> None:
    cancelling().when(c.GiveBack(now=NOW, attempt=1)).then(e.Cancelled(cause="operator", attempt=1))


def test_a_spent_budget_is_cancelled_too() -> None:
    spent = {"max_attempts": 1, "max_interruptions": 1, "max_snoozes": 0}
    cancelling(**spent).when(report(1, o.Retry())).then(e.Cancelled(cause="operator", attempt=1))
    cancelling(**spent).when(report(1, o.Snooze(1))).then(e.Cancelled(cause="operator", attempt=1))


def test_a_suppression_asked_for_ends_as_a_cancel_that_says_so() -> None:
    cancelling("suppressed").when(report(1, o.Retry())).then(e.Cancelled(cause="suppressed", attempt=1))


@pytest.mark.parametrize(
    "command",
    [
        start(),
        c.Defer(now=NOW, until=at(1)),
        c.Reschedule(now=NOW, due_at=at(1)),
        c.Expire(now=at(1e9)),
        resolve(o.Delivered(), "operator"),
        report(2, o.Delivered()),
        c.Interrupt(now=NOW, attempt=2),
        c.GiveBack(now=NOW, attempt=0),
    ],
    ids=lambda command: type(command).__name__,
)
def test_nothing_else_closes_it(command: c.Command) -> None:
    cancelling().when(command).then_nothing_happened()


def test_no_attempt_follows_a_cancel() -> None:
    cancelling().when(report(1, o.Retry())).then(e.Cancelled(cause="operator", attempt=1)).when(
        start()
    ).then_nothing_happened()
