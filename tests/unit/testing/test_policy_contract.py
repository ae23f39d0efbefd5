"""The contract for policies: sound ones keep it, and each known-bad one fails by its own test."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import threading

import pytest

from deliveries import Defer, Proceed, Suppress
from deliveries.testing import PolicyContract
from deliveries.testing.lives import life
from msgspec import structs


class Contract(PolicyContract):
    seconds = 1.0

    @pytest.fixture
    def payload(self):
        return {"kind": "news", "lines": [1]}


def opted_out(delivery):
    if delivery.payload and delivery.payload["kind"] == "news" and delivery.attempt == 0:
        raise Suppress("opted out")
    return Defer(for_=60) if delivery.snoozes else Proceed


class TestSound(Contract):
    @pytest.fixture
    def policy(self):
        return opted_out


class TestAsync(Contract):
    @pytest.fixture
    def policy(self):
        async def policy(delivery):
            return opted_out(delivery)
        return policy


class TestCounting(Contract):
    repeatable = False

    @pytest.fixture
    def policy(self):
        asked = []
        def policy(delivery):
            asked.append(delivery)
            return Proceed() if len(asked) % 2 else Defer(for_=60)
        return policy


def flip(said=[]):
    said.append(None)
    return Proceed() if len(said) % 2 else Suppress("odd")


class TestTwoArguments(Contract):
    @pytest.fixture
    def policy(self):
        return lambda delivery, attempt: Proceed()


class TestBoolean(Contract):
    @pytest.fixture
    def policy(self):
        return lambda delivery: True


class TestNosy(Contract):
    @pytest.fixture
    def policy(self):
        return lambda delivery: Suppress() if delivery.recipient.endswith("@example.com") else Proceed()


class TestMutating(Contract):
    @pytest.fixture
    def policy(self):
        return lambda delivery: delivery.payload and delivery.payload["lines"].append(2) or Proceed()


class TestFlipping(Contract):
    @pytest.fixture
    def policy(self):
        return lambda delivery: flip()


class TestFar(Contract):
    @pytest.fixture
    def policy(self):
        return lambda delivery: Defer(for_=31 * 86_400)


class TestSlow(Contract):
    seconds = 0.2

    @pytest.fixture
    def policy(self):
        return lambda delivery: threading.Event().wait(0.5) or Proceed()

    @pytest.fixture
    def asked(self, payload):
        return [structs.replace(life("pending").stands, payload=payload)]
"""

FAILS = {
    "TestTwoArguments": "test_it_takes_a_delivery",
    "TestBoolean": "test_it_decides",
    "TestNosy": "test_it_decides_about_what_was_erased",
    "TestMutating": "test_it_leaves_the_payload_alone",
    "TestFlipping": "test_it_says_the_same_again",
    "TestFar": "test_a_deferral_is_within_bounds",
    "TestSlow": "test_it_does_not_keep_others_waiting",
}


def test_sound_policies_keep_it_and_bad_ones_fail(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rfs")
    failed = [line.split(" ")[1].split("::")[1:] for line in result.outlines if line.startswith("FAILED")]
    assert {name for name, _ in failed} == FAILS.keys(), result.stdout.str()
    for name, test in FAILS.items():
        assert [name, test] in failed
    for alone in ("TestNosy", "TestMutating", "TestFlipping", "TestFar", "TestSlow"):
        assert [test for name, test in failed if name == alone] == [FAILS[alone]]
    result.stdout.fnmatch_lines(["*it is not repeatable, says its contract*"])
