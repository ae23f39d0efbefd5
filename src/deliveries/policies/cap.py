"""So many deliveries, and no more, within any window of time."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Literal, get_args

from deliveries.core.delivery import Delivery
from deliveries.core.outcomes import MAX_AFTER, seconds
from deliveries.core.policy import Decision, Defer, Proceed
from deliveries.errors import InvalidPolicy, shown
from deliveries.policies.registered import Asked, Moment
from deliveries.store import slots
from deliveries.store.recipients import new_digest, normalised

Per = Literal["recipient", "tenant"]

MAX_LIMIT = 1_000


class Cap:
    """At most `limit` deliveries (1..1000) `per` recipient or tenant in any `window`; the others wait.

    `window`: seconds or a timedelta, up to 30 days. A delivery counts once, at its last attempt,
    whatever became of that. One for which there is no room is deferred once, to a slot of its own; who
    is asked about first has the earlier one. Without a `name` each channel is counted by itself; with
    one, all the channels in which the policy is asked count together. Another limit or window counts
    anew.

    Counted in the database, under a lock, so that any number of processors keep to it. Recipients
    are those of one tenant, and are kept as digests while they count. Asked before attempts, not at
    scheduling; ask it after other policies, since who is given a slot and then deferred still counts.
    Raises: InvalidPolicy.
    """

    when: ClassVar[tuple[Moment, ...]] = ("attempt",)
    timeout: ClassVar[float] = 30.0

    def __init__(
        self, limit: int, window: float | timedelta, *, per: Per = "recipient", name: str | None = None
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
            raise InvalidPolicy(f"limit must be 1..{MAX_LIMIT}, not {shown(limit)}")
        try:
            wait = seconds(window, "window")
        except ValueError as error:
            raise InvalidPolicy(str(error)) from None
        if not 0 < wait <= MAX_AFTER.total_seconds():
            raise InvalidPolicy(f"window must be more than 0 and at most {MAX_AFTER.days} days")
        if per not in get_args(Per):
            raise InvalidPolicy(f"per {shown(per)}: one of {', '.join(get_args(Per))}")
        if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= 100 or "\x00" in name):
            raise InvalidPolicy("name must have 1..100 characters")
        self._limit, self._window, self._per, self._name = limit, timedelta(seconds=wait), per, name

    def ask(self, delivery: Delivery, asked: Asked) -> Decision:
        """Take a slot, or wait for one."""
        if self._per == "recipient" and delivery.recipient is None:
            return Proceed()
        who = normalised(delivery.recipient or "") if self._per == "recipient" else ""
        counted = f"name {self._name}" if self._name else f"channel {delivery.channel}"
        cap = f"{counted} per {self._per}: {self._limit} in {self._window.total_seconds():g} s"
        with asked.transaction() as connection:
            digest = new_digest(connection, delivery.tenant, who)
            until = slots.book(asked.store, connection, cap, digest, delivery.id, self._limit, self._window)
        if until is None:
            return Proceed()
        return Defer(until, f"at most {self._limit} in {self._window} for this {self._per}")
