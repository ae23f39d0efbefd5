"""What happened, one entry for each event, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct, structs

from deliveries.audit.explain.sayings import say, span
from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Recorded, step


class Step(Struct, frozen=True):
    """One event, decoded, between the states that it leads from and to."""

    recorded: Recorded
    event: e.Event
    before: Delivery | None
    after: Delivery


class Entry(Struct, frozen=True):
    """One line of the timeline."""

    at: datetime
    version: int
    type: str
    text: str
    note: str | None = None
    waited: float | None = None
    """Of the start of an attempt: seconds since it was due."""
    ran: float | None = None
    """Of the event that closed an attempt: seconds since its start."""
    held: float | None = None
    """Of the event that led out of held: seconds since nobody knew."""

    @property
    def took(self) -> str:
        """The one of the three that there is, in words; empty without one."""
        for what, seconds in (("waited", self.waited), ("ran", self.ran), ("held for", self.held)):
            if seconds is not None:
                return f"{what} {span(seconds)}"
        return ""


def walk(history: Sequence[Recorded]) -> list[Step]:
    """`history`, one whole stream, event by event. Raises: CorruptHistory."""
    steps: list[Step] = []
    for one in history:
        before = steps[-1].after if steps else None
        decoded: list[e.Event] = []

        def read(one: Recorded = one, into: list[e.Event] = decoded) -> e.Event:
            into.append(one.read())
            return into[0]

        after = step(before, one.delivery_id, one.version, read)
        steps.append(Step(one, decoded[0], before, after))
    return steps


def entries(steps: Sequence[Step]) -> list[Entry]:
    """One entry for each event, oldest first."""
    found: list[Entry] = []
    opened: datetime | None = None
    for one in steps:
        text, actor = say(one.event), getattr(one.event, "actor", None)
        entry = Entry(
            one.recorded.recorded_at,
            one.recorded.version,
            one.recorded.type,
            f"{text}, by {actor}" if actor else text,
            one.recorded.note,
            waited=waited(one) if isinstance(one.event, e.Attempted) else None,
        )
        left = None if one.before is None else one.before.status
        if opened is not None and left is Status.ATTEMPTING and one.after.status is not left:
            entry = structs.replace(entry, ran=between(opened, entry.at))
        if opened is not None and left is Status.HELD:
            entry = structs.replace(entry, held=between(opened, entry.at))
        if isinstance(one.event, (e.Attempted, e.Held)):
            opened = entry.at
        found.append(entry)
    return found


def waited(one: Step) -> float | None:
    """Seconds between the moment at which an attempt was due and its start."""
    due = None if one.before is None else one.before.due_at
    return None if due is None else between(due, one.recorded.recorded_at)


def between(earlier: datetime, later: datetime) -> float:
    """Seconds; 0 where two clocks disagree on the order."""
    return max(0.0, (later - earlier).total_seconds())
