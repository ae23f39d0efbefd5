"""given, when, then: what a failed story tells."""

from __future__ import annotations

import pytest

from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.errors import CorruptHistory
from deliveries.testing import given
from deliveries.testing.examples import NOW, attempted, crashed, scheduled, start


def test_a_life_is_told_in_one_chain() -> None:
    story = given(scheduled()).when(start()).then(attempted(1)).when(start()).then_nothing_happened()
    assert story.history == (scheduled(), attempted(1))
    assert story.delivery is not None
    assert story.delivery.attempt == 1


def test_something_else_happened() -> None:
    with pytest.raises(AssertionError) as caught:
        given(scheduled()).when(c.Cancel(now=NOW)).then(e.Suppressed())
    told = str(caught.value)
    for part in (
        "given:\n    Scheduled(",
        "when:\n    Cancel(",
        "expected:\n    Suppressed(",
        "happened:\n    Cancelled(",
    ):
        assert part in told


def test_something_happened_that_should_not() -> None:
    with pytest.raises(AssertionError, match=r"expected:\n    nothing\n .*happened:\n    Cancelled"):
        given(scheduled()).when(c.Cancel(now=NOW)).then_nothing_happened()


def test_nothing_happened_that_should() -> None:
    with pytest.raises(AssertionError, match=r"happened:\n    nothing"):
        given(scheduled(), attempted(1)).when(start()).then(attempted(2))


def test_an_empty_then_is_a_slip() -> None:
    with pytest.raises(AssertionError, match="then_nothing_happened"):
        given(scheduled(), attempted(1)).when(start()).then()


def test_what_cannot_have_happened_is_refused() -> None:
    with pytest.raises(CorruptHistory):
        given(scheduled(), crashed(1))
    with pytest.raises(AssertionError, match=r"no such history can be\n  findings:\n .*N6"):
        given(scheduled(), attempted(1, max_attempts=1), crashed(1))
