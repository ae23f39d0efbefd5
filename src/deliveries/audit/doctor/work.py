"""Checks of who works on what: workers, queues, channels, leases, and what waits for people."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import func, select

from deliveries.audit.doctor.patient import Patient
from deliveries.audit.doctor.report import Check, Sight, Verdict, judged
from deliveries.audit.explain.sayings import counted, span, when
from deliveries.core.delivery import Status
from deliveries.store import queues
from deliveries.store.schema import deliveries

MUCH_TOO_LATE = 10
"""So many times too late is a problem, whatever the reason."""

SWEEP_SECONDS = 15.0
"""A lease that has been over for longer should have been swept: three times the default of `sweep_every`."""

_PENDING = deliveries.c.status == Status.PENDING.value


def workers(patient: Patient) -> Check:
    """Every queue with due work, unless it is paused, has a live worker."""
    sights: list[Sight] = []
    for queue, due in patient.waiting.items():
        wanted = patient.wanted.get(queue)
        if patient.serving(queue) or (wanted is not None and wanted.paused_at is not None):
            continue
        age = patient.age(due.oldest)
        verdict: Verdict = "problem" if age > patient.late else "warning"
        sights.append((verdict, f"no live worker serves it: {due}, the oldest for {span(age)}"))
    alive = [one for one in patient.workers if one.is_alive(patient.now)]
    return judged(
        "workers",
        sights,
        f"{counted(len(alive), 'live worker')}; no queue with due work is without one",
        "start one: deliveries worker --app module:object --queue NAME=CALLS; or let `drain` run more often",
    )


def heartbeats(patient: Patient) -> Check:
    """Every worker that has a row was seen within its lease."""
    sights: list[Sight] = []
    for one in patient.workers:
        if not one.is_alive(patient.now):
            silent = span(patient.age(one.seen_at))
            sights.append(
                ("warning", f"{one.name} is silent for {silent}, its lease is {one.lease_seconds:g} s")
            )
    return judged(
        "heartbeats",
        sights,
        "every worker was seen within its lease",
        "it is dead, or cannot reach the database; its attempts are closed when their leases end, "
        "and its row goes after a day",
    )


def paused(patient: Patient) -> Check:
    """No queue with due work is paused."""
    sights: list[Sight] = []
    for queue, due in patient.waiting.items():
        wanted = patient.wanted.get(queue)
        if wanted is not None and wanted.paused_at is not None:
            by = f" by {wanted.actor}" if wanted.actor else ""
            why = f" ({wanted.reason})" if wanted.reason else ""
            sights.append(("warning", f"paused since {when(wanted.paused_at)}{by}{why}: {due}"))
    return judged("paused", sights, "no queue with due work is", "deliveries queues resume NAME")


def limits(patient: Patient) -> Check:
    """No queue with due work is at its total; rates are told where there is due work."""
    sights: list[Sight] = []
    for queue, due in patient.waiting.items():
        wanted = patient.wanted.get(queue)
        if wanted is not None and wanted.total is not None:
            running = queues.open_attempts(patient.connection, queue, wanted.total, patient.now)
            full = running >= wanted.total
            said = f"{running} of at most {wanted.total} attempts run: {due}"
            sights.append(("warning" if full else "ok", said))
        if wanted is not None and wanted.rate is not None:
            each = f" for each {wanted.rate_by}" if wanted.rate_by else ""
            rate = f"at most {wanted.rate.amount} start in {wanted.rate.seconds:g} s{each}"
            late = patient.age(due.oldest) > patient.late
            sights.append(("warning" if late else "ok", f"{rate}: {due}"))
    return judged(
        "limits",
        sights,
        "no limit holds due work back",
        "deliveries queues limit NAME or rate NAME raises it; attempts of dead workers count until swept",
    )


def channels(patient: Patient) -> Check:
    """Every due delivery's channel has an adapter in this program."""
    advice = "deploy a program that registers it, or cancel them: deliveries cancel --where channel=NAME"
    if not patient.channels:
        said = "this program has no adapters, so nobody can tell"
        return Check(name="channels", verdict="unknown", seen=(said,), advice="ask with --app module:object")
    sights: list[Sight] = [
        ("problem", f"this program has no adapter for channel {one.channel!r}: {one}")
        for one in patient.due
        if one.channel not in patient.channels
    ]
    return judged("channels", sights, "every channel with due work has an adapter", advice)


def lateness(patient: Patient) -> Check:
    """Nothing is due for long."""
    sights: list[Sight] = []
    for due in patient.waiting.values():
        age = patient.age(due.oldest)
        verdict: Verdict = "ok"
        if age > patient.late:
            verdict = "problem" if age > patient.late * MUCH_TOO_LATE else "warning"
        sights.append((verdict, f"{due}, the oldest for {span(age)}, of channel {due.channel!r}"))
    return judged(
        "lateness", sights, "nothing is due", "the other checks say why; if none does, add workers or calls"
    )


def leases(patient: Patient) -> Check:
    """No open attempt is past its lease and the time that a sweep may take."""
    over = deliveries.c.lease_until < patient.now
    statement = select(func.count(), func.min(deliveries.c.lease_until)).where(
        deliveries.c.status == Status.ATTEMPTING.value, over
    )
    number, oldest = patient.connection.execute(statement).one()
    sights: list[Sight] = []
    if number:
        age = patient.age(oldest)
        verdict: Verdict = "problem" if age > SWEEP_SECONDS else "ok"
        sights.append((verdict, f"{counted(number, 'open attempt')} past the lease, one for {span(age)}"))
    return judged(
        "leases",
        sights,
        "no open attempt is past its lease",
        "any worker sweeps, of whatever queue: start one. If one runs, its log says what it cannot close",
    )


def held(patient: Patient) -> Check:
    """Nothing is held that only a person can resolve."""
    asked = deliveries.c.lookup_at
    statement = select(func.count(), func.count(asked), func.min(asked)).where(
        deliveries.c.status == Status.HELD.value
    )
    number, looked_up, next_at = patient.connection.execute(statement).one()
    sights: list[Sight] = []
    if number > looked_up:
        sights.append(("warning", f"{number - looked_up} wait for a person to say what became of them"))
    if next_at is not None and patient.age(next_at) > patient.late:
        late = span(patient.age(next_at))
        sights.append(("warning", f"{looked_up} wait for a lookup, one for {late} longer than it should"))
    elif looked_up:
        sights.append(("ok", f"{looked_up} wait for a lookup"))
    return judged(
        "held",
        sights,
        "nothing is held",
        "deliveries list --status held, then deliveries resolve ID; lookups need a worker with that adapter",
    )


def aside(patient: Patient) -> Check:
    """Nothing that is due was put aside, unless recipients of its queue have a rate."""
    by_recipient = {name for name, wanted in patient.wanted.items() if wanted.rate_by == "recipient"}
    late = (_PENDING, deliveries.c.lease_until > patient.now, deliveries.c.due_at <= patient.now)
    statement = (
        select(deliveries.c.queue, func.count(), func.max(deliveries.c.lease_until))
        .where(*late, deliveries.c.lease_owner.is_(None))
        .group_by(deliveries.c.queue)
        .order_by(deliveries.c.queue)
    )
    sights: list[Sight] = [
        (
            "ok" if queue in by_recipient else "warning",
            f"{number} in queue {queue!r}, until {when(until)} at most",
        )
        for queue, number, until in patient.connection.execute(statement)
    ]
    return judged(
        "aside",
        sights,
        "nothing that is due was put aside",
        "their attempts could not start: the log of the processors says why",
    )


CHECKS: tuple[Callable[[Patient], Check], ...] = (
    *(workers, heartbeats, paused, limits, channels),
    *(lateness, leases, held, aside),
)
