"""What providers report of an effect afterwards: kept as evidence, matched, and kept once.

The end of a delivery stays what it was: `Succeeded` says that the provider took it, a bounce reported
a day later says something else, and both are true.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, select

from deliveries import scheduling
from deliveries.core.notes import Note, salted
from deliveries.core.outcomes import MAX_REFERENCE
from deliveries.errors import InvalidCommand, InvalidPayload, ReferenceNotFound, shown
from deliveries.payload import encode
from deliveries.store.evidence import Entry, Evidence, add, gathered
from deliveries.store.failures import appending_evidence
from deliveries.store.schema import references
from deliveries.store.store import Store

MAX_FACT_BYTES = 16 * 1024
MAX_PIECES = 1_000
"""Of evidence of one delivery."""

OURS = frozenset({"erased", "redriven"})
"""Kinds that say what was done here, and nobody else may say."""

_KIND = re.compile(r"[a-z][a-z0-9_.]{0,49}")


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One report, checked."""

    kind: str
    fact: str | None
    """JSON, with sorted keys: equal facts are equal texts."""
    at: datetime | None
    key: str | None


def feedback(kind: str, fact: Any, at: datetime | None, key: str | None, now: datetime) -> Feedback:
    """A report, if all of it can be kept. Raises: InvalidCommand, InvalidPayload, InvalidSchedule."""
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or kind in OURS:
        raise InvalidCommand(f"kind {shown(kind)}: a word such as delivered, bounced or complained is needed")
    try:
        told = None if fact is None else encode(fact, MAX_FACT_BYTES)
    except InvalidPayload as error:
        raise InvalidPayload(error.path, f"of a fact: {str(error).partition(': ')[2]}") from None
    return Feedback(
        kind=kind,
        fact=told,
        at=None if at is None else scheduling.instant(at, "at", now),
        key=scheduling.name(key, "key", empty=False),
    )


def reference_text(reference: str, field: str = "reference") -> str:
    """A provider's reference, as `Delivered` keeps it. Raises: InvalidSchedule."""
    return scheduling.name(reference, field, MAX_REFERENCE, empty=False) or ""


def referred(connection: Connection, reference: str, channel: str | None) -> list[UUID]:
    """The deliveries with this reference: several where one effect has several, by redriving.

    Raises: ReferenceNotFound.
    """
    statement = (
        select(references.c.delivery_id)
        .where(references.c.reference == reference)
        .order_by(references.c.delivery_id)
    )
    if channel is not None:
        statement = statement.where(references.c.channel == channel)
    found = list(connection.scalars(statement))
    if not found:
        raise ReferenceNotFound(reference, channel)
    return found


def record(store: Store, connection: Connection, ids: list[UUID], told: Feedback) -> None:
    """Keep what was told of each, unless it is there already.

    Raises: DeliveryNotFound, ConcurrentChange, InvalidCommand where a delivery has no room for more.
    """
    with appending_evidence("the evidence"), connection.begin_nested():
        locked = store.backend.lock(connection, ids, skip_locked=False)
        for id in ids:
            if id not in locked:
                raise store.missing(connection, id)
        now = store.now(connection)
        beside = store.contents(connection, ids)
        found = gathered(connection, *ids)
        for id in ids:
            pieces = [one for one in found if one.delivery_id == id]
            # after an erasure nothing that may tell of people comes in again
            kept = told if beside[id] is not None else msgspec.structs.replace(told, fact=None)
            if any(_is_same(one, kept) for one in pieces):
                continue
            if len(pieces) >= MAX_PIECES:
                raise InvalidCommand(f"delivery {id} has {MAX_PIECES} pieces of evidence: no more are kept")
            add(connection, kept.kind, [(id, _entry(kept))], now)


def _entry(told: Feedback) -> Entry:
    said: dict[str, Any] = {}
    if told.at is not None:
        said["at"] = told.at
    if told.key is not None:
        said["key"] = told.key
    note = None if told.fact is None else Note(told.fact, os.urandom(16))
    if note is not None:
        said["told"] = note.digest
    return Entry(msgspec.json.encode(said), note)


def _is_same(one: Evidence, told: Feedback) -> bool:
    """By its key; without one, by kind, time and fact. An erased fact may have been any."""
    said = one.said
    if one.kind != told.kind or not isinstance(said, dict):
        return False
    if told.key is not None or "key" in said:
        return said.get("key") == told.key
    at = None if told.at is None else msgspec.to_builtins(told.at)
    if said.get("at") != at:
        return False
    if one.salt is None:
        return "told" in said or told.fact is None
    return told.fact is not None and salted(one.salt, told.fact.encode()) == said.get("told")
