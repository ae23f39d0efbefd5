"""The judges of records, rows and calls are judged: each finds what is known to break its rule.

Those of bare streams, I1 to I7, are judged in `tests/unit/core/test_invariant_checks.py`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from deliveries.audit import invariants as i
from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core.machine import fold
from deliveries.core.stream import Recorded
from deliveries.store.schema import deliveries
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
from deliveries.testing.lives import life
from support.records import record

OTHER = UUID("018cc4f5-7a00-7000-8000-0000000000ff")
ROW = namedtuple("ROW", deliveries.c.keys())  # noqa: PYI024 - its fields are the table's
S, OK = scheduled(), e.Succeeded(attempt=1)


def row_of(stream: Sequence[Recorded], **changes: Any) -> Any:
    """The row that the stream amounts to."""
    delivery = fold(one.event for one in stream)
    assert delivery is not None
    values = structs.asdict(delivery) | {"tags": None, "lease_owner": None, "lease_until": None}
    if delivery.status == "attempting":
        values |= {"lease_owner": "w1", "lease_until": at(90)}
    values |= {"digest": stream[-1].digest, "recorded_at": stream[-1].recorded_at}
    given = values | changes
    return ROW(*(given.get(name) for name in ROW._fields))


def rules(found: Iterable[i.Finding]) -> set[str]:
    return {finding.rule for finding in found}


def call(attempt: int = 1, id: UUID = ID, **changes: Any) -> i.Called:
    values = {"delivery_id": id, "attempt": attempt, "key": str(id), "entered_at": None}
    return i.Called(**(values | changes))


# -- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        [S, attempted(1, max_attempts=1), failed(1)],
        [S, attempted(1, max_attempts=2), failed(1), attempted(2, max_attempts=2), crashed(2)],
        [S, attempted(1, max_interruptions=1), crashed(1)],
        [S, attempted(1, max_snoozes=0), snoozed(1)],
        [S, attempted(1), e.Exhausted(cause="attempts", attempt=1)],
        [S, attempted(1), held(1), e.Exhausted(cause="attempts", attempt=1)],
        [S, attempted(1), e.Exhausted(cause="interruptions", attempt=1)],
        [S, attempted(1), e.Exhausted(cause="snoozes", attempt=1)],
    ],
)
def test_n6_finds_a_budget_that_is_overdrawn_or_called_spent(stream: list[e.Event]) -> None:
    assert rules(i.findings(stream)) == {"N6"}


@pytest.mark.parametrize(
    "stream",
    [
        [S, attempted(1, max_attempts=1), e.Exhausted(cause="attempts", attempt=1)],
        [S, attempted(1, max_attempts=1), e.Interrupted(attempt=1, due_at=NOW, cause="given_back")],
        [S, attempted(1, max_interruptions=1), e.Exhausted(cause="interruptions", attempt=1)],
        [S, attempted(1, max_attempts=1), held(1), e.Exhausted(cause="attempts", attempt=1)],
        [S, attempted(1, max_snoozes=1), snoozed(1), attempted(2), e.Exhausted(cause="snoozes", attempt=2)],
    ],
)
def test_n6_knows_what_counts(stream: list[e.Event]) -> None:
    assert i.findings(stream) == []


@pytest.mark.parametrize(
    "guess", [crashed(1), e.Failed(attempt=1, due_at=at(60), cause="unknown")], ids=["crash", "unknown"]
)
@pytest.mark.parametrize("on_unknown", ["hold", "lookup"])
def test_e3_finds_a_guess(guess: e.Event, on_unknown: str) -> None:
    assert rules(i.findings([S, attempted(1, on_unknown=on_unknown), guess])) == {"E3"}
    assert i.findings([S, attempted(1), guess]) == []


def test_e4_finds_what_follows_a_cancel() -> None:
    stream = [S, attempted(1), cancel_requested(1), failed(1)]
    assert rules(i.findings(stream)) == {"E4"}
    assert i.findings([S, attempted(1), cancel_requested(1), OK]) == []


# -- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["succeeded", "attempts spent", "cancelled while held"])
def test_a_sound_record_has_no_findings(ending: str) -> None:
    stream = record(*life(ending).events, times=[at(10_000 * n) for n in range(20)])
    assert i.record_findings(stream) == []


def test_i9_finds_what_does_not_fold() -> None:
    found = i.record_findings(record(S, OK))
    assert "I9" in rules(found)
    assert {finding.delivery_id for finding in found} == {ID}


@pytest.mark.parametrize("part", ["body", "digest", "recorded_at", "type"])
def test_i10_finds_a_changed_part(part: str) -> None:
    good = record(S, attempted(1), OK)
    change = {
        "body": codec.encode(attempted(1, timeout=31.0)),
        "digest": bytes(32),
        "recorded_at": at(121),
        "type": "Attempts",
    }[part]
    stream = [good[0], structs.replace(good[1], **{part: change}), good[2]]
    assert list(i.i10_the_chain_holds(good)) == []
    assert rules(i.i10_the_chain_holds(stream)) == {"I10"}


@pytest.mark.parametrize(
    ("told", "times"),
    [
        ([S, attempted(1)], [at(60), at(59)]),
        ([scheduled(due_at=at(120)), attempted(1)], [NOW, at(119)]),
        ([scheduled(expires_at=at(120)), attempted(1)], [NOW, at(120)]),
        ([S, attempted(1), failed(1), attempted(2)], [NOW, at(1), at(2), at(59)]),
    ],
    ids=["backwards", "before it was due", "at its deadline", "before the retry was due"],
)
def test_n5_finds_what_starts_at_the_wrong_time(told: list[e.Event], times: list[datetime]) -> None:
    assert rules(i.n5_nothing_starts_before_its_time(record(*told, times=times))) == {"N5"}


# -- rows ----------------------------------------------------------------------------------------


def test_a_row_that_is_the_fold_has_no_findings() -> None:
    for told in ([S], [S, attempted(1)], [S, attempted(1), failed(1)], [S, attempted(1), held(1)]):
        stream = record(*told)
        assert i.row_findings(stream, row_of(stream)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempt", 2),
        ("endings", 0),
        ("status", "held"),
        ("due_at", at(61)),
        ("digest", bytes(32)),
        ("channel", "x"),
    ],
)
def test_i8_names_what_differs(name: str, value: Any) -> None:
    stream = record(S, attempted(1), failed(1))
    found = i.row_findings(stream, row_of(stream, **{name: value}))
    assert any(finding.rule == "I8" and name in finding.text for finding in found)
    assert all(finding.delivery_id == ID for finding in found)


def test_i8_lets_the_database_say_when_a_new_delivery_is_due() -> None:
    stream = record(S)
    assert i.row_findings(stream, row_of(stream, due_at=at(3))) == []
    told = record(scheduled(due_at=at(5)))
    assert rules(i.row_findings(told, row_of(told, due_at=at(3)))) == {"I8"}


def test_n4_finds_an_attempt_that_nobody_could_take_over() -> None:
    stream = record(S, attempted(1))
    assert rules(i.row_findings(stream, row_of(stream, lease_until=None))) == {"N4"}


def test_n7_finds_a_pending_row_without_a_due_time() -> None:
    stream = record(S)
    assert "N7" in rules(i.n7_pending_rows_are_due(stream, row_of(stream, due_at=None)))


# -- calls and leases ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "calls",
    [
        [call(2)],
        [call(1, OTHER)],
        [call(1), call(1)],
        [call(1, entered_at=at(119))],
        [call(1, entered_at=at(181))],
    ],
    ids=["not recorded", "of nobody", "twice", "too early", "after its closing"],
)
def test_n1_finds_calls_that_belong_to_no_open_attempt(calls: list[i.Called]) -> None:
    stream = {ID: record(S, attempted(1), failed(1))}
    assert "N1" in rules(i.call_findings(stream, calls))
    assert i.call_findings(stream, [call(1, entered_at=at(150))]) == []


def test_n2_finds_an_attempt_under_somebody_elses_lease() -> None:
    stream = {ID: record(S, attempted(1), crashed(1), attempted(2))}  # the second starts at 240
    lease = i.Leased(delivery_id=ID, attempt=1, worker="w1", granted_at=at(120), until=at(240))
    assert list(i.n2_a_lease_is_exclusive(stream, [lease])) == []
    renewed = structs.replace(lease, until=at(241))
    assert rules(i.n2_a_lease_is_exclusive(stream, [lease, renewed, lease])) == {"N2"}


@pytest.mark.parametrize(
    "calls",
    [
        [call(1), call(2, key="another")],
        [call(1), call(1, OTHER, key=str(ID))],
        [call(1, key="a.b")],
        [call(1, key="x" * 256)],
        [call(1, key="")],
    ],
    ids=["two keys", "one key for two", "a dot", "long", "empty"],
)
def test_e1_finds_keys_that_are_not_one_for_one(calls: list[i.Called]) -> None:
    streams = {ID: record(S, attempted(1)), OTHER: record(S, attempted(1), id=OTHER)}
    assert rules(i.e1_one_key_for_all_attempts(streams, calls)) == {"E1"}


def test_e1_lets_a_debt_that_goes_on_keep_its_key() -> None:
    streams = {ID: record(S), OTHER: record(scheduled(delivery_id=OTHER, root_id=ID), id=OTHER)}
    calls = [call(1), call(1, OTHER, key=str(ID))]
    assert list(i.e1_one_key_for_all_attempts(streams, calls)) == []


# -- all together --------------------------------------------------------------------------------


def test_the_rules_over_all_deliveries_find_what_breaks_them() -> None:
    assert rules(i.e2_one_effect_per_key({"a": 1, "b": 2})) == {"E2"}
    assert {found.delivery_id for found in i.t1_what_was_committed_is_there({ID}, {OTHER})} == {ID, OTHER}
    rows = [SimpleNamespace(id=id, tenant="", key="k") for id in (ID, OTHER)]
    assert rules(i.t2_a_key_names_one_delivery(rows)) == {"T2"}
    rows[1].tenant = "another"
    assert rules(i.t2_a_key_names_one_delivery(rows)) == set()


def test_r1_finds_what_a_reader_missed_saw_twice_or_in_disorder() -> None:
    logged = record(S, attempted(1), OK)
    first, second, third = logged
    assert list(i.r1_a_reader_sees_all_once(logged, logged)) == []
    changed = structs.replace(second, digest=bytes(32))
    for seen in (
        [first, third],
        [first, second, second, third],
        [second, first, third],
        [first, changed, third],
    ):
        assert rules(i.r1_a_reader_sees_all_once(logged, seen)) == {"R1"}


def test_i11_finds_a_command_that_wakes_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, live = fold([S, attempted(1), OK]), fold([S])
    assert ended is not None
    assert live is not None
    cancel = c.Cancel(now=NOW)
    assert list(i.i11_the_end_is_deaf(ended, [cancel])) == []
    monkeypatch.setattr(i, "decide", lambda command, delivery: (e.Cancelled(cause="operator"),))
    assert rules(i.i11_the_end_is_deaf(ended, [cancel])) == {"I11"}
    assert list(i.i11_the_end_is_deaf(live, [cancel])) == []


def test_n3_finds_what_a_late_word_has_changed() -> None:
    stream = record(S, attempted(1), crashed(1))
    row = row_of(stream)
    assert list(i.n3_a_late_word_changes_nothing((stream, row), (stream, row_of(stream)))) == []
    longer = record(S, attempted(1), crashed(1), attempted(2))
    assert rules(i.n3_a_late_word_changes_nothing((stream, row), (longer, row))) == {"N3"}
    assert rules(i.n3_a_late_word_changes_nothing((stream, row), (stream, row_of(longer)))) == {"N3"}


def test_each_rule_is_one_function_with_a_docstring() -> None:
    named = {name.split("_")[0].upper() for name in vars(i) if name[0] in "inetr" and name[1:2].isdigit()}
    assert named >= {f"I{n}" for n in range(1, 12)} | {f"N{n}" for n in range(1, 8)}
    assert named >= {"E1", "E2", "E3", "E4", "T1", "T2", "R1"}
    checks = [*i.STREAM_RULES, *i.RECORD_RULES, *i.ROW_RULES]
    assert all(check.__doc__ for check in checks)
