"""What Hypothesis calls when it is imported: `st.from_type` of our types works without an import.

Named by the entry point `hypothesis`. Hypothesis may be in the middle of its own import, and may
have been asked for by `strategies`, so every strategy is made when it is first wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deliveries.core import commands, events, outcomes
from deliveries.core.delivery import Attempt, Delivery
from deliveries.core.notes import Note


def register() -> None:
    """Tell Hypothesis how our types are made."""
    from hypothesis.strategies import register_type_strategy

    for kind, make in _makers().items():
        register_type_strategy(kind, make)


def _makers() -> dict[type[Any], Callable[[type[Any]], Any]]:
    values: list[type[Any]] = [events.Rules, Note, *events.EVENTS, *commands.Command.__subclasses__()]
    found = outcomes.Outcome.__subclasses__() + outcomes.Cancel.__subclasses__()
    kinds = [kind for kind in found if kind.__module__ == outcomes.__name__]
    return {
        Delivery: lambda _: _strategies().deliveries_in(),
        Attempt: lambda _: _strategies().attempts(),
        events.Event: lambda _: _any_of(events.EVENTS),
        commands.Command: lambda _: _strategies().commands(),
        outcomes.Outcome: lambda _: _any_of(kinds),
        **dict.fromkeys(kinds, lambda kind: _strategies().OUTCOMES[kind]),
        **dict.fromkeys(values, lambda kind: _strategies().structs_of(kind)),
    }


def _any_of(kinds: Any) -> Any:
    from hypothesis import strategies as st

    return st.one_of(*map(st.from_type, kinds))


def _strategies() -> Any:
    from deliveries.testing import strategies

    return strategies
