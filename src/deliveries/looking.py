"""Looking: why one delivery is where it is, which deliveries there are, what belongs together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from deliveries import scheduling
from deliveries.audit import trace as tracing
from deliveries.audit.doctor import LATE_SECONDS, LONG_SECONDS, Diagnosis, examine
from deliveries.audit.explain import Explanation, explain, situation
from deliveries.audit.trace import Trace
from deliveries.core.delivery import Delivery
from deliveries.core.stream import replay
from deliveries.errors import CallerError, shown
from deliveries.store.evidence import gathered
from deliveries.store.store import Bind
from deliveries.where import Filter, Where, where_of

if TYPE_CHECKING:
    from deliveries.app import Deliveries

Id = UUID | str

MOST = 10_000
"""Deliveries in one answer."""


class Looking:
    """The part of `Deliveries` that answers questions."""

    @property
    def _here(self) -> Deliveries:
        return cast("Deliveries", self)

    def explain(self, id: Id, *, session: Bind | None = None) -> Explanation:
        """Where it stands, why, by which rule, what happens next and when, and all that happened.

        `str()` of it is for people, `to_html()` and `to_markdown()` for pages. It is computed from
        events; what rows say beside them is kept apart. Raises: DeliveryNotFound, CorruptHistory.
        """
        app, delivery_id = self._here, scheduling.parse_id(id)
        with app._reading(session) as connection:
            history = app._store.history(connection, delivery_id)
            now = app._store.now(connection)
            evidence = gathered(connection, delivery_id)
            delivery = replay(history).delivery
            assert delivery is not None, "a stream has at least one event"
            found = situation(connection, delivery, now, app._registrations)
            return explain(history, now, evidence, found)

    def find(
        self,
        where: Filter | None = None,
        *,
        limit: int = 100,
        after: Id | None = None,
        session: Bind | None = None,
        **wanted: Any,
    ) -> list[Delivery]:
        """Deliveries that fit, newest first, at most `limit` (1..10000), without contents.

        `wanted` are the fields of `Where`: status, channel, queue, tenant, key, tag, ... ; None fits all.
        `after`: go on behind this delivery, the last one of the page before.
        Raises: InvalidFilter, CallerError.
        """
        most = _limit(limit)
        fitting, behind = where_of(where, wanted), None if after is None else scheduling.parse_id(after)
        with self._here._reading(session) as connection:
            conditions = fitting.conditions()
            return self._here._store.find(connection, most, conditions, fitting.fits, before=behind)

    def pages(
        self, where: Filter | None = None, *, limit: int = 1_000, **wanted: Any
    ) -> Iterator[list[Delivery]]:
        """All deliveries that fit, newest first, `limit` (1..10000) at a time, each page read by itself.

        What is scheduled meanwhile is in none. Raises: as `find`.
        """
        most, fitting = _limit(limit), where_of(where, wanted)
        return self._pages(fitting, most)

    def _pages(self, fitting: Where, limit: int) -> Iterator[list[Delivery]]:
        after: UUID | None = None
        while page := self.find(fitting, limit=limit, after=after):
            yield page
            if len(page) < limit:
                return
            after = page[-1].id

    def trace(self, correlation_id: str, *, limit: int = 1_000, session: Bind | None = None) -> Trace:
        """The deliveries of one correlation id, as a tree of what caused what, redrives too.

        At most `limit` (1..10000). Causes that are not in it are named. Raises: InvalidFilter, CallerError.
        """
        most = _limit(limit)
        fitting = Where(correlation_id=correlation_id)
        with self._here._reading(session) as connection:
            found, _ = self._here._store.page(connection, fitting.conditions(), most + 1)  # oldest first
            return tracing.trace(connection, correlation_id, found, most)

    def doctor(self, *, late: float = LATE_SECONDS, long: float = LONG_SECONDS) -> Diagnosis:
        """Why does nothing move: named checks of the database and of who works on it.

        `late`: seconds for which something may be due; `long`: seconds for which a transaction may be open.
        It writes nothing and waits for nobody longer than a second; what cannot be looked at is `unknown`.
        Raises: CallerError.
        """
        return examine(self._here._store, self._here.channels.keys(), _seconds(late), _seconds(long))


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10**9:
        raise CallerError(f"seconds from 0 to a billion are needed, not {shown(value)}")
    return float(value)


def _limit(limit: object) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise CallerError(f"limit must be 1..{MOST}, not {shown(limit)}")
    return limit
