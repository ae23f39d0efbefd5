"""What is wanted of queues, and what claims must know to honour it.

All that a limit needs is read and written under the lock of its queue's row, so that those who claim
from a limited queue do it one after the other. Nobody waits for that lock: who finds it taken claims
nothing from this queue now, and his other queues go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, exists, select, text, update

from deliveries.core.delivery import Status
from deliveries.core.window import Rate, Window
from deliveries.store.rows import CLAIM_COLUMNS, Claimed, claimed_of
from deliveries.store.schema import READY, Id, Instant, contents, deliveries, queues, shares, workers
from deliveries.store.store import Store

RateBy = Literal["tenant", "recipient"]


class Wanted(Struct, frozen=True, kw_only=True):
    """What the row of a queue says; without a row all of it is as here."""

    queue: str
    paused_at: datetime | None = None
    concurrency: int | None = None
    total: int | None = None
    rate_amount: int | None = None
    rate_seconds: float | None = None
    rate_by: RateBy | None = None
    fair: bool = False
    turn: str = ""
    salt: bytes = b""
    changed_at: datetime | None = None
    actor: str | None = None
    reason: str | None = None

    @property
    def rate(self) -> Rate | None:
        """How often an attempt may start."""
        if self.rate_amount is None or self.rate_seconds is None:
            return None
        return Rate(self.rate_amount, self.rate_seconds)

    @property
    def by_tenant(self) -> bool:
        """Whether tenants take turns: where that is wanted, and where each has a rate of its own."""
        return self.fair or self.rate_by == "tenant"

    @property
    def is_limited(self) -> bool:
        """Whether claims must be made one after the other."""
        return self.total is not None or self.rate is not None or self.fair

    @property
    def says_nothing(self) -> bool:
        """Whether it is as if there were no row."""
        return self.paused_at is None and self.concurrency is None and not self.is_limited


# The partial indexes of open attempts, and of what policies are asked about, are small, whatever the
# table holds, and the LIMIT bounds the rest.
_OPEN = text("""
SELECT count(*) FROM (
  SELECT 1 FROM deliveries WHERE status = 'attempting' AND queue = :queue
  UNION ALL
  SELECT 1 FROM deliveries WHERE status = 'pending' AND lease_owner IS NOT NULL
    AND queue = :queue AND lease_until > :now
  LIMIT :most) AS found
""").bindparams(bindparam("now", type_=Instant()))

# From tenant to tenant by the index (queue, tenant, ...), without reading what lies between: a tenant
# with a hundred thousand deliveries costs as much as one with a single one.
_NEXT = "SELECT min(tenant) FROM deliveries WHERE status = 'pending' AND queue = :queue"


def _tenants(first: str) -> Any:
    return text(f"""
WITH RECURSIVE found(tenant, number) AS (
  SELECT ({_NEXT}{first}), 1
  UNION ALL
  SELECT ({_NEXT} AND tenant > found.tenant), found.number + 1
  FROM found WHERE found.tenant IS NOT NULL AND found.number < :most)
SELECT tenant FROM found WHERE tenant IS NOT NULL
""")


_TENANTS, _TENANTS_AFTER = _tenants(""), _tenants(" AND tenant > :after")

# As the claim: priority by priority, each one range of an index, here (queue, tenant, priority, READY).
_DUE_POSTGRESQL = text(f"""
SELECT t.tenant, d.id
FROM unnest(CAST(:tenants AS text[]), CAST(:rooms AS int[])) AS t(tenant, room)
CROSS JOIN LATERAL (
  SELECT e.id FROM generate_series(0, 9) AS p(priority) CROSS JOIN LATERAL (
    SELECT id FROM deliveries
    WHERE status = 'pending' AND queue = :queue AND tenant = t.tenant AND priority = p.priority
      AND {READY} <= least(CAST(:cutoff AS timestamptz), CAST(:now AS timestamptz))
      AND channel = ANY(CAST(:channels AS text[]))
    ORDER BY {READY} LIMIT t.room FOR UPDATE SKIP LOCKED) e
  LIMIT t.room) d
""").columns(id=Id())

_DUE_SQLITE = (
    text(
        " UNION ALL ".join(
            f"""
SELECT * FROM (SELECT id FROM deliveries
  WHERE status = 'pending' AND queue = :queue AND tenant = :tenant AND priority = {priority}
    AND {READY} <= :by AND channel IN (SELECT value FROM json_each(:channels))
  ORDER BY {READY} LIMIT :room)"""
            for priority in range(10)
        )
        + " LIMIT :room"
    )
    .bindparams(bindparam("by", type_=Instant()))
    .columns(id=Id())
)

_LOAD = (
    select(*CLAIM_COLUMNS)
    .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
    .where(deliveries.c.id.in_(bindparam("ids", expanding=True)))
)

# One statement for many rows where there is a round trip to save; SQLite has none, and repeats its own.
_PUT_OFF = {
    "postgresql": text("""
UPDATE deliveries d SET lease_until = u.until
FROM unnest(CAST(:ids AS uuid[]), CAST(:untils AS timestamptz[])) AS u(id, until) WHERE d.id = u.id
"""),
    "sqlite": text("UPDATE deliveries SET lease_until = :until WHERE id = :id").bindparams(
        bindparam("until", type_=Instant()), bindparam("id", type_=Id())
    ),
}

_WINDOWS = {
    dialect: text(f"SELECT share, state FROM delivery_shares WHERE queue = :queue AND share {among}")
    for dialect, among in {
        "postgresql": "= ANY(CAST(:names AS text[]))",
        "sqlite": "IN (SELECT value FROM json_each(:names))",
    }.items()
}

_AGAIN = """
ON CONFLICT (queue, share) DO UPDATE SET state = excluded.state, over_at = excluded.over_at
"""
_KEEP = {
    "postgresql": text(f"""
INSERT INTO delivery_shares (queue, share, state, over_at)
SELECT :queue, u.share, u.state, u.over_at FROM unnest(CAST(:shares AS text[]), CAST(:states AS bytea[]),
  CAST(:overs AS timestamptz[])) AS u(share, state, over_at)
{_AGAIN}"""),
    "sqlite": text(f"""
INSERT INTO delivery_shares (queue, share, state, over_at) VALUES (:queue, :share, :state, :over_at)
{_AGAIN}""").bindparams(bindparam("over_at", type_=Instant())),
}

# Two who speak of a queue for the first time meet here: one waits for the other, and none fails.
_MAKE = text("""
INSERT INTO delivery_queues (queue, fair, turn, salt, changed_at)
VALUES (:queue, 0, '', :salt, :now) ON CONFLICT (queue) DO NOTHING
""").bindparams(bindparam("now", type_=Instant()), bindparam("salt", b"", type_=queues.c.salt.type))

_decode_window = msgspec.json.Decoder(Window).decode


# -- what is wanted ----------------------------------------------------------------------------


def read(connection: Connection, queue: str | None = None) -> dict[str, Wanted]:
    """Queue -> what is wanted of it; None: of all. Queues of which nothing is said are left out."""
    statement = select(queues) if queue is None else select(queues).where(queues.c.queue == queue)
    return {row.queue: _wanted(row) for row in connection.execute(statement)}


def lock(connection: Connection, queue: str) -> Wanted | None:
    """Lock a queue's row and read it; None where somebody else holds it, or there is none."""
    statement = select(queues).where(queues.c.queue == queue).with_for_update(skip_locked=True)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _wanted(row)


def hold(connection: Connection, queue: str, now: datetime) -> Wanted:
    """Lock a queue's row and read it, waiting for whoever holds it; made where there is none."""
    connection.execute(_MAKE, {"queue": queue, "now": now})
    row = connection.execute(select(queues).where(queues.c.queue == queue).with_for_update()).one()
    return _wanted(row)


def write(connection: Connection, wanted: Wanted) -> None:
    """Say what is wanted of a queue whose row we hold; a row that says nothing goes."""
    here = queues.c.queue == wanted.queue
    if wanted.says_nothing:
        connection.execute(delete(queues).where(here))
    else:
        values = msgspec.structs.asdict(wanted) | {"fair": int(wanted.fair)}
        connection.execute(update(queues).where(here).values(values))


def take_turn(connection: Connection, queue: str, tenant: str) -> None:
    """The next claim goes on behind `tenant`."""
    connection.execute(update(queues).where(queues.c.queue == queue).values(turn=tenant))


def known(connection: Connection) -> set[str]:
    """The queues that some processor serves."""
    return {name for served in connection.scalars(select(workers.c.queues)) for name in served.split()}


def is_used(connection: Connection, queue: str) -> bool:
    """Whether something waits in the queue."""
    pending = (deliveries.c.status == Status.PENDING.value, deliveries.c.queue == queue)
    return bool(connection.scalar(select(exists().where(*pending))))


def _wanted(row: Any) -> Wanted:
    return Wanted(**{**row._mapping, "fair": bool(row.fair)})


# -- what claims must know ---------------------------------------------------------------------


def open_attempts(connection: Connection, queue: str, most: int, now: datetime) -> int:
    """Attempts under way in the queue, anywhere, counted up to `most`; those that policies think about too.

    One whose worker died counts until a sweep has closed it.
    """
    return int(connection.scalar(_OPEN, {"queue": queue, "most": most, "now": now}) or 0)


def circle(connection: Connection, queue: str, after: str, size: int) -> Iterator[list[str]]:
    """The tenants with something pending, `size` at a time: those behind `after` first, then round."""
    seen: set[str] = set()
    start: str | None = after
    while True:
        statement = _TENANTS if start is None else _TENANTS_AFTER
        page = list(connection.scalars(statement, {"queue": queue, "after": start, "most": size}))
        fresh = [tenant for tenant in page if tenant not in seen]
        seen.update(fresh)
        yield fresh
        if len(fresh) < len(page) or (len(page) < size and start is None):
            return
        start = page[-1] if len(page) == size else None


def due(
    store: Store,
    connection: Connection,
    queue: str,
    rooms: Mapping[str, int],
    channels: Sequence[str],
    cutoff: datetime | None,
    now: datetime,
) -> dict[str, list[UUID]]:
    """Lock, for each tenant, up to so many due deliveries, the most urgent first, skipping locked ones."""
    found: dict[str, list[UUID]] = {tenant: [] for tenant in rooms}
    if store.engine.dialect.name == "postgresql":
        values = {
            "tenants": list(rooms),
            "rooms": list(rooms.values()),
            "queue": queue,
            "channels": list(channels),
            "cutoff": cutoff,
            "now": now,
        }
        for row in connection.execute(_DUE_POSTGRESQL, values):
            found[row.tenant].append(row.id)
        return found
    asked = {"queue": queue, "channels": msgspec.json.encode(channels).decode()}
    by = now if cutoff is None else min(cutoff, now)
    for tenant, room in rooms.items():
        one = {**asked, "tenant": tenant, "room": room, "by": by}
        found[tenant] = list(connection.scalars(_DUE_SQLITE, one))
    return found


def claimed(store: Store, connection: Connection, ids: Sequence[UUID]) -> list[Claimed]:
    """Read these rows, which we hold, in this order."""
    if not ids:
        return []
    now = store.now(connection)
    rows = {row.id: row for row in connection.execute(_LOAD, {"ids": list(ids)})}
    return [claimed_of(rows[id], now) for id in ids]


def put_off(connection: Connection, moments: Mapping[UUID, datetime]) -> None:
    """Look at these rows, which we hold, no sooner than then. No event: it decides nothing."""
    if not moments:
        return
    values: Any = {"ids": list(moments), "untils": list(moments.values())}
    if connection.dialect.name == "sqlite":
        values = [{"id": id, "until": at} for id, at in moments.items()]
    connection.execute(_PUT_OFF[connection.dialect.name], values)


def look_again(connection: Connection, queue: str) -> None:
    """Let claims see what was put off; rows that somebody holds come back by themselves."""
    waiting = (
        select(deliveries.c.id)
        .where(
            deliveries.c.status == Status.PENDING.value,
            deliveries.c.queue == queue,
            deliveries.c.lease_until.is_not(None),
        )
        .with_for_update(skip_locked=True)
    )
    ids = waiting.cte("waiting") if connection.dialect.name == "postgresql" else waiting.subquery()
    seen = update(deliveries).where(deliveries.c.id.in_(select(ids.c.id))).values(lease_until=None)
    connection.execute(seen)


# -- the starts that rates count ---------------------------------------------------------------


def windows(connection: Connection, queue: str, names: Sequence[str]) -> dict[str, Window]:
    """Share -> what it started lately; one that is unknown has started nothing."""
    found = dict.fromkeys(names, Window())
    dialect = connection.dialect.name
    asked: Any = msgspec.json.encode(names).decode() if dialect == "sqlite" else list(names)
    for share, state in connection.execute(_WINDOWS[dialect], {"queue": queue, "names": asked}):
        found[share] = _window(state)
    return found


def keep(connection: Connection, queue: str, rate: Rate, kept: Mapping[str, Window]) -> None:
    """Write these windows, under the lock of the queue's row."""
    if not kept:
        return
    states = [msgspec.json.encode(window) for window in kept.values()]
    overs = [rate.over(window) for window in kept.values()]
    values: Any = {"queue": queue, "shares": list(kept), "states": states, "overs": overs}
    if connection.dialect.name == "sqlite":
        values = [
            {"queue": queue, "share": share, "state": state, "over_at": over}
            for share, state, over in zip(kept, states, overs, strict=True)
        ]
    connection.execute(_KEEP[connection.dialect.name], values)


def forget(connection: Connection, queue: str, before: datetime | None = None) -> None:
    """Forget the windows of a queue: those that were over `before`; None: all."""
    statement = delete(shares).where(shares.c.queue == queue)
    connection.execute(statement if before is None else statement.where(shares.c.over_at <= before))


def _window(state: bytes) -> Window:
    """A window; one that somebody else wrote counts as empty, and is written anew."""
    try:
        return _decode_window(state)
    except (msgspec.DecodeError, RecursionError):
        return Window()
