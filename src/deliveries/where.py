"""Which deliveries: the one filter that finding, operating, pruning and erasing share.

All given fields must fit; of several values of one field any may. Ranges of time are half open, so
that two that touch neither overlap nor leave a gap. What is asked is asked of the projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Column, ColumnElement, and_, exists, or_

from deliveries.core.delivery import Delivery, Status
from deliveries.core.machine import TERMINAL
from deliveries.errors import InvalidFilter, InvalidPayload, shown
from deliveries.payload import check_text
from deliveries.store.schema import deliveries, notes

MAX_VALUES = 1_000
"""Values of one field."""

MAX_CHARACTERS = 2_048
"""Of one text; none of the columns holds more."""

Several = str | Iterable[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Deliveries with these values; a field that is not given fits all.

    Each field but the times takes one value or several, of which any may fit: `status=["held",
    "exhausted"]`. `root_id` is that of the delivery whose idempotency key it keeps. `note` is part of one of
    its notes, such as an error text or a reason, in any case of ASCII letters. Times are aware; `_after`
    is inclusive, `_before` exclusive, and `ended_*` fits only deliveries that have ended.

    Raises: InvalidFilter, naming the field.
    """

    id: UUID | str | Iterable[UUID | str] | None = None
    status: Several = None
    channel: Several = None
    queue: Several = None
    tenant: Several = None
    key: Several = None
    tag: Several = None
    correlation_id: Several = None
    causation_id: Several = None
    root_id: UUID | str | Iterable[UUID | str] | None = None
    note: Several = None
    scheduled_after: datetime | None = None
    scheduled_before: datetime | None = None
    due_after: datetime | None = None
    due_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None

    def __post_init__(self) -> None:
        for name in FIELDS:
            value = getattr(self, name)
            if value is not None:
                read = _instant if name in _TIMES else _several
                object.__setattr__(self, name, read(value, name))

    def given(self) -> dict[str, Any]:
        """Field -> value of those that were given: a tuple, or an instant in UTC."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def conditions(self) -> list[ColumnElement[bool]]:
        """The same in SQL, but for tags, which are narrowed there and decided by `fits`."""
        return [_condition(name, value) for name, value in self.given().items()]

    def fits(self, delivery: Delivery) -> bool:
        """Whether the tags of `delivery`, which has met the conditions, are those asked for.

        Tags are a JSON text, in which the database looks for letters only: whoever has tampered with
        one row must not fail all the others by a cast.
        """
        return self.tag is None or not set(self.tag).isdisjoint(delivery.tags)


FIELDS = tuple(field.name for field in fields(Where))
_TIMES = {
    "scheduled_after": deliveries.c.scheduled_at,
    "scheduled_before": deliveries.c.scheduled_at,
    "due_after": deliveries.c.due_at,
    "due_before": deliveries.c.due_at,
    "ended_after": deliveries.c.recorded_at,
    "ended_before": deliveries.c.recorded_at,
}
_ENDED = deliveries.c.status.in_(sorted(status.value for status in TERMINAL))

Filter = Where | Mapping[str, Any]
"""A `Where`, or its fields by name."""


def where_of(given: Filter | None, more: Mapping[str, Any] | None = None) -> Where:
    """The filter that `given` and `more` amount to together.

    Raises: InvalidFilter for an unknown field, naming those that are known, or one given twice.
    """
    if isinstance(given, Where):
        found: dict[str, Any] = given.given()
    elif given is None:
        found = {}
    elif isinstance(given, Mapping):
        found = dict(given)
    else:
        raise InvalidFilter(
            "where", f"a Where or a mapping of its fields is needed, not {type(given).__name__}"
        )
    for name, value in (more or {}).items():
        if value is not None and found.get(name) is not None:
            raise InvalidFilter(name, "given twice")
        found[name] = value
    for name in found:
        if name not in FIELDS:
            raise InvalidFilter(shown(name), f"there is no such field; known are {', '.join(FIELDS)}")
    return Where(**found)


def _several(value: Any, name: str) -> tuple[Any, ...]:
    one = isinstance(value, (str, UUID)) or not isinstance(value, Iterable)
    values = (value,) if one else tuple(value)
    if not 1 <= len(values) <= MAX_VALUES:
        raise InvalidFilter(name, f"1..{MAX_VALUES} values are needed, not {len(values)}")
    read = {"id": _id, "root_id": _id, "status": _status}.get(name, _text)
    return tuple(dict.fromkeys(read(each, name) for each in values))


def _id(value: object, name: str) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except Exception:  # also of a value that cannot be shown
        raise InvalidFilter(name, f"{shown(value)} is no delivery id (a UUID)") from None


def _status(value: object, name: str) -> str:
    try:
        return Status(value).value  # type: ignore[arg-type]  # whatever it is, it is one or it is none
    except ValueError:
        raise InvalidFilter(name, f"{shown(value)} is none of {', '.join(Status)}") from None


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidFilter(name, f"a string is needed, not {type(value).__name__}")
    if len(value) > MAX_CHARACTERS:
        raise InvalidFilter(name, f"{len(value)} characters are more than {MAX_CHARACTERS}")
    try:
        check_text(value, name)
    except InvalidPayload as error:
        raise InvalidFilter(name, str(error).partition(": ")[2]) from None
    return str(value)


def _instant(value: object, name: str) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidFilter(name, f"a datetime is needed, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidFilter(name, "the datetime is naive: give it a time zone, such as UTC")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidFilter(name, "out of range") from None


def _condition(name: str, value: Any) -> ColumnElement[bool]:
    if name in _TIMES:
        column: Column[datetime] = _TIMES[name]
        bound = column >= value if name.endswith("_after") else column < value
        return and_(_ENDED, bound) if name.startswith("ended_") else bound
    if name == "tag":
        written = [msgspec.json.encode(tag).decode() for tag in value]
        return or_(*(deliveries.c.tags.contains(text, autoescape=True) for text in written))
    if name == "note":
        said = or_(*(notes.c.text.icontains(text, autoescape=True) for text in value))
        return exists().where(notes.c.delivery_id == deliveries.c.id, said)
    found: ColumnElement[bool] = deliveries.c[name].in_(value)
    return found
