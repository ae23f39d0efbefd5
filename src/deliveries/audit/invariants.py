"""What must always hold, each rule one function from what happened to its findings.

Four kinds of evidence, each with its rules: a *stream* (events, oldest first), its *record* (with
times, bytes and digests), its *row* in the projection, and the *calls* of adapters as a witness
outside saw them. Nothing here asks the state machine what is allowed: these are its judges, and
they read the stream by themselves. The rules keep the names that the documentation gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Protocol
from uuid import UUID

from msgspec import Struct, structs

from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core import events as e
from deliveries.core.decide import decide
from deliveries.core.delivery import Delivery, Status
from deliveries.core.stream import Recorded, replay
from deliveries.errors import CorruptHistory
from deliveries.store.rows import delivery_of


class Finding(Struct, frozen=True):
    """A broken rule, the version at which it shows, and the delivery, where it is one's."""

    rule: str
    version: int
    text: str
    delivery_id: UUID | None = None


class Called(Struct, frozen=True, kw_only=True):
    """One entry of an adapter, seen from outside. Times are UTC, by the clock that decides."""

    delivery_id: UUID
    attempt: int
    key: str
    """The idempotency key that the receiver got."""
    entered_at: datetime | None = None
    """None where the witness has no clock."""


class Leased(Struct, frozen=True, kw_only=True):
    """A lease as it was granted or renewed."""

    delivery_id: UUID
    attempt: int
    worker: str
    granted_at: datetime
    until: datetime


class RecordedEvent(Protocol):
    """An event with its place in the stream."""

    @property
    def version(self) -> int: ...

    @property
    def event(self) -> e.Event: ...


Stream = Iterable[e.Event | RecordedEvent]
"""Bare events, numbered by their place, or recorded ones."""
Entries = Sequence[tuple[int, e.Event]]
Record = Sequence[Recorded]
Histories = Mapping[UUID, Record]

TERMINAL = (e.Succeeded, e.Suppressed, e.Cancelled, e.Exhausted)
CLOSING = (e.Rescheduled, e.Failed, e.Interrupted, e.Held, *TERMINAL)
"""What can close an attempt, when it names one."""
RESOLVING = (e.Rescheduled, e.Succeeded, e.Cancelled, e.Exhausted)
"""What can lead out of held."""


# -- streams -----------------------------------------------------------------------------------


def i1_versions_have_no_hole(stream: Entries) -> Iterator[Finding]:
    """Versions are 1..n without hole or duplicate."""
    for place, (version, _) in enumerate(stream, start=1):
        if version != place:
            yield Finding("I1", version, f"version {version} stands at place {place}")


def i2_scheduled_is_first_and_only_first(stream: Entries) -> Iterator[Finding]:
    """The first event is `Scheduled`, and only the first."""
    for place, (version, event) in enumerate(stream, start=1):
        if isinstance(event, e.Scheduled) != (place == 1):
            yield Finding("I2", version, f"{_name(event)} at place {place}")


def i3_the_end_is_single_and_last(stream: Entries) -> Iterator[Finding]:
    """At most one terminal event, and it is the last."""
    ended: e.Event | None = None
    for version, event in stream:
        if ended is not None:
            yield Finding("I3", version, f"{_name(event)} after {_name(ended)}")
        elif isinstance(event, TERMINAL):
            ended = event


def i4_attempts_are_numbered(stream: Entries) -> Iterator[Finding]:
    """Attempts are numbered 1..k without hole, in the order of `Attempted`."""
    attempts = [(version, event) for version, event in stream if isinstance(event, e.Attempted)]
    for number, (version, event) in enumerate(attempts, start=1):
        if event.attempt != number:
            yield Finding("I4", version, f"attempt {event.attempt} is the {number}. to start")


def i5_attempts_are_closed_once(stream: Entries) -> Iterator[Finding]:
    """Each attempt is closed once, or is open and no terminal event follows.

    Held closes an attempt and leaves its outcome open: one resolution may follow.
    """
    ended = any(isinstance(event, TERMINAL) for _, event in stream)
    closings: dict[int, list[e.Event]] = {}
    started: dict[int, int] = {}
    for version, event in stream:
        if isinstance(event, e.Attempted):
            started[event.attempt] = version
            closings.setdefault(event.attempt, [])
        elif isinstance(event, CLOSING) and event.attempt in closings:
            before = closings[event.attempt]
            if len(before) >= (2 if before and isinstance(before[0], e.Held) else 1):
                yield Finding("I5", version, f"{_name(event)} closes attempt {event.attempt} again")
            before.append(event)
    for attempt, found in closings.items():
        if ended and not found:
            yield Finding("I5", started[attempt], f"attempt {attempt} is open after the end")


def i6_one_attempt_is_open(stream: Entries) -> Iterator[Finding]:
    """One open attempt at most, and none starts while an outcome is held."""
    for version, event, standing in _standings(stream):
        if isinstance(event, e.Attempted) and standing.named is not None:
            yield Finding("I6", version, f"attempt {event.attempt} starts beside {standing.named}")


def i7_outcomes_name_their_attempt(stream: Entries) -> Iterator[Finding]:
    """An outcome names the open attempt or, from held, the attempt that `Held` names."""
    for version, event, standing in _standings(stream):
        if not isinstance(event, (*CLOSING, e.CancelRequested)):
            continue
        if event.attempt != standing.named:
            yield Finding("I7", version, f"{_name(event)} names {event.attempt}, not {standing.named}")
        elif standing.held is not None and not isinstance(event, RESOLVING):
            yield Finding("I7", version, f"{_name(event)} for the held attempt {standing.held}")


def n6_budgets_are_kept(stream: Entries) -> Iterator[Finding]:
    """Who goes on has something left of each budget, and who is exhausted has not.

    A person who releases a held attempt may grant one more than the budget.
    """
    for version, event, standing in _standings(stream):
        rules = standing.rules
        if rules is None:
            continue
        endings, crashes = standing.endings, standing.crashes
        if isinstance(event, (e.Failed, e.Interrupted)) and getattr(event, "cause", None) != "given_back":
            endings += 1
            crashes += isinstance(event, e.Interrupted)
            if endings >= rules.max_attempts:
                yield Finding("N6", version, f"ending {endings} of {rules.max_attempts} leads to another")
            elif isinstance(event, e.Interrupted) and crashes >= rules.max_interruptions:
                yield Finding("N6", version, f"crash {crashes} of {rules.max_interruptions} leads to another")
        elif isinstance(event, e.Rescheduled) and event.cause == "snoozed":
            if standing.snoozes >= rules.max_snoozes:
                yield Finding("N6", version, f"snooze {standing.snoozes + 1} of {rules.max_snoozes}")
        elif isinstance(event, e.Exhausted) and event.cause in ("attempts", "interruptions", "snoozes"):
            ending = standing.held is None  # a held one was counted when it was held
            spent, allowed = {
                "attempts": (endings + ending, rules.max_attempts),
                "interruptions": (crashes + ending, rules.max_interruptions),
                "snoozes": (standing.snoozes, rules.max_snoozes),
            }[event.cause]
            if spent < allowed:
                yield Finding("N6", version, f"exhausted by {spent} of {allowed} {event.cause}")


def e3_an_unknown_outcome_is_not_guessed(stream: Entries) -> Iterator[Finding]:
    """Where unknown outcomes are held, none leads to another attempt by itself."""
    for version, event, standing in _standings(stream):
        if standing.open is None or standing.rules is None or standing.rules.on_unknown == "retry":
            continue
        guessed = (isinstance(event, e.Interrupted) and event.cause == "crashed") or (
            isinstance(event, e.Failed) and event.cause == "unknown"
        )
        if guessed:
            yield Finding("E3", version, f"attempt {standing.open} is unknown, and tried again")


def e4_a_cancel_sticks(stream: Entries) -> Iterator[Finding]:
    """After a cancel no new attempt starts; the running one is reported, as success or as cancelled."""
    asked = False
    for version, event in stream:
        if asked and not isinstance(event, (e.Succeeded, e.Cancelled)):
            yield Finding("E4", version, f"{_name(event)} after a cancel was requested")
        asked = asked or isinstance(event, e.CancelRequested)


STREAM_RULES: tuple[Callable[[Entries], Iterator[Finding]], ...] = (
    i1_versions_have_no_hole,
    i2_scheduled_is_first_and_only_first,
    i3_the_end_is_single_and_last,
    i4_attempts_are_numbered,
    i5_attempts_are_closed_once,
    i6_one_attempt_is_open,
    i7_outcomes_name_their_attempt,
    n6_budgets_are_kept,
    e3_an_unknown_outcome_is_not_guessed,
    e4_a_cancel_sticks,
)


def entries(stream: Stream) -> Entries:
    """(version, event) pairs of bare or recorded events."""
    return [
        (place, item) if isinstance(item, e.Event) else (item.version, item.event)
        for place, item in enumerate(stream, start=1)
    ]


def findings(stream: Stream) -> list[Finding]:
    """Everything that is wrong with the events of one delivery; empty is good."""
    listed = entries(stream)
    return [finding for rule in STREAM_RULES for finding in rule(listed)]


# -- records -----------------------------------------------------------------------------------


def i9_the_fold_is_total_and_repeatable(record: Record) -> Iterator[Finding]:
    """Every prefix folds, and the whole folds to the same state again."""
    try:
        again = replay(record).delivery == replay(record).delivery
    except CorruptHistory as error:
        yield Finding("I9", 0, str(error))
    else:
        if not again:
            yield Finding("I9", len(record), "two folds differ")


def i10_the_chain_holds(record: Record) -> Iterator[Finding]:
    """Each digest is over the one before and the stored bytes."""
    previous = codec.GENESIS
    for one in record:
        digest = codec.digest(
            previous, one.delivery_id, one.version, one.type, one.schema_version, one.recorded_at, one.body
        )
        if digest != one.digest:
            yield Finding("I10", one.version, f"{one.digest.hex()[:16]} is stored, {digest.hex()[:16]} due")
        previous = one.digest


def n5_nothing_starts_before_its_time(record: Record) -> Iterator[Finding]:
    """Times never run backwards, and no attempt starts before it is due, or at or after its deadline."""
    for before, one in pairwise(record):
        if one.recorded_at < before.recorded_at:
            yield Finding("N5", one.version, f"recorded before its predecessor: {one.recorded_at}")
    due_at = expires_at = None
    for one in record:
        event = one.event
        if isinstance(event, e.Attempted):
            if due_at is not None and one.recorded_at < due_at:
                yield Finding("N5", one.version, f"started at {one.recorded_at}, due at {due_at}")
            if expires_at is not None and one.recorded_at >= expires_at:
                yield Finding("N5", one.version, f"started at {one.recorded_at}, expired at {expires_at}")
        due_at = getattr(event, "due_at", None)
        expires_at = getattr(event, "expires_at", expires_at)


RECORD_RULES: tuple[Callable[[Record], Iterator[Finding]], ...] = (
    i9_the_fold_is_total_and_repeatable,
    i10_the_chain_holds,
    n5_nothing_starts_before_its_time,
)


def record_findings(record: Record) -> list[Finding]:
    """Everything that is wrong with a stream as it is stored; its events' own findings too."""
    found = findings(record) + [finding for rule in RECORD_RULES for finding in rule(record)]
    return [structs.replace(finding, delivery_id=record[0].delivery_id) for finding in found]


# -- rows --------------------------------------------------------------------------------------


def i8_the_row_is_the_fold(record: Record, row: Any) -> Iterator[Finding]:
    """Every folded column of the row, its version, time and digest, are those of the stream's end."""
    stream = replay(record)
    folded, last = stream.delivery, record[-1]
    assert folded is not None
    if last.version == 1 and getattr(last.event, "due_at", None) is None:
        folded = structs.replace(
            folded, due_at=row.due_at
        )  # due by the database's clock, which no event told
    found = delivery_of(row)
    for name in Delivery.__struct_fields__:
        is_, due = getattr(found, name), getattr(folded, name)
        if is_ != due and name != "rules":
            yield Finding("I8", last.version, f"{name} is {is_!r} in the row, {due!r} in the fold")
    for name in ("digest", "recorded_at"):
        if getattr(row, name) != getattr(last, name):
            yield Finding("I8", last.version, f"{name} differs from that of the last event")


def n4_open_attempts_have_a_lease(record: Record, row: Any) -> Iterator[Finding]:
    """An attempt that is open can be taken over; of others only a pending one may be leased, for a policy."""
    leased = row.lease_until is not None and row.lease_owner is not None
    if row.status != Status.PENDING and (row.status == Status.ATTEMPTING) != leased:
        yield Finding("N4", row.version, f"{row.status}, with a lease until {row.lease_until}")


def n7_pending_rows_are_due(record: Record, row: Any) -> Iterator[Finding]:
    """No pending row is ever without a due time."""
    if (row.status == Status.PENDING) != (row.due_at is not None):
        yield Finding("N7", row.version, f"{row.status}, due at {row.due_at}")


ROW_RULES: tuple[Callable[[Record, Any], Iterator[Finding]], ...] = (
    i8_the_row_is_the_fold,
    n4_open_attempts_have_a_lease,
    n7_pending_rows_are_due,
)


def row_findings(record: Record, row: Any) -> list[Finding]:
    """Everything in which `row` of table `deliveries` is not what `record` amounts to."""
    found = [finding for rule in ROW_RULES for finding in rule(record, row)]
    return [structs.replace(finding, delivery_id=row.id) for finding in found]


# -- calls -------------------------------------------------------------------------------------


def n1_calls_belong_to_attempts(histories: Histories, calls: Iterable[Called]) -> Iterator[Finding]:
    """Each call belongs to an attempt that was recorded before, and is its only one.

    With times: it was entered before that attempt was closed by anybody.
    """
    seen: set[tuple[UUID, int]] = set()
    for call in calls:
        attempted, closed = _span(histories.get(call.delivery_id, ()), call.attempt)
        where = (call.delivery_id, call.attempt)
        if attempted is None:
            yield Finding(
                "N1", 0, f"a call of attempt {call.attempt}, which nobody started", call.delivery_id
            )
        elif where in seen:
            yield Finding("N1", attempted.version, f"attempt {call.attempt} called twice", call.delivery_id)
        elif call.entered_at is not None:
            if call.entered_at < attempted.recorded_at:
                yield Finding("N1", attempted.version, "called before it was recorded", call.delivery_id)
            if closed is not None and call.entered_at > closed.recorded_at:
                yield Finding("N1", closed.version, "called after it was closed", call.delivery_id)
        seen.add(where)


def n2_a_lease_is_exclusive(histories: Histories, leases: Iterable[Leased]) -> Iterator[Finding]:
    """While a lease is valid nobody but its holder closes its attempt, so that nobody starts another.

    `leases` are those whose holder never closed the attempt itself.
    """
    last: dict[tuple[UUID, int], Leased] = {}
    for lease in leases:
        where = (lease.delivery_id, lease.attempt)
        if where not in last or last[where].until < lease.until:
            last[where] = lease
    for (id, attempt), lease in last.items():
        following = _span(histories.get(id, ()), attempt + 1)[0]
        if following is not None and following.recorded_at < lease.until:
            text = f"attempt {attempt + 1} starts at {following.recorded_at}, leased until {lease.until}"
            yield Finding("N2", following.version, text, id)


def n3_a_late_word_changes_nothing(
    before: tuple[Record, Any], after: tuple[Record, Any]
) -> Iterator[Finding]:
    """Stream and row are the same before and after somebody whose lease was taken over has spoken."""
    (stream, row), (later, now) = before, after
    if [one.digest for one in stream] != [one.digest for one in later]:
        yield Finding("N3", len(later), f"{len(stream)} events before, {len(later)} after, or others")
    if row != now:
        yield Finding("N3", len(later), "the row differs")


def e1_one_key_for_all_attempts(histories: Histories, calls: Iterable[Called]) -> Iterator[Finding]:
    """One idempotency key for all attempts of a delivery, no two deliveries' the same.

    Deliveries that continue another one's debt (`root_id`) keep its key.
    """
    keys: dict[UUID, str] = {}
    owners: dict[str, UUID] = {}
    for call in calls:
        record = histories.get(call.delivery_id, ())
        first = record[0].event if record else None
        root = getattr(first, "root_id", None) or call.delivery_id
        if len(call.key) > 255 or "." in call.key or not call.key:
            yield Finding("E1", 0, f"the key {call.key[:80]!r}", call.delivery_id)
        if keys.setdefault(root, call.key) != call.key:
            yield Finding("E1", 0, f"the keys {keys[root]!r} and {call.key!r}", call.delivery_id)
        if owners.setdefault(call.key, root) != root:
            yield Finding("E1", 0, f"the key {call.key!r} of delivery {owners[call.key]}", call.delivery_id)


def call_findings(histories: Histories, calls: Iterable[Called]) -> list[Finding]:
    """Everything in which the calls of adapters are not what the streams of all deliveries say."""
    seen = list(calls)
    return [
        *n1_calls_belong_to_attempts(histories, seen),
        *e1_one_key_for_all_attempts(histories, seen),
    ]


# -- all deliveries together -------------------------------------------------------------------


def i11_the_end_is_deaf(delivery: Delivery, commands: Iterable[c.Command]) -> Iterator[Finding]:
    """No command leads anywhere from a terminal state."""
    for command in commands:
        if delivery.is_terminal and decide(command, delivery):
            text = f"{type(command).__name__} moves a {delivery.status} delivery"
            yield Finding("I11", delivery.version, text, delivery.id)


def t1_what_was_committed_is_there(committed: set[UUID], visible: set[UUID]) -> Iterator[Finding]:
    """A delivery is visible if and only if its caller committed."""
    for id in committed - visible:
        yield Finding("T1", 0, "committed, and not there", id)
    for id in visible - committed:
        yield Finding("T1", 0, "there, and never committed", id)


def t2_a_key_names_one_delivery(rows: Iterable[Any]) -> Iterator[Finding]:
    """One delivery for each tenant and key."""
    owners: dict[tuple[str, str], UUID] = {}
    for row in rows:
        if row.key is not None and owners.setdefault((row.tenant, row.key), row.id) != row.id:
            yield Finding("T2", 1, f"key {row.key!r} of {owners[row.tenant, row.key]}", row.id)


def e2_one_effect_per_key(effects: Mapping[str, int]) -> Iterator[Finding]:
    """A receiver that honours keys sees at most one effect for each; `effects` counts them."""
    for key, count in effects.items():
        if count > 1:
            yield Finding("E2", 0, f"{count} effects with the key {key!r}")


def r1_a_reader_sees_all_once(logged: Iterable[Recorded], seen: Sequence[Recorded]) -> Iterator[Finding]:
    """A tailing reader saw every committed event once, in the order of positions, with its bytes."""
    for before, one in pairwise(seen):
        if one.position is None or before.position is None or one.position <= before.position:
            yield Finding("R1", one.version, f"{one.position} seen after {before.position}", one.delivery_id)
    known = {one.digest: one for one in seen}
    for one in logged:
        if known.pop(one.digest, None) is None:
            yield Finding("R1", one.version, f"never seen, at {one.position}", one.delivery_id)
    for one in known.values():
        yield Finding("R1", one.version, f"seen at {one.position}, and not there", one.delivery_id)


# -- shared ------------------------------------------------------------------------------------


class _Standing(Struct, frozen=True):
    """How the attempts stood before an event."""

    open: int | None = None
    held: int | None = None
    endings: int = 0
    crashes: int = 0
    snoozes: int = 0
    rules: e.Rules | None = None

    @property
    def named(self) -> int | None:
        """The attempt that an outcome must name now; None: no attempt is in question."""
        return self.held if self.open is None else self.open


def _standings(stream: Entries) -> Iterator[tuple[int, e.Event, _Standing]]:
    """Each event with how the attempts stood before it."""
    standing = _Standing()
    for version, event in stream:
        yield version, event, standing
        if isinstance(event, e.Attempted):
            standing = structs.replace(standing, open=event.attempt, held=None, rules=event.rules)
        elif isinstance(event, CLOSING):
            cause = getattr(event, "cause", None)
            counts = isinstance(event, (e.Failed, e.Held)) or cause == "crashed"
            standing = structs.replace(
                standing,
                open=None,
                held=event.attempt if isinstance(event, e.Held) else None,
                endings=standing.endings + counts,
                crashes=standing.crashes + (cause == "crashed"),
                snoozes=standing.snoozes + (cause == "snoozed"),
            )


def _span(record: Record, attempt: int) -> tuple[Recorded | None, Recorded | None]:
    """The record of the start of `attempt`, and that of what closed it first."""
    started: Recorded | None = None
    for one in record:
        event = one.event
        if isinstance(event, e.Attempted) and event.attempt == attempt and started is None:
            started = one
        elif started is not None and isinstance(event, CLOSING) and event.attempt == attempt:
            return started, one
    return started, None


def _name(event: e.Event) -> str:
    return type(event).__name__
