"""What adapters say: every row of the table of outcomes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core import outcomes as o
from deliveries.testing.examples import NOTE, NOW, at, attempted, failed, report, scheduled
from deliveries.testing.stories import Given, given


def attempting(**limits: object) -> Given:
    return given(scheduled(), attempted(1, **limits))


def test_delivered_succeeds() -> None:
    attempting().when(report(1, o.Delivered("250 ok"), note=NOTE)).then(
        e.Succeeded(attempt=1, note=NOTE.digest)
    )


@pytest.mark.parametrize("value", [None, 0, "", "text", {"id": 1}, object(), ValueError("a value"), False])
def test_any_other_value_is_success(value: object) -> None:
    attempting().when(report(1, o.outcome_of(value))).then(e.Succeeded(attempt=1))


def test_an_exception_fails_and_is_retried_when_the_frozen_rules_say() -> None:
    command = report(1, o.Retry("503"), error_type="HTTPError", note=NOTE)
    attempting(retry_in=42.0).when(command).then(
        e.Failed(attempt=1, due_at=at(42), error_type="HTTPError", note=NOTE.digest)
    )


def test_a_timeout_fails_as_such() -> None:
    attempting().when(report(1, o.Retry("too slow"), cause="timeout")).then(
        e.Failed(attempt=1, due_at=at(60), cause="timeout")
    )


@pytest.mark.parametrize(
    ("after", "due"),
    [
        (0, 0),
        (0.5, 0.5),
        (7, 7),
        (timedelta(minutes=2), 120),
        (30 * 86_400, 30 * 86_400),
        (timedelta(days=300 * 365), 30 * 86_400),
        (1e300, 30 * 86_400),
    ],
)
def test_retry_after_is_honoured_and_capped(after: float | timedelta, due: float) -> None:
    attempting().when(report(1, o.Retry(after=after))).then(e.Failed(attempt=1, due_at=at(due)))


def test_retry_after_wins_over_the_backoff() -> None:
    attempting().when(report(1, o.Retry(after=0), retry_in=99.0)).then(e.Failed(attempt=1, due_at=NOW))


def test_a_backoff_that_saw_the_error_wins_over_the_frozen_wait() -> None:
    attempting().when(report(1, o.Retry("503"), retry_in=5.0)).then(e.Failed(attempt=1, due_at=at(5)))


@pytest.mark.parametrize("outcome", [o.Retry(), o.Retry(after=1)], ids=["backoff", "after"])
def test_no_retry_before_a_call_that_still_runs_ends(outcome: o.Outcome) -> None:
    attempting().when(report(1, outcome, cause="timeout", not_before=at(300))).then(
        e.Failed(attempt=1, due_at=at(300), cause="timeout")
    )


def test_not_before_never_makes_a_retry_earlier() -> None:
    attempting().when(report(1, o.Retry(after=400), not_before=at(300))).then(
        e.Failed(attempt=1, due_at=at(400))
    )


def test_not_before_holds_for_an_unknown_outcome_too() -> None:
    command = report(1, o.Unknown(), cause="timeout", not_before=at(300))
    attempting(on_unknown="retry").when(command).then(e.Failed(attempt=1, due_at=at(300), cause="timeout"))


def test_cancel_is_a_permanent_failure() -> None:
    attempting().when(report(1, o.Cancel("no such list"), note=NOTE)).then(
        e.Cancelled(attempt=1, cause="permanent_failure", note=NOTE.digest)
    )


def test_bounced() -> None:
    attempting().when(report(1, o.Bounced("no such user"), note=NOTE)).then(
        e.Cancelled(attempt=1, cause="bounced", note=NOTE.digest)
    )


def test_discard_exhausts() -> None:
    attempting().when(report(1, o.Discard("not worth it"), note=NOTE)).then(
        e.Exhausted(attempt=1, cause="discarded", note=NOTE.digest)
    )


def test_suppress() -> None:
    attempting().when(report(1, o.Suppress("opted out"), note=NOTE)).then(
        e.Suppressed(attempt=1, by="adapter", note=NOTE.digest)
    )


@pytest.mark.parametrize(
    ("snooze", "due"),
    [
        (o.Snooze(90), 90),
        (o.Snooze(timedelta(hours=1)), 3600),
        (o.Snooze(0), 0),
        (o.Snooze(until=at(7)), 7),
        (o.Snooze(until=at(-7)), 0),
        (o.Snooze(1e300), 30 * 86_400),
        (o.Snooze(until=at(1e9)), 30 * 86_400),
    ],
    ids=repr,
)
def test_a_snooze_is_due_again_between_now_and_thirty_days(snooze: o.Snooze, due: float) -> None:
    attempting().when(report(1, snooze, note=NOTE)).then(
        e.Rescheduled(attempt=1, due_at=at(due), cause="snoozed", note=NOTE.digest)
    )


def test_unknown_counts_as_a_failure_where_the_channel_retries() -> None:
    command = report(1, o.Unknown("reset"), cause="unknown", error_type="ConnectionError", note=NOTE)
    attempting(on_unknown="retry").when(command).then(
        e.Failed(attempt=1, due_at=at(60), cause="unknown", error_type="ConnectionError", note=NOTE.digest)
    )


def test_what_an_adapter_raised_where_unknown_is_retried_is_no_mere_error() -> None:
    """An unsafe adapter's exception came in as Unknown: whether it happened stays in doubt."""
    attempting(on_unknown="retry").when(report(1, o.Unknown(), cause="error")).then(
        e.Failed(attempt=1, due_at=at(60), cause="unknown")
    )


def test_unknown_waits_for_a_person_where_the_channel_holds() -> None:
    command = report(1, o.Unknown("reset"), cause="unknown", error_type="ConnectionError", note=NOTE)
    attempting(on_unknown="hold").when(command).then(
        e.Held(attempt=1, cause="unknown", error_type="ConnectionError", note=NOTE.digest)
    )


def test_unknown_waits_for_the_lookup_where_the_channel_has_one() -> None:
    attempting(on_unknown="lookup").when(report(1, o.Unknown(), cause="unknown")).then(
        e.Held(attempt=1, cause="unknown", lookup=True)
    )


@pytest.mark.parametrize("cause", ["error", "timeout"])
@pytest.mark.parametrize("on_unknown", ["hold", "lookup"])
def test_what_an_unsafe_adapter_raised_is_held_with_its_cause(cause: str, on_unknown: str) -> None:
    attempting(on_unknown=on_unknown).when(report(1, o.Unknown(), cause=cause)).then(
        e.Held(attempt=1, cause=cause, lookup=on_unknown == "lookup")
    )


@pytest.mark.parametrize("on_unknown", ["hold", "lookup"])
def test_a_returned_retry_asserts_that_nothing_happened(on_unknown: str) -> None:
    attempting(on_unknown=on_unknown).when(report(1, o.Retry("503"))).then(e.Failed(attempt=1, due_at=at(60)))


@pytest.mark.parametrize("outcome", [o.NotDone(), o.Outcome("no kind of its own")], ids=repr)
def test_what_is_no_answer_to_an_attempt_fails_it(outcome: o.Outcome) -> None:
    attempting().when(report(1, outcome)).then(e.Failed(attempt=1, due_at=at(60)))


OUTCOMES = [
    o.Delivered(),
    o.Retry(),
    o.Cancel(),
    o.Bounced(),
    o.Discard(),
    o.Snooze(1),
    o.Suppress(),
    o.Unknown(),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_a_report_of_another_attempt_comes_too_late(outcome: o.Outcome, attempt: int) -> None:
    given(scheduled(), attempted(1), failed(1), attempted(2)).when(
        report(attempt, outcome)
    ).then_nothing_happened()


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_the_second_report_of_an_attempt_comes_too_late(outcome: o.Outcome) -> None:
    given(scheduled(), attempted(1), failed(1)).when(report(1, outcome)).then_nothing_happened()
    given(scheduled(), attempted(1), e.Held(attempt=1, cause="crashed")).when(
        report(1, outcome)
    ).then_nothing_happened()


def test_a_late_success_does_not_touch_the_attempt_that_runs_now() -> None:
    history = given(scheduled(), attempted(1), e.Interrupted(attempt=1, due_at=NOW), attempted(2))
    history.when(report(1, o.Delivered())).then_nothing_happened().when(report(2, o.Retry())).then(failed(2))


@pytest.mark.parametrize(
    "command",
    [
        c.Start(now=NOW, worker="w2", rules=attempted().rules),
        c.Defer(now=NOW, until=at(1)),
        c.Reschedule(now=NOW, due_at=at(1)),
        c.Expire(now=at(1e9)),
        c.Resolve(now=NOW, outcome=o.Delivered(), by="operator"),
        c.Resolve(now=NOW, outcome=o.NotDone(), by="lookup"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_while_attempting_nobody_else_closes_it(command: c.Command) -> None:
    attempting().when(command).then_nothing_happened()
