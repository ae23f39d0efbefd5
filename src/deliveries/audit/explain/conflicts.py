"""Where what is known does not fit together, said plainly.

A late report, an unknown outcome and a success, an end and a provider that says otherwise: nothing of it
changes the stream, and all of it is what somebody asks about who was charged twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from deliveries.audit.explain.runs import Run
from deliveries.audit.explain.sayings import when
from deliveries.audit.explain.timeline import Step
from deliveries.core import events as e
from deliveries.core.delivery import Delivery, Status
from deliveries.store.evidence import Evidence

LATE, REDRIVEN = "late_report", "redriven"

BAD = frozenset({"bounced", "complained", "dropped", "failed", "rejected", "undelivered"})
"""Kinds of evidence that speak against a success, in the words of common providers."""

GOOD = frozenset({"accepted", "delivered", "opened", "sent"})
"""Kinds that speak against a failure."""


class Late(Struct, frozen=True):
    """A report that came after its attempt had been closed."""

    run: Run
    said: str
    piece: Evidence

    @property
    def is_success(self) -> bool:
        return self.said == "Delivered"


def conflicts(steps: Sequence[Step], found: Sequence[Run], evidence: Sequence[Evidence]) -> list[str]:
    """Each in one sentence, the gravest first."""
    delivery = steps[-1].after
    late = list(_late(found, evidence))
    return [
        *_twice(delivery, found, late),
        *_after_the_end(delivery, found, late, evidence),
        *(_reported(one, found) for one in late),
        *_in_spite_of_a_cancel(steps),
    ]


def _late(found: Sequence[Run], evidence: Sequence[Evidence]) -> Iterator[Late]:
    by_number = {run.number: run for run in found}
    for piece in evidence:
        said: Any = piece.said
        if piece.kind != LATE or not isinstance(said, Mapping):
            continue
        run = by_number.get(said.get("attempt", 0)) if isinstance(said.get("attempt"), int) else None
        if run is not None:
            yield Late(run, str(said.get("said")), piece)


def _reported(late: Late, found: Sequence[Run]) -> str:
    what = "success" if late.is_success else late.said
    at = late.piece.recorded_at
    later = [run.number for run in found if run.number > late.run.number and run.started_at <= at]
    then = f"attempt {later[-1]} had started" if later else "it had been closed"
    return (
        f"attempt {late.run.number} reported {what} after {then}: "
        f"a late report by {late.run.worker}, at {when(at)}, which changed nothing"
    )


def _effects(found: Sequence[Run], late: Sequence[Late]) -> tuple[list[int], list[int]]:
    """The attempts whose effect happened, and those of which nobody knows."""
    came = {one.run.number for one in late if one.is_success}
    happened = [run.number for run in found if run.effect == "happened" or run.number in came]
    return happened, [run.number for run in found if run.effect == "unknown" and run.number not in came]


def _twice(delivery: Delivery, found: Sequence[Run], late: Sequence[Late]) -> Iterator[str]:
    happened, unknown = _effects(found, late)
    honoured = f"a receiver that honours the key {delivery.idempotency_key} saw one effect"
    if len(happened) > 1:
        yield f"delivered twice: {_attempts(happened)} succeeded; {honoured}"
    elif happened and unknown:
        verb = "has" if len(unknown) == 1 else "have"
        doubt = f"{_attempts(unknown)} {verb} an unknown outcome, {_attempts(happened)} succeeded"
        yield f"delivered twice? {doubt}; {honoured}"
    elif len(unknown) > 1:
        yield f"delivered twice? {_attempts(unknown)} have unknown outcomes; {honoured}"


def _after_the_end(
    delivery: Delivery, found: Sequence[Run], late: Sequence[Late], evidence: Sequence[Evidence]
) -> Iterator[str]:
    """What speaks against the end, or against owing it once more."""
    happened, unknown = _effects(found, late)
    kinds = [piece.kind for piece in evidence]
    if delivery.is_terminal and delivery.status is not Status.SUCCEEDED:
        if happened:
            yield f"it ended as {delivery.status}, yet {_attempts(happened)} succeeded"
        elif unknown:
            yield f"it ended as {delivery.status}, yet {_attempts(unknown)} may have happened"
    speak = BAD if delivery.status is Status.SUCCEEDED else GOOD if delivery.is_terminal else frozenset()
    for kind in dict.fromkeys(kinds):
        if kind in speak:
            yield f"it ended as {delivery.status}, and {kind!r} was reported of it afterwards"
    if REDRIVEN in kinds and (happened or unknown):
        yield f"it was owed once more, although {_attempts(happened or unknown)} may have happened"


def _in_spite_of_a_cancel(steps: Sequence[Step]) -> Iterator[str]:
    last = steps[-1]
    if isinstance(last.event, e.Succeeded) and last.before and last.before.cancel_requested is not None:
        yield f"a cancel was requested while attempt {last.event.attempt} was running, and it succeeded"


def _attempts(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"attempt {numbers[0]}"
    return f"attempts {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
