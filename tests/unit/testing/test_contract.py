"""The contract for adapters: sound ones keep it, and each known-bad one fails by its own test."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

COMMON = '''
import asyncio
import threading
from contextlib import contextmanager

import pytest

from deliveries import Cancel, Delivered, NotDone, Retry
from deliveries.testing import AdapterContract, Receiver


class Provider(Receiver):
    """The other side, in memory."""

    def __init__(self):
        self.seen, self.is_down, self.answers = [], False, threading.Event()
        self.answers.set()

    def keys(self):
        return self.seen

    @contextmanager
    def down(self):
        self.is_down = True
        yield
        self.is_down = False

    @contextmanager
    def hanging(self):
        self.answers.clear()
        yield
        self.answers.set()

    def send(self, key, timeout=None):
        if self.is_down:
            raise ConnectionError("refused")
        if not self.answers.wait(timeout):
            raise TimeoutError
        self.seen.append(key)


class Contract(AdapterContract):
    @pytest.fixture
    def receiver(self):
        return Provider()

    @pytest.fixture
    def payload(self):
        return {"order": 1, "lines": [1, 2]}

    @pytest.fixture
    def options(self):
        return {"timeout": 0.2}
'''

SOUND = '''
class TestSync(Contract):
    @pytest.fixture
    def adapter(self, receiver):
        def adapter(delivery, attempt):
            receiver.send(delivery.idempotency_key, attempt.timeout)
        return adapter


class TestAsync(Contract):
    @pytest.fixture
    def adapter(self, receiver):
        async def adapter(delivery, attempt):
            while not receiver.answers.is_set():
                await asyncio.sleep(0.01)
            receiver.send(delivery.idempotency_key)
            return Delivered({"id": 7})
        return adapter


class TestUnsafeWithLookup(Contract):
    @pytest.fixture
    def options(self, receiver):
        def look_up(delivery, attempt):
            return Delivered() if delivery.idempotency_key in receiver.seen else NotDone()
        return {"timeout": 0.2, "effect": "unsafe", "lookup": look_up}

    @pytest.fixture
    def adapter(self, receiver):
        def adapter(delivery, attempt):
            receiver.send(delivery.idempotency_key, attempt.timeout)
        return adapter


class TestUnsafe(TestSync):
    @pytest.fixture
    def options(self):
        return {"timeout": 0.2, "effect": "unsafe", "on_unknown": "hold"}


class TestBare(AdapterContract):
    """Nothing is told of the receiver."""

    @pytest.fixture
    def adapter(self):
        return lambda delivery, attempt: None
'''

BAD = {
    "one_argument": ("lambda delivery: None", "test_it_takes_a_delivery_and_an_attempt"),
    "class": ("lambda delivery, attempt: Retry", "test_what_it_says_is_an_outcome"),
    "not_done": ("lambda delivery, attempt: NotDone()", "test_what_it_says_is_an_outcome"),
    "failing": ("lambda delivery, attempt: Retry('always')", "test_it_delivers"),
    "mutating": ("mutate", "test_it_leaves_the_payload_alone"),
    "key_by_attempt": (
        "lambda delivery, attempt: receiver.send(f'{delivery.id}:{attempt.number}', 0.1)",
        "test_a_repetition_has_the_same_key",
    ),
    "one_key": ("lambda delivery, attempt: receiver.send('key', 0.1)", "test_a_repetition_has_the_same_key"),
    "swallowing": ("swallow", "test_a_receiver_that_is_down_is_tried_again"),
    "giving_up": ("give_up", "test_a_receiver_that_is_down_is_tried_again"),
    "patient": ("lambda delivery, attempt: receiver.send(delivery.id, 5)", "test_it_keeps_to_its_timeout"),
    "hopeful": ("hope", "test_it_keeps_to_its_timeout"),
    "one_at_a_time": ("alone", "test_many_at_once"),
}

WORSE = """
class TestBad(Contract):
    @pytest.fixture
    def adapter(self, receiver):
        busy = threading.Lock()

        def mutate(delivery, attempt):
            receiver.send(delivery.idempotency_key, 0.1)
            delivery.payload["lines"].append(3)

        def swallow(delivery, attempt):
            try:
                receiver.send(delivery.idempotency_key, 0.1)
            except ConnectionError:
                pass

        def give_up(delivery, attempt):
            try:
                receiver.send(delivery.idempotency_key, 0.1)
            except ConnectionError:
                return Cancel("down")

        def hope(delivery, attempt):
            try:
                receiver.send(delivery.idempotency_key, 0.1)
            except TimeoutError:
                return Delivered()

        def alone(delivery, attempt):
            if not busy.acquire(blocking=False):
                raise RuntimeError("not reentrant")
            try:
                threading.Event().wait(0.05)
                receiver.send(delivery.idempotency_key, 0.1)
            finally:
                busy.release()

        return {adapter}
"""

BAD_LOOKUP = """
class TestBad(Contract):
    @pytest.fixture
    def options(self):
        return {"timeout": 0.2, "effect": "unsafe", "lookup": lambda delivery, attempt: {answer}}

    @pytest.fixture
    def adapter(self, receiver):
        return lambda delivery, attempt: receiver.send(delivery.idempotency_key, attempt.timeout)
"""


ALONE = {"mutating", "key_by_attempt", "one_key", "swallowing", "giving_up", "hopeful", "one_at_a_time"}
"""These do everything else as they should."""


def failed(pytester: pytest.Pytester, text: str) -> set[str]:
    """Which tests of a user's suite fail."""
    pytester.makepyfile(COMMON + text)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rfs")
    names = [line.split("::")[-1] for line in result.outlines if line.startswith("FAILED")]
    return {name.split(" ")[0].split("[")[0] for name in names}


def test_sound_adapters_keep_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(COMMON + SOUND)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rs")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed", "skipped"}, result.stdout.str()
    reasons = {line.split(": ", 1)[1] for line in result.outlines if line.startswith("SKIPPED")}
    assert reasons == {
        "only a receiver that honours keys is given them",
        "a repetition is harmless here, says its registration",
        "there is no lookup",
        "the fixture `receiver` does not say keys: which idempotency keys it was called with",
        "the fixture `receiver` does not say down: how it refuses every call",
        "the fixture `receiver` does not say hanging: how it takes calls and answers nothing",
    }


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_adapter_fails_by_its_own_test(pytester: pytest.Pytester, bad: str) -> None:
    adapter, test = BAD[bad]
    found = failed(pytester, WORSE.replace("{adapter}", adapter))
    assert test in found
    if bad in {
        "mutating",
        "key_by_attempt",
        "one_key",
        "swallowing",
        "giving_up",
        "hopeful",
        "one_at_a_time",
    }:
        assert list(found) == [test]


@pytest.mark.parametrize(
    ("answer", "test"),
    [
        ("NotDone()", "test_what_nobody_knows_is_not_repeated"),
        ("Delivered()", "test_the_lookup_knows_what_did_not_happen"),
    ],
)
def test_a_lookup_that_makes_things_up_fails(pytester: pytest.Pytester, answer: str, test: str) -> None:
    assert test in failed(pytester, BAD_LOOKUP.replace("{answer}", answer))


def test_a_contract_without_an_adapter_says_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(COMMON + "class TestNothing(AdapterContract): pass")
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-x")
    result.stdout.fnmatch_lines(["*override the fixture `adapter`: return your adapter*"])
