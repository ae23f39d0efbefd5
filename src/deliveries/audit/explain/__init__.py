"""Why a delivery is where it is: an answer in words, computed from its events."""

from deliveries.audit.explain.explanation import Explanation, explain, told
from deliveries.audit.explain.situation import Situation, situation

__all__ = ["Explanation", "Situation", "explain", "situation", "told"]
