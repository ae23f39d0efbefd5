"""Given what has happened, when something is asked, then this follows: tests over events.

given(scheduled(), attempted(1)).when(command).then(Succeeded(attempt=1))
given(scheduled()).when(command).then_nothing_happened()

`then` and `then_nothing_happened` answer with what has happened by now, so that a life can be told
in one chain. Every stream told here must keep the stream invariants.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """The delivery that `history` amounts to; None without any."""
        return fold(self.history)

    def when(self, command: Command) -> When:
        """What `command` leads to."""
        return When(self.history, command, decide(command, self.delivery))


@dataclass(frozen=True)
class When:
    """What a command led to, not yet judged."""

    history: tuple[Event, ...]
    command: Command
    events: tuple[Event, ...]

    def then(self, *expected: Event) -> Given:
        """Exactly these events followed. Raises: AssertionError."""
        if not expected:
            raise AssertionError("then() without an event: say then_nothing_happened()")
        if self.events != expected:
            raise AssertionError(self._differs(expected))
        return given(*self.history, *self.events)

    def then_nothing_happened(self) -> Given:
        """The command came too late, or was none of this delivery's. Raises: AssertionError."""
        if self.events:
            raise AssertionError(self._differs(()))
        return given(*self.history)

    def _differs(self, expected: Sequence[Event]) -> str:
        return "\n".join(
            [
                "something else happened",
                *_listed("given", self.history),
                *_listed("when", (self.command,)),
                *_listed("then this was expected", expected),
                *_listed("and this happened", self.events),
            ]
        )


def given(*history: Event) -> Given:
    """A delivery to which `history` has happened; none at all without events.

    Raises: CorruptHistory for what the state machine forbids; AssertionError for what no stream of
    ours may hold.
    """
    fold(history)
    if found := findings(history):
        raise AssertionError("\n".join(["no such history can be", *_listed("findings", found)]))
    return Given(history)


def _listed(title: str, what: Sequence[object]) -> list[str]:
    return [f"  {title}:", *(f"    {one}" for one in what or ("nothing",))]
