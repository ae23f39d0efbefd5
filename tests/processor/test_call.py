"""What becomes of a call that is over: one command, made of plain data, the same each time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from deliveries import (
    Backoff,
    Bounced,
    Cancel,
    Delivered,
    NotDone,
    Retry,
    Snooze,
    Suppress,
    Unknown,
)
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.stream import START, advance
from deliveries.processor.call import Call, Words
from deliveries.registration import Registration
from deliveries.testing.examples import NOW, at, scheduled, start


def call(lookups: int = 0, lease: float = 30.0, **options: Any) -> Call:
    """Attempt 1, or question number `lookups` about it, that was entered and has returned."""
    unsafe = {"effect": "unsafe", "lookup": lambda *_: None} if lookups else {}
    registration = Registration(
        channel="email", function=lambda *_: None, **{"timeout": 10.0} | unsafe | options
    )
    born = advance(START, c.Schedule(now=NOW, scheduled=scheduled()))
    assert born is not None
    begun = advance(born.stream, start())
    assert begun is not None
    made = Call(begun.stream, registration, NOW, time.monotonic() + lease, margin=1.0, lookups=lookups)
    assert made.enter()
    made.returned = True
    return made


def words(made: Call, value: object = None, error: BaseException | None = None) -> Words:
    """What `made` says."""
    made.value, made.error = value, error
    made.read()
    assert made.words is not None
    return made.words


class Unreadable(Retry):
    """Whoever asks for its error is in for it."""

    @property
    def error(self) -> Any:  # type: ignore[override]
        raise KeyboardInterrupt

    @error.setter
    def error(self, value: Any) -> None:
        pass


# -- to enter --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lease", "withdrawn", "entered"), [(30, False, True), (30, True, False), (0.5, False, False)]
)
def test_who_may_be_entered(lease: float, withdrawn: bool, entered: bool) -> None:
    made = call()
    made.entered, made.withdrawn, made.lease_until = False, withdrawn, time.monotonic() + lease
    assert made.enter() is entered
    assert made.entered is entered
    assert made.entered_at == pytest.approx(time.monotonic(), abs=1)


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Words(Delivered(), said="Delivered")),
        ("a receipt", Words(Delivered(), said="Delivered")),
        (Delivered("id-7"), Words(Delivered(), text="id-7", said="Delivered")),
        (Delivered({"id": 7}), Words(Delivered(), text='{"id":7}', said="Delivered")),
        (Delivered([1, "é"]), Words(Delivered(), text='[1,"é"]', said="Delivered")),
        (Delivered((1, 2)), Words(Delivered(), text="[1,2]", said="Delivered")),
        (Delivered(7), Words(Delivered(), text="7", said="Delivered")),
        (Delivered(1.5), Words(Delivered(), text="1.5", said="Delivered")),
        (
            Delivered({"a": {1: object}}),
            Words(Delivered(), text="{'a': {1: <class 'object'>}}", said="Delivered"),
        ),
        (Cancel("no"), Words(o.sound(Cancel()), text="no", said="Cancel")),
        (Bounced("gone"), Words(o.sound(Bounced()), text="gone", said="Bounced")),
        (Suppress("not now"), Words(Suppress(), text="not now", said="Suppress")),
        (Snooze(for_=5), Words(Snooze(for_=5), said="Snooze")),
        (Unknown("cut off"), Words(Unknown(), cause="unknown", text="cut off", said="Unknown")),
        (Retry("busy"), Words(Retry(), text="busy", said="Retry")),
        (Retry(after=5), Words(Retry(after=5), said="Retry")),
        (
            Retry(OSError("busy"), after=5),
            Words(Retry(after=5), error_type="OSError", text="OSError: busy", said="Retry"),
        ),
        (
            Retry,
            Words(
                Retry(),
                error_type="TypeError",
                text="TypeError: the adapter returned the class of an outcome, not an instance",
                said="Delivered",
            ),
        ),
    ],
    ids=repr,
)
def test_what_is_said(value: object, expected: Words) -> None:
    assert words(call(), value) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ValueError("bad"),
            Words(Retry(), error_type="ValueError", text="ValueError: bad", said="ValueError"),
        ),
        (KeyError(), Words(Retry(), error_type="KeyError", text="KeyError: KeyError()", said="KeyError")),
        (Cancel("no"), Words(o.sound(Cancel()), text="no", said="Cancel")),
        (
            Retry(OSError("busy"), after=5),
            Words(Retry(after=5), error_type="OSError", text="OSError: busy", said="Retry"),
        ),
    ],
    ids=repr,
)
def test_what_is_raised(error: BaseException, expected: Words) -> None:
    assert words(call(), "not this", error) == expected


def test_an_exception_whose_text_is_its_name_says_it_once() -> None:
    assert words(call(), error=ValueError("ValueError")).text == "ValueError"


def test_of_an_unsafe_adapter_an_error_says_nothing() -> None:
    made = call(effect="unsafe", on_unknown="hold")
    expected = Words(Unknown(), error_type="OSError", text="OSError: cut off", said="OSError")
    assert words(made, error=OSError("cut off")) == expected


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (None, None, Words(Unknown(), cause="unknown", text="the lookup gave no answer", said="Delivered")),
        ("yes", None, Words(Unknown(), cause="unknown", text="the lookup gave no answer", said="Delivered")),
        (NotDone(), None, Words(NotDone(), said="NotDone")),
        (Delivered("id-7"), None, Words(Delivered(), text="id-7", said="Delivered")),
        (None, OSError("down"), Words(Unknown(), error_type="OSError", text="OSError: down", said="OSError")),
    ],
    ids=repr,
)
def test_what_a_lookup_says(value: object, error: Any, expected: Words) -> None:
    assert words(call(lookups=1), value, error) == expected


def test_what_cannot_be_read_is_a_failure() -> None:
    text = "TypeError: what the adapter said cannot be read"
    assert words(call(), Unreadable()) == Words(Retry(), error_type="TypeError", text=text, said="TypeError")


def test_what_was_said_is_not_kept() -> None:
    made = call()
    made.value, made.error = "a receipt of 100 MB", ValueError("and an error")
    assert made.kind() == "ValueError"
    assert (made.value, made.error) == (None, None)
    assert made.kind() == "ValueError", "it is read once"


def test_a_backoff_of_the_channels_own_sees_the_error() -> None:
    seen: list[Any] = []

    def backoff(endings: int, error: BaseException | None) -> float:
        seen.append((endings, error))
        return 77.0

    error = OSError("busy")
    assert words(call(backoff=backoff), error=error).retry_in == 77.0
    assert seen == [(1, error)]
    assert words(call(backoff=backoff)).retry_in is None
    assert words(call(lookups=1, backoff=backoff), error=error).retry_in is None
    assert words(call(backoff=Backoff.linear(5)), error=error).retry_in is None
    assert len(seen) == 1


# -- the command -----------------------------------------------------------------------------------


def test_the_command_is_the_same_each_time() -> None:
    made = call()
    first = made.command(NOW)
    made.value = Cancel("too late")
    assert made.command(at(60)) is first


def test_who_was_not_entered_is_given_back() -> None:
    made = call()
    made.entered = False
    made.value = Cancel("said by nobody")
    assert made.command(NOW) == c.GiveBack(now=NOW, attempt=1)


def test_who_was_cut_off_by_a_shutdown_is_interrupted() -> None:
    made = call()
    made.gave_up = True
    assert made.command(NOW) == c.Interrupt(now=NOW, attempt=1)


@pytest.mark.parametrize("read", [False, True], ids=["not read", "read"])
def test_a_report(read: bool) -> None:
    made = call(backoff=lambda endings, error: 77.0)
    made.error = OSError("busy")
    if read:
        made.read()
    report: Any = made.command(NOW)
    assert type(report) is c.Report
    assert (report.now, report.attempt, report.outcome, report.cause) == (NOW, 1, Retry(), "error")
    assert (report.error_type, report.retry_in, report.not_before) == ("OSError", 77.0, None)
    assert (report.note.text, len(report.note.salt)) == ("OSError: busy", 16)


def test_a_report_without_a_text_has_no_note() -> None:
    report: Any = call().command(NOW)
    assert (report.outcome, report.note, report.error_type) == (Delivered(), None, None)


@pytest.mark.parametrize("read", [False, True], ids=["not read", "read"])
@pytest.mark.parametrize(
    ("effect", "outcome"), [("keyed", Retry()), ("unsafe", Unknown())], ids=["keyed", "unsafe"]
)
def test_of_who_timed_out_nothing_else_counts(read: bool, effect: Any, outcome: o.Outcome) -> None:
    made = call(effect=effect, on_unknown="hold")
    made.value = Cancel("too late")
    if read:
        made.read()
    made.time_out()
    report: Any = made.command(NOW)
    assert (report.outcome, report.cause, report.error_type) == (outcome, "timeout", "TimeoutError")
    assert report.note.text == "TimeoutError: no answer within 10 s"
    assert report.not_before is None


def test_the_late_word_is_what_was_said_in_the_end() -> None:
    made = call()
    made.time_out()
    made.command(NOW)
    made.value = Cancel("too late")
    assert made.kind() == "Cancel"


@pytest.mark.parametrize(("lease", "wait"), [(30.0, 31.0), (-5.0, 1.0)])
def test_while_it_runs_no_retry_is_due_before_the_lease_and_its_margin_end(lease: float, wait: float) -> None:
    made = call()
    made.time_out()
    made.returned, made.lease_until = False, time.monotonic() + lease
    report: Any = made.command(NOW)
    assert report.not_before - NOW == pytest.approx(timedelta(seconds=wait), abs=timedelta(seconds=0.5))


def test_who_said_something_in_time_waits_for_no_lease() -> None:
    made = call()
    made.error, made.returned = OSError("busy"), False
    report: Any = made.command(NOW)
    assert report.not_before is None


@pytest.mark.parametrize("read", [False, True], ids=["not read", "read"])
def test_the_answer_to_a_question(read: bool) -> None:
    made = call(lookups=2)
    made.error = OSError("down")
    if read:
        made.read()
    answer: Any = made.command(NOW)
    assert type(answer) is c.Resolve
    assert (answer.now, answer.attempt, answer.outcome, answer.by) == (NOW, 1, Unknown(), "lookup")
    assert (answer.error_type, answer.note.text) == ("OSError", "OSError: down")
