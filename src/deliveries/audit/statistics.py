"""What happened in each hour, channel by channel, computed from events alone.

A wait is the time from when a delivery was due until its attempt started; a run, from the start of an
attempt until the event that closed it. Both are told from two events of one stream: where the first of
them is not at hand, it is read again. So an hour's figures do not depend on how the log was cut into pages.

Sums are whole microseconds, and a histogram counts by fixed bounds: adding them up in any order gives the
same. An event counts for the hour (UTC) in which it was recorded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, field
from sqlalchemy import Connection

from deliveries.core.events import EVENTS, CancelRequested, Scheduled
from deliveries.core.stream import Recorded
from deliveries.errors import UnreadableEvent
from deliveries.plain import plain
from deliveries.store import statistics as rows
from deliveries.store.positions import Entry

BOUNDS: tuple[int, ...] = tuple(step * 10**power * 1_000 for power in range(8) for step in (1, 2, 5))
"""Upper bounds of the histogram's buckets, inclusive, in microseconds: 1 ms, 2, 5, 10, ... 50,000 s. One
bucket more counts what took longer."""

COUNTED = {kind.__name__: kind.__name__.lower() for kind in EVENTS if kind is not CancelRequested}
"""Type of event -> the field that counts it."""

_MICROSECOND = timedelta(microseconds=1)
_HISTOGRAM = msgspec.json.Decoder(list[int]).decode

Place = tuple[UUID, int]
"""A delivery, and a version in its stream."""


class Latency(Struct, kw_only=True):
    """How long something took, so many times."""

    count: int = 0
    total: int = 0
    """Microseconds."""
    longest: int = 0
    """Microseconds."""
    histogram: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """How often it took no longer than each of `BOUNDS`, and longer than the one before."""

    def add(self, micros: int) -> None:
        """Count one."""
        self.count += 1
        self.total += micros
        self.longest = max(self.longest, micros)
        self.histogram[bisect_left(BOUNDS, micros)] += 1

    def absorb(self, other: Latency) -> None:
        """Count all that `other` has."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self.histogram = [mine + its for mine, its in zip(self.histogram, other.histogram, strict=True)]

    @property
    def mean(self) -> float | None:
        """Seconds; None where nothing was counted."""
        return self.total / self.count / 1e6 if self.count else None

    @property
    def max(self) -> float | None:
        """Seconds; None where nothing was counted."""
        return self.longest / 1e6 if self.count else None

    def quantile(self, share: float) -> float | None:
        """Seconds within which `share` (0..1) of them were over, rounded up to a bound of the histogram."""
        passed = 0
        for bound, count in zip((*BOUNDS, self.longest), self.histogram, strict=True):
            passed += count
            if count and passed >= share * self.count:
                return min(bound, self.longest) / 1e6
        return None


class Hour(Struct, kw_only=True):
    """One channel in one hour. Each figure counts events that were recorded in it."""

    channel: str
    hour: datetime
    """When it begins, UTC."""
    scheduled: int = 0
    rescheduled: int = 0
    """Moved: snoozed, deferred, released, or by an operator."""
    attempted: int = 0
    failed: int = 0
    """Attempts that failed and will be made again; the last one counts as the end that it led to."""
    interrupted: int = 0
    held: int = 0
    succeeded: int = 0
    suppressed: int = 0
    cancelled: int = 0
    exhausted: int = 0
    wait: Latency = field(default_factory=Latency)
    """From due to started, of the attempts that started in it."""
    run: Latency = field(default_factory=Latency)
    """From started to closed, of the attempts that were closed in it."""

    def absorb(self, other: Hour) -> None:
        """Count all that `other` has."""
        for name in COUNTED.values():
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.wait.absorb(other.wait)
        self.run.absorb(other.run)


def keep(entries: Sequence[Entry], connection: Connection) -> None:
    """The handler of the projection: add these events to the table."""
    at_hand: dict[Place, Recorded] = {(one.delivery_id, one.version): one for one in entries}
    lacking = set(_looked_at(entries, at_hand))
    at_hand |= rows.earlier(connection, lacking)
    behind_a_cancel = {
        (id, version - 1)
        for id, version in _looked_at(entries, {})
        if (one := at_hand.get((id, version))) is not None and one.type == "CancelRequested"
    }
    at_hand |= rows.earlier(connection, behind_a_cancel - set(at_hand))
    hours = tally(entries, at_hand)
    for row in rows.rows_of(connection, list(hours)):
        hours[row.channel, row.hour].absorb(hour_of(row))
    rows.write(connection, [row_of(hour) for hour in hours.values()])


def tally(entries: Sequence[Entry], at_hand: Mapping[Place, Recorded]) -> dict[tuple[str, datetime], Hour]:
    """(channel, hour) -> what these events amount to. `at_hand`: those before them in their streams."""
    hours: dict[tuple[str, datetime], Hour] = {}
    for one in entries:
        # a channel that is no text could not be written
        key = (plain(one.channel or ""), one.recorded_at.replace(minute=0, second=0, microsecond=0))
        if (hour := hours.get(key)) is None:
            hour = hours[key] = Hour(channel=key[0], hour=key[1])
        name = COUNTED.get(one.type)
        if name is None:
            continue
        setattr(hour, name, getattr(hour, name) + 1)
        before = at_hand.get((one.delivery_id, one.version - 1))
        if before is None:
            continue
        if one.type == "Attempted":
            since, latency = _due(before), hour.wait
        else:
            if before.type == "CancelRequested":
                before = at_hand.get((one.delivery_id, one.version - 2), before)
            since, latency = (before.recorded_at if before.type == "Attempted" else None), hour.run
        if since is not None:  # clocks of different machines may say that it was over before it began
            latency.add(max(0, (one.recorded_at - since) // _MICROSECOND))
    return hours


def _looked_at(entries: Sequence[Entry], at_hand: Collection[Place]) -> Iterator[Place]:
    """The places before these events, as far as they matter and are not at hand."""
    for one in entries:
        place = (one.delivery_id, one.version - 1)
        if one.type != "Scheduled" and one.type in COUNTED and place not in at_hand:
            yield place


def _due(before: Recorded) -> datetime | None:
    """When a delivery was due after this event; None where it does not say."""
    try:
        event = before.event
    except UnreadableEvent:
        return None
    if isinstance(event, Scheduled):
        return event.due_at or event.scheduled_at
    due: datetime | None = getattr(event, "due_at", None)
    return due


def hour_of(row: Any) -> Hour:
    """The hour in a row of the table."""
    return Hour(
        channel=row.channel,
        hour=row.hour,
        wait=Latency(
            count=row.waits,
            total=row.wait_total,
            longest=row.wait_longest,
            histogram=_HISTOGRAM(row.wait_histogram),
        ),
        run=Latency(
            count=row.runs,
            total=row.run_total,
            longest=row.run_longest,
            histogram=_HISTOGRAM(row.run_histogram),
        ),
        **{name: getattr(row, name) for name in COUNTED.values()},
    )


def row_of(hour: Hour) -> dict[str, Any]:
    """The columns of the table."""
    return {
        "channel": hour.channel,
        "hour": hour.hour,
        **{name: getattr(hour, name) for name in COUNTED.values()},
        "waits": hour.wait.count,
        "wait_total": hour.wait.total,
        "wait_longest": hour.wait.longest,
        "wait_histogram": msgspec.json.encode(hour.wait.histogram).decode(),
        "runs": hour.run.count,
        "run_total": hour.run.total,
        "run_longest": hour.run.longest,
        "run_histogram": msgspec.json.encode(hour.run.histogram).decode(),
    }
