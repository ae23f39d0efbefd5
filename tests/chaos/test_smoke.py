"""A few seconds of what `make chaos` does for minutes."""

from __future__ import annotations

from chaos.scenario import Plan, chaos


def test_nothing_breaks_under_fire() -> None:
    report = chaos(Plan(count=300, seconds=5.0, seed=7, processors=2, pause=0.2, calm=60.0))
    assert {check: found for check, found in report.findings.items() if found} == {}
    assert report.happened["deliveries"] == 300
    assert report.done["restarts, immediate"] > 0
    assert sum(number for name, number in report.done.items() if name.startswith("cuts")) > 0
