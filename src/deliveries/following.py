"""What `Deliveries` offers to those who follow the log: projections, and reading it as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from deliveries.core.events import EVENTS, Event
from deliveries.counting import STATISTICS, Counting
from deliveries.errors import CallerError, InvalidProjection, shown
from deliveries.follower import Followed, Follower, Following
from deliveries.projection import Handler, Projection
from deliveries.registration import is_name
from deliveries.store import positions
from deliveries.store.positions import Entry, Wanted
from deliveries.store.store import Bind
from deliveries.tail import Start, entries

if TYPE_CHECKING:
    from deliveries.app import Deliveries
    from deliveries.twins import AsyncBind

Named = Projection | str


class Projecting(Counting):
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
            if name in self._projections or name == STATISTICS.name:
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
        position = _count(to, "to", 0)
        positions.place(app._store.caller(session), found.key, position or 0)

    async def arewind(self, session: AsyncBind, projection: Named, *, to: int = 0) -> None:
        """`rewind`."""
        from deliveries.twins import in_session

        await in_session(session, lambda bind: self.rewind(bind, projection, to=to))

    # -- reading it ----------------------------------------------------------------------------

    def tail(
        self,
        *kinds: type[Event],
        channels: str | Collection[str] | None = None,
        tenants: str | Collection[str] | None = None,
        after: int | None = None,
        since: datetime | None = None,
        last: int | None = None,
        name: str | None = None,
        follow: bool = False,
        poll: float = 0.5,
    ) -> Iterator[Entry]:
        """The events of the log in its order, until now; with `follow` those to come, too, for ever.

        It begins `after` a position, `since` a time (aware), with the `last` so many, or with the first.
        `name`: go on where the reader of that name stopped, if there was one; its position moves on when a
        page of 500 has been taken, so after a crash the last page comes again. Events that cannot be read
        have a `problem`. Raises: CallerError.
        """
        app = cast("Deliveries", self)
        wanted = Wanted(
            types=_types(kinds), channels=_names(channels), tenants=_names(tenants), since=_aware(since)
        )
        start = Start(after=_count(after, "after", 0), since=wanted.since, last=_count(last, "last", 0))
        if sum(given is not None for given in (after, since, last)) > 1:
            raise CallerError("give one of after, since and last")
        if name is not None and not is_name(name):
            raise CallerError(f"{shown(name)} is no name")
        how = Following(poll=poll)
        key = None if name is None else f"tail:{name}"
        return entries(app._store, app._wakeup, wanted, start, key, follow, how.poll)

    def _projection(self, given: Named) -> Projection:
        if isinstance(given, Projection):
            return given
        if given == STATISTICS.name:
            return STATISTICS
        found = self._projections.get(given) if isinstance(given, str) else None
        if found is None:
            names = ", ".join(sorted(self._projections)) or "none"
            raise InvalidProjection(f"unknown projection {shown(given)} (there are: {names})")
        return found


def _types(kinds: Collection[type[Event]]) -> frozenset[str] | None:
    for kind in kinds:
        if kind is not Event and kind not in EVENTS:
            raise CallerError(f"name types of events, such as Succeeded, not {shown(kind)}")
    return None if not kinds or Event in kinds else frozenset(kind.__name__ for kind in kinds)


def _names(given: str | Collection[str] | None) -> frozenset[str] | None:
    return None if given is None else frozenset((given,) if isinstance(given, str) else given)


def _aware(since: datetime | None) -> datetime | None:
    if since is not None and (not isinstance(since, datetime) or since.utcoffset() is None):
        raise CallerError(f"since must be an aware datetime, such as one in UTC, not {shown(since)}")
    return since


def _count(value: int | None, name: str, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise CallerError(f"{name} must be {least} or more, not {shown(value)}")
    return value
