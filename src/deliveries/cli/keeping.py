"""The verbs about what is kept, and how long: prune, erase, evidence."""

from __future__ import annotations

import json as standard_json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deliveries.cli.failures import UsageError
from deliveries.cli.many import Many
from deliveries.cli.options import Database
from deliveries.cli.output import data, plain, say, write
from deliveries.core.delivery import Status

if TYPE_CHECKING:
    from deliveries.bulk import Report

FROM_ENVIRONMENT = Database()
ALL = Many()


def prune(
    *,
    older_than: float | timedelta,
    status: tuple[Status, ...] = (),
    export: Path | None = None,
    actor: str | None = None,
    many: Many = ALL,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Delete deliveries that ended long ago. A tombstone of each stays: how long it was, and its digest.

    Exits with 1 where some were left, such as streams with anything wrong.

    Args:
        older_than: How long ago they ended, at least: seconds, or such as 30d, 12h.
        status: Only those that ended so; repeatable. Any end if omitted.
        export: A new file that gets their events as JSON Lines, before they are deleted.
        actor: Who says so; kept in the tombstones.
        many: Which of them.
        json: Print a report as one line of JSON.
        database: Where to delete.
    """
    where = many.filter()
    with database.opened() as app:

        def act(dry_run: bool) -> Report:
            return app.prune(
                older_than, status=status or None, where=where, export=export, actor=actor, dry_run=dry_run
            )

        return many.do(act, json=json)


def erase(
    *,
    recipient: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    actor: str | None = None,
    many: Many = ALL,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Take out of deliveries what tells of people: recipient, payload, texts. Their history stays.

    What waits is cancelled first. Exits with 1 where an attempt runs: erase again when it is over.

    Args:
        recipient: Whose, exactly as written; - reads it from stdin, out of sight of other users.
        actor: Who says so; kept as evidence.
        many: Which; together with a recipient, those that meet both.
        json: Print a report as one line of JSON.
        database: Where to erase.
    """
    whom = _line() if recipient == "-" else recipient
    if whom is None and not many.where:
        raise UsageError("say whom or what to erase: give --recipient or --where")
    where = many.filter()
    with database.opened() as app:
        return many.do(
            lambda dry: app.erase(recipient=whom, where=where or None, actor=actor, dry_run=dry),
            json=json,
            unfinished=("attempting",),
        )


def add(
    kind: str,
    /,
    *,
    id: str | None = None,
    reference: str | None = None,
    channel: str | None = None,
    fact: str | None = None,
    at: datetime | None = None,
    key: str | None = None,
    json: bool = False,
    database: Database = FROM_ENVIRONMENT,
) -> int:
    """Add what is known of an effect afterwards. It changes no end, and is kept once.

    Args:
        kind: A word, such as delivered, bounced or complained.
        id: The delivery's id.
        reference: Instead of an id: the provider's reference, as the adapter gave it.
        channel: Only where the reference is of this channel.
        fact: JSON; erasable.
        at: When it happened: ISO 8601 with an offset, such as 2030-01-31T09:00Z.
        key: The provider's own id of its report.
        json: Print the evidence of the delivery, one line of JSON for each piece.
        database: Where to write.
    """
    value = None if fact is None else _decode(fact)
    with database.opened() as app:
        with app.engine.begin() as connection:
            delivery = app.record_evidence(
                connection, kind, id=id, reference=reference, channel=channel, fact=value, at=at, key=key
            )
        if json:
            _pieces(app.evidence(delivery.id))
        else:
            write(f"Delivery {delivery.id} has this evidence, and is {delivery.status.value}")
    return 0


def list_(id: str, /, *, json: bool = False, database: Database = FROM_ENVIRONMENT) -> int:
    """List the evidence of a delivery, oldest first.

    Args:
        id: The delivery's id.
        json: Print one line of JSON for each piece.
        database: Where to look.
    """
    from deliveries.audit.explain import told

    with database.opened() as app:
        found = app.evidence(id)
    if json:
        _pieces(found)
    elif found:
        write("\n".join(plain(told(one)) for one in found))
    else:
        say("no evidence")
    return 0


def _pieces(found: list[Any]) -> None:
    for one in found:
        piece = {"sequence": one.sequence, "kind": one.kind, "recorded_at": one.recorded_at, "fact": one.fact}
        data(piece | {"digest": one.digest.hex()})


def _line() -> str:
    """One line of stdin, without its end."""
    try:
        line = sys.stdin.buffer.readline(10_000).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError("the recipient on stdin is no UTF-8") from None
    if not line:
        raise UsageError("there is no recipient on stdin")
    return line


def _decode(text: str) -> Any:
    try:
        return standard_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the fact is not JSON: {error}") from error
