"""Which deliveries to list: the fields of the library's filter as options."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from cyclopts import Group, Parameter

from deliveries.cli.many import filter_of
from deliveries.core.delivery import Status

_WHICH = Group("Which", help="Those of one name: any may fit. Different ones: all must.", sort_key=0)


@Parameter(name="*", group=_WHICH)
@dataclass(frozen=True, kw_only=True)
class Which:
    """A filter; what is not given fits all."""

    status: tuple[Status, ...] = ()
    """In this status; repeatable, as are all but the times."""
    channel: tuple[str, ...] = ()
    """Of this channel."""
    queue: tuple[str, ...] = ()
    """Of this queue."""
    tenant: tuple[str, ...] = ()
    """Of this tenant."""
    key: tuple[str, ...] = ()
    """Scheduled with this key (one per tenant)."""
    tag: tuple[str, ...] = ()
    """With this tag."""
    correlation_id: tuple[str, ...] = ()
    """Of this correlation id."""
    note: tuple[str, ...] = ()
    """With this in one of its notes: an error text, a receipt or a reason."""
    scheduled_after: datetime | None = None
    """Written down then or later: ISO 8601 with an offset, such as 2030-01-31T09:00Z."""
    scheduled_before: datetime | None = None
    """Written down before then."""
    due_after: datetime | None = None
    """Due then or later."""
    due_before: datetime | None = None
    """Due before then."""
    ended_after: datetime | None = None
    """Ended then or later."""
    ended_before: datetime | None = None
    """Ended before then."""
    where: tuple[str, ...] = ()
    """Any field of the filter, as field=value, as the acts on many deliveries take it."""

    def filter(self) -> dict[str, Any]:
        """Field -> values. Raises: UsageError, also where a field is given both ways."""
        named = (field.name for field in fields(self) if field.name != "where")
        given = {name: value for name in named if (value := getattr(self, name))}
        return filter_of(self.where, given)
