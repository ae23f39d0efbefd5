"""Draining, with time that is travelled through; what scripts say, and processes that die."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from deliveries import Backoff, Bounced, Delivered, Delivery, NotDone, Retry, Snooze, Status, Unknown
from deliveries.testing import Crash, Kit, under_test
from deliveries.testing.examples import NOW, at


def kinds(kit: Kit, delivery: Delivery) -> list[str]:
    return [recorded.type for recorded in kit.app.history(delivery.id)]


def test_nothing_happens_before_it_is_drained(kit: Kit) -> None:
    script = kit.script("email")
    delivery = kit.schedule("email", {"n": 1}, recipient="ann@example.org")
    assert script.calls == []
    assert kit.drain().succeeded == 1
    ((called, attempt),) = script.calls
    assert (called.id, called.payload, called.recipient) == (delivery.id, {"n": 1}, "ann@example.org")
    assert (attempt.number, attempt.started_at) == (1, NOW)
    assert kit.app.get(delivery.id).status is Status.SUCCEEDED


def test_a_drain_without_time_leaves_retries_for_later(kit: Kit) -> None:
    kit.script("email", Retry("503"))
    delivery = kit.schedule("email")
    assert kit.drain().retrying == 1
    assert kit.drain().attempted == 0
    assert kit.app.get(delivery.id).due_at == kit.next_due() == at(60)
    assert kit.clock.now() == NOW


@pytest.mark.parametrize("until", [at(60), 60, timedelta(minutes=1)])
def test_a_drain_travels_to_what_is_due(kit: Kit, until: Any) -> None:
    kit.script("email", Retry("503"), Retry("503"))
    kit.schedule("email")
    assert kit.drain(until=until).retrying == 2
    assert kit.clock.now() == at(60)
    assert kit.drain(until=119).attempted == 0
    assert kit.clock.now() == at(179)
    assert kit.drain(until=1).succeeded == 1


def test_a_drain_stands_at_its_end(kit: Kit) -> None:
    assert kit.drain(until=3_600).attempted == 0
    assert kit.clock.now() == at(3_600)
    kit.drain(until=NOW)
    assert kit.clock.now() == at(3_600)


def test_a_drain_to_the_end(kit: Kit) -> None:
    kit.script("email", then=Retry("503"))
    kit.script("charge", Unknown("reset"))
    email, charge = kit.schedule("email", delay=86_400), kit.schedule("charge")
    summary = kit.drain(until="end")
    assert (summary.attempted, summary.retrying, summary.exhausted, summary.held) == (4, 2, 1, 1)
    assert kit.app.get(email.id).status is Status.EXHAUSTED
    assert kit.app.get(charge.id).status is Status.HELD
    assert kit.clock.now() == at(86_400 + 60 + 120)
    assert kit.next_due() is None


def test_what_adapters_owe_is_performed_by_the_same_drain(kit: Kit) -> None:
    def cascade(delivery: Delivery, attempt: object) -> None:
        if delivery.payload:
            kit.schedule("email", delivery.payload - 1, delay=10)

    kit.script("email", then=cascade)
    kit.schedule("email", 3)
    assert kit.drain().succeeded == 1
    assert kit.drain(until=20).succeeded == 2
    assert kit.drain(until="end").succeeded == 1


def test_a_deadline_ends_it_on_the_way(kit: Kit) -> None:
    script = kit.script("email", then=Snooze(50))
    delivery = kit.schedule("email", expires_at=at(120))
    kit.drain(until="end")
    assert len(script.calls) == 3
    assert kit.clock.now() == at(120)
    assert kit.app.get(delivery.id).status is Status.EXHAUSTED


def test_advance_moves_the_clock_and_nothing_else(kit: Kit) -> None:
    script = kit.script("email")
    kit.schedule("email", delay=90)
    assert kit.advance(30) == at(30)
    assert kit.advance() == at(90)
    assert script.calls == []
    kit.drain()
    with pytest.raises(AssertionError, match="nothing is due"):
        kit.advance()


def test_one_queue_may_be_drained_alone(kit: Kit) -> None:
    kit.schedule("email")
    charge = kit.schedule("charge")
    assert kit.drain(queues={"charge": 1}).succeeded == 1
    assert kit.app.get(charge.id).status is Status.SUCCEEDED


def test_one_delivery_may_be_performed_alone(kit: Kit) -> None:
    first, second = kit.schedule("email"), kit.schedule("email")
    later = kit.schedule("email", delay=5)
    assert kit.perform(second.id).succeeded == 1
    assert kit.perform(later.id).attempted == kit.perform(second.id).attempted == 0
    assert kit.app.get(first.id).status is Status.PENDING


def test_a_debt_that_breeds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deliveries.testing.performing.MAX_CALLS", 20)
    with under_test() as kit:
        kit.script("email", then=lambda delivery, attempt: kit.schedule("email") and None)
        kit.schedule("email")
        with pytest.raises(AssertionError, match="every call owes something new"):
            kit.drain()


# -- scripts -------------------------------------------------------------------------------------


def test_a_script_says_one_thing_a_call(kit: Kit) -> None:
    script = kit.script(
        "email",
        Retry("503"),
        ValueError("broken"),
        KeyError,
        lambda delivery, attempt: Snooze(attempt.number),
        then=Bounced("gone"),
        max_attempts=9,
    )
    delivery = kit.schedule("email")
    kit.drain(until="end")
    history = kit.app.history(delivery.id)
    assert [recorded.type for recorded in history if recorded.type not in ("Scheduled", "Attempted")] == [
        "Failed",
        "Failed",
        "Failed",
        "Rescheduled",
        "Cancelled",
    ]
    notes = [recorded.note for recorded in history if recorded.note]
    assert notes == ["503", "ValueError: broken", "KeyError: KeyError()", "gone"]
    assert script.left == 0
    assert [attempt.number for _, attempt in script.calls] == [1, 2, 3, 4, 5]


def test_a_script_keeps_the_rules_of_its_channel(kit: Kit) -> None:
    kit.script("charge", ConnectionError("reset"))
    delivery = kit.schedule("charge")
    kit.drain()
    assert kit.app.get(delivery.id).status is Status.HELD
    assert kit.app.channels["charge"].effect == "unsafe"


def test_a_script_makes_a_channel(kit: Kit) -> None:
    kit.script("sms", Delivered({"id": 7}), queue="fast")
    delivery = kit.schedule("sms")
    assert delivery.queue == "fast"
    kit.drain()
    assert kit.app.history(delivery.id)[-1].note == '{"id":7}'


def test_a_call_may_take_too_long(kit: Kit) -> None:
    kit.script("email", kit.TIMEOUT)
    delivery = kit.schedule("email")
    kit.drain(until="end")
    assert kinds(kit, delivery)[-3:] == ["Failed", "Attempted", "Succeeded"]
    failed: Any = kit.app.history(delivery.id)[2].event
    assert failed.cause == "timeout"
    assert kit.clock.now() == at(30 + 60)


def test_a_process_may_die_in_a_call(kit: Kit) -> None:
    script = kit.script("email", kit.CRASH)
    delivery = kit.schedule("email")
    kit.drain()
    assert kit.app.get(delivery.id).status is Status.ATTEMPTING
    assert kit.next_due() == at(30)
    kit.drain(until="end")
    assert kinds(kit, delivery) == ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]
    assert len({called.idempotency_key for called, _ in script.calls}) == 1


@pytest.mark.parametrize(("before_call", "calls"), [(False, 2), (True, 1)])
def test_a_process_may_die_around_any_adapter(kit: Kit, before_call: bool, calls: int) -> None:
    delivery = kit.schedule("email")
    kit.crash_next(before_call=before_call)
    kit.drain(until="end")
    assert len(kit.calls) == calls
    assert kinds(kit, delivery) == ["Scheduled", "Attempted", "Interrupted", "Attempted", "Succeeded"]


def test_an_adapter_may_say_that_its_process_dies(kit: Kit) -> None:
    @kit.app.adapter("pdf")
    async def pdf(delivery: Delivery, attempt: Any) -> None:
        if attempt.number == 1:
            raise Crash

    delivery = kit.schedule("pdf")
    kit.drain(until="end")
    assert "Interrupted" in kinds(kit, delivery)


def test_lookups_are_asked_at_their_time(kit: Kit) -> None:
    answers = [NotDone(), Delivered()]
    kit.script(
        "pay",
        kit.CRASH,
        Unknown("reset"),
        effect="unsafe",
        lookup=lambda delivery, attempt: answers.pop(0),
        backoff=Backoff.linear(60),
    )
    delivery = kit.schedule("pay")
    kit.drain(until="end")
    assert kinds(kit, delivery) == [
        "Scheduled",
        "Attempted",
        "Held",
        "Rescheduled",
        "Attempted",
        "Held",
        "Succeeded",
    ]
    assert [call.is_lookup for call in kit.calls] == [False, True, False, True]


# -- threads and loops ---------------------------------------------------------------------------


def test_sync_adapters_run_in_the_tests_own_thread(kit: Kit) -> None:
    seen: list[threading.Thread] = []
    kit.script("email", lambda delivery, attempt: seen.append(threading.current_thread()))
    kit.schedule("email")
    kit.drain()
    assert seen == [threading.current_thread()]


def test_async_adapters_share_one_loop(kit: Kit) -> None:
    loops = []

    @kit.app.adapter("push", backoff=Backoff.linear(1))
    async def push(delivery: Delivery, attempt: Any) -> Any:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return Retry("once more") if attempt.number == 1 else None

    kit.schedule("push")

    async def from_a_loop() -> None:
        kit.drain(until="end")

    asyncio.run(from_a_loop())
    assert len(loops) == 2
    assert loops[0] is loops[1]


def test_the_products_own_processor_works_there_too(kit: Kit) -> None:
    """With its threads, on the same database and the same clock."""
    script = kit.script("email", Retry("503"))
    ids = [kit.schedule("email").id for _ in range(5)]
    assert kit.app.drain().attempted == 5
    kit.advance(60)
    with kit.app.running(poll=0.01):
        deadline = threading.Event()
        for _ in range(2_000):
            if all(kit.app.get(id).is_terminal for id in ids):
                break
            deadline.wait(0.01)
    assert {kit.app.get(id).status for id in ids} == {Status.SUCCEEDED}
    assert len(script.calls) == 6
