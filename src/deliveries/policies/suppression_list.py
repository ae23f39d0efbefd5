"""The policy that asks the suppression list, and what writes into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import Connection

from deliveries.core.delivery import Delivery
from deliveries.core.events import Cancelled
from deliveries.core.outcomes import Cancel, Suppress
from deliveries.core.policy import Decision, Proceed
from deliveries.errors import InvalidPolicy, shown
from deliveries.hooks import Hook
from deliveries.policies.registered import Asked, Moment
from deliveries.store import suppressed
from deliveries.store.store import Store


class OptedOut(Cancel):
    """The provider says that the recipient wants nothing more: cancelled as opted_out."""

    cause = "opted_out"


class SuppressionList:
    """Nothing to a recipient who is on `app.suppressions`. Asked at scheduling and before each attempt.

    A delivery that is cancelled for one of `causes` puts its recipient on the list, for its channel
    and tenant, in the transaction that cancels it: an adapter that says `Bounced`, or `OptedOut`. So
    does evidence whose kind is one of them, as a provider reports it afterwards. Deliveries without a
    recipient proceed.
    """

    when: ClassVar[tuple[Moment, ...]] = ("schedule", "attempt")
    timeout: ClassVar[float] = 30.0

    def __init__(self, causes: Sequence[str] = ("bounced", "opted_out", "complained")) -> None:
        if isinstance(causes, str) or not all(isinstance(cause, str) for cause in causes):
            raise InvalidPolicy(f"causes are names such as 'bounced', not {shown(causes)}")
        self._causes = frozenset(causes)

    def ask(self, delivery: Delivery, asked: Asked) -> Decision:
        """Whether the recipient is on the list."""
        if delivery.recipient is None:
            return Proceed()
        with asked.reading() as connection:
            entry = suppressed.find(
                connection, delivery.recipient, channel=delivery.channel, tenant=delivery.tenant
            )
        if entry is None:
            return Proceed()
        return Suppress(f"on the suppression list: {entry.reason or 'no reason given'}")

    def feed(self, store: Store, channels: Sequence[str] | None) -> Hook:
        """A hook on cancelled deliveries."""

        def suppression_list(event: Any, delivery: Delivery, connection: Connection) -> None:
            self.hear(event.cause, delivery, store, connection, event.actor)

        return Hook(function=suppression_list, kinds=(Cancelled,), channels=channels)

    def hear(
        self, cause: str, delivery: Delivery, store: Store, connection: Connection, actor: str | None = None
    ) -> None:
        """Put the recipient on the list, in this transaction, if `cause` is one that does."""
        if cause in self._causes and delivery.recipient is not None:
            suppressed.add(
                connection,
                delivery.recipient,
                store.now(connection),
                channel=delivery.channel,
                tenant=delivery.tenant,
                reason=cause,
                actor=actor,
            )
