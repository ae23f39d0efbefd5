"""With HYPOTHESIS_EXAMPLES set, each property is tried that often, on the same examples every time."""

from __future__ import annotations

import os

from hypothesis import settings

if examples := os.environ.get("HYPOTHESIS_EXAMPLES"):
    settings.register_profile("few", max_examples=int(examples), deadline=None, derandomize=True)
    settings.load_profile("few")
