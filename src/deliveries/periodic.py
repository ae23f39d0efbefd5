"""One periodic entry: when it comes, what it makes then, and what becomes of ticks that were missed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Literal, get_args

from deliveries.cron import Cron
from deliveries.errors import InvalidSchedule, shown
from deliveries.scheduling import Draft

Missed = Literal["skip", "latest", "all"]

ON_TIME = timedelta(seconds=60)
"""A tick that is found later than this was missed."""

PAGE = 100
"""Ticks that are made in one transaction, of an entry that makes up for all it missed."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Periodic:
    """A delivery that recurs. Made by `Deliveries.periodic`, which says what the fields mean."""

    name: str
    cron: Cron
    channel: str
    payload: Any = None
    missed: Missed = "latest"
    recipient: str | None = None
    priority: int = 5
    max_attempts: int | None = None
    tags: Sequence[str] = ()
    tenant: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidSchedule("name", f"{shown(self.name)}: letters, digits, '_', '-', '.', at most 100")
        if self.missed not in get_args(Missed):
            raise InvalidSchedule("missed", f"{shown(self.missed)}: one of {', '.join(get_args(Missed))}")
        if callable(self.payload):
            _takes_tick(self.payload)

    @property
    def expression(self) -> str:
        """As it was given."""
        return self.cron.expression

    @property
    def timezone(self) -> str:
        """Where its hours are."""
        return self.cron.timezone

    @property
    def entry(self) -> tuple[str, str]:
        """What its row is found by."""
        return self.name, f"{self.expression} {self.timezone}"

    def next(self, after: datetime, count: int = 1) -> list[datetime]:
        """The next `count` ticks after an instant, in UTC."""
        return list(islice(self.cron.after(after), count))

    def key(self, tick: datetime) -> str:
        """The idempotency key of the delivery that `tick` makes: any number of processors make one."""
        return f"periodic:{self.name}:{tick:%Y-%m-%dT%H:%M:%SZ}"

    def draft(self, tick: datetime) -> Draft:
        """What is owed at `tick`. Raises: whatever a payload function raises."""
        payload = self.payload
        if callable(payload):
            payload = payload(tick) if _takes_tick(payload) else payload()
        return Draft(
            payload=payload,
            recipient=self.recipient,
            key=self.key(tick),
            due_at=tick,
            priority=self.priority,
            max_attempts=self.max_attempts,
            tags=self.tags,
            tenant=self.tenant,
        )

    def due(self, seen: datetime, now: datetime) -> tuple[list[datetime], datetime]:
        """The ticks to be made of those in (seen, now], oldest first, and up to when that looks.

        What is not older than `ON_TIME` is made by every policy. Of what was missed `skip` makes
        nothing, `latest` the last one if nothing newer is made, `all` each, a page at a time.
        """
        if self.missed == "all":
            ticks = list(islice(self._until(now, seen), PAGE))
            return ticks, ticks[-1] if len(ticks) == PAGE else now
        ticks = list(self._until(now, max(seen, now - ON_TIME)))
        if not ticks and self.missed == "latest":
            latest = self.cron.latest(seen, now)
            ticks = [] if latest is None else [latest]
        return ticks, now

    def _until(self, now: datetime, after: datetime) -> Any:
        return takewhile(lambda tick: tick <= now, self.cron.after(after))


def _takes_tick(function: Callable[..., Any]) -> bool:
    """Whether a payload function wants to know the tick. Raises: InvalidSchedule for any other."""
    if inspect.iscoroutinefunction(function):
        raise InvalidSchedule(
            "payload", "a payload function cannot be async: the adapter is the place to wait"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a builtin nothing is known
        return False
    for arguments in ((), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise InvalidSchedule("payload", "a payload function takes nothing, or the tick")
