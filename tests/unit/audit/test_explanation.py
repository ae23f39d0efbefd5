"""What an explanation says, whatever stands in the events."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from deliveries.audit.explain import Explanation, explain
from deliveries.core import events as e
from deliveries.core.codec import GENESIS
from deliveries.store.evidence import Evidence
from deliveries.testing.examples import (
    ID,
    NOW,
    at,
    attempted,
    cancel_requested,
    crashed,
    failed,
    held,
    scheduled,
    snoozed,
)
from support.records import record


def said(*told: e.Event, evidence: tuple[Evidence, ...] = (), now: float = 3_600) -> Explanation:
    """What is said of these events, a minute apart."""
    return explain(record(*told), at(now), evidence)


def piece(kind: str, body: bytes = b"{}", seconds: float = 0, sequence: int = 1) -> Evidence:
    return Evidence(
        delivery_id=ID, sequence=sequence, kind=kind, recorded_at=at(seconds), body=body, digest=GENESIS
    )


def late(attempt: int, what: str, seconds: float) -> Evidence:
    return piece("late_report", b'{"attempt":%d,"said":"%s"}' % (attempt, what.encode()), seconds)


# -- times -------------------------------------------------------------------------------------


def test_times_are_utc_whatever_offset_an_event_was_written_with() -> None:
    elsewhere = at(3_600).astimezone(timezone(timedelta(hours=14)))
    told = explain(record(scheduled(due_at=elsewhere), times=[NOW]), NOW)
    assert "2024-01-01 13:00:00" in told.timeline[0].text


def test_a_time_beyond_the_calendar_is_shown_as_it_is() -> None:
    west = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))
    told = explain(record(scheduled(due_at=west), times=[NOW]), NOW)
    assert "9999-12-31T23:00:00-12:00" in str(told)


def test_how_long_it_waited_and_ran() -> None:
    times = [NOW, at(2), at(5.5), at(65), at(65.25)]
    told = (scheduled(), attempted(1), failed(1), attempted(2), e.Succeeded(attempt=2))
    explanation = explain(record(*told, times=times), at(100))
    assert [entry.waited for entry in explanation.timeline] == [None, 2.0, None, 5.0, None]
    assert [entry.ran for entry in explanation.timeline] == [None, None, 3.5, None, 0.25]
    assert [entry.took for entry in explanation.timeline][1:] == [
        *("waited 2.0 s", "ran 3.5 s", "waited 5.0 s", "ran 250 ms")
    ]
    assert [(run.waited, run.ran, run.worker) for run in explanation.runs] == [
        (2.0, 3.5, "w1"),
        (5.0, 0.25, "w1"),
    ]
    assert explanation.sentence == "succeeded: with attempt 2, 65 s after it was scheduled"


def test_how_long_it_was_held() -> None:
    told = (scheduled(), attempted(1), held(1), e.Succeeded(attempt=1, by="operator", actor="ann"))
    explanation = said(*told)
    assert [entry.held for entry in explanation.timeline] == [None, None, None, 60.0]
    assert [entry.ran for entry in explanation.timeline] == [None, None, 60.0, None]
    assert explanation.runs[0].ran == 60.0


def test_clocks_that_disagree_give_no_negative_time() -> None:
    times = [at(10), at(5), at(4)]
    told = record(scheduled(scheduled_at=at(10)), attempted(1), failed(1), times=times)
    assert [entry.waited for entry in explain(told, at(100)).timeline] == [None, 0.0, None]
    assert explain(told, at(100)).timeline[2].ran == 0.0


ENDED = [
    (failed(1), "failed", "none"),
    (e.Failed(attempt=1, due_at=NOW, cause="timeout"), "timed out", "unknown"),
    (e.Failed(attempt=1, due_at=NOW, cause="unknown"), "has an unknown outcome", "unknown"),
    (crashed(1), "was never reported", "unknown"),
    (e.Interrupted(attempt=1, due_at=NOW, cause="given_back"), "was given back", "none"),
    (snoozed(1), "snoozed", "none"),
    (held(1, "crashed"), "was never reported", "unknown"),
    (held(1, "timeout"), "timed out", "unknown"),
    (held(1, "error"), "has an unknown outcome", "unknown"),
    (e.Succeeded(attempt=1), "succeeded", "happened"),
    (e.Suppressed(attempt=1, by="adapter"), "said that it must not be sent", "none"),
    (e.Cancelled(cause="bounced", attempt=1), "bounced", "none"),
    (e.Cancelled(cause="operator", attempt=1, outcome_unknown=True), "has an unknown outcome", "unknown"),
    (e.Exhausted(cause="attempts", attempt=1), "failed", "none"),
    (e.Exhausted(cause="attempts", attempt=1, outcome_unknown=True), "has an unknown outcome", "unknown"),
]


@pytest.mark.parametrize(("event", "outcome", "effect"), ENDED)
def test_what_is_known_of_an_attempt(event: e.Event, outcome: str, effect: str) -> None:
    (run,) = said(scheduled(), attempted(1), event).runs
    assert (run.outcome, run.effect) == (outcome, effect)


def test_what_is_found_out_later_of_a_held_attempt() -> None:
    found = e.Exhausted(cause="attempts", attempt=1)
    (run,) = said(scheduled(), attempted(1), held(1, lookup=True), found).runs
    assert (run.outcome, run.effect, run.ran) == ("is known to have done nothing", "none", 60.0)
    (run,) = said(scheduled(), attempted(1)).runs
    assert (str(run), run.effect) == ("attempt 1 is under way", "open")


# -- why ---------------------------------------------------------------------------------------

EXHAUSTED = {
    "attempts": "1 of 3 attempts are used",
    "interruptions": "1 of 2 interruptions are used",
    "snoozes": "0 of 1 snoozes are used",
    "discarded": "no further attempt is worth it",
}


@pytest.mark.parametrize("cause", EXHAUSTED)
def test_the_budget_that_ended_it_is_named(cause: str) -> None:
    told = said(scheduled(), attempted(1), e.Exhausted(cause=cause, attempt=1))  # type: ignore[arg-type]
    assert told.rule.startswith("Exhausted, event 3: ")
    assert EXHAUSTED[cause] in told.rule


def test_a_deadline_that_ended_it_is_named() -> None:
    assert "expires_at" in said(scheduled(), e.Exhausted(cause="deadline")).rule


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ((failed(1),), "a failure counts on the attempts; 1 of 3 attempts are used"),
        ((crashed(1),), "1 of 3 attempts are used and 1 of 2 interruptions"),
        ((snoozed(1),), "a snooze counts on no attempt; 1 of 1 snoozes are used"),
        ((held(1),), 'attempt 1 froze on_unknown="retry": only a person may tell'),
        ((held(1, lookup=True),), "only its lookup may tell"),
        ((cancel_requested(1),), "a running attempt reports truthfully"),
        (
            (cancel_requested(1), e.Cancelled(cause="operator", attempt=1)),
            "every closing of the attempt but a success ends in cancelled",
        ),
        ((e.Cancelled(cause="bounced", attempt=1),), "it can never succeed"),
        ((held(1), e.Cancelled(cause="operator", attempt=1, outcome_unknown=True)), "nobody knows then"),
        ((e.Interrupted(attempt=1, due_at=NOW, cause="given_back"),), "counts on nothing"),
    ],
)
def test_the_rule_is_named(told: tuple[e.Event, ...], rule: str) -> None:
    assert rule in said(scheduled(), attempted(1), *told).rule


def test_what_is_left_of_each_budget() -> None:
    told = said(scheduled(), attempted(1), crashed(1))
    assert [str(one) for one in told.budgets] == [
        "1 of 3 attempts used, 2 left",
        "1 of 2 interruptions used, 1 left",
        "0 of 1 snoozes used, 1 left",
    ]
    assert [one.left for one in said(scheduled()).budgets] == [None, None, None]
    assert "budget" not in str(said(scheduled()))


# -- next --------------------------------------------------------------------------------------


def test_the_policy_that_deferred_is_named() -> None:
    told = e.Rescheduled(due_at=at(7_200), cause="deferred", actor="quiet_hours")
    assert said(scheduled(), told).next == (
        "attempt 1 starts at 2024-01-01 14:00:00.000Z (in 60 min), as policy quiet_hours deferred it"
    )


def test_a_deadline_that_comes_first() -> None:
    told = scheduled(due_at=at(100), expires_at=at(50))
    assert "comes before it is due, at 2024-01-01 12:01:40.000Z" in said(told, now=10).next
    assert "has passed, and the next sweep ends it" in said(told, now=50).next


@pytest.mark.parametrize(
    ("limits", "told", "closed"),
    [
        ({}, (), "as interrupted, and it is made again"),
        ({"max_interruptions": 1}, (), "as exhausted"),
        ({"max_attempts": 1}, (), "as exhausted"),
        ({"on_unknown": "hold"}, (), "as held, since nobody may guess"),
        ({}, (cancel_requested(1),), "as cancelled, its outcome unknown"),
    ],
)
def test_what_a_sweep_would_do_is_what_the_machine_says(
    limits: dict[str, object], told: tuple[e.Event, ...], closed: str
) -> None:
    explanation = said(scheduled(), attempted(1, **limits), *told)
    assert explanation.next.endswith(f"or its lease runs out and a sweep closes it, {closed}")


# -- conflicts ---------------------------------------------------------------------------------

HONOURED = f"a receiver that honours the key {ID} saw one effect"
TWO = (scheduled(), attempted(1), crashed(1), attempted(2), e.Succeeded(attempt=2))


def test_an_unknown_outcome_and_a_success() -> None:
    told = said(*TWO).conflicts
    assert told == (f"delivered twice? attempt 1 has an unknown outcome, attempt 2 succeeded; {HONOURED}",)


def test_a_late_success_beside_another_one() -> None:
    twice, reported = said(*TWO, evidence=(late(1, "Delivered", 250),)).conflicts
    assert twice == f"delivered twice: attempts 1 and 2 succeeded; {HONOURED}"
    assert reported == (
        "attempt 1 reported success after attempt 2 had started: a late report by w1, "
        "at 2024-01-01 12:04:10.000Z, which changed nothing"
    )


def test_a_late_report_before_the_next_attempt() -> None:
    (*_, told) = said(*TWO, evidence=(late(1, "ConnectionError", 200),)).conflicts
    assert told.startswith("attempt 1 reported ConnectionError after it had been closed: a late report by w1")


def test_an_end_that_a_late_success_belies() -> None:
    told = (scheduled(), attempted(1), e.Exhausted(cause="attempts", attempt=1, outcome_unknown=True))
    assert said(*told).conflicts == ("it ended as exhausted, yet attempt 1 may have happened",)
    (first, second) = said(*told, evidence=(late(1, "Delivered", 400),)).conflicts
    assert first == "it ended as exhausted, yet attempt 1 succeeded"
    assert second.startswith("attempt 1 reported success after it had been closed")


def test_two_unknown_outcomes() -> None:
    told = (scheduled(), attempted(1), crashed(1), attempted(2), crashed(2))
    (one,) = said(*told).conflicts
    assert one == f"delivered twice? attempts 1 and 2 have unknown outcomes; {HONOURED}"


def test_what_is_known_to_have_done_nothing_is_no_conflict() -> None:
    released = e.Rescheduled(due_at=at(60), cause="released", attempt=1)
    told = (scheduled(), attempted(1), held(1), released, attempted(2), e.Succeeded(attempt=2))
    assert said(*told).conflicts == ()
    assert said(*told).runs[0].outcome == "is known to have done nothing"


@pytest.mark.parametrize(
    ("end", "kind", "speaks"),
    [
        (e.Succeeded(attempt=1), "bounced", True),
        (e.Succeeded(attempt=1), "opened", False),
        (e.Cancelled(cause="bounced", attempt=1), "delivered", True),
        (e.Cancelled(cause="bounced", attempt=1), "bounced", False),
    ],
)
def test_a_provider_that_says_otherwise(end: e.Event, kind: str, speaks: bool) -> None:
    told = said(scheduled(), attempted(1), end, evidence=(piece(kind), piece(kind, sequence=2)))
    expected = f"it ended as {told.status}, and {kind!r} was reported of it afterwards"
    assert told.conflicts == ((expected,) if speaks else ())


def test_what_was_owed_once_more_although_it_may_have_happened() -> None:
    told = said(*TWO[:2], e.Succeeded(attempt=1), evidence=(piece("redriven"),)).conflicts
    assert told == ("it was owed once more, although attempt 1 may have happened",)
    again = (scheduled(), attempted(1), e.Exhausted(cause="discarded", attempt=1))
    assert said(*again, evidence=(piece("redriven"),)).conflicts == ()


def test_a_success_in_spite_of_a_cancel() -> None:
    told = (scheduled(), attempted(1), cancel_requested(1), e.Succeeded(attempt=1))
    assert said(*told).conflicts == ("a cancel was requested while attempt 1 was running, and it succeeded",)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"\xff", b'{"attempt":7,"said":"x"}', b'{"attempt":[]}'])
def test_evidence_that_makes_no_sense_is_shown_and_no_more(body: bytes) -> None:
    told = said(*TWO[:2], evidence=(piece("late_report", body),))
    assert (len(told.evidence), told.conflicts) == (1, ())
