"""What the user says of a projection: its name, its handler, and which events it is about."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from deliveries.core.events import EVENTS, Event
from deliveries.errors import InvalidProjection, shown
from deliveries.registration import is_name, must_be_awaited
from deliveries.store.positions import Entry

Handler = Callable[[Sequence[Entry], Connection], object]


@dataclass(frozen=True, eq=False)
class Projection:
    """Something that is kept up with the log: a table of yours, counters, another store's outbox.

    Raises: InvalidProjection.
    """

    name: str
    """Under which its position is kept, so keep it: a name as channels have, at most 100 characters."""
    handle: Handler
    """`(entries, connection)`, `def` only. Gets many events at once, oldest first, at least one, and the
    connection of the transaction in which the position moves on."""
    types: Sequence[type[Event]] = ()
    """Types of `deliveries.events` that it gets; none stands for all of them, as `Event` does."""
    channels: str | Sequence[str] | None = None
    """Events of deliveries of these channels only; None: of all."""
    unreadable: bool = False
    """True: it gets events that cannot be read too, with a `problem`. Else they are passed by, and logged."""
    wanted: frozenset[str] | None = field(init=False, repr=False)
    """Names of the types that it gets; None: all, unknown ones included."""

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise InvalidProjection(
                f"projection {shown(self.name)}: its name is no name, such as paid_orders"
            )
        if not callable(self.handle) or must_be_awaited(self.handle):
            raise InvalidProjection(
                f"projection {self.name!r}: a plain function of (entries, connection) is needed, "
                f"not {shown(self.handle)}"
            )
        if inspect.isgeneratorfunction(self.handle) or inspect.isasyncgenfunction(self.handle):
            raise InvalidProjection(f"projection {self.name!r} is a generator: its body would not run")
        object.__setattr__(self, "wanted", self._wanted())
        object.__setattr__(self, "channels", self._channels())

    @property
    def key(self) -> str:
        """Its name in the table of positions, which projections of the `eventsourcing` library share."""
        return f"projection:{self.name}"

    def __call__(self, entries: Sequence[Entry], connection: Connection) -> Any:
        """Handle these, as a follower would: for tests."""
        return self.handle(entries, connection)

    def _wanted(self) -> frozenset[str] | None:
        for kind in self.types:
            if kind is not Event and kind not in EVENTS:
                raise InvalidProjection(
                    f"projection {self.name!r}: name the events it gets, such as Succeeded, not {shown(kind)}"
                )
        if not self.types or Event in self.types:
            return None
        return frozenset(kind.__name__ for kind in self.types)

    def _channels(self) -> frozenset[str] | None:
        if self.channels is None:
            return None
        named = (self.channels,) if isinstance(self.channels, str) else tuple(self.channels)
        if not named or not all(isinstance(channel, str) for channel in named):
            raise InvalidProjection(
                f"projection {self.name!r}: channels are names, at least one; None means all"
            )
        return frozenset(named)
