"""The verb `demo`."""

from __future__ import annotations

from pathlib import Path

from deliveries.cli.options import Common

NOTHING_ELSE = Common()


def demo(
    *, deliveries: int = 1_000, seed: int = 2_026, keep: Path | None = None, common: Common = NOTHING_ELSE
) -> int:
    """Show the main job, faults and all, on a SQLite file of its own.

    Args:
        deliveries: How many to schedule, 50 to 10000; 1000 if omitted.
        seed: Which faults happen; 2026 if omitted.
        keep: Leave the database in this file, which must not exist.
        common: No database is needed.
    """
    from deliveries.cli.demo import run
    from deliveries.cli.output import text_console

    return run(text_console(), deliveries=deliveries, seed=seed, keep=keep)
