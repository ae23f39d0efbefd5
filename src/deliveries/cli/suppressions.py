"""Who must not get anything any more: suppressions add, remove, list."""

from __future__ import annotations

from deliveries.cli.failures import FOUND
from deliveries.cli.options import Database
from deliveries.cli.output import data, say, write

FROM_ENVIRONMENT = Database()


def add(
    recipient: str,
    /,
    *,
    channel: str | None = None,
    tenant: str = "",
    reason: str | None = None,
    actor: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Put a recipient on the suppression list. Harmless to repeat.

    Args:
        recipient: Who; kept as a digest only.
        channel: For this channel only; for all of them if omitted.
        tenant: Whose recipient.
        reason: Why, in a word or two; kept in clear.
        actor: Who says so; kept in clear.
        json: Print one line of JSON.
        database: Where to write.
    """
    with database.opened() as app, app.engine.begin() as connection:
        added = app.suppressions.add(
            connection, recipient, channel=channel, tenant=tenant, reason=reason, actor=actor
        )
    if json:
        data({"added": added})
    else:
        write("On the suppression list" if added else "On the suppression list already")
    return 0


def remove(
    recipient: str,
    /,
    *,
    channel: str | None = None,
    tenant: str = "",
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Take a recipient off the suppression list.

    Exits with 1 where there is no such entry.

    Args:
        recipient: Who.
        channel: The entry of this channel; that for all channels if omitted.
        tenant: Whose recipient.
        json: Print one line of JSON.
        database: Where to write.
    """
    with database.opened() as app, app.engine.begin() as connection:
        removed = app.suppressions.remove(connection, recipient, channel=channel, tenant=tenant)
    if json:
        data({"removed": removed})
    elif removed:
        write("Off the suppression list")
    if removed:
        return 0
    where = f"for channel {channel}" if channel else "for all channels"
    say(f"there is no such entry {where}")
    return FOUND


def list_(
    *,
    channel: str | None = None,
    tenant: str | None = None,
    limit: int = 100,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """List the suppression list, newest first. Recipients are digests.

    Args:
        channel: Only entries of this channel.
        tenant: Only entries of this tenant.
        limit: At most so many, 1 to 10000; 100 if omitted.
        json: Print one line of JSON for each.
        database: Where to look.
    """
    with database.opened() as app:
        found = app.suppressions.list(channel=channel, tenant=tenant, limit=limit)
    if json:
        for entry in found:
            data(entry)
    elif found:
        from deliveries.cli.show import suppressed

        write(suppressed(found), wrap=False)
    else:
        say("nobody is suppressed")
    if len(found) == limit:
        say(f"these are the newest {limit}; --limit shows more")
    return 0
