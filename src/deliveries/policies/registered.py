"""What the user says of a policy: where it is asked, when, and how long it may think."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from sqlalchemy import Connection

from deliveries.core.delivery import Delivery
from deliveries.core.notes import MAX_NAME, clean
from deliveries.core.outcomes import seconds
from deliveries.core.policy import Decision
from deliveries.errors import InvalidPolicy, shown
from deliveries.registration import must_be_awaited
from deliveries.store.store import Store

Moment = Literal["schedule", "attempt"]
PolicyFunction = Callable[[Delivery], Any]

DEFAULT_TIMEOUT = 5.0
MAX_TIMEOUT = 60.0


class Asked(Protocol):
    """What a ready-made policy may use beside the delivery: the present, and the database."""

    now: datetime
    store: Store

    def reading(self) -> Any:
        """A connection to read from; at scheduling the caller's own."""

    def transaction(self) -> Any:
        """A transaction to write in; at scheduling the caller's own."""


@runtime_checkable
class ReadyMade(Protocol):
    """A policy that is asked with more than the delivery."""

    def ask(self, delivery: Delivery, asked: Asked) -> Decision:
        """Its decision."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy and where it is asked."""

    function: PolicyFunction | ReadyMade
    """`(delivery) -> Proceed | Defer | Suppress`, `def` or `async def`; or one of `deliveries.policies`."""
    channels: Sequence[str] | None = None
    """Where it is asked; None: in all channels."""
    when: Moment | Sequence[Moment] | None = None
    """`schedule`, `attempt` or both, which is the default; of an `async def` the default is `attempt`."""
    timeout: float | timedelta | None = None
    """Seconds it may take before an attempt; more than 0, at most 60. By default 5, and 30 for the
    ready-made ones that wait for the database."""
    name: str = ""
    """What events and logs call it; by default the function's own name."""

    def __post_init__(self) -> None:
        if not callable(self.function) and not self._is_ready_made:
            raise InvalidPolicy(f"a policy is called with a delivery; {shown(self.function)} cannot be")
        told = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        self._set("name", clean(" ".join(str(told).split()), MAX_NAME))
        if inspect.isclass(self.function):
            raise InvalidPolicy(f"policy {self.name!r} is a class: give an instance")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise InvalidPolicy(f"policy {self.name!r} is a generator: its body would not run")
        self._set("channels", self._channels())
        self._set("when", self._when())
        timeout = self.timeout
        if timeout is None:
            timeout = (
                getattr(self.function, "timeout", DEFAULT_TIMEOUT) if self._is_ready_made else DEFAULT_TIMEOUT
            )
        try:
            self._set("timeout", seconds(timeout, "timeout"))
        except ValueError as error:
            raise InvalidPolicy(f"policy {self.name!r}: {error}") from None
        if not 0 < self.seconds <= MAX_TIMEOUT:
            raise InvalidPolicy(
                f"policy {self.name!r}: timeout must be more than 0 and at most {MAX_TIMEOUT:g} s"
            )

    def _channels(self) -> frozenset[str] | None:
        if self.channels is None:
            return None
        named = (self.channels,) if isinstance(self.channels, str) else tuple(self.channels)
        if not named or not all(isinstance(channel, str) for channel in named):
            raise InvalidPolicy(f"policy {self.name!r}: channels are names, at least one; None means all")
        return frozenset(named)

    def _when(self) -> frozenset[str]:
        when: Any = self.when
        if when is None:
            when = ("attempt",) if self.is_async else get_args(Moment)
            when = getattr(self.function, "when", when) if self._is_ready_made else when
        moments = frozenset((when,) if isinstance(when, str) else when)
        if not moments or not moments <= set(get_args(Moment)):
            raise InvalidPolicy(f"policy {self.name!r}: when is 'schedule', 'attempt' or both")
        if self.is_async and "schedule" in moments:
            raise InvalidPolicy(
                f"policy {self.name!r} is asynchronous: it cannot be asked while something is scheduled, "
                "in the caller's own transaction; say when='attempt'"
            )
        return moments

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def seconds(self) -> float:
        """The timeout, as a number."""
        assert isinstance(self.timeout, float)
        return self.timeout

    @cached_property
    def is_async(self) -> bool:
        """True where it must be awaited."""
        return not self._is_ready_made and must_be_awaited(self.function)

    @cached_property
    def _is_ready_made(self) -> bool:
        return isinstance(self.function, ReadyMade)

    def speaks_of(self, channel: str, moment: Moment) -> bool:
        """Whether it is asked about deliveries of `channel` at this moment."""
        return moment in (self.when or ()) and (self.channels is None or channel in self.channels)

    def ask(self, delivery: Delivery, asked: Asked) -> Any:
        """What it says: unjudged, and an awaitable where it is asynchronous."""
        function: Any = self.function
        return function.ask(delivery, asked) if self._is_ready_made else function(delivery)


class Policies:
    """The policies of an application, in the order in which they are asked."""

    def __init__(self) -> None:
        self._all: list[Policy] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, policy: Policy) -> None:
        """Ask `policy` after those that are here."""
        self._all.append(policy)

    def of(self, channel: str, moment: Moment) -> tuple[Policy, ...]:
        """Those to be asked about a delivery of `channel`."""
        return tuple(policy for policy in self._all if policy.speaks_of(channel, moment))

    def by_channel(self, channels: Iterable[str], moment: Moment) -> dict[str, tuple[Policy, ...]]:
        """Channel -> those to be asked there; channels without any left out."""
        found = {channel: self.of(channel, moment) for channel in channels}
        return {channel: policies for channel, policies in found.items() if policies}


class Present:
    """`Asked` in a transaction that is open already: the caller's."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self.store, self._connection = store, connection
        self.now = store.now(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The caller's connection."""
        yield self._connection

    transaction = reading
