"""Applications on both databases."""

import pytest

pytest.register_assert_rewrite("support.apps")

from support.apps import app, apps, calls, clock, timed  # noqa: E402, F401 - fixtures; after the register
