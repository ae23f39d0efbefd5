"""The pure heart: events, the state machine, decisions. No clock, no randomness, no IO."""

from deliveries.core.backoff import Backoff
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import TERMINAL, TRANSITIONS, diagram, evolve, fold

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "Backoff",
    "Delivery",
    "Status",
    "decide",
    "diagram",
    "evolve",
    "fold",
]
