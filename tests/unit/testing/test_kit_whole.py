"""Under test is the whole application: policies, hooks, limits and what recurs come along."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from deliveries import Defer, Deliveries, Delivery, Proceed, Status, Suppress, events
from deliveries.testing import Kit, VirtualClock, under_test
from deliveries.testing.examples import NOW, at


def test_policies_are_asked_in_the_tests_own_thread(kit: Kit) -> None:
    asked: list[Any] = []

    @kit.app.policy(when="attempt")
    def patience(delivery: Delivery) -> Any:
        asked.append(threading.current_thread())
        return Defer(for_=60) if len(asked) == 1 else Proceed()

    @kit.app.policy(when="attempt")
    async def opted_out(delivery: Delivery) -> Any:
        return Suppress("opted out") if delivery.payload == "news" else Proceed

    script = kit.script("email")
    bill, news = kit.schedule("email", "bill"), kit.schedule("email", "news")
    kit.drain(until="end")
    assert set(asked) == {threading.current_thread()}
    assert [delivery.id for delivery, _ in script.calls] == [bill.id]
    assert kit.app.get(news.id).status is Status.SUPPRESSED
    assert len(kit.calls) == 1
    assert kit.clock.now() == at(60)


def test_a_policy_may_take_too_long(kit: Kit) -> None:
    kit.app.policy(when="attempt", timeout=5)(lambda delivery: kit.advance(6) and Proceed())
    script = kit.script("email")
    delivery = kit.schedule("email")
    kit.drain()
    assert script.calls == []
    assert kit.app.history(delivery.id)[-1].type == "Rescheduled"


def test_hooks_write_where_the_test_is() -> None:
    app = Deliveries("sqlite:///production.db")
    app.adapter("email")(lambda delivery, attempt: None)

    @app.on(events.Succeeded)
    def thank(event: object, delivery: Delivery, connection: Any) -> None:
        if delivery.payload != "thanks":
            app.schedule(connection, "email", "thanks", recipient=delivery.recipient)

    for _ in range(2):
        with under_test(app) as kit:
            app.on(events.Scheduled)(lambda event, delivery, connection: None)
            kit.schedule("email", "bill", recipient="ann@example.org")
            assert kit.drain(until="end").succeeded == 2
            kit.assert_scheduled("email", "thanks", recipient="ann@example.org")
            assert app._hooks._of[events.Scheduled]
    assert not app._hooks._of.get(events.Scheduled)
    app.close()


def test_policies_of_the_test_are_forgotten(tmp_path: Any) -> None:
    app = Deliveries(f"sqlite:///{tmp_path / 'production.db'}")
    app.adapter("email")(lambda delivery, attempt: None)
    app.policy(lambda delivery: Proceed())
    with under_test(app) as kit:
        app.policy(lambda delivery: Suppress("never"))
        assert kit.schedule("email").status is Status.SUPPRESSED
    with under_test(app) as kit:
        assert kit.schedule("email").status is Status.PENDING
    app.close()


def test_a_drain_waits_for_room_in_a_queue(kit: Kit) -> None:
    with kit.engine.begin() as connection:
        kit.app.queues.rate(connection, "email", 2, per=timedelta(minutes=1))
    script = kit.script("email")
    for n in range(5):
        kit.schedule("email", n)
    assert kit.drain().succeeded == 2
    assert kit.next_due() is not None
    assert kit.drain(until=30).succeeded == 0
    assert kit.drain(until="end").succeeded == 3
    assert len(script.calls) == 5
    assert at(120) <= kit.clock.now() < at(122)


def test_what_recurs_does_so_on_the_way() -> None:
    with under_test(clock=VirtualClock(NOW)) as kit:
        script = kit.script("report")
        kit.app.periodic("0 * * * *", channel="report", payload=lambda tick: tick.isoformat())
        kit.drain()
        assert kit.next_due() == at(3_600)
        assert kit.drain(until=timedelta(hours=3)).succeeded == 3
        assert kit.drain(until="end").attempted == 0
        assert [delivery.payload[11:16] for delivery, _ in script.calls] == ["13:00", "14:00", "15:00"]
        assert kit.advance() == at(4 * 3_600)
