"""Versions of events that are not written any more, as they were, and how each becomes the next.

None yet: every event is in its first version. `upcast` says how one gets here.
"""

from __future__ import annotations

from deliveries.core.upcast import Retired

RETIRED: tuple[Retired, ...] = ()
"""All of them. What is here stays: databases hold such rows."""
