"""What every policy owes those who ask it, as tests that are inherited. Needs pytest.

    class TestQuietHours(PolicyContract):
        @pytest.fixture
        def policy(self): return shop.quiet_hours

A policy is a function, `(delivery) -> Proceed | Defer | Suppress`, `def` or `async def`. It is asked
about deliveries in every way in which one can be pending, with your payload and recipient and
without them, since both can be erased.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from msgspec import structs

from deliveries.core.delivery import Delivery
from deliveries.core.outcomes import MAX_AFTER, Outcome
from deliveries.core.policy import Decision, Defer, decision_of
from deliveries.testing.lives import DETOURS, life


class PolicyContract:
    """Inherit it, and say what your policy is."""

    repeatable: ClassVar[bool] = True
    """False where it may say something else of the same delivery at once, as one that counts does."""
    seconds: ClassVar[float] = 5.0
    """How long it may think; as it is registered."""

    # -- what you say --------------------------------------------------------------------------

    @pytest.fixture
    def policy(self) -> Callable[..., Any]:
        """Your policy: what you decorate with `app.policy`."""
        raise NotImplementedError("override the fixture `policy`: return your policy")

    @pytest.fixture
    def channel(self) -> str:
        """A channel that it is asked about."""
        return "email"

    @pytest.fixture
    def payload(self) -> Any:
        """A payload that it may see."""
        return None

    @pytest.fixture
    def recipient(self) -> str | None:
        """A recipient that it may see."""
        return "ann@example.org"

    @pytest.fixture
    def asked(self, channel: str, payload: Any, recipient: str | None) -> Sequence[Delivery]:
        """The deliveries that it is asked about: new ones, and those that have been attempted before."""
        told = [
            life("pending", detours, channel=channel).stands
            for detours in ((), *((name,) for name in DETOURS))
        ]
        return [
            structs.replace(delivery, payload=copy.deepcopy(payload), recipient=recipient)
            for delivery in told
        ]

    # -- what must hold ------------------------------------------------------------------------

    def test_it_takes_a_delivery(self, policy: Callable[..., Any]) -> None:
        """And nothing else, by position."""
        inspect.signature(policy).bind(object())

    def test_it_decides(self, policy: Callable[..., Any], asked: Sequence[Delivery]) -> None:
        """Whoever gives no answer does not send, so silence would hold up everything."""
        for delivery in asked:
            _decision(policy, delivery)

    def test_it_decides_about_what_was_erased(
        self, policy: Callable[..., Any], asked: Sequence[Delivery]
    ) -> None:
        """Recipient and payload are None then."""
        for delivery in asked:
            _decision(policy, structs.replace(delivery, payload=None, recipient=None))

    def test_it_leaves_the_payload_alone(
        self, policy: Callable[..., Any], asked: Sequence[Delivery], payload: Any
    ) -> None:
        """The adapter gets it afterwards."""
        for delivery in asked:
            _decision(policy, delivery)
            assert delivery.payload == payload, f"the policy changed the payload to {delivery.payload!r}"

    def test_it_says_the_same_again(self, policy: Callable[..., Any], asked: Sequence[Delivery]) -> None:
        """Asked about the same delivery, by another worker after a crash, it decides alike."""
        if not self.repeatable:
            pytest.skip("it is not repeatable, says its contract")
        for delivery in asked:
            first, second = _decision(policy, delivery), _decision(policy, delivery)
            assert type(first) is type(second), f"first {first!r}, then {second!r}, of {delivery}"

    def test_a_deferral_is_within_bounds(self, policy: Callable[..., Any], asked: Sequence[Delivery]) -> None:
        """Later ones are cut, and the delivery comes back earlier than the policy meant."""
        for delivery in asked:
            said = _decision(policy, delivery)
            if isinstance(said, Defer) and said.for_ is not None:
                assert said.for_ <= MAX_AFTER.total_seconds(), f"{said!r} is later than {MAX_AFTER.days} days"

    def test_it_does_not_keep_others_waiting(
        self, policy: Callable[..., Any], asked: Sequence[Delivery]
    ) -> None:
        """One that thinks for too long is not heard."""
        thread = threading.Thread(target=lambda: _said(policy, asked[0]), daemon=True)
        thread.start()
        thread.join(self.seconds)
        assert not thread.is_alive(), f"no answer within {self.seconds:g} s"


def _said(policy: Callable[..., Any], delivery: Delivery) -> Any:
    """What it returns or raises, which means the same."""
    try:
        said = policy(delivery)
        return asyncio.run(said) if inspect.iscoroutine(said) else said
    except Exception as raised:
        return raised


def _decision(policy: Callable[..., Any], delivery: Delivery) -> Decision:
    said = _said(policy, delivery)
    if isinstance(said, Exception) and not isinstance(said, Outcome):
        raise AssertionError(f"it raises {said!r} about {delivery}") from said
    try:
        return decision_of(said)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{error}, of {delivery}") from None
