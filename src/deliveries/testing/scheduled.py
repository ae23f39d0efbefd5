"""What is scheduled, what is like it, and how an assertion that failed says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from deliveries.core.delivery import Delivery
from deliveries.store.rows import DELIVERY_COLUMNS, delivery_of, with_contents
from deliveries.store.schema import contents, deliveries, events

SHOWN = 5
"""Deliveries listed in a message."""

FIELDS = tuple(name for name in Delivery.__struct_fields__ if name not in {"rules", "created"})
"""What can be asked for."""

_ALL = (
    select(*DELIVERY_COLUMNS, contents.c.recipient, contents.c.payload)
    .join(events, (events.c.delivery_id == deliveries.c.id) & (events.c.version == 1))
    .outerjoin(contents, contents.c.delivery_id == deliveries.c.id)
    .order_by(events.c.position)
)


def everything(connection: Connection) -> list[Delivery]:
    """All deliveries with their contents, in the order in which they were scheduled."""
    return [with_contents(delivery_of(row), row.recipient, row.payload) for row in connection.execute(_ALL)]


def check(wanted: Mapping[str, Any]) -> None:
    """Raises: TypeError for what is no field of a delivery."""
    for name in wanted:
        if name not in FIELDS:
            raise TypeError(f"a delivery has no field {name!r}: {', '.join(FIELDS)}")


def differences(delivery: Delivery, wanted: Mapping[str, Any]) -> list[str]:
    """In what `delivery` is not as `wanted`; empty where it is.

    A mapping as payload, at any depth, names what must be there beside anything else; tags are
    those that must be among others. Everything else must be equal.
    """
    found: list[str] = []
    for name, value in wanted.items():
        has = getattr(delivery, name)
        if name == "payload":
            found += _payload(has, _plain(value), "payload")
        elif name == "tags":
            tags = (value,) if isinstance(value, str) else value
            found += [f"tag {tag!r} is missing" for tag in tags if tag not in has]
        elif has != value:
            found.append(_is_not(name, has, value))
    return found


def _payload(has: Any, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping) and isinstance(has, Mapping):
        for key, part in value.items():
            if key in has:
                yield from _payload(has[key], part, f"{path}.{key}")
            else:
                yield f"{path}.{key} is missing"
    elif has != value:
        yield _is_not(path, has, value)


def _plain(value: Any) -> Any:
    """A Struct or a dataclass as the JSON that is stored for it."""
    wrapped = isinstance(value, msgspec.Struct) or (is_dataclass(value) and not isinstance(value, type))
    return msgspec.to_builtins(value) if wrapped else value


def _is_not(path: str, has: Any, value: Any) -> str:
    return f"{path} is {_short(has)}, not {_short(value)}"


# -- messages ----------------------------------------------------------------------------------


def nothing_like(wanted: Mapping[str, Any], found: Sequence[Delivery], channels: Sequence[str]) -> str:
    """What to tell whoever expected a delivery: the nearest that there are, and in what they differ."""
    lines = [f"nothing like this is scheduled: {_asked(wanted)}"]
    channel = wanted.get("channel")
    if isinstance(channel, str) and channel not in channels:
        lines.append(f"no adapter is registered for channel {channel!r}: {', '.join(channels) or 'none is'}")
    if not found:
        lines.append("nothing is scheduled at all (of an open transaction, only session= sees anything)")
        return "\n".join(lines)
    told = [(differences(delivery, wanted), delivery) for delivery in found]
    told.sort(key=lambda one: len(one[0]))
    lines.append(f"nearest of {len(found)}:")
    lines += [f"  {_line(delivery)}\n    {'; '.join(differs)}" for differs, delivery in told[:SHOWN]]
    return "\n".join(lines + _rest(found))


def something_like(wanted: Mapping[str, Any], found: Sequence[Delivery]) -> str:
    """What to tell whoever expected none."""
    lines = [f"scheduled, though it should not be: {_asked(wanted)}"]
    lines += [f"  {_line(delivery)}" for delivery in found[:SHOWN]]
    return "\n".join(lines + _rest(found))


def _rest(found: Sequence[Delivery]) -> list[str]:
    return [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []


def _asked(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in wanted.items()) or "anything"


def _line(delivery: Delivery) -> str:
    due = "" if delivery.due_at is None else f", due {delivery.due_at:%Y-%m-%d %H:%M:%S}Z"
    to = "" if delivery.recipient is None else f" to {_short(delivery.recipient)}"
    key = "" if delivery.key is None else f", key {delivery.key}"
    return f"{delivery.channel}{to}: {_short(delivery.payload)} ({delivery.status}{due}{key}) {delivery.id}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"
