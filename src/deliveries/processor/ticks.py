"""Elapsed time and waiting, from one place, so that a simulation can own them.

Seconds of a clock that never jumps; for durations only, since no two processes share its origin.
"""

from __future__ import annotations

import time

monotonic = time.monotonic
sleep = time.sleep
