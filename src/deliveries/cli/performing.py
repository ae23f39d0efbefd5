"""The verbs that perform what is due: worker for ever, drain once."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deliveries.cli.failures import FOUND, UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, log_to_stderr, say, write

if TYPE_CHECKING:
    from deliveries.processor.ledger import Summary

FROM_ENVIRONMENT = Database()

_log = logging.getLogger("deliveries")


def worker(
    *,
    queue: tuple[str, ...] = (),
    lease: float | None = None,
    poll: float | None = None,
    grace: float | None = None,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Perform deliveries until SIGTERM or SIGINT; a second one stops at once. Needs an application.

    Args:
        queue: name=concurrency, or name; repeatable. All queues if omitted.
        lease: Seconds that a claimed delivery is ours without a heartbeat; 30 if omitted.
        poll: Seconds that a due delivery may wait without a hint; 1 if omitted, 0.2 on SQLite.
        grace: Seconds that the first signal leaves to running calls; 10 if omitted.
        database: Where the debts are.
    """
    from deliveries.cli.supervise import supervise

    given = {"lease": lease, "poll": poll, "grace": grace}
    with database.opened(channels=True) as app:
        log_to_stderr()
        queues = _queues(queue)
        settings = {name: value for name, value in given.items() if value is not None}
        processor = app.processor(queues, **settings)
        app.find(limit=1)  # a database that cannot be used is said now, not in a log for ever
        served = ", ".join(sorted(queues or {one.queue for one in app.channels.values()}))
        supervise(
            processor,
            until_idle=False,
            ready=lambda: _log.info("worker %s performs what is due in %s", processor.worker, served),
        )
        _log.info("worker %s has stopped: %s", processor.worker, _counts(processor.summary))
    return 0


def drain(*, queue: tuple[str, ...] = (), json: bool = False, database: Database = FROM_ENVIRONMENT) -> int:
    """Perform all that is due now, and end. Needs an application.

    Exits with 1 where something was left that needs a person: held, or exhausted.

    Args:
        queue: name=concurrency, or name; repeatable. All queues if omitted.
        json: Print the numbers as one line of JSON.
        database: Where the debts are.
    """
    from deliveries.cli.supervise import supervise

    with database.opened(channels=True) as app:
        log_to_stderr()
        processor = app.processor(_queues(queue))
        # with --json stdout is for data alone: what adapters print goes where logs go
        with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
            code = supervise(processor, until_idle=True)
    summary = processor.summary
    if json:
        data(summary)
    else:
        write(_counts(summary))
    if code == 0 and (summary.held or summary.exhausted):
        say("some deliveries were left held or exhausted: see list --status held, list --status exhausted")
        code = FOUND
    return code


def _counts(summary: Summary) -> str:
    numbers = ((name, getattr(summary, name)) for name in summary.__struct_fields__)
    return ", ".join(f"{number} {name}" for name, number in numbers if number) or "nothing was due"


def _queues(given: Sequence[str]) -> dict[str, int] | None:
    """Queue -> calls at a time; None: all. Raises: UsageError."""
    from deliveries.processor.settings import DEFAULT_CONCURRENCY

    queues: dict[str, int] = {}
    for one in given:
        name, separator, number = one.partition("=")
        if name in queues:
            raise UsageError(f"--queue {name!r} is given twice")
        try:
            queues[name] = int(number) if separator else DEFAULT_CONCURRENCY
        except ValueError:
            raise UsageError(f"--queue {one!r}: name=concurrency is needed, such as email=10") from None
    return queues or None
