"""Recipients who must not get anything any more: opt-outs, hard bounces, and what operators say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deliveries import scheduling
from deliveries.errors import CallerError, InvalidSchedule, shown
from deliveries.store import suppressed
from deliveries.store.store import Bind, Store
from deliveries.store.suppressed import Suppression

if TYPE_CHECKING:
    from deliveries.twins import AsyncBind


MAX_REASON = 200


class Suppressions:
    """The suppression list of one database: `app.suppressions`.

    A recipient is kept as a digest under a key of this database, never in clear: the list outlives
    the erasure of a recipient, as it must. Case and surrounding blanks do not count. An entry is for
    one tenant, and for one channel or (None) for all. Writers take the caller's Session or Connection
    and commit nothing. Reasons and actors are kept in clear: put nothing personal there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(
        self,
        session: Bind,
        recipient: str,
        *,
        channel: str | None = None,
        tenant: str = "",
        reason: str | None = None,
        actor: str | None = None,
    ) -> bool:
        """Nothing more to this recipient. True where the entry is new; one that is there stays as it is.

        Raises: InvalidSchedule, naming the field.
        """
        told = _told(recipient, channel, tenant)
        reason = scheduling.name(reason, "reason", MAX_REASON, empty=False)
        actor = scheduling.name(actor, "actor")
        connection = self._store.caller(session)
        return suppressed.add(
            connection, recipient, self._store.now(connection), reason=reason, actor=actor, **told
        )

    def remove(self, session: Bind, recipient: str, *, channel: str | None = None, tenant: str = "") -> bool:
        """The recipient may get something again. True where there was such an entry.

        Only the entry that was made with this channel (None: with none) goes. Raises: InvalidSchedule.
        """
        told = _told(recipient, channel, tenant)
        return suppressed.remove(self._store.caller(session), recipient, **told)

    def contains(
        self, recipient: str, *, channel: str | None = None, tenant: str = "", session: Bind | None = None
    ) -> bool:
        """Whether this channel (None: every channel) is closed to the recipient. Raises: InvalidSchedule."""
        told = _told(recipient, channel, tenant)
        if session is not None:
            return suppressed.find(self._store.caller(session), recipient, **told) is not None
        with self._store.reading() as connection:
            return suppressed.find(connection, recipient, **told) is not None

    def list(
        self,
        *,
        channel: str | None = None,
        tenant: str | None = None,
        limit: int = 100,
        session: Bind | None = None,
    ) -> list[Suppression]:
        """The newest entries first, at most `limit` (1..10000). None: of all channels, of all tenants."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10_000:
            raise CallerError(f"limit must be 1..10000, not {shown(limit)}")
        if session is not None:
            return suppressed.listed(self._store.caller(session), limit, channel=channel, tenant=tenant)
        with self._store.reading() as connection:
            return suppressed.listed(connection, limit, channel=channel, tenant=tenant)

    async def aadd(self, session: AsyncBind, recipient: str, **options: Any) -> bool:
        """`add`, in the caller's asynchronous transaction."""
        return await _in(session, lambda bind: self.add(bind, recipient, **options))

    async def aremove(self, session: AsyncBind, recipient: str, **options: Any) -> bool:
        """`remove`, in the caller's asynchronous transaction."""
        return await _in(session, lambda bind: self.remove(bind, recipient, **options))

    async def acontains(self, recipient: str, **options: Any) -> bool:
        """`contains`, in a thread."""
        return await asyncio.to_thread(self.contains, recipient, **options)

    async def alist(self, **options: Any) -> Any:
        """`list`, in a thread."""
        return await asyncio.to_thread(self.list, **options)


async def _in(session: AsyncBind, act: Callable[[Any], bool]) -> bool:
    from deliveries import twins

    return await twins.in_session(session, act)


def _told(recipient: str, channel: str | None, tenant: str) -> dict[str, Any]:
    """Who, where, whose: checked. Raises: InvalidSchedule."""
    found = scheduling.text(recipient, "recipient", scheduling.MAX_RECIPIENT)
    if not found.strip():
        raise InvalidSchedule("recipient", "must not be empty")
    return {
        "channel": scheduling.name(channel, "channel", empty=False),
        "tenant": scheduling.name(tenant, "tenant") or "",
    }
