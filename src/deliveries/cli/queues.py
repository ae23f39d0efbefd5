"""The verbs about queues, for all processors: list, pause, resume, scale, limit, rate, fair, clear."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from deliveries.cli.failures import UsageError
from deliveries.cli.options import Database
from deliveries.cli.output import data, say, write

if TYPE_CHECKING:
    from deliveries.queues import Queue, Queues

FROM_ENVIRONMENT = Database()


def list_(*, json: bool = False, database: Database = FROM_ENVIRONMENT) -> int:
    """List queues, and what is wanted of each.

    Args:
        json: Print one line of JSON for each.
        database: Where to look.
    """
    from deliveries.cli import show as view

    with database.opened() as app:
        found = app.queues.list()
    if json:
        for queue in found:
            data(queue)
    elif found:
        write(view.queues(found), wrap=False)
    else:
        say("no queues")
    return 0


def pause(
    queue: str,
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Let no attempt start in a queue; what runs goes on, and scheduling too.

    Args:
        queue: Its name.
        reason: Why.
        actor: Who says so.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    return _say(database, json, lambda ops, bind: ops.pause(bind, queue, reason=reason, actor=actor))


def resume(
    queue: str,
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """End the pause of a queue.

    Args:
        queue: Its name.
        reason: Why.
        actor: Who says so.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    return _say(database, json, lambda ops, bind: ops.resume(bind, queue, reason=reason, actor=actor))


def scale(
    queue: str,
    concurrency: str,
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Let each processor make so many calls of a queue at a time.

    Args:
        queue: Its name.
        concurrency: 1 to 10000, or none: what each processor was started with.
        reason: Why.
        actor: Who says so.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    most = _number(concurrency, "concurrency")
    return _say(database, json, lambda ops, bind: ops.scale(bind, queue, most, reason=reason, actor=actor))


def limit(
    queue: str,
    total: str,
    /,
    *,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Let all processors together have so many open attempts of a queue at a time.

    Args:
        queue: Its name.
        total: 1 to 1000000, or none.
        reason: Why.
        actor: Who says so.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    most = _number(total, "total")
    return _say(database, json, lambda ops, bind: ops.limit(bind, queue, most, reason=reason, actor=actor))


def rate(
    queue: str,
    amount: str,
    /,
    *,
    per: str = "second",
    by: Literal["tenant", "recipient"] | None = None,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Let no more attempts of a queue start within any second, minute, ... in all processors together.

    Args:
        queue: Its name.
        amount: 1 to 1000000, or none.
        per: second, minute, hour, day, or a number of seconds; second if omitted.
        by: Count each tenant, or each recipient, instead of the whole queue.
        reason: Why.
        actor: Who says so.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    most, span = _number(amount, "amount"), _span(per)
    return _say(
        database, json, lambda ops, bind: ops.rate(bind, queue, most, span, by=by, reason=reason, actor=actor)
    )


def fair(
    queue: str,
    /,
    *,
    off: bool = False,
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Let the tenants of a queue take turns.

    Args:
        queue: Its name.
        off: By priority and due time again.
        reason: Why.
        actor: Who says so.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    return _say(database, json, lambda ops, bind: ops.fair(bind, queue, not off, reason=reason, actor=actor))


def clear(queue: str, /, *, json: bool = False, database: Database = FROM_ENVIRONMENT) -> int:
    """Want nothing of a queue any more: no pause, no limits.

    Args:
        queue: Its name.
        json: Print the queue as one line of JSON.
        database: Where to write.
    """
    return _say(database, json, lambda ops, bind: ops.clear(bind, queue))


VERBS: tuple[Callable[..., int], ...] = (list_, pause, resume, scale, limit, rate, fair, clear)


def _say(database: Database, json: bool, act: Callable[[Queues, Any], Queue]) -> int:
    from deliveries.cli import show as view

    with database.opened() as app, app.engine.begin() as connection:
        queue = act(app.queues, connection)
    if json:
        data(queue)
    else:
        write(f"Queue {queue.name}: {view.wanted(queue)}")
    return 0


def _number(value: str, name: str) -> int | None:
    """A number, or none; its range is checked by the library. Raises: UsageError."""
    if value == "none":
        return None
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{name} {value!r}: a number is needed, or none") from None


def _span(value: str) -> Any:
    """Seconds, or a word that the library knows."""
    try:
        return float(value)
    except ValueError:
        return value
