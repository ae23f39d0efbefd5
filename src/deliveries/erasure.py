"""Erasing: what a delivery tells of people goes, with the salts; its history stays and can be verified.

Events, evidence and their digests are untouched. Without contents, texts and salts a digest tells nothing
any more. A piece of evidence says that it was us. What is not yet sent is cancelled first; an attempt
that runs still holds its contents, and would leave a text behind when it reports, so it is asked to
be the last and the delivery is left for the next time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Connection, select

from deliveries.bulk import Pages
from deliveries.commanding import OUT_OF_STEP
from deliveries.core import commands as c
from deliveries.core.delivery import Status
from deliveries.core.stream import Change, advance, replay
from deliveries.errors import CorruptHistory
from deliveries.store.beside import wipe
from deliveries.store.evidence import Entry, add
from deliveries.store.schema import contents, deliveries
from deliveries.store.store import Store

ERASED = "erased"
"""Kind of the evidence, and cause of the cancel that comes before."""


class Erasing:
    """Erases on a store, in the name of `actor`."""

    def __init__(self, store: Store, actor: str | None) -> None:
        self._store, self._actor = store, actor

    def handle(self, connection: Connection, ids: Sequence[UUID], write: bool) -> Mapping[UUID, str | None]:
        """Erase these, whose rows are locked; id -> None, or why not yet."""
        now = self._store.now(connection)
        verdicts: dict[UUID, str | None] = {}
        changes: list[Change] = []
        there = self._store.contents(connection, ids)
        for id, history in self._store.histories(connection, ids).items():
            try:
                stream = replay(history)
                change = advance(stream, c.Cancel(now=now, cause=ERASED, actor=self._actor))
            except CorruptHistory:  # nobody can perform it; what it tells of people goes all the same
                verdicts[id] = None if there[id] is not None else ERASED
                continue
            running = stream.delivery is not None and stream.delivery.status is Status.ATTEMPTING
            changes += [change] if change is not None else []
            if running:
                verdicts[id] = Status.ATTEMPTING.value
            else:
                verdicts[id] = None if there[id] is not None else ERASED
        if write:
            self._write(connection, verdicts, changes)
        return verdicts

    def _write(
        self, connection: Connection, verdicts: dict[UUID, str | None], changes: Sequence[Change]
    ) -> None:
        if changes:
            writes = [self._store.write_of(change) for change in changes]
            written = self._store.append(connection, writes)
            late = {change.after.id for change in changes} - written
            verdicts |= dict.fromkeys(late, OUT_OF_STEP)
        ids = [id for id, why in verdicts.items() if why is None]
        if ids:
            with overwriting(connection):
                wipe(connection, ids)
            body = msgspec.json.encode({} if self._actor is None else {"actor": self._actor})
            add(connection, ERASED, [(id, Entry(body)) for id in ids], self._store.now(connection))


def pages_to(recipient: str, conditions: Sequence[ColumnElement[bool]], batch: int) -> Pages:
    """Pages of what is owed to `recipient`.

    No index leads there, since it would cost every `schedule` and is needed once in a while: all pages
    together read `delivery_contents` through, once, in the order of its key.
    """

    def pages(connection: Connection, after: UUID | None) -> tuple[list[UUID], UUID | None]:
        statement = (
            select(contents.c.delivery_id)
            .join(deliveries, deliveries.c.id == contents.c.delivery_id)
            .where(contents.c.recipient == recipient, *conditions)
            .order_by(contents.c.delivery_id)
            .limit(batch)
        )
        if after is not None:
            statement = statement.where(contents.c.delivery_id > after)
        found = list(connection.scalars(statement))
        return found, found[-1] if len(found) == batch else None

    return pages


@contextmanager
def overwriting(connection: Connection) -> Iterator[None]:
    """On SQLite: what is freed meanwhile is overwritten with zeros.

    Copies that were left when a page was rebuilt, earlier, only VACUUM removes.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    before = connection.exec_driver_sql("PRAGMA secure_delete").scalar_one()
    connection.exec_driver_sql("PRAGMA secure_delete = ON")
    yield
    connection.exec_driver_sql(f"PRAGMA secure_delete = {int(before)}")


def empty_log(store: Store) -> None:
    """On SQLite: bring what was written into the file, and empty its log, where the old pages still are."""
    if store.engine.dialect.name == "sqlite":
        with closing(store.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
