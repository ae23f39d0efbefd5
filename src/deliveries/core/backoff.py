"""When to try again: a pure function of the policy, the endings counted so far, and a jitter.

The jitter is derived from the delivery's id and the attempt's number, so a replay gives the same
answer and two deliveries that failed together do not come back together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from deliveries.core.outcomes import seconds

MAX_DELAY = timedelta(days=30).total_seconds()
"""No policy waits longer than this, in seconds."""

Custom = Callable[[int, BaseException | None], "float | timedelta"]


def jitter(delivery_id: UUID, attempt: int) -> float:
    """A number in [0, 1), the same for the same delivery and attempt, on every machine."""
    digest = hashlib.sha256(delivery_id.bytes + attempt.to_bytes(8, "big")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53


@dataclass(frozen=True)
class Backoff:
    """A retry policy. Made by `exponential`, `linear`, `schedule` or `custom`; all in seconds.

    `delay(endings, jitter)` is the wait after the `endings`-th ending that counts (starting at 1).
    """

    delays: tuple[float, ...] = ()
    base: float = 0.0
    step: float = 0.0
    factor: float = 1.0
    cap: float = MAX_DELAY
    full_jitter: bool = False
    function: Custom | None = None

    def __post_init__(self) -> None:
        for name in ("base", "step", "cap"):
            seconds(getattr(self, name), name)

    @classmethod
    def exponential(
        cls,
        base: float | timedelta = 10,
        cap: float | timedelta = 21_600,
        factor: float = 2.0,
        *,
        full_jitter: bool = True,
    ) -> Backoff:
        """`base`, `base * factor`, ... up to `cap`; with full jitter a uniform draw below that.

        Full jitter is the variant that the AWS architecture blog found to need the fewest calls.
        """
        if factor < 1:
            raise ValueError(f"factor must be at least 1, not {factor}")
        return cls(
            base=seconds(base, "base"),
            cap=min(seconds(cap, "cap"), MAX_DELAY),
            factor=seconds(factor, "factor"),
            full_jitter=full_jitter,
        )

    @classmethod
    def linear(cls, step: float | timedelta, cap: float | timedelta = 21_600) -> Backoff:
        """`step`, `2 * step`, ... up to `cap`."""
        wait = seconds(step, "step")
        return cls(base=wait, step=wait, cap=min(seconds(cap, "cap"), MAX_DELAY))

    @classmethod
    def schedule(cls, delays: Sequence[float | timedelta]) -> Backoff:
        """Exactly these waits, the last one repeated."""
        if not delays:
            raise ValueError("a backoff schedule needs at least one delay")
        return cls(delays=tuple(seconds(delay, "delays") for delay in delays))

    @classmethod
    def custom(cls, function: Custom) -> Backoff:
        """`function(endings, error)` gives seconds or a timedelta; `error` is None after a crash."""
        return cls(function=function)

    def delay(self, endings: int, jitter: float = 1.0, error: BaseException | None = None) -> float:
        """Seconds to wait after ending number `endings` (from 1), in [0, cap].

        `jitter` is in [0, 1); policies without jitter ignore it.
        Raises: ValueError if a custom function answers something that is no duration.
        """
        if self.function is not None:
            wait = seconds(self.function(endings, error), "backoff")
        elif self.delays:
            wait = self.delays[min(endings, len(self.delays)) - 1]
        else:
            try:
                wait = self.base * self.factor ** (endings - 1) + self.step * (endings - 1)
            except OverflowError:
                wait = self.cap if self.base else 0.0
        wait = min(wait, self.cap)
        return wait * jitter if self.full_jitter else wait
