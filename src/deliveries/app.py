"""`Deliveries`, the one object an application needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload
from uuid import UUID

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from deliveries import scheduling
from deliveries.auditing import Auditing
from deliveries.births import bear, bear_many
from deliveries.clock import Clock, SystemClock
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.delivery import Delivery
from deliveries.core.events import Event
from deliveries.core.notes import Note, clean, describe
from deliveries.core.stream import Recorded
from deliveries.core.unique import Unique
from deliveries.engine import engine_of
from deliveries.errors import (
    CallerError,
    InvalidAdapter,
    InvalidCommand,
    InvalidPolicy,
    InvalidSchedule,
    UnknownChannel,
    shown,
)
from deliveries.exporting import Exporting
from deliveries.following import Projecting
from deliveries.hooks import Hook, HookFunction, Hooks
from deliveries.looking import Looking
from deliveries.operating import Operating
from deliveries.payload import MAX_PAYLOAD_BYTES
from deliveries.periodic import Periodic
from deliveries.policies import at_schedule
from deliveries.policies.registered import Policies, Policy, PolicyFunction, ReadyMade
from deliveries.policies.suppression_list import SuppressionList
from deliveries.processor.ledger import Summary
from deliveries.processor.performed import Performed, performed
from deliveries.processor.processor import Processor
from deliveries.processor.settings import DEFAULT_CONCURRENCY, Settings
from deliveries.processor.ticker import Ticker
from deliveries.processor.wakeup import Wakeup
from deliveries.projection import Projection
from deliveries.queues import Queues
from deliveries.registration import AdapterFunction, Registration
from deliveries.replaying import Replaying
from deliveries.scheduling import Debt, Draft
from deliveries.sealing import Sealing
from deliveries.store.rows import Birth
from deliveries.store.store import Bind, Store
from deliveries.suppressions import Suppressions
from deliveries.timetable import Timetable
from deliveries.twins import AsyncTwins
from deliveries.uniqueness import Asked, asked, bear_unique

if TYPE_CHECKING:
    from deliveries.store.log import DeliveryLog

_log = logging.getLogger("deliveries")

F = TypeVar("F", bound=AdapterFunction)
P = TypeVar("P", bound="PolicyFunction | ReadyMade")
H = TypeVar("H", bound=HookFunction)
Id = UUID | str


class Deliveries(
    Looking, Operating, Auditing, Replaying, Exporting, Sealing, Projecting, Timetable, AsyncTwins
):
    """Debts to the outside world, in your own database.

    `database`: a URL, an Engine or an AsyncEngine; None reads the environment's `DELIVERIES_URL`.
    `max_payload_bytes`: bound of an encoded payload. `clock`: whose time it is, for tests.

    Every writing method takes the caller's Session or Connection first, works inside its transaction
    and never commits it. Asynchronous twins have an `a` in front. Raises: CallerError for a database
    it cannot use.
    """

    def __init__(
        self,
        database: str | URL | Engine | AsyncEngine | None = None,
        *,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._store = Store(engine_of(database), clock or SystemClock())
        self._registrations: dict[str, Registration] = {}
        self._entries: dict[str, Periodic] = {}
        self._projections: dict[str, Projection] = {}
        self._policies = Policies()
        self._suppressing: list[tuple[SuppressionList, Collection[str] | None]] = []
        self._hooks = Hooks(self._store)
        self.suppressions = Suppressions(self._store)
        """Recipients who must not get anything any more; `SuppressionList` is the policy that asks it."""
        self._max_payload_bytes = max_payload_bytes
        self._wakeup = Wakeup(self._store.engine)
        self._event_log: DeliveryLog | None = None

    @property
    def engine(self) -> Engine:
        """The engine that readers and processors work with."""
        return self._store.engine

    def create_schema(self) -> None:
        """Create tables, indexes and guards where they are missing. Idempotent.

        Raises: SchemaTooNew, StoreError.
        """
        self._store.create_schema()

    def close(self) -> None:
        """End background threads and give back the database's connections."""
        if self._event_log is not None:
            self._event_log.close()
        self._wakeup.close()
        self._store.engine.dispose()

    # -- adapters ------------------------------------------------------------------------------

    def adapter(self, channel: str, **options: Any) -> Callable[[F], F]:
        """Register the decorated function, `(delivery, attempt) -> outcome`, for `channel`.

        `options` are the fields of `Registration`: queue, max_attempts, max_interruptions,
        max_snoozes, timeout (seconds), backoff, effect, on_unknown, lookup, max_lookups, unique.
        Raises: InvalidAdapter.
        """

        def register(function: F) -> F:
            if channel in self._registrations:
                raise InvalidAdapter(f"channel {channel!r} has an adapter already")
            told = getattr(function, "effect", None)  # a ready-made adapter may know its own
            given = {"effect": told, **options} if isinstance(told, str) else options
            try:
                registration = Registration(channel=channel, function=function, **given)
            except TypeError as error:
                raise InvalidAdapter(f"adapter {channel!r}: {error}") from None
            self._registrations[channel] = registration
            return function

        return register

    # -- policies and hooks --------------------------------------------------------------------

    @overload
    def policy(self, function: P, /, **options: Any) -> P: ...
    @overload
    def policy(self, /, **options: Any) -> Callable[[P], P]: ...
    def policy(self, function: Any = None, /, **options: Any) -> Any:
        """Ask this function, `(delivery) -> Proceed | Defer | Suppress`, before anything is sent.

        Bare, with options, or called with a policy of `deliveries.policies`. `options` are the fields
        of `Policy`: channels, when ("schedule", "attempt" or both), timeout (seconds), name. Policies
        are asked in the order in which they were given; the first that does not proceed decides.
        One that raises, takes too long or says anything else defers. Raises: InvalidPolicy.
        """

        def register(function: Any) -> Any:
            try:
                policy = Policy(function=function, **options)
            except TypeError as error:
                raise InvalidPolicy(f"policy: {error}") from None
            self._policies.add(policy)
            if isinstance(function, SuppressionList):
                self._hooks.add(function.feed(self._store, policy.channels))
                self._suppressing.append((function, policy.channels))
            return function

        return register if function is None else register(function)

    def on(self, *kinds: type[Event], channels: str | Sequence[str] | None = None) -> Callable[[H], H]:
        """Call the decorated function, `(event, delivery, connection)`, whenever such an event is appended.

        In the transaction that appends it, whoever does: a processor, a sweep, an operator, a caller
        who schedules. What it writes through `connection`, further deliveries too, commits with the
        event. Where it raises, that is undone and logged, and the event stands. Raises: InvalidHook.
        """

        def register(function: H) -> H:
            self._hooks.add(Hook(function=function, kinds=kinds, channels=channels))
            return function

        return register

    @property
    def channels(self) -> Mapping[str, Registration]:
        """The registered channels."""
        return dict(self._registrations)

    # -- scheduling ----------------------------------------------------------------------------

    def schedule(
        self,
        session: Bind,
        channel: str,
        payload: Any = None,
        *,
        recipient: str | None = None,
        key: str | None = None,
        due_at: datetime | None = None,
        delay: float | timedelta | None = None,
        expires_at: datetime | None = None,
        priority: int = 5,
        max_attempts: int | None = None,
        tags: Sequence[str] = (),
        correlation_id: str | None = None,
        causation_id: str | None = None,
        tenant: str = "",
        unique: Unique | Literal[False] | None = None,
    ) -> Delivery:
        """Write one debt down in the caller's transaction; see `Draft` for the arguments.

        With a `key` that is taken, returns the delivery it belongs to, with `created` False; so it
        does where one of its kind is there and `unique`, here or at the adapter, says one is enough.
        What a policy suppresses is written down too, and returned as `suppressed`.
        Raises: UnknownChannel, InvalidPayload, InvalidSchedule, EngineNotConfigured, before any
        SQL; IdempotencyConflict; ConcurrentSchedule, after which the transaction must be run again.
        """
        draft = Draft(
            payload=payload,
            recipient=recipient,
            key=key,
            due_at=due_at,
            delay=delay,
            expires_at=expires_at,
            priority=priority,
            max_attempts=max_attempts,
            tags=tags,
            correlation_id=correlation_id,
            causation_id=causation_id,
            tenant=tenant,
            unique=unique,
        )
        births, wanted = self._prepare(channel, draft)
        connection = self._store.caller(session)
        if any(one.unique.replace for one in wanted.values()):  # several writes, all or nothing
            with connection.begin_nested():
                return self._bear(connection, births, wanted)[0]
        return self._bear(connection, births, wanted)[0]

    def schedule_many(self, session: Bind, channel: str, drafts: Sequence[Draft]) -> list[Delivery]:
        """Write many debts down, all or nothing; results in the order of the drafts.

        Raises: as `schedule`; after any error nothing of this call is left in the transaction.
        """
        for index, draft in enumerate(drafts):
            if not isinstance(draft, Draft):
                raise InvalidSchedule(f"drafts[{index}]", f"a Draft is needed, not {type(draft).__name__}")
        debts = self._checked(channel, drafts)
        if not debts:
            return []
        births: list[Birth] = []
        wanted: dict[UUID, Asked] = {}
        if self._policies or debts[0].registration.unique or any(draft.unique for draft in drafts):
            births = [scheduling.born(debt) for debt in debts]
            wanted = asked(drafts, births, debts[0].registration)
        connection = self._store.caller(session)
        with connection.begin_nested():
            if births:
                return self._bear(connection, births, wanted)
            delivered = bear_many(self._store, connection, debts)
            self._wakeup.after_commit(connection)
            return delivered

    def _checked(self, channel: str, drafts: Sequence[Draft]) -> list[Debt]:
        registration = self._registration(channel)
        now, limit = self._store.clock.now(), self._max_payload_bytes
        return [scheduling.checked(draft, registration, now, limit) for draft in drafts]

    def _prepare(self, channel: str, draft: Draft) -> tuple[list[Birth], dict[UUID, Asked]]:
        births = [scheduling.born(debt) for debt in self._checked(channel, [draft])]
        return births, asked([draft], births, self._registration(channel))

    def _registration(self, channel: str) -> Registration:
        registration = self._registrations.get(channel)
        if registration is None:
            raise UnknownChannel(channel, tuple(self._registrations))
        return registration

    def _bear(
        self, connection: Connection, births: list[Birth], wanted: Mapping[UUID, Asked]
    ) -> list[Delivery]:
        policies = self._policies
        decisions = at_schedule.decided(policies, self._store, connection, births) if policies else {}
        if wanted:
            delivered = bear_unique(self._store, connection, births, wanted)
        else:
            delivered = bear(self._store, connection, births)
        if decisions:
            delivered = at_schedule.record(self._store, connection, decisions, delivered)
        self._wakeup.after_commit(connection)
        return delivered

    # -- reading -------------------------------------------------------------------------------

    def get(self, id: Id, *, session: Bind | None = None) -> Delivery:
        """The delivery, folded from its events. Raises: DeliveryNotFound, CorruptHistory."""
        delivery_id = scheduling.parse_id(id)
        with self._reading(session) as connection:
            return self._store.get(connection, delivery_id)

    def history(self, id: Id, *, session: Bind | None = None) -> list[Recorded]:
        """The recorded events, oldest first. Raises: DeliveryNotFound."""
        delivery_id = scheduling.parse_id(id)
        with self._reading(session) as connection:
            return self._store.history(connection, delivery_id)

    @contextmanager
    def _reading(self, session: Bind | None) -> Iterator[Connection]:
        if session is not None:
            yield self._store.caller(session)
        else:
            with self._store.reading() as connection:
                yield connection

    # -- operating -----------------------------------------------------------------------------

    def cancel(
        self, session: Bind, id: Id, *, reason: str | None = None, actor: str | None = None
    ) -> Delivery:
        """Give up on purpose. A running attempt still reports truthfully; a finished delivery stays.

        Raises: DeliveryNotFound, ConcurrentChange.
        """
        return self._command(session, id, reason, actor, c.Cancel)

    def suppress(
        self, session: Bind, id: Id, *, reason: str | None = None, actor: str | None = None
    ) -> Delivery:
        """It must not be sent. As `cancel`; a held delivery stays held."""
        return self._command(session, id, reason, actor, c.Suppress)

    def reschedule(
        self,
        session: Bind,
        id: Id,
        *,
        due_at: datetime | None = None,
        delay: float | timedelta | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Delivery:
        """Move the due time of a pending delivery; any other stays as it is.

        Exactly one of `due_at` (aware) and `delay` (seconds or a timedelta). Raises: InvalidSchedule.
        """
        if (due_at is None) == (delay is None):
            raise InvalidCommand("give exactly one of due_at and delay")

        def make(now: datetime, **given: Any) -> c.Command:
            if due_at is not None:
                return c.Reschedule(now=now, due_at=scheduling.instant(due_at, "due_at", now), **given)
            assert delay is not None
            return c.Reschedule(now=now, due_at=scheduling.due_in(delay, "delay", now), **given)

        make(self._store.clock.now())  # a wrong time is refused before any SQL
        return self._command(session, id, reason, actor, make)

    def resolve(
        self,
        session: Bind,
        id: Id,
        outcome: o.Outcome,
        *,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Delivery:
        """Say what became of a held delivery; any other stays as it is.

        `Delivered()`: it happened. `NotDone()` or `Retry(after=)`: it did not, attempt it again.
        `Cancel`, `Bounced`, `Discard`: give up. Raises: InvalidCommand for another outcome.
        """
        if not isinstance(outcome, (o.Delivered, o.NotDone, o.Retry, o.Cancel, o.Discard)):
            raise InvalidCommand(
                "a held delivery is resolved with Delivered, NotDone, Retry, Cancel, Bounced or Discard, "
                f"not {shown(outcome)}"
            )
        if reason is None and outcome.text is not None:
            reason = describe(outcome.text)
        return self._command(
            session,
            id,
            reason,
            actor,
            lambda **given: c.Resolve(outcome=outcome, by="operator", **given),
            o.reference_of(outcome),
        )

    def _command(
        self,
        session: Bind,
        id: Id,
        reason: str | None,
        actor: str | None,
        make: Callable[..., c.Command],
        reference: str | None = None,
    ) -> Delivery:
        delivery_id = scheduling.parse_id(id)
        note = None if reason is None else Note(clean(scheduling.text(reason, "reason")), os.urandom(16))
        actor = scheduling.name(actor, "actor")
        connection = self._store.caller(session)
        change = self._store.command(
            connection, delivery_id, lambda now: make(now=now, note=note, actor=actor)
        )
        self._wakeup.after_commit(connection)
        if change is None:
            return self._store.get(connection, delivery_id)
        if reference is not None and change.recorded.type == "Succeeded":
            self._store.refer(connection, {delivery_id: (change.after.channel, reference)})
        return self._store.furnished(connection, change.after)

    # -- performing ----------------------------------------------------------------------------

    def processor(self, queues: Mapping[str, int] | None = None, **settings: Any) -> Processor:
        """A processor of these queues (queue -> calls at a time; None: all that channels work in).

        A queue that no channel works in any more may be named: what was scheduled for it is performed.

        `settings` are the fields of `Settings`: lease, poll, sweep_every, grace, ... in seconds.
        Raises: CallerError.
        """
        known = {registration.queue for registration in self._registrations.values()}
        if queues is None:
            queues = dict.fromkeys(sorted(known), DEFAULT_CONCURRENCY)
        for name in set(queues) - known:  # right after a channel has moved to another queue; else a slip
            _log.warning("queue %r: no registered channel works in it any more", name)
        if self._store.engine.dialect.name == "sqlite":
            settings.setdefault("poll", 0.2)  # there is no NOTIFY, and looking costs no lock
        try:
            chosen = Settings(queues=dict(queues), **settings)
        except TypeError as error:
            raise CallerError(str(error)) from None
        ticker = Ticker(self.engine, self._timekeeper().look, chosen.lease) if self._entries else None
        return Processor(self._store, self._registrations, self._wakeup, chosen, self._policies, ticker)

    def drain(self, queues: Mapping[str, int] | None = None, **settings: Any) -> Summary:
        """Perform all that is due now, in this thread, and return what was done.

        What becomes due meanwhile, retries included, is left for the next time.
        """
        return self.processor(queues, **settings).run(until_idle=True)

    @contextmanager
    def running(self, queues: Mapping[str, int] | None = None, **settings: Any) -> Iterator[Processor]:
        """A processor in a thread, for the length of the `with`; stops gracefully at its end."""
        processor = self.processor(queues, **settings)
        processor.start()
        try:
            yield processor
        finally:
            processor.stop()
            processor.join()

    def perform(self, id: Id, *, lease: float = 30.0) -> Performed:
        """Attempt one delivery now, in this thread, whatever queue it is in.

        Returns what became of it: done | not_due (until) | busy (until). A terminal delivery is left
        alone. Raises: DeliveryNotFound, UnknownChannel.
        """
        delivery_id = scheduling.parse_id(id)
        with self._store.reading() as connection:
            delivery = self._store.get(connection, delivery_id)
        if not delivery.is_terminal:
            self._registration(delivery.channel)
        settings = Settings(lease=lease)
        processor = Processor(self._store, self._registrations, self._wakeup, settings, self._policies)
        attempted = not delivery.is_terminal and processor.perform(delivery_id)
        with self._store.reading() as connection:
            return performed(self._store, connection, delivery_id, attempted)

    @cached_property
    def queues(self) -> Queues:
        """What is wanted of queues, by all processors: pause, resume, scale, limit, rate, fair, clear."""
        return Queues(self._store, self._wakeup, self._registrations)

    # -- the log -------------------------------------------------------------------------------

    @cached_property
    def event_log_class(self) -> type[DeliveryLog]:
        """The eventsourcing Application of this database, as a class for its `ProjectionRunner`."""
        from deliveries.store.log import log_class

        return log_class(self._store)

    @property
    def event_log(self) -> DeliveryLog:
        """The eventsourcing Application of this database: notification_log, repository, subscriptions."""
        if self._event_log is None:
            self._event_log = self.event_log_class()
            self._wakeup.subscribe(self._event_log.wake)
        return self._event_log
