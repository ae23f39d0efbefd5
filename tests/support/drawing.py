"""How properties draw, and drawing until all was seen: Hypothesis dwells where luck has led it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from hypothesis import HealthCheck, Phase, settings

FIXTURE_IS_SHARED = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
"""To suppress where no example leaves the next one anything. A machine may be slow, as in all properties."""

ROUNDS = 40
"""So often at most: what two rounds in three miss is missed by all of them once in ten million."""

drawing = settings(
    max_examples=100,
    deadline=None,
    derandomize=False,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
"""Other examples in each round. The same ones each time would not be the same for long, either: Hypothesis
borrows constants from whatever modules are loaded."""


def draw_until_nothing_is(missing: Callable[[], Collection[object]], draw: Callable[[], None]) -> None:
    """Rounds of `draw` until nothing is `missing()` any more; at least one."""
    for _ in range(ROUNDS):
        draw()
        if not missing():
            return
    raise AssertionError(f"not in {ROUNDS} rounds: {missing()}")
