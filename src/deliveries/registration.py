"""What the user says of an adapter: how often, how long, and what an unknown outcome means."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

from deliveries.core.backoff import Backoff, jitter
from deliveries.core.delivery import Delivery
from deliveries.core.events import OnUnknown, Rules
from deliveries.core.outcomes import seconds
from deliveries.core.unique import Unique
from deliveries.errors import InvalidAdapter, shown

Effect = Literal["keyed", "natural", "unsafe"]
AdapterFunction = Callable[..., Any]

MAX_COUNT = 2**31 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_FALLBACK = Backoff.exponential()
_log = logging.getLogger("deliveries")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """An adapter and its rules. All durations in seconds."""

    channel: str
    """The route's name: letters, digits, `_`, `-`, `.`; at most 100 characters."""
    function: AdapterFunction
    """`(delivery, attempt) -> outcome`, `def` or `async def`."""
    queue: str = ""
    """The pool it works in; by default one of the channel's name."""
    max_attempts: int = 10
    """Endings that count before the delivery is exhausted; 1..2**31-1."""
    max_interruptions: int = 5
    """Crashes among them; 1..2**31-1."""
    max_snoozes: int = 100
    """0..2**31-1."""
    unique: Unique | None = None
    """In what its deliveries are unique, unless a call says otherwise."""
    timeout: float | timedelta = 30.0
    """Seconds for one call; more than 0, at most a day."""
    backoff: Backoff | Callable[[int, BaseException | None], float | timedelta] = field(
        default_factory=Backoff.exponential
    )
    effect: Effect = "keyed"
    """`keyed`: the receiver honours our idempotency key. `natural`: repeating is harmless.
    `unsafe`: a repetition would do it twice."""
    on_unknown: OnUnknown | None = None
    """What follows an unknown outcome; by default `lookup` if there is one, else `retry`."""
    lookup: AdapterFunction | None = None
    """`(delivery, attempt) -> outcome | NotDone | Unknown`: asks the provider what happened."""
    max_lookups: int = 10
    """Questions before a person must tell; 1..2**31-1."""
    is_async: bool = field(init=False, repr=False)
    """True where the call must be awaited."""
    asks_async: bool = field(init=False, repr=False)
    """The same of the lookup."""

    def __post_init__(self) -> None:
        for name, value in (("channel", self.channel), ("queue", self.queue or self.channel)):
            if not is_name(value):
                raise InvalidAdapter(
                    f"{name} {shown(value, 120)}: letters, digits, '_', '-', '.', at most 100"
                )
        if not callable(self.function):
            raise InvalidAdapter(f"adapter for {self.channel!r} is not callable")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise InvalidAdapter(f"adapter for {self.channel!r} is a generator: its body would not run")
        for name, least in (
            ("max_attempts", 1),
            ("max_interruptions", 1),
            ("max_snoozes", 0),
            ("max_lookups", 1),
        ):
            count(getattr(self, name), name, least)
        if not (self.unique is None or isinstance(self.unique, Unique)):
            raise InvalidAdapter(f"unique must be a Unique, not {shown(self.unique)}")
        self._set("queue", self.queue or self.channel)
        self._set("timeout", _duration(self.timeout, "timeout"))
        if callable(self.backoff):
            self._set("backoff", Backoff.custom(self.backoff))
        if not isinstance(self.backoff, Backoff):
            raise InvalidAdapter("backoff must be a Backoff or a callable")
        self._settle_unknown()
        self._set("is_async", must_be_awaited(self.function))
        self._set("asks_async", self.lookup is not None and must_be_awaited(self.lookup))

    def _settle_unknown(self) -> None:
        if self.effect not in get_args(Effect):
            raise InvalidAdapter(f"effect {shown(self.effect)}: one of {', '.join(get_args(Effect))}")
        if self.on_unknown is None:
            if self.effect == "unsafe" and self.lookup is None:
                raise InvalidAdapter(
                    f"adapter {self.channel!r} is unsafe: say what an unknown outcome means, "
                    'with on_unknown="hold" or a lookup'
                )
            self._set("on_unknown", "retry" if self.lookup is None else "lookup")
        if self.on_unknown not in get_args(OnUnknown):
            raise InvalidAdapter(
                f"on_unknown {shown(self.on_unknown)}: one of {', '.join(get_args(OnUnknown))}"
            )
        if self.on_unknown == "lookup" and self.lookup is None:
            raise InvalidAdapter(f'adapter {self.channel!r} has on_unknown="lookup" but no lookup')
        if self.effect == "unsafe" and self.on_unknown == "retry":
            raise InvalidAdapter(f'adapter {self.channel!r} is unsafe: on_unknown cannot be "retry"')

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def timeout_seconds(self) -> float:
        """The timeout, as a number."""
        assert isinstance(self.timeout, float)
        return self.timeout

    def wait(self, delivery: Delivery, attempt: int, error: BaseException | None = None) -> float:
        """Seconds until the next attempt, if attempt number `attempt` ends now and counts."""
        assert isinstance(self.backoff, Backoff)
        draw = jitter(delivery.id, attempt)
        try:
            return self.backoff.delay(delivery.endings + 1, draw, error)
        except BaseException:  # SystemExit too: it would end the processor
            _log.exception("the backoff of channel %s failed; the default one is used", self.channel)
            return _FALLBACK.delay(delivery.endings + 1, draw)

    def rules(self, delivery: Delivery) -> Rules:
        """What the next attempt of `delivery` freezes."""
        assert self.on_unknown is not None
        return Rules(
            max_attempts=delivery.max_attempts or self.max_attempts,
            max_interruptions=self.max_interruptions,
            max_snoozes=self.max_snoozes,
            on_unknown=self.on_unknown,
            timeout=self.timeout_seconds,
            retry_in=self.wait(delivery, delivery.attempt + 1),
        )


def must_be_awaited(function: object) -> bool:
    """Whether `function`, or the `__call__` of an object, is `async def`."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - its kind is wanted, not its presence
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def is_name(value: object) -> bool:
    """Whether `value` can be the name of a channel or a queue."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def count(value: object, name: str, least: int) -> int:
    """`value` as a count. Raises: InvalidAdapter, naming it and its range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
        raise InvalidAdapter(f"{name} must be an integer from {least} to {MAX_COUNT}, not {shown(value)}")
    return value


def _duration(value: float | timedelta, name: str) -> float:
    try:
        number = seconds(value, name)
    except ValueError as error:
        raise InvalidAdapter(str(error)) from None
    if not 0 < number <= 86_400:
        raise InvalidAdapter(f"{name} must be more than 0 and at most a day, not {number} s")
    return number
