"""What `Deliveries` tells of hours: counts, ends and latencies, kept by a projection that comes along."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from deliveries.audit.statistics import Hour, hour_of, keep
from deliveries.errors import CallerError, shown
from deliveries.projection import Projection
from deliveries.store import positions
from deliveries.store import statistics as rows
from deliveries.store.schema import statistics as table
from deliveries.store.store import Bind

if TYPE_CHECKING:
    from deliveries.app import Deliveries
    from deliveries.twins import AsyncBind


STATISTICS = Projection("statistics", keep)
"""Follow it to keep the table up to date: `app.follow("statistics")`."""


class Counting:
    """The part of `Deliveries` that is about statistics."""

    def statistics(
        self,
        *,
        channel: str | Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        catch_up: bool = False,
    ) -> list[Hour]:
        """What happened, for each hour (UTC) and channel in which something did, the oldest hour first.

        `since`, `until`: aware; hours that begin then or later, and before then. It tells what was
        counted by followers of the projection `statistics`; `catch_up` counts the rest first.
        Raises: CallerError.
        """
        app = cast("Deliveries", self)
        conditions: list[Any] = []
        if channel is not None:
            named = [channel] if isinstance(channel, str) else list(channel)
            conditions.append(table.c.channel.in_(named))
        for name, instant in (("since", since), ("until", until)):
            if instant is not None and (not isinstance(instant, datetime) or instant.utcoffset() is None):
                raise CallerError(
                    f"{name} must be an aware datetime, such as one in UTC, not {shown(instant)}"
                )
        if since is not None:
            conditions.append(table.c.hour >= since)
        if until is not None:
            conditions.append(table.c.hour < until)
        if catch_up:
            app.follow(STATISTICS, until_caught_up=True)
        with app._store.reading() as connection:
            return [hour_of(row) for row in rows.rows_where(connection, conditions)]

    async def astatistics(self, **options: Any) -> list[Hour]:
        """`statistics`, in a thread."""
        return await asyncio.to_thread(self.statistics, **options)

    def reset_statistics(self, session: Bind) -> None:
        """Empty the statistics in the caller's transaction, so that they are counted anew from the events.

        What was pruned since is not counted any more.
        """
        app = cast("Deliveries", self)
        app.rewind(session, STATISTICS)
        rows.empty(app._store.caller(session))

    async def areset_statistics(self, session: AsyncBind) -> None:
        """`reset_statistics`."""
        from deliveries.twins import in_session

        await in_session(session, self.reset_statistics)

    def _uncounted(self) -> int:
        """Events of the log that the statistics do not count yet."""
        app = cast("Deliveries", self)
        with app._store.reading() as connection:
            return positions.behind(app._store, connection, STATISTICS.key)
