"""One examination: a connection, a bound on how long anything may take, and check after check.

A doctor is called when things are bad, so nothing that it meets ends it: a check that fails is unknown, and
the next one goes on. It only reads; what needs an index that there is not is given up after some seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from deliveries.audit.doctor import database, file, server, work
from deliveries.audit.doctor.patient import Patient
from deliveries.audit.doctor.report import Check, Diagnosis
from deliveries.core.notes import clean
from deliveries.store.failures import cause
from deliveries.store.store import Store

LATE_SECONDS = 60.0
"""What is due for longer is late."""

LONG_SECONDS = 60.0
"""A transaction that is open for longer is long."""

LOOK_SECONDS = 5.0
"""So long one check may take."""

STEPS = 100_000
"""Of SQLite's machine between two looks at the time."""

Examine = Callable[[Patient], Check]

FIRST: tuple[Examine, ...] = (database.version, database.engine, database.schema)
"""Where one of these finds a problem, the rest would find nothing else."""

REST: dict[str, tuple[Examine, ...]] = {
    "postgresql": (
        *(database.guards, database.sequence, database.clocks, *work.CHECKS),
        *server.CHECKS,
    ),
    "sqlite": (database.guards, database.clocks, *work.CHECKS, *file.CHECKS),
}
"""Dialect -> the others, in the order in which they are told."""


def examine(
    store: Store, channels: Collection[str], late: float = LATE_SECONDS, long: float = LONG_SECONDS
) -> Diagnosis:
    """Do all checks; `channels` are those that this program has adapters for."""
    at = store.clock.now()
    try:
        checks = list(_checks(store, channels, late, long, at))
    except Exception as error:  # no connection, or one that broke
        checks = [_unreachable(error)]
    url = store.engine.url.difference_update_query(_SECRET).render_as_string(hide_password=True)
    return Diagnosis(database=url, at=at, checks=tuple(checks))


_SECRET = ("password", "sslpassword", "passfile")
"""libpq takes them as parameters of the URL too."""


def _checks(
    store: Store, channels: Collection[str], late: float, long: float, at: datetime
) -> Iterator[Check]:
    with _looking(store) as (connection, bounded):
        patient = Patient(store=store, connection=connection, channels=channels, late=late, long=long)
        bad = False
        for examine_it in FIRST:
            check = _done(examine_it, patient, bounded)
            bad = bad or check.verdict in ("problem", "unknown")
            yield check
        if not bad:
            for examine_it in REST[store.engine.dialect.name]:
                yield _done(examine_it, patient, bounded)


def _done(examine_it: Examine, patient: Patient, bounded: Callable[[], None]) -> Check:
    name = examine_it.__name__
    try:
        bounded()
        with patient.connection.begin_nested():
            return examine_it(patient)
    except Exception as error:
        seen = f"it could not be looked at: {cause(error)}"
        return Check(name=name, verdict="unknown", seen=(seen,), advice="look at what the database says")


@contextmanager
def _looking(store: Store) -> Iterator[tuple[Connection, Callable[[], None]]]:
    """A connection that only reads, and what gives the next check its time."""
    deadline = [0.0]

    def bounded() -> None:
        deadline[0] = time.monotonic() + LOOK_SECONDS

    with store.unchecked() as connection:
        if store.engine.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL statement_timeout = {int(LOOK_SECONDS * 1_000)}"))
            connection.execute(text("SET LOCAL lock_timeout = 1000"))
            yield connection, bounded
            return
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: time.monotonic() > deadline[0], STEPS)
        bounded()
        try:
            yield connection, bounded
        finally:
            driver.set_progress_handler(None, 0)


def _unreachable(error: Exception) -> Check:
    said = clean(" ".join(cause(error).split()))
    return Check(
        name="version",
        verdict="problem",
        seen=(f"the database does not answer: {said}",),
        advice="check the address, that the server runs, and what it lets in",
    )
