"""The state machine that users extend: it passes on the product, and is not blind."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from msgspec import structs
from sqlalchemy import update

from deliveries import Backoff, Delivered, Deliveries, Delivery, Draft, NotDone
from deliveries.processor import claims
from deliveries.store.schema import deliveries
from deliveries.testing import DeliveryMachine
from support.databases import Server
from support.drawing import draw_until_nothing_is, drawing

DID: Counter[str] = Counter()

few = settings(drawing, max_examples=12, stateful_step_count=20)
many = settings(few, max_examples=200, stateful_step_count=30, derandomize=True)


def application() -> Deliveries:
    """Channels of every kind; payloads are what their adapters say."""
    app = Deliveries("sqlite://")
    options: dict[str, Any] = {"max_attempts": 3, "max_interruptions": 2, "backoff": Backoff.linear(5)}
    known: set[str] = set()

    @app.adapter("keyed", **options)
    async def keyed(delivery: Delivery, attempt: Any) -> Any:
        if delivery.payload == "down":
            raise ConnectionError("reset")
        return delivery.payload

    @app.adapter("held", effect="unsafe", on_unknown="hold", **options)
    def held(delivery: Delivery, attempt: Any) -> None:
        if delivery.payload == "down":
            raise ConnectionError("reset")

    def ask(delivery: Delivery, attempt: Any) -> Any:
        return Delivered() if delivery.idempotency_key in known else NotDone()

    @app.adapter("asked", effect="unsafe", lookup=ask, **options)
    def asked(delivery: Delivery, attempt: Any) -> None:
        known.add(delivery.idempotency_key)

    return app


class Shop(DeliveryMachine):
    """A user's machine, with a rule of its own."""

    app = application()
    debts: ClassVar[Any] = {
        "keyed": st.sampled_from(("well", "down")),
        "held": st.sampled_from(("well", "down")).map(lambda said: Draft(payload=said, tags=["h"])),
        "asked": st.none(),
    }

    @rule()
    def look(self) -> None:
        DID["looked"] += 1

    @invariant()
    def count(self) -> None:
        DID.update(f"{delivery.channel} {delivery.status}" for delivery in self.deliveries())


def test_it_passes_on_the_product_and_gets_about() -> None:
    DID.clear()

    def missing() -> set[str]:
        statuses = {name.split()[1] for name in DID if " " in name}
        wanted = {"looked", *(f"{channel} pending" for channel in Shop.debts), "succeeded", "cancelled"}
        return wanted - DID.keys() - statuses

    draw_until_nothing_is(missing, partial(run_state_machine_as_test, Shop, settings=few))


def test_it_works_on_postgresql(postgresql_server: Server) -> None:
    class Elsewhere(Shop):
        database = postgresql_server.url.render_as_string(hide_password=False)

    run_state_machine_as_test(Elsewhere, settings=settings(few, max_examples=3))


def test_any_payload_is_owed_where_nothing_is_said() -> None:
    class Plain(DeliveryMachine):
        app = application()

    run_state_machine_as_test(Plain, settings=settings(few, max_examples=3))


# -- known bad -------------------------------------------------------------------------------------


def caught(machine: type[DeliveryMachine]) -> str:
    with pytest.raises(AssertionError) as found:
        run_state_machine_as_test(machine, settings=many)
    return str(found.value)


def test_a_users_rule_that_breaks_something_is_caught() -> None:
    class Meddling(Shop):
        @rule()
        def meddle(self) -> None:
            with self.kit.engine.begin() as connection:
                connection.execute(update(deliveries).values(attempt=deliveries.c.attempt + 1))

    assert caught(Meddling).startswith("I8: ")


def test_a_row_that_comes_back_to_life_is_caught() -> None:
    class Reviving(Shop):
        @rule()
        def revive(self) -> None:
            live = {"status": "pending", "due_at": self.kit.clock.now()}
            ended = deliveries.c.status.in_(("succeeded", "cancelled"))
            with self.kit.engine.begin() as connection:
                connection.execute(update(deliveries).where(ended).values(live))

    assert caught(Reviving).startswith("I8: ")


def test_attempts_that_start_before_their_time_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """`perform` in a product that does not ask whether it is due."""

    class Later(Shop):
        debts: ClassVar[Any] = {"keyed": st.just(Draft(delay=60))}

    monkeypatch.setattr(claims, "_is_due", lambda one: one.delivery.status == "pending")
    assert caught(Later).startswith("N5: ")


def test_calls_of_nobodys_attempt_are_caught() -> None:
    class Calling(Shop):
        @rule()
        def call_again(self) -> None:
            if self.kit.calls:
                self.kit._stage.calls.append(self.kit.calls[-1])

    assert caught(Calling).split(":")[0] in {"N1", "I11"}


def test_a_key_that_is_forgotten_is_caught() -> None:
    class Forgetful(Deliveries):
        def schedule(self, *arguments: Any, **options: Any) -> Delivery:
            return structs.replace(super().schedule(*arguments, **options), created=True)

    class Owing(DeliveryMachine):
        app = Forgetful("sqlite://")
        debts: ClassVar[Any] = {"keyed": st.just("well")}

    Owing.app.adapter("keyed")(lambda delivery, attempt: None)
    assert caught(Owing).startswith("T2: ")
