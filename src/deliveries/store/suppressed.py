"""The rows of the suppression list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, delete, insert, select
from uuid_utils.compat import uuid7

from deliveries.store.recipients import digest, new_digest, normalised
from deliveries.store.schema import suppressions

_c = suppressions.c

EVERY_CHANNEL = ""


class Suppression(Struct, frozen=True, kw_only=True):
    """One entry of the list. Who it is about cannot be read from it."""

    digest: str
    """What stands for the recipient; hexadecimal, other in every database."""
    channel: str | None
    """The channel it closes; None: all."""
    tenant: str
    reason: str | None
    actor: str | None
    since: datetime
    """UTC."""


def add(
    connection: Connection,
    recipient: str,
    now: datetime,
    *,
    channel: str | None,
    tenant: str,
    reason: str | None,
    actor: str | None,
) -> bool:
    """Write an entry, unless there is the same; True where it was written. Waits for nobody."""
    found = new_digest(connection, normalised(recipient))
    same = _about(found, tenant) & (_c.channel == (channel or EVERY_CHANNEL))
    if connection.scalar(select(_c.id).where(same).limit(1)) is not None:
        return False
    row = {
        "id": uuid7(),
        "tenant": tenant,
        "channel": channel or EVERY_CHANNEL,
        "digest": found,
        "reason": reason,
        "actor": actor,
        "since": now,
    }
    connection.execute(insert(suppressions), row)
    return True


def remove(connection: Connection, recipient: str, *, channel: str | None, tenant: str) -> bool:
    """Take the entry away, for this channel or, with None, that for all; True where there was one."""
    found = digest(connection, normalised(recipient))
    if found is None:
        return False
    same = _about(found, tenant) & (_c.channel == (channel or EVERY_CHANNEL))
    return connection.execute(delete(suppressions).where(same)).rowcount > 0


def find(connection: Connection, recipient: str, *, channel: str | None, tenant: str) -> Suppression | None:
    """The entry that closes this channel to the recipient, its own before that for all channels.

    `channel` None: only an entry for all channels.
    """
    found = digest(connection, normalised(recipient))
    if found is None:
        return None
    wanted = _about(found, tenant) & _c.channel.in_({channel or EVERY_CHANNEL, EVERY_CHANNEL})
    statement = select(suppressions).where(wanted).order_by(_c.channel.desc(), _c.id).limit(1)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _entry(row)


def listed(
    connection: Connection, limit: int, *, channel: str | None, tenant: str | None
) -> list[Suppression]:
    """The newest entries first; None: of all channels, of all tenants."""
    statement = select(suppressions).order_by(_c.id.desc()).limit(limit)
    if channel is not None:
        statement = statement.where(_c.channel == channel)
    if tenant is not None:
        statement = statement.where(_c.tenant == tenant)
    rows: Sequence[Any] = connection.execute(statement).all()
    return [_entry(row) for row in rows]


def _about(digest: bytes, tenant: str) -> ColumnElement[bool]:
    return (_c.digest == digest) & (_c.tenant == tenant)


def _entry(row: Any) -> Suppression:
    return Suppression(
        digest=row.digest.hex(),
        channel=row.channel or None,
        tenant=row.tenant,
        reason=row.reason,
        actor=row.actor,
        since=row.since,
    )
