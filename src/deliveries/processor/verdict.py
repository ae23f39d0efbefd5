"""From what policies said to the command that follows."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import datetime

from deliveries.core import commands as c
from deliveries.core.backoff import Backoff
from deliveries.core.events import Rescheduled
from deliveries.core.notes import Note
from deliveries.core.policy import Defer, Proceed
from deliveries.core.stream import Recorded
from deliveries.errors import CorruptHistory
from deliveries.processor.ask import Answer, Ask

FAILED = Backoff.exponential(base=10, cap=3_600, full_jitter=False)
"""How long a delivery waits whose policy gave no answer, by the deferrals in a row before it."""

_log = logging.getLogger("deliveries")


def command(ask: Ask, now: datetime, worker: str, history: Sequence[Recorded]) -> c.Command:
    """What follows for the delivery; `history` tells how long one waits whose policy gave no answer."""
    answer = ask.answer or Answer(None)
    decision, text = answer.decision, answer.text
    if isinstance(decision, Proceed):
        return c.Start(now=now, worker=worker, rules=ask.registration.rules(ask.delivery))
    if decision is None:
        _log.error("policy %s gave no answer for delivery %s: %s", answer.policy, ask.delivery.id, text)
        decision = Defer(for_=FAILED.delay(_deferrals(history) + 1))
        text = f"the policy gave no answer: {text}"
    note = None if text is None else Note(text, os.urandom(16))
    if isinstance(decision, Defer):
        return c.Defer(now=now, until=decision.due_at(now), actor=answer.policy, note=note)
    return c.Suppress(now=now, by="policy", actor=answer.policy, note=note)


def _deferrals(history: Sequence[Recorded]) -> int:
    """How many deferrals in a row `history` ends with."""
    count = 0
    for one in reversed(history):
        try:
            event = one.read() if one.type == Rescheduled.__name__ else None
        except CorruptHistory:
            return count
        if not isinstance(event, Rescheduled) or event.cause != "deferred":
            return count
        count += 1
    return count
