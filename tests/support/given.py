"""Given what has happened, when something is asked, then this follows: tests over events.

given(scheduled(), attempted(1)).when(command).then(Succeeded(attempt=1))
given(scheduled()).when(command).then_nothing_happened()

`then` and `then_nothing_happened` answer with what has happened by now, so that a life can be told
in one chain. Every stream told here must keep the stream invariants.
"""

from __future__ import annotations

from dataclasses import dataclass

from deliveries.audit.invariants import findings
from deliveries.core.commands import Command
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery
from deliveries.core.events import Event
from deliveries.core.machine import fold


@dataclass(frozen=True)
class Given:
    """A delivery by its history."""

    history: tuple[Event, ...]

    @property
    def delivery(self) -> Delivery | None:
        return fold(self.history)

    def when(self, command: Command) -> When:
        return When(self.history, decide(command, self.delivery))


@dataclass(frozen=True)
class When:
    """What a command led to, not yet judged."""

    history: tuple[Event, ...]
    events: tuple[Event, ...]

    def then(self, *expected: Event) -> Given:
        assert self.events == expected
        assert expected, "say then_nothing_happened()"
        return given(*self.history, *self.events)

    def then_nothing_happened(self) -> Given:
        assert self.events == ()
        return given(*self.history)


def given(*history: Event) -> Given:
    """A delivery to which `history` has happened; none at all without events."""
    fold(history)
    assert findings(history) == []
    return Given(history)
