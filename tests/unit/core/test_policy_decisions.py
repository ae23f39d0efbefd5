"""What policies may say, and what is made of it."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deliveries import Defer, Delivered, Proceed, Retry, Snooze, Suppress
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core.decide import decide
from deliveries.core.machine import fold
from deliveries.core.notes import Note, type_name
from deliveries.core.outcomes import MAX_AFTER, sound, text_of
from deliveries.core.policy import MIN_DEFERRAL, decision_of
from deliveries.testing.examples import NOW, at, attempted, report, scheduled


@pytest.mark.parametrize("said", [Proceed, Proceed()])
def test_proceed(said: Any) -> None:
    assert decision_of(said) == Proceed()


def test_the_others_without_their_text() -> None:
    assert decision_of(Suppress("secret")) == Suppress()
    assert decision_of(Defer(at(60), "secret")) == Defer(at(60))
    assert decision_of(Defer(for_=60, reason="secret")) == Defer(for_=60)


class Cunning(Suppress):
    """A subclass whose fields may be anything decides as its kind does."""

    @property
    def __class__(self) -> Any:
        raise SystemExit


def test_a_subclass_is_its_kind() -> None:
    assert decision_of(Cunning("x")) == Suppress()


@pytest.mark.parametrize(
    "said", [None, True, False, 0, "proceed", Suppress, Defer, Snooze(60), Delivered(), Retry(), ValueError()]
)
def test_everything_else_is_no_answer(said: Any) -> None:
    kind = type_name(said)
    with pytest.raises(TypeError, match=f"^a policy answers Proceed, Defer or Suppress, not {kind}$"):
        decision_of(said)


def test_a_deferral_keeps_its_text() -> None:
    assert text_of(Defer(for_=60, reason="at night")) == "at night"


def test_one_that_was_spoilt_is_no_answer() -> None:
    spoilt = Defer(for_=60)
    spoilt.for_ = float("nan")
    with pytest.raises(ValueError, match="for_"):
        decision_of(spoilt)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"until": NOW, "for_": 1}, {"until": NOW.replace(tzinfo=None)}, {"for_": -1}, {"until": "soon"}],
)
def test_what_is_no_deferral(arguments: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words, from where snoozes have theirs
        Defer(**arguments)


@pytest.mark.parametrize(
    ("defer", "due_at"),
    [
        (Defer(at(60)), at(60)),
        (Defer(for_=60), at(60)),
        (Defer(for_=timedelta(minutes=1)), at(60)),
        (Defer(at(-60)), NOW + MIN_DEFERRAL),
        (Defer(for_=0), NOW + MIN_DEFERRAL),
        (Defer(NOW + timedelta(days=400)), NOW + MAX_AFTER),
        (Defer(datetime(9999, 12, 31, tzinfo=UTC)), NOW + MAX_AFTER),
    ],
)
def test_when_it_is_due_again(defer: Defer, due_at: datetime) -> None:
    assert defer.due_at(NOW) == due_at


@pytest.mark.parametrize("decision", [Proceed(), Defer(at(1), "x"), Defer(for_=3)])
def test_they_are_values(decision: Any) -> None:
    assert pickle.loads(pickle.dumps(decision)) == decision
    assert type(decision).__name__ in repr(decision)


def test_an_adapter_that_says_so_has_not_delivered() -> None:
    """Whoever mixes the two up must not lose a debt."""
    delivery = fold([scheduled(), attempted()])
    assert [type(one) for one in decide(report(1, sound(Proceed())), delivery)] == [e.Failed]
    (event,) = decide(report(1, sound(Defer(for_=60))), delivery)
    assert isinstance(event, e.Rescheduled)
    assert event.cause == "snoozed"


def test_a_deferral_names_its_policy() -> None:
    command = c.Defer(now=NOW, until=at(60), actor="quiet", note=Note("x", b"salt"))
    (event,) = decide(command, fold([scheduled()]))
    assert isinstance(event, e.Rescheduled)
    assert (event.cause, event.actor, event.due_at) == ("deferred", "quiet", at(60))
    assert event.note == Note("x", b"salt").digest
