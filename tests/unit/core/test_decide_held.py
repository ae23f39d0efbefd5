"""From held only a lookup, a person or a cancel leads out."""

from __future__ import annotations

import pytest

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.core.commands import Command
from deliveries.testing.examples import (
    NOTE,
    NOW,
    at,
    attempted,
    crashed,
    failed,
    held,
    report,
    resolve,
    rules,
    scheduled,
    start,
)
from deliveries.testing.stories import Given, given

PLENTY = {"max_attempts": 9, "max_interruptions": 9, "on_unknown": "hold"}
BOTH = pytest.mark.parametrize("by", ["lookup", "operator"])


def holding(**limits: object) -> Given:
    return given(scheduled(), attempted(1, **(PLENTY | limits)), held(1))


def released(due: float, attempt: int = 1, **fields: object) -> e.Rescheduled:
    return e.Rescheduled(due_at=at(due), cause="released", attempt=attempt, **fields)


@pytest.mark.parametrize(
    "command",
    [
        c.Start(now=NOW, worker="w2", rules=rules()),
        report(1, o.Delivered()),
        report(1, o.Retry()),
        c.Interrupt(now=NOW, attempt=1),
        c.GiveBack(now=NOW, attempt=1),
        c.Defer(now=NOW, until=at(1)),
        c.Reschedule(now=NOW, due_at=at(1)),
        c.Suppress(now=NOW),
        c.Expire(now=at(1e9)),
    ],
    ids=lambda command: type(command).__name__,
)
def test_held_is_left_alone(command: Command) -> None:
    given(scheduled(expires_at=at(10)), attempted(1, **PLENTY), held(1)).when(command).then_nothing_happened()


@BOTH
def test_it_did_happen(by: str) -> None:
    holding().when(resolve(o.Delivered("id 7"), by, actor="ann", note=NOTE)).then(
        e.Succeeded(attempt=1, by=by, actor="ann", note=NOTE.digest)
    )


@pytest.mark.parametrize("outcome", [o.NotDone(), o.Retry()], ids=repr)
def test_lookup_says_not_done_and_it_is_retried_after_the_frozen_wait(outcome: o.Outcome) -> None:
    holding(retry_in=17.0).when(resolve(outcome, "lookup", note=NOTE)).then(released(17, note=NOTE.digest))


def test_lookup_may_say_when_to_try_again() -> None:
    holding().when(resolve(o.Retry(after=5), "lookup")).then(released(5))
    holding().when(resolve(o.Retry(after=1e300), "lookup")).then(released(30 * 86_400))


@pytest.mark.parametrize("outcome", [o.NotDone(), o.Retry()], ids=repr)
def test_a_person_says_not_done_and_it_is_due_at_once(outcome: o.Outcome) -> None:
    holding().when(resolve(outcome, "operator", actor="ann", note=NOTE)).then(
        released(0, actor="ann", note=NOTE.digest)
    )


def test_a_person_may_say_when_to_try_again() -> None:
    holding().when(resolve(o.Retry(after=5), "operator")).then(released(5))


@pytest.mark.parametrize("outcome", [o.NotDone(), o.Retry(after=1)], ids=repr)
def test_lookup_keeps_to_the_attempts(outcome: o.Outcome) -> None:
    holding(max_attempts=1).when(resolve(outcome, "lookup", note=NOTE)).then(
        e.Exhausted(cause="attempts", attempt=1, note=NOTE.digest)
    )


def test_the_ending_was_counted_when_it_was_held() -> None:
    holding(max_attempts=2).when(resolve(o.NotDone(), "lookup")).then(released(60))


def test_lookup_keeps_to_the_interruptions() -> None:
    limits = PLENTY | {"max_interruptions": 2}
    given(scheduled(), attempted(1), crashed(1), attempted(2, **limits), held(2, "crashed")).when(
        resolve(o.NotDone(), "lookup")
    ).then(e.Exhausted(cause="interruptions", attempt=2))


def test_an_unknown_outcome_is_no_interruption() -> None:
    limits = PLENTY | {"max_interruptions": 1}
    given(scheduled(), attempted(1, **limits), held(1, "timeout")).when(resolve(o.NotDone(), "lookup")).then(
        released(60)
    )


def test_a_person_who_asks_for_one_more_attempt_gets_it() -> None:
    spent = {"max_attempts": 1, "max_interruptions": 1}
    holding(**spent).when(resolve(o.NotDone(), "operator")).then(released(0)).when(start(**spent)).then(
        attempted(2, **spent)
    )


def test_the_attempt_that_a_person_asked_for_is_the_last() -> None:
    spent = attempted(2, max_attempts=1)
    given(scheduled(), attempted(1, **PLENTY), held(1), released(0), spent).when(report(2, o.Retry())).then(
        e.Exhausted(cause="attempts", attempt=2)
    )


def test_a_person_gets_no_attempt_after_the_deadline() -> None:
    history = given(scheduled(expires_at=at(10)), attempted(1, **PLENTY), held(1))
    release = c.Resolve(now=at(99), outcome=o.NotDone(), by="operator")
    history.when(release).then(released(99)).when(c.Start(now=at(99), worker="w1", rules=rules())).then(
        e.Exhausted(cause="deadline")
    )


@BOTH
@pytest.mark.parametrize(
    ("outcome", "cause"),
    [(o.Cancel(), "permanent_failure"), (o.Bounced(), "bounced"), (o.Suppress(), "suppressed")],
    ids=["cancel", "bounced", "suppress"],
)
def test_it_can_never_succeed(by: str, outcome: o.Outcome, cause: str) -> None:
    holding().when(resolve(outcome, by, actor="ann", note=NOTE)).then(
        e.Cancelled(cause=cause, attempt=1, actor="ann", note=NOTE.digest)
    )


@BOTH
def test_it_is_not_worth_it(by: str) -> None:
    holding().when(resolve(o.Discard(), by, actor="ann", note=NOTE)).then(
        e.Exhausted(cause="discarded", attempt=1, actor="ann", note=NOTE.digest)
    )


@BOTH
def test_who_still_does_not_know_changes_nothing(by: str) -> None:
    holding().when(resolve(o.Unknown(), by)).then_nothing_happened()


def test_cancelling_what_is_held_says_that_the_outcome_is_unknown() -> None:
    holding().when(c.Cancel(now=NOW, cause="superseded", actor="ann", note=NOTE)).then(
        e.Cancelled(cause="superseded", attempt=1, outcome_unknown=True, actor="ann", note=NOTE.digest)
    )


def test_a_held_delivery_is_resolved_once() -> None:
    history = holding().when(resolve(o.NotDone(), "operator")).then(released(0))
    history.when(resolve(o.Delivered(), "lookup")).then_nothing_happened()


def test_the_held_attempt_is_the_latest() -> None:
    given(scheduled(), attempted(1), failed(1), attempted(2, **PLENTY), held(2)).when(
        resolve(o.Delivered(), "lookup")
    ).then(e.Succeeded(attempt=2, by="lookup"))


@BOTH
@pytest.mark.parametrize(
    "outcome", [o.Delivered(), o.NotDone(), o.Retry(), o.Cancel(), o.Discard(), o.Suppress()], ids=repr
)
@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_an_answer_about_another_attempt_resolves_nothing(by: str, outcome: o.Outcome, attempt: int) -> None:
    """A late "not done" about attempt 1 must not release attempt 2, which may have happened."""
    history = given(
        scheduled(), attempted(1, **PLENTY), held(1), released(0), attempted(2, **PLENTY), held(2)
    )
    history.when(resolve(outcome, by, attempt=attempt)).then_nothing_happened()


@BOTH
def test_an_answer_may_name_the_held_attempt(by: str) -> None:
    holding().when(resolve(o.Delivered(), by, attempt=1)).then(e.Succeeded(attempt=1, by=by))
