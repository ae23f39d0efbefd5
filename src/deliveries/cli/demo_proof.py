"""The demo's proof: the receiver's log held against the event streams. Pure, so that it can be tested.

Two books were kept by two parties who do not know each other. Each claim below compares them; one
that finds a difference names the delivery, and the proof does not hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from deliveries.core import events as e
from deliveries.core.events import Event


@dataclass(frozen=True)
class Request:
    """One line of the receiver's log."""

    key: str
    """The idempotency key."""
    attempt: int
    order: int
    status: int
    """As answered; 0: the connection was reset. 200 means accepted: the effect happened."""

    @property
    def accepted(self) -> bool:
        return self.status == 200


@dataclass(frozen=True)
class Books:
    """All that is compared."""

    requests: Sequence[Request]
    """The receiver's log."""
    streams: Mapping[str, Sequence[Event]]
    """Idempotency key -> events, of every delivery in the database."""
    committed: Mapping[str, int]
    """Idempotency key -> order number, of every transaction that the shop committed."""
    undone: Mapping[str, int]
    """The same for what it rolled back."""
    killed: Collection[str]
    """The workers that were killed, by the name they have in the events."""


@dataclass(frozen=True)
class Claim:
    """One sentence of the proof; it holds unless something was found against it."""

    text: str
    count: str
    findings: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class Proof:
    """The claims, and the keys that the receiver accepted more than once."""

    claims: tuple[Claim, ...]
    repeated: tuple[str, ...]
    effects: int
    """Keys accepted at least once: what happened to the world."""
    acceptances: int
    """Requests accepted, repetitions included."""

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)


def prove(books: Books) -> Proof:
    """Compare everything with everything."""
    log: defaultdict[str, list[Request]] = defaultdict(list)
    for request in books.requests:
        log[request.key].append(request)
    accepted = Counter(request.key for request in books.requests if request.accepted)
    repeated = tuple(key for key, times in accepted.items() if times > 1)
    claims = (
        _received(books, log),
        _undone(books, log),
        _truthful(books, log),
        _written_first(books, log),
        _repeated(books, log, repeated),
    )
    return Proof(claims, repeated, len(accepted), accepted.total())


Log = Mapping[str, Sequence[Request]]


def _received(books: Books, log: Log) -> Claim:
    missing = [key for key in books.committed if key not in log or key not in books.streams]
    count = f"{len(books.committed) - len(missing):,} of {len(books.committed):,}"
    return Claim("every committed delivery was received", count, _name(missing, "never received"))


def _undone(books: Books, log: Log) -> Claim:
    leaked = [key for key in books.undone if key in log or key in books.streams]
    foreign = sorted({*log, *books.streams} - {*books.committed, *books.undone})
    findings = _name(leaked, "rolled back, and there all the same") + _name(foreign, "owed by nobody")
    return Claim(
        "none that was rolled back was received", f"{len(leaked):,} of {len(books.undone):,}", findings
    )


def _truthful(books: Books, log: Log) -> Claim:
    """A success is recorded if and only if the receiver accepted, and for that very attempt."""
    wrong = []
    for key, stream in books.streams.items():
        end = stream[-1]
        accepted = {one.attempt for one in log.get(key, ()) if one.accepted}
        if isinstance(end, e.Succeeded):
            wrong += [] if end.attempt in accepted else [key]
        elif accepted or not isinstance(end, e.Cancelled):
            wrong.append(key)
    effects = sum(any(one.accepted for one in seen) for seen in log.values())
    count = f"{effects:,} accepted, {len(log) - effects:,} refused"
    return Claim("every recorded end is what the receiver saw", count, _name(wrong, "ended otherwise"))


def _written_first(books: Books, log: Log) -> Claim:
    """The books agree on attempts: none was made unrecorded, none was made twice."""
    wrong = []
    for key, seen in log.items():
        numbers = [one.attempt for one in seen]
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(_attempts(books.streams.get(key, ()))):
            wrong.append(key)
    total = sum(len(seen) for seen in log.values())
    return Claim(
        "every request belongs to an attempt on record",
        f"{total:,} requests",
        _name(wrong, "called without a record of its own"),
    )


def _repeated(books: Books, log: Log, repeated: Sequence[str]) -> Claim:
    """Of the accepted attempts of a key, all but the last were cut off by a kill, and say so."""
    wrong = []
    for key in repeated:
        stream = books.streams.get(key, ())
        cut = {one.attempt for one in stream if isinstance(one, e.Interrupted) and one.cause == "crashed"}
        by_killed = {n for n, worker in _attempts(stream).items() if worker in books.killed}
        accepted = sorted(one.attempt for one in log[key] if one.accepted)
        if not set(accepted[:-1]) <= cut & by_killed:
            wrong.append(key)
    by_order: defaultdict[int, set[str]] = defaultdict(set)
    for request in books.requests:
        by_order[request.order].add(request.key)
    split = [str(order) for order, keys in sorted(by_order.items()) if len(keys) > 1]
    findings = _name(wrong, "repeated without a kill") + _name(split, "order with more than one key")
    return Claim(
        "accepted twice only where a worker was killed", f"{len(repeated):,}, by the same key", findings
    )


def _attempts(stream: Sequence[Event]) -> dict[int, str]:
    """Attempt -> who made it."""
    return {event.attempt: event.worker for event in stream if isinstance(event, e.Attempted)}


def _name(keys: Sequence[str], what: str) -> tuple[str, ...]:
    return tuple(f"{key}: {what}" for key in keys)
