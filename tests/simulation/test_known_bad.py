"""The simulation is not blind: what is known to be wrong is found, and soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deliveries.processor.call import Call
from deliveries.processor.ledger import Ledger
from simulation.ground import Ground
from simulation.history import live
from support.variants import VARIANTS, variant

PATIENCE = 400
"""Histories until the first in which a rule breaks; it takes some dozens."""


def found(ground: Ground) -> set[str]:
    """The rules that break in the first history in which one does."""
    for seed in range(PATIENCE):
        if broken := live(seed, ground).findings:
            ground.close()
            return {finding.rule for finding in broken}
    return set()


@pytest.mark.parametrize("accepts", VARIANTS, ids=lambda accepts: accepts.__name__)
def test_a_store_without_the_fence_is_caught(accepts: Callable[[Any, Any], bool]) -> None:
    assert found(Ground(variant("sqlite", accepts)))


def test_an_adapter_entered_after_its_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(call: Call) -> bool:
        call.entered = True
        return True

    monkeypatch.setattr(Call, "enter", enter)
    assert "N1" in found(Ground())


def test_a_report_that_is_dropped_when_its_commit_fails_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(ledger: Ledger) -> None:
        ledger.finished.clear()

    monkeypatch.setattr(Ledger, "doubt", forget)
    assert found(Ground())
