"""What `Deliveries` offers to those who follow the log: projections, and reading it as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from deliveries.core.events import Event
from deliveries.errors import CallerError, InvalidProjection, shown
from deliveries.follower import Followed, Follower, Following
from deliveries.projection import Handler, Projection
from deliveries.store import positions

if TYPE_CHECKING:
    from deliveries.app import Deliveries
    from deliveries.twins import AsyncBind

Bind = Session | scoped_session[Session] | Connection
Named = Projection | str


class Projecting:
    """The part of `Deliveries` that is about projections."""

    _projections: dict[str, Projection]

    def projection(
        self,
        name: str,
        *kinds: type[Event],
        channels: str | Collection[str] | None = None,
        unreadable: bool = False,
    ) -> Callable[[Handler], Projection]:
        """Make the decorated function, `(entries, connection)`, a projection to be followed.

        It gets the events of these types and channels, many at once, oldest first. What it writes
        through `connection` commits together with the projection's position, so each event counts
        once, whatever dies in between. `unreadable`: hand on events that cannot be read, too.
        Raises: InvalidProjection.
        """

        def register(handle: Handler) -> Projection:
            if name in self._projections:
                raise InvalidProjection(f"there is a projection {name!r} already")
            named = channels if channels is None or isinstance(channels, str) else tuple(channels)
            made = Projection(name, handle, kinds, named, unreadable)
            self._projections[name] = made
            return made

        return register

    @property
    def projections(self) -> Mapping[str, Projection]:
        """Name -> the projections of this application."""
        return MappingProxyType(self._projections)

    def follower(self, projection: Named, **settings: Any) -> Follower:
        """A follower of a projection, or of the one with that name, to be run or started.

        `settings`: batch (events in a transaction), on_error ("stop" or "skip"), poll (seconds),
        listen, listen_url. Raises: CallerError.
        """
        app = cast("Deliveries", self)
        found = self._projection(projection)
        try:
            how = Following(**settings)
        except TypeError as error:
            raise CallerError(str(error)) from None
        return Follower(app._store, app._wakeup, found, how)

    def follow(self, projection: Named, *, until_caught_up: bool = False, **settings: Any) -> Followed:
        """Take a projection along the log, in this thread: for ever, or until there is nothing more.

        Any number of followers may do so at once: each event is handled by one of them. Raises what
        the handler raises, with all events before that one done and committed.
        """
        return self.follower(projection, **settings).run(until_caught_up=until_caught_up)

    @contextmanager
    def following(self, projection: Named, **settings: Any) -> Iterator[Follower]:
        """`follow` in a thread, for the length of the `with`; raises at its end what ended it."""
        follower = self.follower(projection, **settings)
        follower.start()
        try:
            yield follower
        finally:
            follower.stop()
            follower.join()
        if follower.error is not None:
            raise follower.error

    async def afollow(self, projection: Named, *, until_caught_up: bool = False, **settings: Any) -> Followed:
        """`follow`, in a thread; when it is cancelled, the thread ends too."""
        follower = self.follower(projection, **settings)
        running = asyncio.create_task(asyncio.to_thread(follower.run, until_caught_up=until_caught_up))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            follower.stop()
            await asyncio.wait([running])
            raise

    @asynccontextmanager
    async def following_async(self, projection: Named, **settings: Any) -> AsyncIterator[Follower]:
        """`following`, without blocking the event loop."""
        follower = self.follower(projection, **settings)
        follower.start()
        try:
            yield follower
        finally:
            follower.stop()
            await asyncio.shield(asyncio.to_thread(follower.join))
        if follower.error is not None:
            raise follower.error

    def rewind(self, session: Bind, projection: Named, *, to: int = 0) -> None:
        """Move a projection's position, by default before the first event, in the caller's transaction.

        Afterwards, in the same transaction, empty what the projection has written: from here on no
        follower writes until it ends. `to`: the position of the last event to be taken as seen.
        Raises: CallerError.
        """
        app = cast("Deliveries", self)
        found = self._projection(projection)
        if isinstance(to, bool) or not isinstance(to, int) or not 0 <= to < 2**63:
            raise CallerError(f"a position is 0 or more, not {shown(to)}")
        positions.place(app._store.caller(session), found.key, to)

    async def arewind(self, session: AsyncBind, projection: Named, *, to: int = 0) -> None:
        """`rewind`."""
        from deliveries.twins import in_session

        await in_session(session, lambda bind: self.rewind(bind, projection, to=to))

    def _projection(self, given: Named) -> Projection:
        if isinstance(given, Projection):
            return given
        found = self._projections.get(given) if isinstance(given, str) else None
        if found is None:
            names = ", ".join(sorted(self._projections)) or "none"
            raise InvalidProjection(f"unknown projection {shown(given)} (there are: {names})")
        return found
