"""The answer, put together from one stream and what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from deliveries.audit.explain import pages, reasons
from deliveries.audit.explain.conflicts import conflicts
from deliveries.audit.explain.outlook import outlook
from deliveries.audit.explain.reasons import Budget, budgets
from deliveries.audit.explain.runs import Run, runs
from deliveries.audit.explain.sayings import when
from deliveries.audit.explain.situation import Situation, beside
from deliveries.audit.explain.timeline import Entry, entries, walk
from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Recorded
from deliveries.plain import as_json
from deliveries.store.evidence import Evidence


class Explanation(Struct, frozen=True):
    """The answer. `str()` of it is for people; `to_html` and `to_markdown` are for pages.

    All but `beside`, and what `next` says of queues, leases and lookups, is computed from events alone.
    """

    delivery: Delivery
    status: str
    """One word, the delivery's status."""
    why: str
    """What the deciding event says."""
    next: str
    """What happens next, and when."""
    timeline: tuple[Entry, ...]
    """One entry for each event, oldest first."""
    evidence: tuple[str, ...] = ()
    """Facts that came too late to decide."""
    sentence: str = ""
    """The status, and in one breath how far it is."""
    rule: str = ""
    """The rule of the state machine, or the budget, by which the deciding event led here."""
    runs: tuple[Run, ...] = ()
    """One for each attempt: who made it, how long it waited and ran, what is known of its effect."""
    budgets: tuple[Budget, ...] = ()
    """What is used of each bound, and what is left."""
    conflicts: tuple[str, ...] = ()
    """Where what is known does not fit together."""
    beside: tuple[str, ...] = ()
    """Operational facts, from rows and not from events: leases, heartbeats, limits."""
    as_of: datetime | None = None
    """When `next` was asked and `beside` was true; None at the end, where time changes nothing."""

    def __str__(self) -> str:
        return pages.text(self)

    def to_html(self) -> str:
        """A whole page: escaped, without scripts, links or anything to load."""
        return pages.html(self)

    def to_markdown(self) -> str:
        """A section of a Markdown page, escaped."""
        return pages.markdown(self)


def explain(
    history: Sequence[Recorded],
    now: datetime,
    evidence: Sequence[Evidence] = (),
    found: Situation | None = None,
) -> Explanation:
    """What `history`, one whole stream, amounts to at `now`; `found` is what stands beside it.

    Raises: CorruptHistory.
    """
    steps = walk(history)
    assert steps, "a stream has at least one event"
    delivery, attempts, timeline = steps[-1].after, runs(steps), entries(steps)
    coming = None if found is None or delivery.is_terminal else found.registered
    used = budgets(delivery, coming)
    if found is not None and delivery.status is Status.HELD and (found.lookup_at or found.lookups):
        used += (Budget(name="lookups", used=found.lookups, most=found.max_lookups),)
    return Explanation(
        delivery=delivery,
        status=delivery.status.value,
        why=reasons.why(steps),
        next=outlook(delivery, steps[-1].event, now, found),
        timeline=tuple(timeline),
        evidence=tuple(map(told, evidence)),
        sentence=reasons.sentence(steps),
        rule=reasons.rule(steps),
        runs=tuple(attempts),
        budgets=used,
        conflicts=tuple(conflicts(steps, attempts, evidence)),
        beside=() if found is None else tuple(beside(delivery, found)),
        as_of=None if delivery.is_terminal else now,
    )


def told(one: Evidence) -> str:
    """One line about a piece of evidence."""
    fact = one.fact
    if isinstance(fact, dict):
        said = (
            f"{name} {value if isinstance(value, str) else as_json(value)}" for name, value in fact.items()
        )
        fact = ", ".join(said)
    return f"{when(one.recorded_at)} {one.kind}" + (f": {fact}" if fact else "")
