"""Applications on both databases."""

import pytest

pytest.register_assert_rewrite("support.apps")

from support.apps import (  # noqa: E402, F401 - fixtures; imported after the line above, which must come first
    app,
    apps,
    calls,
    clock,
    common_postgresql_url,
    fresh_postgresql_url,
    fresh_url,
    postgresql_url,
    timed,
)
from support.ticking import time  # noqa: E402, F401
