"""The table of uniqueness: a row per digest, which names the newest delivery of its kind.

The row is what makes a window free of races. Who is not answered by what is committed already locks
it, or inserts it, in the caller's transaction, and looks again: a second caller waits for the first
one's end, whose commit shows it the delivery, and whose rollback leaves the row to it. On SQLite the
caller's transaction has the only write lock from its beginning, so looking is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection, func, literal, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from deliveries.core.delivery import Delivery
from deliveries.core.unique import Unique
from deliveries.errors import ConcurrentSchedule
from deliveries.store.failures import is_serialization_failure
from deliveries.store.postgresql import NOW
from deliveries.store.reading import KEYS_PER_STATEMENT
from deliveries.store.rows import DELIVERY_COLUMNS, Contents, delivery_of, with_contents
from deliveries.store.schema import Instant, contents, deliveries, uniques

_ROWS = "unnest(CAST(:digests AS bytea[]), CAST(:ids AS uuid[])) AS u(digest, id)"

# In the order of the digests, so that two batches wait for each other and never cross. The update
# changes nothing: it takes the lock, and returns what stands there by now, whatever the snapshot.
_LOCK = text(f"""
INSERT INTO delivery_uniques (digest, delivery_id, taken_at)
SELECT digest, id, {NOW} FROM {_ROWS} ORDER BY digest
ON CONFLICT (digest) DO UPDATE SET digest = EXCLUDED.digest
RETURNING digest, delivery_id
""")
_TAKE = text(f"""
UPDATE delivery_uniques d SET delivery_id = u.id, taken_at = {NOW} FROM {_ROWS} WHERE d.digest = u.digest
""")

_TAKE_ON_SQLITE = sqlite.insert(uniques)
_TAKE_ON_SQLITE = _TAKE_ON_SQLITE.on_conflict_do_update(
    index_elements=[uniques.c.digest],
    set_={name: _TAKE_ON_SQLITE.excluded[name] for name in ("delivery_id", "taken_at")},
)


class Holder(Struct, frozen=True):
    """The newest delivery of a kind, what stands beside it, and how long ago it was scheduled."""

    delivery: Delivery
    contents: Contents | None = None
    age: float = 0.0
    """Seconds, by the deciding clock."""

    def answers(self, unique: Unique) -> bool:
        """Whether one more of its kind would be a duplicate of it."""
        if self.delivery.status not in unique.states:
            return False
        return unique.seconds is None or self.age < unique.seconds


def holders(connection: Connection, digests: Collection[bytes], now: datetime | None) -> dict[bytes, Holder]:
    """Who holds these digests; takes no lock. `now` is None where the database's clock counts."""
    present: Any = func.statement_timestamp(type_=Instant()) if now is None else literal(now, Instant())
    found: dict[bytes, Holder] = {}
    asked = list(digests)
    for start in range(0, len(asked), KEYS_PER_STATEMENT):
        statement = (
            select(
                *DELIVERY_COLUMNS,
                uniques.c.digest.label("kind"),
                uniques.c.taken_at,
                present.label("present"),
                contents.c.recipient,
                contents.c.payload,
                contents.c.salt,
            )
            .join(deliveries, deliveries.c.id == uniques.c.delivery_id)
            .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
            .where(uniques.c.digest.in_(asked[start : start + KEYS_PER_STATEMENT]))
        )
        for row in connection.execute(statement):
            delivery = with_contents(delivery_of(row), row.recipient, row.payload)
            beside = Contents(recipient=row.recipient, payload=row.payload, salt=row.salt)
            age = (row.present - row.taken_at).total_seconds()
            found[row.kind] = Holder(delivery, None if row.salt is None else beside, age)
    return found


def lock(
    connection: Connection, wanted: Mapping[bytes, UUID], now: datetime | None
) -> tuple[dict[bytes, UUID], set[bytes]]:
    """Lock the rows of these digests until the transaction's end.

    Returns the rows that nobody had, which say by then what was wanted, and the digests of those that
    were there, and must be looked at again. Neither on SQLite, where we hold a lock on everything.
    """
    if connection.dialect.name == "sqlite":
        return {}, set()
    values = {"digests": list(wanted), "ids": list(wanted.values()), "now": now}
    rows = connection.execute(_LOCK, values).all()
    ours = {row.digest: row.delivery_id for row in rows if row.delivery_id == wanted[row.digest]}
    return ours, wanted.keys() - ours.keys()


def take(connection: Connection, taken: Mapping[bytes, UUID], now: datetime | None) -> None:
    """These deliveries are the newest of their kind, whose rows are locked."""
    if connection.dialect.name == "sqlite":
        rows = [{"digest": kind, "delivery_id": id, "taken_at": now} for kind, id in taken.items()]
        connection.execute(_TAKE_ON_SQLITE, rows)
    else:
        connection.execute(_TAKE, {"digests": list(taken), "ids": list(taken.values()), "now": now})


@contextmanager
def telling_conflicts() -> Iterator[None]:
    """A database that refuses to tell who was first says so as `ConcurrentSchedule`."""
    try:
        yield
    except DBAPIError as error:
        error.hide_parameters = True
        if is_serialization_failure(error):
            raise ConcurrentSchedule("a concurrent transaction scheduled one of the same kind") from error
        raise
