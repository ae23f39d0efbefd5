"""Checks of a SQLite file: its journal, how it is written, and who is in the way."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from deliveries.audit.doctor.patient import Patient
from deliveries.audit.doctor.report import Check, Sight, judged

MAX_WAL_BYTES = 256 * 1024 * 1024
"""A log above this was not folded into the file for a while: a reader has stayed open."""

_SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


def journal(patient: Patient) -> Check:
    """Write-ahead logging is on, so that readers and the writer do not wait for each other."""
    mode = _pragma(patient, "journal_mode")
    wanted = {"wal"} | ({"memory"} if not _path(patient) else set())
    sights: list[Sight] = (
        [] if mode in wanted else [("warning", f"journal_mode is {mode}: readers block writers")]
    )
    return judged(
        "journal", sights, f"journal_mode is {mode}", "deliveries.sqlite.configure(engine), on a local disk"
    )


def synchronous(patient: Patient) -> Check:
    """A commit survives a power cut."""
    said = _SYNCHRONOUS.get(int(_pragma(patient, "synchronous")), "unknown")
    sights: list[Sight] = []
    if said not in ("FULL", "EXTRA"):
        sights = [("warning", f"synchronous is {said}: a power cut takes back commits that were reported")]
    return judged("synchronous", sights, f"synchronous is {said}", "deliveries.sqlite.configure(engine)")


def log(patient: Patient) -> Check:
    """The write-ahead log is folded into the file from time to time."""
    path = _path(patient)
    size = os.path.getsize(f"{path}-wal") if path and os.path.exists(f"{path}-wal") else 0
    text = f"the write-ahead log has {size / 1024 / 1024:.1f} MiB"
    sights: list[Sight] = [("warning", text)] if size > MAX_WAL_BYTES else []
    return judged(
        "log", sights, text, "find the reader that stays open: it keeps the log from being folded in"
    )


def writer(patient: Patient) -> Check:
    """Nobody holds the write lock at this moment. Asked by a connection of its own, which writes nothing."""
    path = _path(patient)
    sights: list[Sight] = []
    if path:
        other = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0.5, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            sights = [("warning", f"a write transaction cannot begin within half a second: {error}")]
        finally:
            other.close()
    return judged(
        "writer",
        sights,
        "a write transaction can begin",
        "everybody who writes waits for it: find the transaction that stays open",
    )


def _pragma(patient: Patient, name: str) -> str:
    return str(patient.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _path(patient: Patient) -> str:
    """The file; empty for a database in memory."""
    return str(patient.connection.exec_driver_sql("PRAGMA database_list").all()[0][2])


CHECKS: tuple[Callable[[Patient], Check], ...] = (journal, synchronous, log, writer)
