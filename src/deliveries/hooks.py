"""Hooks: user code in the transaction that appends an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deliveries.core import events as e

HookFunction = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A function and the events it waits for."""

    function: HookFunction
    """`(event, delivery, connection)`, `def` only."""
    events: tuple[type[e.Event], ...]
    channels: Sequence[str] | None = None
    """Deliveries of these channels only; None: of all."""
