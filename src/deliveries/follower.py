"""A follower: takes a projection along the log, each event once.

Theory of operation
-------------------
A turn reads the next page of the log, then opens a transaction, moves the position from where the page
begins to where it ends, and lets the handler write. One commit makes both true, or neither. Where the
position is not where the page begins, another follower has been faster, and the page is thrown away.
Reading comes first, so that on SQLite, where a transaction of ours keeps all writers waiting, it takes no
longer than the handler.

A handler that raises is undone with the position. To find the event that it cannot take, the page is
halved and tried again, down to one event: what comes before it is done and committed, and the event itself
ends the follower (`stop`) or is logged and passed by (`skip`). What the database refuses for reasons of its
own (it went away, a deadlock) is nobody's event: it is tried again, and never skipped.

Hints only say when to look. They come from commits in this process and, on PostgreSQL, from
notifications; whoever hears none looks every `poll` seconds.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from msgspec import Struct
from sqlalchemy import Connection

from deliveries.errors import CallerError, InvalidProjection, shown
from deliveries.lent import Lent
from deliveries.processor.wakeup import Wakeup
from deliveries.projection import Projection
from deliveries.store import positions
from deliveries.store.bell import Bell
from deliveries.store.failures import cause, is_passing
from deliveries.store.positions import Entry
from deliveries.store.store import Store

OnError = Literal["stop", "skip"]

READ = 500
"""Events that are read at once, where fewer are handled in one transaction."""

BUSY_SECONDS = 0.05
"""How soon to look again where another follower of this projection is at work."""

_log = logging.getLogger("deliveries")


@dataclass(frozen=True, kw_only=True)
class Following:
    """How a follower behaves."""

    batch: int = 1_000
    """Events of the log in one transaction, at most; 1..10000."""
    on_error: OnError = "stop"
    """What becomes of an event that the handler cannot take: `stop` there, or `skip` and log it."""
    poll: float = 0.5
    """Seconds after which to look again without a hint; 0.001..86400."""
    listen: bool = True
    """On PostgreSQL, and where it goes on for ever: listen for notifications."""
    listen_url: str | None = None
    """A direct connection string for LISTEN, where a transaction pooler stands in between."""
    patience: int = 5
    """Database errors in a row before one that is to catch up gives up."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("batch", self.batch, 1, 10_000),
            ("patience", self.patience, 0, 1_000),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise CallerError(f"{name} must be {least}..{most}, not {shown(value)}")
        poll = self.poll
        if isinstance(poll, bool) or not isinstance(poll, (int, float)) or not 0.001 <= poll <= 86_400:
            raise CallerError(f"poll must be 0.001..86400 seconds, not {shown(poll)}")
        if self.on_error not in get_args(OnError):
            raise CallerError(f"on_error must be stop or skip, not {shown(self.on_error)}")


class Followed(Struct):
    """What a follower has done."""

    position: int = 0
    """Of the last event seen; 0 before the first."""
    seen: int = 0
    """Events of the log that were passed."""
    handled: int = 0
    """Of these, those that the projection's handler took."""
    skipped: int = 0
    """Those that its handler could not take, and that were passed by."""
    unreadable: int = 0
    """Those that cannot be read, and were not asked for."""


class _Page(Struct, frozen=True):
    """What one transaction is about."""

    after: int
    upto: int
    seen: int
    entries: Sequence[Entry]
    unreadable: Sequence[Entry] = ()


class _Lent(Lent):
    """As handlers get it."""

    borrower, lender, refusal = "a projection", "its follower", InvalidProjection

    def invalidate(self, exception: BaseException | None = None) -> None:
        if exception is None:
            self.close()
        else:  # SQLAlchemy says so: the connection is lost, and nobody's event is to blame
            Connection.invalidate(self, exception)


class Follower:
    """Takes one projection along the log. One use: `run` once, or `start` and `stop`."""

    def __init__(self, store: Store, wakeup: Wakeup, projection: Projection, how: Following) -> None:
        self.projection = projection
        self.followed = Followed()
        self.error: BaseException | None = None
        self._store, self._wakeup, self._how = store, wakeup, how
        self._bell = Bell()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Run in a thread of its own until `stop`."""
        name = f"deliveries-follow-{self.projection.name}"
        self._thread = threading.Thread(target=self._run_in_thread, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End once the transaction that is open, if one is, has ended."""
        self._stopping.set()
        self._bell.ring()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """True while the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def run(self, *, until_caught_up: bool = False) -> Followed:
        """Follow in this thread: until `stop`, or until there is nothing more in the log.

        Raises: what the handler raised; what the database did, when it is to catch up.
        """
        with self._hinted(listening=not until_caught_up):
            failures = 0
            while not self._stopping.is_set():
                rung = self._bell.rung  # before the look, so that no ring in between is lost
                try:
                    wait = self._turn()
                    failures = 0
                except Exception as error:
                    if not is_passing(error) or (until_caught_up and failures >= self._how.patience):
                        raise
                    failures += 1
                    wait = min(5.0, 0.05 * 2 ** min(failures, 10))
                    _log.warning("projection %s: %s; trying again", self.projection.name, cause(error))
                if wait is None:
                    if until_caught_up:
                        break
                    wait = self._how.poll
                if wait:
                    self._bell.wait(rung, wait)
        return self.followed

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self.error = error
            _log.error("the follower of projection %s ended: %s", self.projection.name, cause(error))

    @contextlib.contextmanager
    def _hinted(self, *, listening: bool) -> Iterator[None]:
        hears = listening and self._how.listen
        self._wakeup.subscribe(self._bell.ring)
        try:
            with self._wakeup.listening(self._how.listen_url) if hears else contextlib.nullcontext():
                yield
        finally:
            self._wakeup.unsubscribe(self._bell.ring)

    # -- a turn --------------------------------------------------------------------------------

    def _turn(self) -> float | None:
        """What was read at once; returns the seconds to wait before the next look, None at the end."""
        pages = self._look()
        for page in pages:
            if self._stopping.is_set():
                break
            if not self._take(page):
                return BUSY_SECONDS
            self._tell(page.unreadable)
        return 0.0 if pages else None

    def _look(self) -> list[_Page]:
        with self._store.reading() as connection:
            after = positions.position_of(connection, self.projection.key)
            rows = positions.page(self._store, connection, after or 0, max(READ, self._how.batch))
        self.followed.position = after or 0
        if after is None:
            with self._store.transaction() as connection:
                positions.begin(connection, self.projection.key)
        pages = []
        for start in range(0, len(rows), self._how.batch):
            pages.append(self._page(after or 0, rows[start : start + self._how.batch]))
            after = pages[-1].upto
        return pages

    def _page(self, after: int, rows: Sequence[Any]) -> _Page:
        wanted = positions.Wanted(self.projection.wanted, self.projection.channels)
        found = [positions.entry_of(row) for row in rows if wanted.fits(row)]
        unreadable: list[Entry] = []
        if not self.projection.unreadable:
            unreadable = [one for one in found if one.problem is not None]
            found = [one for one in found if one.problem is None] if unreadable else found
        return _Page(after, rows[-1].position, len(rows), found, unreadable)

    def _tell(self, unreadable: Sequence[Entry]) -> None:
        self.followed.unreadable += len(unreadable)
        for one in unreadable[:1]:
            _log.warning(
                "projection %s: %d events cannot be read, and are passed by; the first, at position %d, "
                "of delivery %s: %s",
                *(self.projection.name, len(unreadable), one.position, one.delivery_id, one.problem),
            )

    def _take(self, page: _Page) -> bool:
        """Do one page, in as many transactions as it needs; False where another follower has it."""
        try:
            done = self._commit(page)
        except Exception as error:
            if is_passing(error):
                raise
            if len(page.entries) > 1:
                return all(self._take(half) for half in _halves(page))
            if not page.entries or self._how.on_error == "stop":
                raise
            self._skip(page, error)
            return self._commit(_Page(page.after, page.upto, page.seen, ()))
        return done

    def _commit(self, page: _Page) -> bool:
        with self._store.transaction() as connection:
            mark = positions.move(connection, self.projection.key, page.after, page.upto)
            if mark is None:
                return False
            if page.entries:
                self._handle(connection, page.entries, mark)
        self.followed.position = page.upto
        self.followed.seen += page.seen
        self.followed.handled += len(page.entries)
        return True

    def _handle(self, connection: Connection, entries: Sequence[Entry], mark: str) -> None:
        try:
            self.projection.handle(entries, _Lent.of(connection))
            positions.still(connection, mark)
        except Exception as error:
            first, last = entries[0], entries[-1]
            which = f"positions {first.position} to {last.position}"
            if first is last:
                which = f"position {first.position}, {first.type} of delivery {first.delivery_id}"
            error.add_note(f"projection {self.projection.name!r}, {which}")
            raise

    def _skip(self, page: _Page, error: Exception) -> None:
        (one,) = page.entries
        self.followed.skipped += 1
        _log.error(
            "projection %s skips %s of delivery %s at position %d: %s",
            *(self.projection.name, one.type, one.delivery_id, one.position, cause(error)),
        )


def _halves(page: _Page) -> Iterator[_Page]:
    """Two pages with half of the entries each."""
    middle = len(page.entries) // 2
    first, second = page.entries[:middle], page.entries[middle:]
    between = first[-1].position
    assert between is not None
    yield _Page(page.after, between, len(first), first)
    yield _Page(between, page.upto, page.seen - len(first), second)
