"""A command to many deliveries at once: read, decide, append, one statement each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from deliveries.bulk import Handle
from deliveries.core.commands import Command
from deliveries.core.notes import Note
from deliveries.core.stream import Change, advance, replay
from deliveries.errors import CorruptHistory
from deliveries.store.store import Store

CORRUPT, OUT_OF_STEP = "corrupt", "out of step"
"""Why a delivery is left alone: its stream makes no sense, or its row does not match it."""


def commanding(store: Store, make: Callable[[datetime, Note | None], Command], reason: str | None) -> Handle:
    """Do the command that `make` makes to each, with a note of its own."""

    def handle(connection: Connection, ids: Sequence[UUID], write: bool) -> Mapping[UUID, str | None]:
        now = store.now(connection)
        verdicts: dict[UUID, str | None] = {}
        changes: list[Change] = []
        for id, history in store.histories(connection, ids).items():
            note = None if reason is None else Note(reason, os.urandom(16))
            try:
                stream = replay(history)
                change = advance(stream, make(now, note))
            except CorruptHistory:
                verdicts[id] = CORRUPT
                continue
            if change is None:
                verdicts[id] = "not there" if stream.delivery is None else stream.delivery.status.value
            else:
                verdicts[id] = None
                changes.append(change)
        if write and changes:
            writes = [store.write_of(change) for change in changes]
            written = store.append(connection, writes)
            late = {change.after.id for change in changes} - written
            verdicts |= dict.fromkeys(late, OUT_OF_STEP)
        return verdicts

    return handle
