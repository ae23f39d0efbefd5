"""What operators do beyond one act on one delivery: many at once, redriving, pruning, erasing, evidence.

An act with a session works on one delivery, in the caller's transaction. An act with a filter works in
transactions of its own, a page each, and returns a `Report`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from msgspec import structs
from sqlalchemy import Connection

from deliveries import scheduling
from deliveries.bulk import BATCH, Bulk, Handle, Pages, Report, batch_of, pages_of
from deliveries.commanding import commanding
from deliveries.core import commands as c
from deliveries.core.delivery import Delivery
from deliveries.core.notes import clean
from deliveries.erasure import Erasing, empty_log, pages_to
from deliveries.errors import DeliveryPruned, InvalidCommand, InvalidFilter
from deliveries.feedback import feedback, record, reference_text, referred
from deliveries.redriving import REDRIVEN, Redrive, Redriving, successor_of
from deliveries.retention import Export, Pruning, age_of, ended
from deliveries.store.evidence import Evidence, gathered, marked
from deliveries.store.failures import appending_evidence
from deliveries.store.store import Bind
from deliveries.where import Filter, Where, where_of

if TYPE_CHECKING:
    from deliveries.app import Deliveries

Id = UUID | str

_log = logging.getLogger("deliveries")


class Operating:
    """The part of `Deliveries` for operators."""

    @property
    def _app(self) -> Deliveries:
        return cast("Deliveries", self)

    # -- many at once --------------------------------------------------------------------------

    def cancel_where(
        self, where: Filter, *, actor: str, reason: str, dry_run: bool = False, batch: int = BATCH
    ) -> Report:
        """`cancel` each delivery that fits, `batch` in a transaction; `dry_run` only tells what would be.

        Of those whose attempt runs a cancel is requested. Raises: InvalidFilter, InvalidCommand.
        """
        told, by = _said(reason, actor)
        handle = commanding(self._app._store, lambda now, note: c.Cancel(now=now, note=note, actor=by), told)
        return self._bulk("cancel", where, handle, dry_run, batch)

    def suppress_where(
        self, where: Filter, *, actor: str, reason: str, dry_run: bool = False, batch: int = BATCH
    ) -> Report:
        """`suppress` each delivery that fits. As `cancel_where`; held ones stay held."""
        told, by = _said(reason, actor)
        handle = commanding(
            self._app._store, lambda now, note: c.Suppress(now=now, note=note, actor=by), told
        )
        return self._bulk("suppress", where, handle, dry_run, batch)

    def reschedule_where(
        self,
        where: Filter,
        *,
        actor: str,
        reason: str,
        due_at: datetime | None = None,
        delay: float | timedelta | None = None,
        dry_run: bool = False,
        batch: int = BATCH,
    ) -> Report:
        """`reschedule` each pending delivery that fits, to one time. As `cancel_where`.

        Exactly one of `due_at` (aware) and `delay` (seconds or a timedelta, from now).
        """
        told, by = _said(reason, actor)
        due = self._due(due_at, delay)
        if due is None:
            raise InvalidCommand("give exactly one of due_at and delay")
        handle = commanding(
            self._app._store, lambda now, note: c.Reschedule(now=now, note=note, actor=by, due_at=due), told
        )
        return self._bulk("reschedule", where, handle, dry_run, batch)

    def _bulk(
        self,
        act: str,
        where: Filter,
        handle: Handle,
        dry_run: bool,
        batch: int,
        *,
        found: Where | None = None,
    ) -> Report:
        """Do `act` to all that fits; refuses a filter that says nothing, since it would fit everything."""
        fitting = found or where_of(where)
        if not fitting.given():
            raise InvalidFilter("where", "it is empty, and would fit every delivery")
        conditions = fitting.conditions()
        pages = pages_of(self._app._store, conditions, fitting.fits, batch_of(batch))
        return self._run(act, handle, conditions, pages, dry_run)

    def _run(
        self, act: str, handle: Handle, conditions: Sequence[Any], pages: Pages, dry_run: bool
    ) -> Report:
        app = self._app
        bulk = Bulk(app._store, act, handle, conditions, dry_run=dry_run, written=app._wakeup.after_commit)
        report = bulk.run(pages)
        _log.info("%s", report)
        return report

    def _due(self, due_at: datetime | None, delay: float | timedelta | None) -> datetime | None:
        now = self._app._store.clock.now()
        if due_at is not None and delay is not None:
            raise InvalidCommand("give due_at or delay, not both")
        if delay is not None:
            return scheduling.due_in(delay, "delay", now)
        return None if due_at is None else scheduling.instant(due_at, "due_at", now)

    # -- redriving -----------------------------------------------------------------------------

    def redrive(
        self,
        session: Bind,
        id: Id,
        *,
        reason: str | None = None,
        actor: str | None = None,
        due_at: datetime | None = None,
        delay: float | timedelta | None = None,
        expires_at: datetime | None = None,
        new_key: bool = False,
        may_repeat: bool = False,
    ) -> Delivery:
        """Owe once more what an ended delivery owed: a new one, linked to it, in the caller's transaction.

        It has the same recipient, payload, tenant, tags and correlation id, no `key` and no deadline but
        `expires_at`; its `causation_id` is the ended one's id. Receivers get the root's idempotency key,
        unless `new_key`. A delivery is redriven once: again, and from two operators at once, it returns the
        one that there is, with `created` False. Redrive that one when it has ended, too.

        `may_repeat`: also where the effect happened, or may have, and its receiver would not know it
        again: an adapter that must not guess, or a new key. Raises: InvalidCommand where it is not
        redriven (still alive, erased, would repeat), DeliveryNotFound, ConcurrentChange.
        """
        app, delivery_id = self._app, scheduling.parse_id(id)
        how = self._how(reason, actor, due_at, delay, expires_at, new_key, may_repeat)
        connection = app._store.caller(session)
        redriving = Redriving(app._store, app._registrations, how)
        with appending_evidence(f"delivery {delivery_id}"), connection.begin_nested():
            if delivery_id not in app._store.backend.lock(connection, [delivery_id], skip_locked=False):
                raise app._store.missing(connection, delivery_id)
            why = redriving.handle(connection, [delivery_id], True)[delivery_id]
            if why == REDRIVEN:
                return self._redriven(connection, delivery_id)
        if why is not None:
            raise InvalidCommand(f"delivery {delivery_id} is not redriven: {why}")
        app._wakeup.after_commit(connection)
        return app._store.get(connection, redriving.born[delivery_id])

    def redrive_where(
        self,
        where: Filter,
        *,
        actor: str,
        reason: str,
        due_at: datetime | None = None,
        delay: float | timedelta | None = None,
        expires_at: datetime | None = None,
        new_key: bool = False,
        may_repeat: bool = False,
        dry_run: bool = False,
        batch: int = BATCH,
    ) -> Report:
        """`redrive` each ended delivery that fits, once. As `cancel_where`; live ones are left."""
        told, by = _said(reason, actor)
        how = self._how(told, by, due_at, delay, expires_at, new_key, may_repeat)
        handle = Redriving(self._app._store, self._app._registrations, how).handle
        return self._bulk("redrive", where, handle, dry_run, batch)

    def _how(
        self,
        reason: str | None,
        actor: str | None,
        due_at: datetime | None,
        delay: float | timedelta | None,
        expires_at: datetime | None,
        new_key: bool,
        may_repeat: bool,
    ) -> Redrive:
        now = self._app._store.clock.now()
        return Redrive(
            reason=None if reason is None else clean(scheduling.text(reason, "reason")),
            actor=scheduling.name(actor, "actor", empty=False),
            due_at=self._due(due_at, delay),
            expires_at=None if expires_at is None else scheduling.instant(expires_at, "expires_at", now),
            new_key=new_key,
            may_repeat=may_repeat,
        )

    def _redriven(self, connection: Connection, id: UUID) -> Delivery:
        successor = successor_of(marked(connection, REDRIVEN, [id])[id])
        try:
            found = self._app._store.get(connection, successor or id)
        except DeliveryPruned as error:
            raise InvalidCommand(f"delivery {id} was redriven as {successor}, which is pruned") from error
        return structs.replace(found, created=False)

    # -- retention and erasure -------------------------------------------------------------------

    def prune(
        self,
        older_than: float | timedelta,
        *,
        status: str | Sequence[str] | None = None,
        where: Filter | None = None,
        export: str | os.PathLike[str] | None = None,
        actor: str | None = None,
        dry_run: bool = False,
        batch: int = BATCH,
    ) -> Report:
        """Delete deliveries that ended longer ago than `older_than` (seconds or a timedelta).

        `status`: only those that ended so; None: any end. `where` narrows further. Of each stays a
        tombstone: how many events it had, and the digest of the last. `export`: a file, which must not
        exist yet, that gets their events and evidence as JSON Lines before they are deleted. Streams with
        anything wrong stay, as `corrupt`. A key is free again once its delivery is pruned.

        Raises: InvalidFilter, CallerError.
        """
        by = scheduling.name(actor, "actor", empty=False)
        age = age_of(older_than)
        fitting = ended(where_of(where, {} if status is None else {"status": status}))
        with self._app._store.reading() as connection:
            now = self._app._store.now(connection)
        if fitting.ended_before is None or fitting.ended_before > now - age:
            fitting = where_of({**fitting.given(), "ended_before": now - age})
        batch_of(batch)
        file = None if export is None or dry_run else Export(export)
        with nullcontext() if file is None else closing(file):
            handle = Pruning(self._app._store, by, file).handle
            return self._bulk("prune", fitting, handle, dry_run, batch, found=fitting)

    def erase(
        self,
        *,
        recipient: str | None = None,
        where: Filter | None = None,
        actor: str | None = None,
        dry_run: bool = False,
        batch: int = BATCH,
    ) -> Report:
        """Take what tells of people out of deliveries, and keep their history.

        All that is owed to `recipient`, exactly as it was written, or all that fits `where`; with both,
        what meets both. Recipient, payload, notes, texts of evidence, references and salts go. What was
        pending or held is cancelled first, with cause `erased`. While an attempt runs its delivery is left,
        as `attempting`, with a cancel requested: erase again. Looking for a recipient reads all contents
        through. On SQLite what is deleted is overwritten; PostgreSQL keeps dead rows until VACUUM.

        Raises: InvalidCommand with neither, InvalidFilter.
        """
        app, by = self._app, scheduling.name(actor, "actor", empty=False)
        fitting = where_of(where)
        if recipient is None and not fitting.given():
            raise InvalidCommand("say whom or what to erase: give recipient or where")
        handle = Erasing(app._store, by).handle
        if recipient is None:
            report = self._bulk("erase", fitting, handle, dry_run, batch, found=fitting)
        else:
            whom = scheduling.text(recipient, "recipient", scheduling.MAX_RECIPIENT)
            if fitting.tag is not None:
                raise InvalidFilter("tag", "it is not looked at together with a recipient")
            conditions = fitting.conditions()
            pages = pages_to(whom, conditions, batch_of(batch))
            report = self._run("erase", handle, conditions, pages, dry_run)
        if report.done and not dry_run:
            empty_log(app._store)
        return report

    # -- evidence ------------------------------------------------------------------------------

    def record_evidence(
        self,
        session: Bind,
        kind: str,
        *,
        id: Id | None = None,
        reference: str | None = None,
        channel: str | None = None,
        fact: Any = None,
        at: datetime | None = None,
        key: str | None = None,
    ) -> Delivery:
        """Keep what a provider reports of an effect, in the caller's transaction. It never changes the end.

        `kind`: a word, such as delivered, bounced, complained or late_report. Exactly one of `id` and
        `reference`, the latter as the adapter gave it with `Delivered(reference=...)`, of `channel` if given.
        `fact`: any JSON value up to 16 KiB; erasable. `at`: when it happened, as the provider says; aware.
        `key`: the provider's own id of the report, nothing personal. The same report again, by its
        key or else by kind, time and fact, is kept once.

        Where a `SuppressionList` is asked, a report of one of its causes puts the recipient on it.

        Returns the delivery; the newest, where redriven ones share the reference. Raises: DeliveryNotFound,
        ReferenceNotFound (`retryable`: let the provider report again), InvalidCommand, InvalidPayload.
        """
        app = self._app
        if (id is None) == (reference is None):
            raise InvalidCommand("give exactly one of id and reference")
        told = feedback(kind, fact, at, key, app._store.clock.now())
        delivery_id = None if id is None else scheduling.parse_id(id)
        sought = None if reference is None else reference_text(reference)
        through = scheduling.name(channel, "channel", empty=False)
        connection = app._store.caller(session)
        ids = [delivery_id] if delivery_id is not None else referred(connection, sought or "", through)
        record(app._store, connection, ids, told)
        delivery = app._store.get(connection, ids[-1])
        for suppressing, channels in app._suppressing:
            if channels is None or delivery.channel in channels:
                suppressing.hear(told.kind, delivery, app._store, connection)
        return delivery

    def evidence(self, id: Id, *, session: Bind | None = None) -> list[Evidence]:
        """What is known beside the events of a delivery, oldest first. Raises: DeliveryNotFound."""
        delivery_id = scheduling.parse_id(id)
        with self._app._reading(session) as connection:
            self._app._store.history(connection, delivery_id)
            return gathered(connection, delivery_id)


def _said(reason: str, actor: str) -> tuple[str, str]:
    """Both, checked: an act on many deliveries says why, and by whom. Raises: InvalidSchedule."""
    if not reason or not actor:
        raise InvalidCommand("an act on many deliveries needs a reason and an actor")
    return clean(scheduling.text(reason, "reason")), scheduling.name(actor, "actor") or ""
