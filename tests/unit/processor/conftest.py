"""Time in the hands of a test."""

from support.ticking import time  # noqa: F401 - a fixture
