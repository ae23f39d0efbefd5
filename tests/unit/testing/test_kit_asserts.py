"""What is scheduled, and what a failed assertion says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sqlalchemy.orm import Session

from deliveries import InvalidPayload, Retry, Suppress, UnknownChannel
from deliveries.errors import CallerError
from deliveries.testing import Kit, under_test
from deliveries.testing.examples import at


def test_everything_in_the_order_of_scheduling(kit: Kit) -> None:
    made = [kit.schedule("email", n, priority=9 - n) for n in range(5)]
    kit.drain()
    assert [one.id for one in kit.all_scheduled()] == [one.id for one in made]
    assert [one.payload for one in kit.all_scheduled("email", status="succeeded")] == [0, 1, 2, 3, 4]


def test_the_last_one_that_fits_is_returned(kit: Kit) -> None:
    kit.schedule("email", {"order": 1})
    last = kit.schedule(
        "email", {"order": 1, "template": "paid"}, recipient="ann@example.org", tags=["a", "b"]
    )
    assert kit.assert_scheduled("email", {"order": 1}).id == last.id
    assert kit.assert_scheduled(tags=["b"], recipient="ann@example.org").id == last.id
    assert kit.assert_scheduled(tags="a").payload == {"order": 1, "template": "paid"}
    assert kit.assert_scheduled().id == last.id


def test_payloads_fit_by_what_is_named(kit: Kit) -> None:
    kit.schedule("email", {"order": {"id": 1, "cents": 5}, "lines": [1, 2]})
    kit.assert_scheduled("email", {"order": {"id": 1}})
    kit.assert_scheduled("email", {"lines": [1, 2]})
    kit.refute_scheduled("email", {"lines": [1]})
    kit.refute_scheduled("email", {"order": {"id": 2}})
    kit.refute_scheduled("email", None)
    kit.refute_scheduled("email", {"order": None, "missing": None})
    kit.assert_scheduled("email", ...)


def test_payloads_may_be_dataclasses(kit: Kit) -> None:
    @dataclass
    class Owed:
        order: int

    kit.schedule("email", Owed(7))
    kit.assert_scheduled("email", Owed(7))
    kit.refute_scheduled("email", Owed(8))


def test_moments_are_compared(kit: Kit) -> None:
    kit.schedule("email", delay=60)
    kit.assert_scheduled("email", due_at=at(60))
    kit.refute_scheduled("email", due_at=at(61))


def test_only_what_is_committed_unless_a_session_is_given(kit: Kit, database: str) -> None:
    with Session(kit.engine) as session, session.begin():
        kit.app.schedule(session, "email", {"n": 1})
        kit.assert_scheduled("email", session=session)
        if database == "sqlite://":
            with pytest.raises(CallerError, match="one connection"):
                kit.refute_scheduled("email")
        else:
            kit.refute_scheduled("email")
        session.rollback()
    kit.refute_scheduled()


def test_a_field_that_is_none_is_a_slip(kit: Kit) -> None:
    with pytest.raises(TypeError, match="no field 'chanel'"):
        kit.refute_scheduled(chanel="email")


def message(kit: Kit, *arguments: object, **fields: object) -> str:
    with pytest.raises(AssertionError) as caught:
        kit.assert_scheduled(*arguments, **fields)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_nearest_are_shown_first(kit: Kit) -> None:
    kit.schedule("charge", {"order": 9})
    near = kit.schedule("email", {"order": 1}, recipient="ann@example.org", key="k1")
    told = message(kit, "email", {"order": 2}, recipient="ann@example.org")
    first, *_ = told.split("nearest of 2:\n")[1].splitlines()
    assert told.startswith(
        "nothing like this is scheduled: channel='email', payload={'order': 2}, recipient="
    )
    assert str(near.id) in first
    assert "email to 'ann@example.org': {'order': 1} (pending, due 2024-01-01 12:00:00Z, key k1)" in first
    assert "payload.order is 1, not 2" in told
    assert "channel is 'charge', not 'email'; payload.order is 9, not 2" in told


def test_a_channel_that_nobody_has_is_named(kit: Kit) -> None:
    kit.schedule("email")
    assert "no adapter is registered for channel 'emial': email, charge" in message(kit, "emial")


def test_nothing_at_all_is_told(kit: Kit) -> None:
    told = message(kit, "email")
    assert "nothing is scheduled at all" in told
    assert "session=" in told


def test_long_lists_and_payloads_are_cut(kit: Kit) -> None:
    for n in range(8):
        kit.schedule("email", {"n": n, "text": "x" * 1_000})
    told = message(kit, "email", {"n": 99})
    assert "and 3 more" in told
    assert len(told) < 5_000
    assert "tag 'a' is missing" in message(kit, tags=["a"])
    assert "payload.m is missing" in message(kit, payload={"m": 1})


def test_refuting_shows_what_there_is(kit: Kit) -> None:
    made = kit.schedule("email", {"order": 1})
    with pytest.raises(
        AssertionError, match=r"scheduled, though it should not be: channel='email'"
    ) as caught:
        kit.refute_scheduled("email")
    assert str(made.id) in str(caught.value)


# -- one attempt, without a database ---------------------------------------------------------------


@pytest.fixture
def alone() -> object:
    with under_test() as kit:
        yield kit


def test_what_an_adapter_says(alone: Kit) -> None:
    alone.app.adapter("a")(lambda delivery, attempt: {"id": delivery.payload["n"]})
    alone.app.adapter("b")(lambda delivery, attempt: Suppress("opted out"))

    @alone.app.adapter("c")
    async def c(delivery: object, attempt: object) -> None:
        raise Retry("503", after=5)

    assert type(alone.perform_delivery("a", {"n": 7})).__name__ == "Delivered"
    assert alone.perform_delivery("b") == Suppress("opted out")
    assert alone.perform_delivery("c") == Retry("503", after=5)
    assert alone.calls == []
    alone.refute_scheduled()


def test_what_an_adapter_gets(alone: Kit) -> None:
    script = alone.script("a", max_attempts=3)
    alone.perform_delivery("a", {"n": [1]}, recipient="ann", key="k", tags=["t"], attempt=2)
    alone.perform_delivery("a", attempt=3)
    (delivery, attempt), (_, last) = script.calls
    assert (delivery.payload, delivery.recipient, delivery.key, delivery.tags) == (
        {"n": [1]},
        "ann",
        "k",
        ("t",),
    )
    assert (delivery.attempt, delivery.endings, attempt.number, attempt.is_last) == (2, 1, 2, False)
    assert last.is_last
    with pytest.raises(ValueError, match="no attempt after number 3"):
        alone.perform_delivery("a", attempt=4)


def test_what_an_adapter_raises_is_raised(alone: Kit) -> None:
    alone.script("a", ZeroDivisionError("by nothing"), alone.TIMEOUT, lambda delivery, attempt: Retry)
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        alone.perform_delivery("a")
    with pytest.raises(TimeoutError, match="within 30 s"):
        alone.perform_delivery("a")
    with pytest.raises(TypeError, match="the class Retry"):
        alone.perform_delivery("a")


def test_what_could_not_be_scheduled_is_refused(alone: Kit) -> None:
    alone.script("a")
    with pytest.raises(UnknownChannel):
        alone.perform_delivery("b")
    with pytest.raises(InvalidPayload):
        alone.perform_delivery("a", {"when": object()})
