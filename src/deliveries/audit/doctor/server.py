"""Checks of a PostgreSQL server: who holds what, for how long, and what it is set to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deliveries.audit.doctor.patient import Patient
from deliveries.audit.doctor.report import Check, Sight, judged
from deliveries.audit.explain.sayings import span
from deliveries.store import catalog
from deliveries.store.postgresql import LOWEST_ANNOUNCED

DEAD_ROWS = 10_000
"""So many dead rows are no matter in a table of any size."""


def transactions(patient: Patient) -> Check:
    """No transaction is open for long, prepared ones included."""
    sights: list[Sight] = []
    hidden = 0
    for row in catalog.ask(patient.connection, catalog.SESSIONS):
        hidden += row.state is None
        if row.age is not None and row.age > patient.long and row.state != "idle in transaction":
            sights.append(("warning", f"{_who(row)} has a transaction open for {span(row.age)}"))
    for row in catalog.ask(patient.connection, catalog.PREPARED):
        if row.age > patient.long:
            said = f"prepared transaction {row.gid!r} of {row.owner} waits for {span(row.age)}"
            sights.append(("problem", said))
    fine = "none is open for long"
    if hidden:
        fine += f", as far as this role may see: {hidden} sessions of others hide (GRANT pg_read_all_stats)"
    return judged(
        "transactions",
        sights,
        fine,
        "it keeps dead rows from being removed, and readers of the log from going on where it wrote: end it "
        "(SELECT pg_terminate_backend(pid), ROLLBACK PREPARED gid)",
    )


def idle(patient: Patient) -> Check:
    """No session sits idle inside a transaction."""
    sights: list[Sight] = [
        ("warning", f"{_who(row)} is idle in a transaction for {span(row.still)}")
        for row in catalog.ask(patient.connection, catalog.SESSIONS)
        if (row.state or "").startswith("idle in transaction") and row.still > patient.long
    ]
    return judged(
        "idle",
        sights,
        "no session sits idle in a transaction for long",
        "it holds its locks: claims step over its rows. End it, and set idle_in_transaction_session_timeout",
    )


def bound(patient: Patient) -> Check:
    """Readers of the log are not kept from its end for long."""
    lowest = patient.connection.scalar(LOWEST_ANNOUNCED)
    rows = catalog.ask(patient.connection, catalog.ANNOUNCED)
    sights: list[Sight] = [
        (
            "warning" if row.age is None or row.age > patient.long else "ok",
            f"readers of the log stop at position {lowest}: {_who(row)} has written there and not committed"
            + ("" if row.age is None else f" for {span(row.age)}"),
        )
        for row in rows[:1]
    ]
    if lowest is not None and not rows:  # the lock of a prepared transaction has no process
        sights.append(
            ("warning", f"readers of the log stop at position {lowest}, for a prepared transaction")
        )
    return judged(
        "bound",
        sights,
        "readers of the log see all of it",
        "let that transaction end; whatever follows it waits",
    )


def locks(patient: Patient) -> Check:
    """Nobody waits for a lock on our tables."""
    sights: list[Sight] = [
        ("warning", f"{_who(row)} waits for {span(row.age)} for {', '.join(f'pid {pid}' for pid in row.by)}")
        for row in catalog.ask(patient.connection, catalog.BLOCKED)
    ]
    return judged(
        "locks",
        sights,
        "nobody waits for a lock on our tables",
        "look at what that process does: SELECT * FROM pg_stat_activity WHERE pid = ...",
    )


def vacuum(patient: Patient) -> Check:
    """Dead rows are removed."""
    sights: list[Sight] = []
    if patient.connection.exec_driver_sql("SHOW autovacuum").scalar_one() != "on":
        sights.append(("warning", "autovacuum is off on this server"))
    for row in catalog.ask(patient.connection, catalog.VACUUM):
        if row.off:
            sights.append(("warning", f"autovacuum is off for {row.relname}"))
        if row.dead > max(DEAD_ROWS, row.live):
            sights.append(("warning", f"{row.relname} has {row.dead} dead rows beside {row.live} live ones"))
    return judged(
        "vacuum",
        sights,
        "dead rows are removed",
        "turn autovacuum on; VACUUM that table; a long transaction keeps dead rows alive",
    )


def durability(patient: Patient) -> Check:
    """A commit that was reported survives a crash."""
    sights: list[Sight] = []
    for name, what in _DURABLE.items():
        if patient.connection.exec_driver_sql(f"SHOW {name}").scalar_one() == "off":
            sights.append(("warning", f"{name} is off: {what}"))
    return judged(
        "durability",
        sights,
        "what is committed survives a crash",
        "turn it on, for the roles that schedule and perform at least",
    )


_DURABLE = {
    "synchronous_commit": "a crash takes back commits that were reported, and positions are drawn again",
    "fsync": "a crash of the machine may damage the database",
    "full_page_writes": "a crash of the machine may damage the database",
}


def primary(patient: Patient) -> Check:
    """This server takes writes."""
    sights: list[Sight] = []
    if patient.connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one():
        sights.append(("problem", "this is a hot standby: nothing is scheduled or performed here"))
    elif patient.connection.exec_driver_sql("SHOW default_transaction_read_only").scalar_one() == "on":
        sights.append(("problem", "transactions are read only by default"))
    return judged("primary", sights, "this server takes writes", "use the address of the primary")


def _who(row: Any) -> str:
    return f"pid {row.pid} ({row.application_name or 'no application name'}, role {row.usename})"


CHECKS: tuple[Callable[[Patient], Check], ...] = (
    *(primary, transactions, idle, bound, locks),
    *(vacuum, durability),
)
