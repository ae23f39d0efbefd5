"""Outcomes are values that may be raised."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace

import pytest

from deliveries.core import outcomes as o
from deliveries.core.notes import MAX_NAME
from deliveries.testing.examples import NOW, at

KINDS = [
    o.Delivered("250 ok"),
    o.Retry("503", after=5),
    o.Cancel("no such list"),
    o.Bounced("no such user"),
    o.Discard("not worth it"),
    o.Snooze(5, reason="closed"),
    o.Suppress("opted out"),
    o.Unknown("reset"),
    o.NotDone("404"),
]


@pytest.mark.parametrize("outcome", KINDS, ids=repr)
def test_returned_or_raised_is_the_same_outcome(outcome: o.Outcome) -> None:
    with pytest.raises(o.Outcome) as caught:
        raise outcome
    assert caught.value is outcome
    assert o.outcome_of(outcome) is outcome


@pytest.mark.parametrize("value", [None, 0, False, "Retry", [], ValueError("returned, not raised")])
def test_anything_else_that_is_returned_means_delivered(value: object) -> None:
    assert o.outcome_of(value) == o.Delivered()


def test_outcomes_are_equal_by_kind_and_content() -> None:
    assert o.Cancel("a") == o.Cancel("a")
    assert o.Cancel("a") != o.Cancel("b")
    assert o.Cancel("a") != o.Bounced("a")
    assert o.Retry(after=1) != o.Retry(after=2)
    assert hash(o.Cancel("a")) == hash(o.Cancel("a"))
    assert o.Cancel("a") != "a"


@pytest.mark.parametrize("outcome", KINDS, ids=repr)
def test_every_outcome_keeps_its_text(outcome: o.Outcome) -> None:
    assert outcome.text == str(outcome)
    assert str(outcome) in repr(outcome)


@pytest.mark.parametrize(
    "say",
    [
        o.Delivered,
        o.Retry,
        o.Cancel,
        o.Bounced,
        o.Discard,
        o.Suppress,
        o.Unknown,
        o.NotDone,
        lambda text: o.Snooze(5, reason=text),
    ],
)
def test_what_an_outcome_was_told_is_its_text(say: Callable[[str], o.Outcome]) -> None:
    outcome = say("250 ok")
    assert (outcome.text, str(outcome), outcome.args) == ("250 ok", "250 ok", ("250 ok",))


def test_a_receipt_and_an_error_can_be_read_back() -> None:
    error = ValueError("503")
    assert o.Delivered({"id": 1}).receipt == {"id": 1}
    assert o.Retry(error).error is error


def test_a_subclass_that_forgets_our_constructor_says_nothing() -> None:
    class Forgetful(o.Retry):
        def __init__(self) -> None:
            pass

    class Sleepy(o.Snooze):
        def __init__(self) -> None:
            pass

    assert (Forgetful().text, Forgetful().error, Forgetful().after) == (None, None, None)
    assert o.sound(Forgetful()) == o.Retry()
    assert (Sleepy().text, Sleepy().for_, Sleepy().until) == (None, None, None)
    with pytest.raises(ValueError, match="exactly one"):
        o.sound(Sleepy())


def test_an_outcome_shows_what_it_holds() -> None:
    assert repr(o.Retry("503", after=5)) == "Retry(text='503', error='503', after=5.0)"


def test_saying_nothing_keeps_nothing() -> None:
    assert o.Cancel().text is None
    assert str(o.Cancel()) == ""


def test_a_bounce_is_a_cancel_with_its_own_cause() -> None:
    assert isinstance(o.Bounced(), o.Cancel)
    assert (o.Cancel.cause, o.Bounced.cause) == ("permanent_failure", "bounced")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, None),
        (0, 0.0),
        (1.5, 1.5),
        (timedelta(minutes=1), 60.0),
        (timedelta.max, 30 * 86_400),
        (10**300, 30 * 86_400),
    ],
)
def test_after_is_seconds_and_capped(after: float | timedelta | None, expected: float | None) -> None:
    assert o.Retry(after=after).after == expected


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "5", True, timedelta(-1), 10**400])
def test_a_wait_that_is_no_duration_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"^after "):
        o.Retry(after=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^for_ "):
        o.Snooze(bad)  # type: ignore[arg-type]


def test_what_is_no_duration_is_named_by_its_type() -> None:
    with pytest.raises(ValueError, match=r"^after must be seconds or a timedelta, not Decimal$"):
        o.Retry(after=Decimal(5))  # type: ignore[arg-type]


def test_a_snooze_takes_exactly_one_time() -> None:
    with pytest.raises(ValueError, match=r"^Snooze takes exactly one of for_ and until$"):
        o.Snooze()
    with pytest.raises(ValueError, match=r"^Snooze takes exactly one of for_ and until$"):
        o.Snooze(5, until=NOW)


def test_a_snooze_until_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^until .* aware"):
        o.Snooze(until=NOW.replace(tzinfo=None))


def test_a_snooze_until_a_time_that_utc_cannot_tell_is_refused() -> None:
    first_day_in_the_east = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    with pytest.raises(ValueError, match=r"^until is out of range"):
        o.Snooze(until=first_day_in_the_east)


def test_a_snooze_until_elsewhere_is_kept_in_utc() -> None:
    snooze = o.Snooze(until=NOW.astimezone(timezone(timedelta(hours=14))))
    assert (snooze.until, snooze.for_) == (NOW, None)
    assert snooze.until is not None
    assert snooze.until.tzinfo is UTC


@pytest.mark.parametrize(
    "make",
    [
        lambda: o.Retry("503"),
        lambda: o.Retry("503", after=5),
        lambda: o.Snooze(5),
        lambda: o.Snooze(until=NOW),
        lambda: o.Cancel("no such user"),
    ],
)
def test_an_outcome_that_nobody_meddled_with_is_sound(make: Callable[[], o.Outcome]) -> None:
    """What is decided from is made anew, exactly of our kind and without the text."""
    outcome = make()
    sound = o.sound(outcome)
    assert type(sound) is type(outcome)
    assert sound.text is None
    kept = {name: value for name, value in vars(outcome).items() if name not in ("text", "error")}
    assert {name: vars(sound)[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda: o.Retry("503", after=5), {"after": -1}),
        (lambda: o.Retry("503", after=5), {"after": "soon"}),
        (lambda: o.Snooze(5), {"for_": float("nan")}),
        (lambda: o.Snooze(5), {"for_": None}),
        (lambda: o.Snooze(5), {"until": NOW}),
        (lambda: o.Snooze(until=NOW), {"until": NOW.replace(tzinfo=None)}),
    ],
)
def test_an_outcome_changed_into_nonsense_is_refused(
    make: Callable[[], o.Outcome], changes: dict[str, object]
) -> None:
    outcome = make()
    vars(outcome).update(changes)
    with pytest.raises(ValueError, match=r"must be|exactly one"):
        o.sound(outcome)


@pytest.mark.parametrize(
    ("snooze", "due"),
    [
        (o.Snooze(0), NOW),
        (o.Snooze(90), at(90)),
        (o.Snooze(timedelta.max), at(30 * 86_400)),
        (o.Snooze(until=at(90)), at(90)),
        (o.Snooze(until=at(-90)), NOW),
        (o.Snooze(until=datetime.max.replace(tzinfo=NOW.tzinfo)), at(30 * 86_400)),
        (o.Snooze(until=datetime.min.replace(tzinfo=NOW.tzinfo)), NOW),
    ],
    ids=repr,
)
def test_when_a_snooze_is_due(snooze: o.Snooze, due: datetime) -> None:
    assert snooze.due_at(NOW) == due


class Told(o.Cancel):
    """A user's own kind, with a cause of its own."""

    def __init__(self, cause: object) -> None:
        super().__init__("no")
        self.cause = cause  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("cause", "kept"),
    [
        ("gone", "gone"),
        (type("Name", (str,), {"__str__": lambda self: "a lie"})("gone"), "gone"),
        ("a\x00b\ud800", r"a\u0000b\ud800"),
        ("x" * 10_000, "x" * (MAX_NAME - 1) + "…"),
        (5, "permanent_failure"),
        (None, "permanent_failure"),
    ],
    ids=["text", "a text that lies", "unprintable", "long", "a number", "none"],
)
def test_a_cause_of_ones_own_is_kept_as_a_bounded_text(cause: object, kept: str) -> None:
    sound = o.sound(Told(cause))
    assert type(sound) is o.Cancel
    assert type(sound.cause) is str
    assert sound.cause == kept


def test_a_subclass_is_taken_for_the_kind_that_it_is() -> None:
    class Gone(o.Bounced):
        pass

    class Fine(o.Delivered):
        pass

    assert type(o.sound(Gone("no such user"))) is o.Bounced
    assert o.sound(Gone("no such user")).cause == "bounced"  # type: ignore[attr-defined]
    assert type(o.sound(Fine())) is o.Delivered
    assert type(o.sound(o.Outcome())) is o.Outcome


def test_the_text_of_an_outcome_never_raises() -> None:
    class Silent(o.Delivered):
        @property
        def text(self) -> object:  # type: ignore[override]
            raise SystemExit

    assert o.text_of(o.Delivered("receipt")) == "receipt"
    assert o.text_of(Silent.__new__(Silent)) == "<unreadable Silent>"


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize("reference", ["m-1", "m" * 255, "m", "\u017e", Word("m-1")], ids=ascii)
def test_a_reference_is_kept_as_the_text_it_is(reference: str) -> None:
    kept = o.reference_of(o.Delivered(reference=reference))
    assert type(kept) is str
    assert kept == str.__str__(reference)


@pytest.mark.parametrize("reference", [None, "", 7, b"m-1", "m" * 256, "a\nb", "\ud800"], ids=ascii)
def test_what_is_no_reference_is_not_kept(reference: object) -> None:
    assert o.reference_of(o.Delivered(reference=reference)) is None  # type: ignore[arg-type]  # on purpose


def test_a_reference_that_defends_itself_is_none() -> None:
    class Trap(o.Delivered):
        @property
        def reference(self) -> str:  # type: ignore[override]
            raise SystemExit

    assert o.reference_of(Trap()) is None


@pytest.mark.parametrize(
    "value",
    [o.Retry("no"), o.NotDone(), None, "m-1", Exception("m-1"), SimpleNamespace(reference="m-1")],
    ids=repr,
)
def test_nothing_else_has_a_reference(value: object) -> None:
    assert o.reference_of(value) is None
