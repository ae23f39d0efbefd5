"""Windowed uniqueness: which deliveries count as the same, for how long, and in which states.

The fields that count are digested into one value for a tenant. Two deliveries with equal digests are
candidates for being duplicates; whether they are is decided under the lock of the digest's row.
The words are those of Oban's unique jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec

from deliveries.core.delivery import Status
from deliveries.core.events import Scheduled
from deliveries.errors import InvalidSchedule, shown

FIELDS: Final = ("channel", "queue", "recipient", "payload", "tags", "tenant")
"""What `Unique.fields` may name; the tenant counts always."""

REPLACEABLE: Final = ("payload", "recipient", "due_at", "priority", "expires_at", "max_attempts", "tags")
"""What `Unique.replace` may name."""

LONGEST: Final = timedelta(days=3_653).total_seconds()
"""Seconds: ten years, as far as anything can be scheduled ahead."""

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DOMAIN = b"deliveries.unique.1\x00"


@dataclass(frozen=True, slots=True)
class Unique:
    """One delivery of its kind within a period, for an adapter or for one call.

    A call that finds the newest delivery of its kind in one of `states`, and not older than `period`,
    gets that one, with `created` False. Raises: InvalidSchedule, naming the field.
    """

    period: float | timedelta | None = 60.0
    """Seconds or a timedelta, from its scheduling by the deciding clock; more than 0, at most ten
    years. None: for ever, as long as it is in `states`."""
    fields: Sequence[str] = ("channel", "recipient", "payload")
    """What must be equal: of `channel`, `queue`, `recipient`, `payload`, `tags`, `tenant`."""
    keys: Sequence[str] = ()
    """Names at the top of the payload that stand for all of it; each must be there. None: all of it."""
    states: Sequence[Status | str] = (Status.PENDING, Status.ATTEMPTING, Status.HELD, Status.SUCCEEDED)
    """Where a delivery must stand to count; what was cancelled, suppressed or exhausted does not."""
    replace: Sequence[str] = ()
    """What a pending one takes over from the call. `due_at` alone moves it; anything else supersedes
    it by a new delivery, which takes the rest over from the old one."""

    def __post_init__(self) -> None:
        _set(self, "period", _period(self.period))
        _set(self, "fields", _names(self.fields, "fields", FIELDS))
        _set(self, "keys", _names(self.keys, "keys", None))
        _set(self, "states", tuple(Status(one) for one in _names(self.states, "states", tuple(Status))))
        _set(self, "replace", _names(self.replace, "replace", REPLACEABLE))
        if not set(self.fields) - {"tenant"}:
            raise InvalidSchedule("unique.fields", "at least one field must count")
        if not self.states:
            raise InvalidSchedule("unique.states", "at least one state must count")
        if self.keys and "payload" not in self.fields:
            raise InvalidSchedule(
                "unique.keys", "they are names in the payload, which is not among the fields"
            )

    @property
    def seconds(self) -> float | None:
        """The period, as a number."""
        assert self.period is None or isinstance(self.period, float)
        return self.period

    @property
    def supersedes(self) -> bool:
        """Whether replacing takes a new delivery."""
        return bool(set(self.replace) - {"due_at"})

    def digest(self, scheduled: Scheduled, recipient: str | None, payload: str) -> bytes:
        """32 bytes, equal for deliveries of the same kind. `payload` is JSON with sorted keys.

        Not salted: equal ones must meet. So it goes when its delivery is erased.
        Raises: InvalidSchedule where the payload lacks one of `keys`.
        """
        values: dict[str, Any] = {
            "channel": scheduled.channel,
            "queue": scheduled.queue,
            "recipient": recipient,
            "payload": self._named(payload) if self.keys else payload,
            "tags": sorted(scheduled.tags),
        }
        counted = {name: values[name] for name in self.fields if name != "tenant"}
        return hashlib.sha256(
            _DOMAIN + _ENCODER.encode([scheduled.tenant, list(self.keys), counted])
        ).digest()

    def _named(self, payload: str) -> dict[str, Any]:
        value = msgspec.json.decode(payload)
        for key in self.keys:
            if not isinstance(value, dict) or key not in value:
                raise InvalidSchedule("unique.keys", f"the payload has no {shown(key)}")
        return {key: value[key] for key in self.keys}


def _set(unique: Unique, name: str, value: object) -> None:
    object.__setattr__(unique, name, value)


def _period(value: object) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidSchedule(
            "unique.period", f"seconds or a timedelta is needed, not {type(value).__name__}"
        )
    if not 0 < seconds <= LONGEST:
        raise InvalidSchedule(
            "unique.period", f"more than 0 and at most {LONGEST:.0f} seconds are needed, not {shown(seconds)}"
        )
    return float(seconds)


def _names(value: object, field: str, known: Iterable[str] | None) -> tuple[str, ...]:
    """Names without doubles, in an order that does not depend on how they were given."""
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidSchedule(f"unique.{field}", "a list of names is needed")
    for one in value:
        if not isinstance(one, str) or not one:
            raise InvalidSchedule(f"unique.{field}", f"a name is needed, not {shown(one)}")
        if known is not None and one not in known:
            raise InvalidSchedule(f"unique.{field}", f"{shown(one)}: one of {', '.join(known)}")
    return tuple(sorted({str(one) for one in value}))
