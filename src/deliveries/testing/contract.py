"""What every adapter owes the processor, as tests that are inherited. Needs pytest.

    class TestReceipt(AdapterContract):
        @pytest.fixture
        def adapter(self): return shop.receipt

        @pytest.fixture
        def payload(self): return {"order": 1}

The kit under it is the fixture `kit`. What a suite cannot know, how to see and to break the receiver,
is told by a fixture `receiver`; tests that need more of it than there is are skipped, saying so.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from deliveries.core import outcomes as o
from deliveries.core.delivery import Delivery, Status
from deliveries.testing.idempotency import check_terminal_idempotency
from deliveries.testing.kit import Kit, under_test

CHANNEL = "contract"
MANY = 8
"""Deliveries at a time."""
GRACE_SECONDS = 1.0
"""What a call may take beyond its timeout to come back."""

_SAID = (o.Delivered, o.Retry, o.Cancel, o.Discard, o.Snooze, o.Suppress, o.Unknown)


class Receiver:
    """The other side, as far as a test can see and break it. Override what yours can do."""

    def keys(self) -> Sequence[str]:
        """The idempotency keys it was called with, in order."""
        raise NotImplementedError("keys: which idempotency keys it was called with")

    def down(self) -> AbstractContextManager[Any]:
        """For the length of the `with`, it refuses every call."""
        raise NotImplementedError("down: how it refuses every call")

    def hanging(self) -> AbstractContextManager[Any]:
        """For the length of the `with`, it takes calls and answers nothing."""
        raise NotImplementedError("hanging: how it takes calls and answers nothing")


class AdapterContract:
    """Inherit it, and say what your adapter is. Every test has a database and an application of its own."""

    # -- what you say --------------------------------------------------------------------------

    @pytest.fixture
    def adapter(self) -> Callable[..., Any]:
        """Your adapter: what you decorate with `app.adapter`."""
        raise NotImplementedError("override the fixture `adapter`: return your adapter")

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """What you register it with. A short timeout makes the test of a receiver that hangs short."""
        return {}

    @pytest.fixture
    def payload(self) -> Any:
        """A payload that it delivers while the receiver is well."""
        return None

    @pytest.fixture
    def recipient(self) -> str | None:
        """Who gets it."""
        return None

    @pytest.fixture
    def receiver(self) -> Receiver:
        """The other side."""
        return Receiver()

    # -- what stands on it ---------------------------------------------------------------------

    @pytest.fixture
    def kit(self, adapter: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[Kit]:
        """An application that has this adapter only."""
        with under_test() as kit:
            kit.app.adapter(CHANNEL, **options)(adapter)
            yield kit

    @pytest.fixture
    def owe(self, kit: Kit, payload: Any, recipient: str | None) -> Callable[..., Delivery]:
        """Schedules a delivery."""
        return lambda **options: kit.schedule(CHANNEL, payload, recipient=recipient, **options)

    # -- what must hold ------------------------------------------------------------------------

    def test_it_takes_a_delivery_and_an_attempt(self, adapter: Callable[..., Any]) -> None:
        """It is called with both, by position."""
        inspect.signature(adapter).bind(object(), object())

    def test_what_it_says_is_an_outcome(self, kit: Kit, payload: Any, recipient: str | None) -> None:
        """An outcome of the kinds that adapters may say, or any other value; no class of one."""
        said = kit.perform_delivery(CHANNEL, payload, recipient=recipient)
        assert isinstance(said, _SAID), f"{said!r} is not for adapters to say"

    def test_it_delivers(self, kit: Kit, owe: Callable[..., Delivery]) -> None:
        """While the receiver is well, the first attempt succeeds."""
        id = owe().id
        kit.drain()
        _stands(kit, id, Status.SUCCEEDED)
        assert len(kit.calls) == 1, f"{len(kit.calls)} calls for one delivery"

    def test_it_leaves_the_payload_alone(self, kit: Kit, owe: Callable[..., Delivery]) -> None:
        """What it was given is as it was: others will get it too."""
        id = owe().id
        kit.drain()
        given, kept = kit.calls[0].delivery.payload, kit.app.get(id).payload
        assert given == kept, f"the adapter changed its payload: {kept!r} became {given!r}"

    def test_many_at_once(self, kit: Kit, owe: Callable[..., Delivery]) -> None:
        """It may run several times at once, as it does in production."""
        ids = [owe().id for _ in range(MANY)]
        kit.app.drain({kit.app.channels[CHANNEL].queue: MANY})
        for id in ids:
            _stands(kit, id, Status.SUCCEEDED)

    def test_a_repetition_has_the_same_key(
        self, kit: Kit, owe: Callable[..., Delivery], receiver: Receiver
    ) -> None:
        """A process dies after the effect: where it is repeated, the receiver can tell that it is."""
        first, second = owe().id, owe().id
        kit.crash_next()
        kit.drain(until="end")
        calls = [call for call in kit.calls if not call.is_lookup]
        if kit.app.channels[CHANNEL].effect != "keyed":
            pytest.skip("only a receiver that honours keys is given them")
        keys = _ask(receiver.keys)
        assert len(calls) == len(keys), f"{len(calls)} calls, but the receiver saw {len(keys)}"
        told = {
            id: {key for call, key in zip(calls, keys, strict=True) if call.delivery.id == id}
            for id in (first, second)
        }
        assert all(len(found) == 1 for found in told.values()), f"one delivery came with several keys: {keys}"
        assert told[first] != told[second], f"two deliveries came with one key: {keys}"

    def test_what_nobody_knows_is_not_repeated(self, kit: Kit, owe: Callable[..., Delivery]) -> None:
        """A process dies after an effect that would hurt twice: no further call is made on a guess."""
        registration = kit.app.channels[CHANNEL]
        if registration.on_unknown == "retry":
            pytest.skip("a repetition is harmless here, says its registration")
        id = owe().id
        kit.crash_next()
        kit.drain(until="end")
        calls = [call for call in kit.calls if not call.is_lookup]
        assert len(calls) == 1, f"called {len(calls)} times, though the first call may have done it"
        if registration.lookup is None:
            _stands(kit, id, Status.HELD)
        else:
            _stands(kit, id, Status.SUCCEEDED, Status.HELD)

    def test_the_lookup_knows_what_did_not_happen(self, kit: Kit, owe: Callable[..., Delivery]) -> None:
        """A process dies before the call: the lookup does not say that it happened."""
        if kit.app.channels[CHANNEL].lookup is None:
            pytest.skip("there is no lookup")
        id = owe().id
        kit.crash_next(before_call=True)
        kit.drain()
        kit.drain(until="end")
        calls = [call for call in kit.calls if not call.is_lookup]
        stands = kit.app.get(id).status
        assert calls or stands is not Status.SUCCEEDED, "the lookup says that it happened, and nobody called"

    @pytest.mark.parametrize("end", ["succeeded", "cancelled", "suppressed", "exhausted"])
    def test_what_has_ended_is_left_alone(self, kit: Kit, owe: Callable[..., Delivery], end: str) -> None:
        """Nobody calls it for a delivery that has ended, whatever is asked."""
        id = _led(kit, owe, end)
        calls = len(kit.calls)
        check_terminal_idempotency(kit.app, id)
        kit.drain(until="end")
        assert len(kit.calls) == calls, f"called for a delivery that was {end}"
        assert kit.findings() == []

    def test_a_receiver_that_is_down_is_tried_again(
        self, kit: Kit, owe: Callable[..., Delivery], receiver: Receiver
    ) -> None:
        """It says so, it is recorded, and nothing is given up for ever; afterwards it is delivered."""
        id = owe().id
        with _ask(receiver.down):
            kit.drain()
        event = kit.app.history(id)[-1]
        assert event.type != "Succeeded", "it says that it delivered to a receiver that was down"
        assert event.type != "Attempted", "what it said is not recorded"
        assert event.type not in ("Cancelled", "Suppressed"), (
            f"a receiver that is down may come back, but the delivery is over:\n{kit.app.explain(id)}"
        )
        assert kit.findings() == []
        if kit.app.get(id).status is Status.PENDING:
            kit.drain(until="end")
            _stands(kit, id, Status.SUCCEEDED)

    def test_it_keeps_to_its_timeout(
        self, kit: Kit, payload: Any, recipient: str | None, receiver: Receiver
    ) -> None:
        """Where the receiver hangs, the call comes back by itself; a thread cannot be interrupted."""
        registration = kit.app.channels[CHANNEL]
        raised: list[BaseException] = []
        said: list[object] = []

        def call() -> None:
            try:
                said.append(kit.perform_delivery(CHANNEL, payload, recipient=recipient))
            except BaseException as error:
                raised.append(error)

        with _ask(receiver.hanging):
            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            thread.join(registration.timeout_seconds + GRACE_SECONDS)
            hangs = thread.is_alive()
        assert not hangs, (
            f"still running {GRACE_SECONDS:g} s after its timeout of {registration.timeout_seconds:g} s: "
            "give attempt.timeout to whatever waits for the receiver"
        )
        delivered = said and isinstance(said[0], o.Delivered)
        assert not delivered, "it says that it delivered, though nobody answered"


def _ask(know: Callable[[], Any]) -> Any:
    """What the receiver tells; the test is skipped where it cannot."""
    try:
        return know()
    except NotImplementedError as error:
        pytest.skip(f"the fixture `receiver` does not say {error}")


def _stands(kit: Kit, id: Any, *statuses: Status) -> None:
    status = kit.app.get(id).status
    expected = " or ".join(statuses)
    assert status in statuses, f"{status}, not {expected}:\n{kit.app.explain(id)}"


def _led(kit: Kit, owe: Callable[..., Delivery], end: str) -> Any:
    """A delivery that has ended so."""
    expires_at = kit.clock.now() if end == "exhausted" else None
    id = owe(expires_at=expires_at).id
    if end in ("cancelled", "suppressed"):
        with kit.engine.begin() as connection:
            (kit.app.cancel if end == "cancelled" else kit.app.suppress)(connection, id)
    kit.drain()
    _stands(kit, id, Status(end))
    return id
