"""Budgets count endings, not attempt numbers; what spends each of them, and what spends none."""

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
    crashed,
    failed,
    held,
    report,
    scheduled,
    snoozed,
    start,
)
from deliveries.testing.stories import Given, given


def interrupt(attempt: int) -> c.Interrupt:
    return c.Interrupt(now=NOW, attempt=attempt)


def test_the_last_failure_exhausts_the_attempts() -> None:
    command = report(1, o.Retry("503"), error_type="HTTPError", note=NOTE)
    given(scheduled(), attempted(1, max_attempts=1)).when(command).then(
        e.Exhausted(cause="attempts", attempt=1, error_type="HTTPError", note=NOTE.digest)
    )


def test_with_m_attempts_the_mth_failure_ends_it() -> None:
    history = given(scheduled())
    for attempt in (1, 2, 3):
        history = history.when(start(max_attempts=4)).then(attempted(attempt, max_attempts=4))
        history = history.when(report(attempt, o.Retry())).then(failed(attempt))
    history = history.when(start(max_attempts=4)).then(attempted(4, max_attempts=4))
    history.when(report(4, o.Retry())).then(e.Exhausted(cause="attempts", attempt=4))


@pytest.mark.parametrize("cause", ["error", "timeout"])
def test_an_exhausted_retry_asks_no_more_for_its_after(cause: str) -> None:
    command = report(1, o.Retry(after=5), cause=cause, retry_in=9.0, not_before=at(99))
    given(scheduled(), attempted(1, max_attempts=1)).when(command).then(
        e.Exhausted(cause="attempts", attempt=1, outcome_unknown=cause == "timeout")
    )


def test_an_unknown_outcome_that_is_retried_counts_on_the_attempts() -> None:
    history = given(scheduled(), attempted(1, max_attempts=1, on_unknown="retry"))
    history.when(report(1, o.Unknown(), cause="unknown")).then(
        e.Exhausted(cause="attempts", attempt=1, outcome_unknown=True)
    )


def test_a_crash_counts_on_the_attempts() -> None:
    given(scheduled(), attempted(1), failed(1), attempted(2, max_attempts=2, max_interruptions=9)).when(
        interrupt(2)
    ).then(e.Exhausted(cause="attempts", attempt=2, outcome_unknown=True))


def test_budgets_count_endings_not_attempt_numbers() -> None:
    """Attempt 3, but the first ending that counts: a snooze and a give-back came before."""
    history = given(scheduled(), attempted(1), snoozed(1), attempted(2), given_back(2))
    limits = {"max_attempts": 2, "max_interruptions": 2, "max_snoozes": 2}
    third = history.when(start(**limits)).then(attempted(3, **limits))
    third.when(report(3, o.Retry())).then(failed(3))
    third.when(interrupt(3)).then(crashed(3))
    third.when(report(3, o.Snooze(60))).then(snoozed(3))


def test_a_failure_after_a_crash_counts_both() -> None:
    given(scheduled(), attempted(1), crashed(1), attempted(2, max_attempts=2)).when(
        report(2, o.Retry())
    ).then(e.Exhausted(cause="attempts", attempt=2))


def test_m_crashes_end_a_delivery_of_m_attempts() -> None:
    history = given(scheduled())
    limits = {"max_attempts": 3, "max_interruptions": 99}
    for attempt in (1, 2):
        history = history.when(start(**limits)).then(attempted(attempt, **limits))
        history = history.when(interrupt(attempt)).then(crashed(attempt))
    history = history.when(start(**limits)).then(attempted(3, **limits))
    history.when(interrupt(3)).then(e.Exhausted(cause="attempts", attempt=3, outcome_unknown=True))


def test_crashes_have_a_tighter_bound_of_their_own() -> None:
    given(
        scheduled(),
        attempted(1),
        crashed(1),
        attempted(2, max_attempts=9, max_interruptions=2),
    ).when(interrupt(2)).then(e.Exhausted(cause="interruptions", attempt=2, outcome_unknown=True))


def test_failures_do_not_count_on_the_interruptions() -> None:
    given(
        scheduled(),
        attempted(1),
        failed(1),
        attempted(2, max_attempts=9, max_interruptions=2),
    ).when(interrupt(2)).then(crashed(2))


def test_a_failure_does_not_ask_for_the_interruptions() -> None:
    given(scheduled(), attempted(1), crashed(1), attempted(2, max_attempts=9, max_interruptions=1)).when(
        report(2, o.Retry())
    ).then(failed(2))


def test_where_both_budgets_are_spent_the_attempts_are_named() -> None:
    given(scheduled(), attempted(1, max_attempts=1, max_interruptions=1)).when(interrupt(1)).then(
        e.Exhausted(cause="attempts", attempt=1, outcome_unknown=True)
    )


def test_a_crash_is_retried_after_the_frozen_wait() -> None:
    given(scheduled(), attempted(1, retry_in=17.0)).when(interrupt(1)).then(
        e.Interrupted(attempt=1, due_at=at(17), cause="crashed")
    )


@pytest.mark.parametrize(("on_unknown", "lookup"), [("hold", False), ("lookup", True)])
def test_a_crash_is_held_where_unknown_is_not_retried(on_unknown: str, lookup: bool) -> None:
    given(scheduled(), attempted(1, on_unknown=on_unknown)).when(interrupt(1)).then(
        e.Held(attempt=1, cause="crashed", lookup=lookup)
    )


@pytest.mark.parametrize("on_unknown", ["hold", "lookup"])
def test_an_unknown_outcome_is_held_although_the_budgets_are_spent(on_unknown: str) -> None:
    spent = attempted(1, on_unknown=on_unknown, max_attempts=1, max_interruptions=1)
    history = given(scheduled(), spent)
    history.when(interrupt(1)).then(held(1, "crashed", lookup=on_unknown == "lookup"))
    history.when(report(1, o.Unknown(), cause="unknown")).then(held(1, lookup=on_unknown == "lookup"))


def test_what_was_held_counts_on_the_next_failure() -> None:
    released = e.Rescheduled(due_at=NOW, cause="released", attempt=1)
    given(scheduled(), attempted(1), held(1), released, attempted(2, max_attempts=2)).when(
        report(2, o.Retry())
    ).then(e.Exhausted(cause="attempts", attempt=2))


def test_the_snooze_after_the_last_one_allowed_exhausts() -> None:
    given(scheduled(), attempted(1), snoozed(1), attempted(2, max_snoozes=1)).when(
        report(2, o.Snooze(5), note=NOTE)
    ).then(e.Exhausted(cause="snoozes", attempt=2, note=NOTE.digest))


def test_no_snooze_allowed_means_none() -> None:
    given(scheduled(), attempted(1, max_snoozes=0)).when(report(1, o.Snooze(5))).then(
        e.Exhausted(cause="snoozes", attempt=1)
    )


def test_snoozes_spend_no_attempt() -> None:
    history = given(scheduled())
    limits = {"max_attempts": 1, "max_snoozes": 5}
    for attempt in range(1, 6):
        history = history.when(start(**limits)).then(attempted(attempt, **limits))
        history = history.when(report(attempt, o.Snooze(60))).then(snoozed(attempt))
    history = history.when(start(**limits)).then(attempted(6, **limits))
    history.when(report(6, o.Delivered())).then(e.Succeeded(attempt=6))


def test_failures_spend_no_snooze() -> None:
    given(scheduled(), attempted(1), failed(1), attempted(2, max_snoozes=1)).when(
        report(2, o.Snooze(60))
    ).then(snoozed(2))


def test_a_crash_after_a_snooze_still_counts() -> None:
    """Snoozing for ever by crashing after each mark was seen in a peer."""
    given(scheduled(), attempted(1), snoozed(1), attempted(2, max_attempts=1, max_interruptions=1)).when(
        interrupt(2)
    ).then(e.Exhausted(cause="attempts", attempt=2, outcome_unknown=True))


def given_back(attempt: int) -> e.Interrupted:
    return e.Interrupted(attempt=attempt, due_at=NOW, cause="given_back")


def give_back(attempt: int) -> c.GiveBack:
    return c.GiveBack(now=NOW, attempt=attempt)


def test_what_is_given_back_is_due_at_once() -> None:
    given(scheduled(), attempted(1)).when(c.GiveBack(now=at(3), attempt=1)).then(
        e.Interrupted(attempt=1, due_at=at(3), cause="given_back")
    )


def test_giving_back_without_a_number_means_the_open_attempt() -> None:
    history = given(scheduled(), attempted(1), failed(1), attempted(2))
    history.when(c.GiveBack(now=NOW)).then(given_back(2)).when(c.GiveBack(now=NOW)).then_nothing_happened()
    given(scheduled(), attempted(1), held(1)).when(c.GiveBack(now=NOW)).then_nothing_happened()


def test_giving_back_spends_no_budget_at_all() -> None:
    limits = {"max_attempts": 1, "max_interruptions": 1, "max_snoozes": 0}
    history: Given = given(scheduled())
    for attempt in range(1, 10):
        history = history.when(start(**limits)).then(attempted(attempt, **limits))
        history = history.when(give_back(attempt)).then(given_back(attempt))
    assert history.delivery is not None
    assert (history.delivery.endings, history.delivery.interruptions) == (0, 0)


@pytest.mark.parametrize("on_unknown", ["retry", "hold", "lookup"])
def test_what_was_never_entered_is_never_unknown(on_unknown: str) -> None:
    given(scheduled(), attempted(1, on_unknown=on_unknown)).when(give_back(1)).then(given_back(1))


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_an_interruption_of_another_attempt_comes_too_late(attempt: int) -> None:
    history = given(scheduled(), attempted(1), failed(1), attempted(2))
    history.when(interrupt(attempt)).then_nothing_happened()
    history.when(give_back(attempt)).then_nothing_happened()


def test_an_attempt_is_interrupted_once() -> None:
    given(scheduled(), attempted(1)).when(interrupt(1)).then(crashed(1)).when(
        interrupt(1)
    ).then_nothing_happened().when(give_back(1)).then_nothing_happened()


def test_the_rules_that_the_attempt_froze_decide_not_older_ones() -> None:
    generous_then_tight = (attempted(1, max_attempts=99), failed(1), attempted(2, max_attempts=2))
    given(scheduled(), *generous_then_tight).when(report(2, o.Retry())).then(
        e.Exhausted(cause="attempts", attempt=2)
    )
    tight_then_generous = (attempted(1, max_attempts=2), failed(1), attempted(2, max_attempts=99))
    given(scheduled(), *tight_then_generous).when(report(2, o.Retry())).then(failed(2))
