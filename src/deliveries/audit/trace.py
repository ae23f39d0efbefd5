"""What belongs together: the deliveries of one correlation id, as a tree of what caused what.

A cause is a text that somebody gave, so it may name a delivery of this trace, one of another, one that was
pruned, something of the caller's own, or, forged, lead round in a circle. Each is shown for what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection, select

from deliveries.audit.explain.sayings import when
from deliveries.core.delivery import Delivery
from deliveries.plain import plain
from deliveries.store.schema import deliveries, tombstones

MOST_DEEP = 40
"""Levels that are drawn; what lies deeper is drawn at this one."""

How = Literal["first", "caused", "redriven"]


class Link(Struct, frozen=True, kw_only=True):
    """One delivery in its place."""

    delivery: Delivery
    depth: int
    """0: nothing of this trace caused it."""
    how: How
    """How it came from its parent; `first` without one."""
    parent: UUID | None = None
    """The delivery of this trace that caused it."""
    cause: str | None = None
    """What caused it, where that is not in this trace."""


class Trace(Struct, frozen=True, kw_only=True):
    """The deliveries of one correlation id. `str()` of it is for people."""

    correlation_id: str
    links: tuple[Link, ...]
    """Each cause before what it caused, brothers in the order in which they were scheduled."""
    is_complete: bool = True
    """False where there are more than were asked for; the newest are left out."""

    def __str__(self) -> str:
        lines = [f"{len(self.links)} deliveries of correlation {self.correlation_id}"]
        lines += [f"{branch}{line(link)}" for branch, link in drawn(self.links)]
        return "\n".join(map(plain, lines))


def line(link: Link) -> str:
    """One link in words, without its branch."""
    one = link.delivery
    key = f", key {one.key}" if one.key else ""
    how = {"first": "", "caused": "", "redriven": "redriven as "}[link.how]
    cause = f"; caused by {link.cause}" if link.cause else ""
    return f"{how}{one.id}  {one.status}  {one.channel}, {when(one.scheduled_at)}{key}{cause}"


def drawn(links: Sequence[Link]) -> Iterator[tuple[str, Link]]:
    """Each link with the branch that leads to it."""
    goes_on: set[int] = set()  # levels on which a brother follows, seen from the end
    branches = []
    for link in reversed(links):
        depth = min(link.depth, MOST_DEEP)
        goes_on = {level for level in goes_on if level <= depth}
        stems = "".join("│  " if level in goes_on else "   " for level in range(1, depth))
        branches.append(stems + ("" if not depth else "├─ " if depth in goes_on else "└─ "))
        goes_on.add(depth)
    yield from zip(reversed(branches), links, strict=True)


def trace(connection: Connection, correlation_id: str, found: Sequence[Delivery], limit: int) -> Trace:
    """The tree of `found`, all deliveries of this correlation id, in any order; at most `limit` of them."""
    ordered = sorted(found, key=lambda one: (one.scheduled_at, one.id))[:limit]
    here = {one.id: one for one in ordered}
    parents = {one.id: _parent(one, here) for one in ordered}
    causes = _named(connection, [one for one in ordered if parents[one.id] is None])
    children: dict[UUID | None, list[Delivery]] = {}
    for one in ordered:
        children.setdefault(parents[one.id], []).append(one)
    links: list[Link] = []
    seen: set[UUID] = set()

    def grow(root: Delivery, cause: str | None) -> None:
        branch: list[tuple[Delivery, int, UUID | None]] = [(root, 0, None)]  # no recursion: chains are long
        while branch:
            one, depth, parent = branch.pop()
            if one.id in seen:
                continue
            seen.add(one.id)
            how: How = "first" if parent is None else "redriven" if one.root_id is not None else "caused"
            links.append(
                Link(
                    delivery=one,
                    depth=depth,
                    how=how,
                    parent=parent,
                    cause=cause if parent is None else None,
                )
            )
            branch += [(child, depth + 1, one.id) for child in reversed(children.get(one.id, []))]

    for root in children.get(None, []):
        grow(root, causes.get(root.id))
    for one in ordered:  # what no root leads to goes round in a circle, and begins with its oldest
        if one.id not in seen:
            grow(one, f"{one.causation_id or one.root_id}, in a circle")
    return Trace(correlation_id=correlation_id, links=tuple(links), is_complete=len(found) <= limit)


def _parent(one: Delivery, here: dict[UUID, Delivery]) -> UUID | None:
    """The delivery among `here` that caused `one`: its cause, or where that was pruned its root."""
    named = _id(one.causation_id)
    if named in here:
        return named
    return one.root_id if one.root_id in here and one.root_id != one.id else None


def _named(connection: Connection, roots: Sequence[Delivery]) -> dict[UUID, str]:
    """Delivery -> what caused it, for those that nothing among us caused."""
    outside = {id for one in roots if (id := _id(one.causation_id)) is not None}
    known: dict[UUID, str] = {}
    for ids in (list(outside)[start : start + 500] for start in range(0, len(outside), 500)):
        away = select(deliveries.c.id, deliveries.c.correlation_id).where(deliveries.c.id.in_(ids))
        for row in connection.execute(away):
            known[row.id] = f"delivery {row.id} of correlation {row.correlation_id or 'none'}"
        gone = select(tombstones.c.delivery_id, tombstones.c.pruned_at)
        for row in connection.execute(gone.where(tombstones.c.delivery_id.in_(ids))):
            known[row.delivery_id] = f"delivery {row.delivery_id}, pruned at {when(row.pruned_at)}"
    return {
        one.id: known.get(_id(one.causation_id) or one.id, one.causation_id)
        for one in roots
        if one.causation_id is not None
    }


def _id(cause: str | None) -> UUID | None:
    """The delivery that a cause names; None where it names something else."""
    try:
        return None if cause is None else UUID(cause)
    except ValueError:
        return None
