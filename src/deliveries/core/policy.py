"""What a policy says of a delivery that is about to be scheduled or attempted.

`Proceed`, `Defer` and `Suppress` (which adapters say too). Returned or raised, they mean the same.
Anything else is no answer: whoever asks must not take silence for leave to send.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from deliveries.core.notes import type_name
from deliveries.core.outcomes import Outcome, Snooze, Suppress

MIN_DEFERRAL = timedelta(seconds=1)
"""No deferral is shorter: a policy without patience would keep a processor busy, and a stream growing."""


class Proceed(Outcome):
    """Nothing speaks against it. The class itself, without parentheses, says the same."""


class Defer(Snooze):
    """Not now: ask again at `until`, an aware datetime, or `for_` seconds (or a timedelta) from now.

    At least a second and at most 30 days from now; asked again, a policy may defer again. Said by an
    adapter it is a snooze. Raises: ValueError unless exactly one of the two is given.
    """

    def __init__(
        self, until: datetime | None = None, reason: object = None, *, for_: float | timedelta | None = None
    ) -> None:
        super().__init__(for_, until=until, reason=reason)

    def due_at(self, now: datetime) -> datetime:
        """When it is due again."""
        return max(super().due_at(now), now + MIN_DEFERRAL)


Decision = Proceed | Defer | Suppress


def decision_of(said: object) -> Decision:
    """The decision that `said` stands for, made anew, without its text: what is decided from is data.

    Raises: TypeError where it is none; ValueError where its numbers make no sense any more.
    """
    told: Any = said
    if said is Proceed or issubclass(type(said), Proceed):  # never asking its `__class__`
        return Proceed()
    if issubclass(type(said), Defer):
        return Defer(told.until, for_=told.for_)
    if issubclass(type(said), Suppress):
        return Suppress()
    raise TypeError(f"a policy answers Proceed, Defer or Suppress, not {type_name(said)}")
