"""From a caller's draft to an event, its contents and its row: all checks, and no SQL."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct
from uuid_utils.compat import uuid7

from deliveries.core import codec, commands
from deliveries.core.events import Scheduled
from deliveries.core.notes import salted
from deliveries.core.outcomes import seconds
from deliveries.core.stream import START, advance
from deliveries.core.unique import Unique
from deliveries.errors import InvalidAdapter, InvalidPayload, InvalidSchedule, shown
from deliveries.payload import MAX_PAYLOAD_BYTES, check_text, encode
from deliveries.registration import Registration, count
from deliveries.store.rows import Birth, Contents

HORIZON = timedelta(days=3_653)
"""How far ahead anything can be scheduled: ten years."""

EPOCH = codec.instant(0)
"""Nothing is due before 1970: what is due at once says so by giving no time."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc

MAX_KEY = 255
MAX_RECIPIENT = 2_048
MAX_REASON = 100_000
MAX_TAGS = 20
MAX_TAG = 100


class Draft(Struct, frozen=True, gc=False):
    """One delivery to be scheduled.

    `payload` is a JSON value, a msgspec Struct or a dataclass. Of `due_at` (an aware datetime) and
    `delay` (seconds or a timedelta) at most one; neither: due at once. `key`: 1..255 characters,
    unique per tenant. Keys, tags and ids are kept in events for ever: put no personal data there.
    """

    payload: Any = None
    recipient: str | None = None
    key: str | None = None
    due_at: datetime | None = None
    delay: float | timedelta | None = None
    expires_at: datetime | None = None
    priority: int = 5
    max_attempts: int | None = None
    tags: Sequence[str] = ()
    correlation_id: str | None = None
    causation_id: str | None = None
    tenant: str = ""
    unique: Unique | Literal[False] | None = None
    """None: as its adapter says. False: not unique."""


class Debt(Struct, frozen=True, gc=False):
    """A draft that was found sound: what its event and its contents will say."""

    registration: Registration
    now: datetime
    payload: str
    recipient: str | None
    due_at: datetime | None
    expires_at: datetime | None
    priority: int
    max_attempts: int | None
    tenant: str
    key: str | None
    tags: tuple[str, ...]
    correlation_id: str | None
    causation_id: str | None


def checked(
    draft: Draft, registration: Registration, now: datetime, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> Debt:
    """What `draft` asks for. Raises: InvalidPayload, InvalidSchedule naming the field."""
    if not (draft.unique is None or draft.unique is False or isinstance(draft.unique, Unique)):
        raise InvalidSchedule("unique", f"a Unique is needed, or False for none, not {shown(draft.unique)}")
    return Debt(
        registration,
        now,
        payload=encode(draft.payload, max_payload_bytes),
        recipient=None if draft.recipient is None else text(draft.recipient, "recipient", MAX_RECIPIENT),
        due_at=_due_at(draft, now),
        expires_at=_instant(draft.expires_at, "expires_at", now),
        priority=_priority(draft.priority),
        max_attempts=_max_attempts(draft.max_attempts),
        tenant=name(draft.tenant, "tenant") or "",
        key=name(draft.key, "key", empty=False),
        tags=_tags(draft.tags),
        correlation_id=name(draft.correlation_id, "correlation_id", empty=False),
        causation_id=name(draft.causation_id, "causation_id", empty=False),
    )


def born(debt: Debt) -> Birth:
    """The birth of a delivery: its id, its event, and its contents with their salt."""
    salt = os.urandom(16)
    event = Scheduled(
        delivery_id=uuid7(),
        channel=debt.registration.channel,
        queue=debt.registration.queue,
        scheduled_at=debt.now,
        payload_digest=salted(salt, debt.payload.encode()),
        recipient_digest=None if debt.recipient is None else salted(salt, debt.recipient.encode()),
        due_at=debt.due_at,
        expires_at=debt.expires_at,
        priority=debt.priority,
        max_attempts=debt.max_attempts,
        tenant=debt.tenant,
        key=debt.key,
        tags=debt.tags,
        correlation_id=debt.correlation_id,
        causation_id=debt.causation_id,
    )
    change = advance(START, commands.Schedule(now=debt.now, scheduled=event))
    assert change is not None, "a stream that has not begun accepts its first event"
    return Birth(change, Contents(recipient=debt.recipient, payload=debt.payload, salt=salt))


def prepare(
    draft: Draft, registration: Registration, now: datetime, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> Birth:
    """The birth of the delivery that `draft` asks for. Raises: as `checked`."""
    return born(checked(draft, registration, now, max_payload_bytes))


def instant(value: datetime, field: str, now: datetime) -> datetime:
    """`value` in UTC, aware and at most ten years ahead. Raises: InvalidSchedule."""
    if not isinstance(value, datetime):
        raise InvalidSchedule(field, f"a datetime is needed, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidSchedule(field, "the datetime is naive: give it a time zone, such as UTC")
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        raise InvalidSchedule(field, "out of range") from None
    if moment < EPOCH:
        raise InvalidSchedule(field, "before 1970")
    if moment > now + HORIZON:
        raise InvalidSchedule(field, f"more than {HORIZON.days} days ahead")
    return moment


def due_in(delay: float | timedelta, field: str, now: datetime) -> datetime:
    """`now` plus `delay`. Raises: InvalidSchedule."""
    try:
        wait = seconds(delay, field)
    except ValueError as error:
        raise InvalidSchedule(field, str(error)) from None
    if wait > HORIZON.total_seconds():
        raise InvalidSchedule(field, f"more than {HORIZON.days} days ahead")
    return now + timedelta(seconds=wait)


def parse_id(value: object) -> UUID:
    """A delivery id from a UUID or its text. Raises: InvalidSchedule."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except Exception:  # also of a value that cannot be shown
        raise InvalidSchedule("id", f"{shown(value)} is no delivery id (a UUID)") from None


def _due_at(draft: Draft, now: datetime) -> datetime | None:
    if draft.delay is None:
        return _instant(draft.due_at, "due_at", now)
    if draft.due_at is not None:
        raise InvalidSchedule("delay", "give due_at or delay, not both")
    return due_in(draft.delay, "delay", now)


def _instant(value: datetime | None, field: str, now: datetime) -> datetime | None:
    return None if value is None else instant(value, field, now)


def _priority(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise InvalidSchedule("priority", f"an integer from 0 (first) to 9 is needed, not {shown(value)}")
    return int(value)


def _max_attempts(value: int | None) -> int | None:
    try:
        return None if value is None else count(value, "max_attempts", 1)
    except InvalidAdapter as error:
        raise InvalidSchedule("max_attempts", str(error)) from None


def _tags(value: Sequence[str]) -> tuple[str, ...]:
    if value == ():
        return ()
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidSchedule("tags", "a list of strings is needed")
    if not all(isinstance(tag, str) for tag in value):
        raise InvalidSchedule("tags", "a list of strings is needed")
    tags = tuple(sorted(value) if isinstance(value, (set, frozenset)) else value)
    if len(tags) > MAX_TAGS:
        raise InvalidSchedule("tags", f"{len(tags)} tags are more than {MAX_TAGS}")
    return tuple(name(tag, "tags", limit=MAX_TAG, empty=False) or "" for tag in tags)


def name(value: str | None, field: str, limit: int = MAX_KEY, *, empty: bool = True) -> str | None:
    """A key, tenant, tag or id: bounded, without control characters."""
    if value is None:
        return None
    found = text(value, field, limit)
    if not found and not empty:
        raise InvalidSchedule(field, "must not be empty")
    if _CONTROL.search(found):
        raise InvalidSchedule(field, "control characters are not allowed")
    return found


def text(value: str, field: str, limit: int = MAX_REASON) -> str:
    """`value` if both databases keep it unchanged. Raises: InvalidSchedule, naming `field`."""
    if not isinstance(value, str):
        raise InvalidSchedule(field, f"a string is needed, not {type(value).__name__}")
    if len(value) > limit:
        raise InvalidSchedule(field, f"{len(value)} characters are more than {limit}")
    try:
        check_text(value, field)
    except InvalidPayload as error:
        raise InvalidSchedule(field, str(error).partition(": ")[2]) from None
    return value
