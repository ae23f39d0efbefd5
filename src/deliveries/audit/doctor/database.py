"""Checks of the database as we made it: version, schema, guards, sequence, clocks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.schema import CreateTable

from deliveries import sqlite
from deliveries.audit.doctor.patient import Patient
from deliveries.audit.doctor.report import Check, Sight, judged
from deliveries.audit.explain.sayings import span
from deliveries.errors import CallerError, StoreError
from deliveries.store import catalog, ddl, migration
from deliveries.store.schema import SCHEMA_VERSION, Instant, events, metadata
from deliveries.store.schema import schema as schema_table

OLDEST_POSTGRESQL = 14

SKEW_SECONDS = 1.0
"""Clocks that differ by no more are taken for equal."""

SKEW_PROBLEM_SECONDS = 30.0

RECENT = 1_000
"""Events, the last ones, whose times are held against the clock."""

UPGRADE = "run `deliveries db upgrade`"

_TABLES = tuple(metadata.tables.values())
_TRIGGER = re.compile(r"CREATE (?:OR REPLACE )?TRIGGER (?:IF NOT EXISTS )?(\w+)")
_CONSTRAINT = re.compile(r'CONSTRAINT "?(\w+)"?')
_DATABASE_NOW = text("SELECT statement_timestamp() AS now").columns(now=Instant())


def version(patient: Patient) -> Check:
    """It answers, and is new enough."""
    found = patient.connection.dialect.server_version_info or ()
    number = ".".join(map(str, found))
    oldest: tuple[int, ...] = sqlite.OLDEST
    name = "SQLite"
    if patient.connection.dialect.name == "postgresql":
        oldest, name = (OLDEST_POSTGRESQL,), "PostgreSQL"
        number = patient.connection.exec_driver_sql("SHOW server_version").scalar_one()
    least = ".".join(map(str, oldest))
    sights: list[Sight] = [("ok", f"{name} {number} answers")]
    if found < oldest:
        sights = [("problem", f"{name} {number} is older than {least}")]
    return judged("version", sights, "", f"upgrade {name}")


def engine(patient: Patient) -> Check:
    """On SQLite the engine begins transactions by itself."""
    sights: list[Sight] = []
    if patient.connection.dialect.name == "sqlite":
        try:
            sqlite.check(patient.connection)
        except CallerError as error:
            sights = [("problem", str(error))]
    return judged("engine", sights, "this engine keeps our promises", "configure it, as the text says")


def schema(patient: Patient) -> Check:
    """Our tables are there, of the version that this library knows."""
    if patient.connection.dialect.name == "sqlite":
        names = patient.connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        there = {row.name for row in names}
    else:
        there = {row.name for row in catalog.ask(patient.connection, catalog.TABLES)}
    missing = sorted(metadata.tables.keys() - there)
    if schema_table.name not in there:
        return judged("schema", [("problem", "there is no deliveries schema")], "", UPGRADE)
    found = patient.connection.scalar(select(func.max(schema_table.c.version)))
    sights: list[Sight] = []
    if found != SCHEMA_VERSION:
        sights.append(("problem", f"it is version {found}, this library knows {SCHEMA_VERSION}"))
    if missing:
        sights.append(("problem", f"tables are missing: {', '.join(missing)}"))
    newer = found is not None and found > SCHEMA_VERSION
    return judged("schema", sights, f"version {found}", "upgrade the library" if newer else UPGRADE)


def guards(patient: Patient) -> Check:
    """Triggers, indexes and constraints are there, and on."""
    dialect = patient.connection.dialect.name
    made = " ".join(str(CreateTable(one).compile(dialect=patient.connection.dialect)) for one in _TABLES)
    wanted = {name for statement in ddl.STATEMENTS[dialect] for name in _TRIGGER.findall(statement)}
    wanted |= {str(index.name) for table in _TABLES for index in table.indexes} | {*_CONSTRAINT.findall(made)}
    found = _sqlite_guards(patient) if dialect == "sqlite" else _postgresql_guards(patient)
    sights: list[Sight] = [("problem", f"{name} is missing") for name in sorted(wanted - found.keys())]
    sights += [
        ("problem", f"{name} is {state}") for name, state in found.items() if name in wanted and state != "on"
    ]
    if dialect == "postgresql":
        role = patient.connection.exec_driver_sql("SHOW session_replication_role").scalar_one()
        if role != "origin":
            sights.append(("problem", f"session_replication_role is {role}: no trigger fires"))
    return judged(
        "guards",
        sights,
        f"{len(wanted)} triggers, indexes and constraints are there",
        "create what is missing with the statements of `deliveries db sql`; ask who took it away, then audit",
    )


def _sqlite_guards(patient: Patient) -> dict[str, str]:
    rows = patient.connection.exec_driver_sql("SELECT name, type, sql FROM sqlite_master").all()
    made = " ".join(row.sql or "" for row in rows if row.type == "table")
    return dict.fromkeys([*(row.name for row in rows), *_CONSTRAINT.findall(made)], "on")


def _postgresql_guards(patient: Patient) -> dict[str, str]:
    return {row.name: row.state for row in catalog.ask(patient.connection, catalog.GUARDS)}


def sequence(patient: Patient) -> Check:
    """Positions are drawn one by one, and this role can see how far they go."""
    sights: list[Sight] = []
    try:
        migration.verify(patient.connection)
    except StoreError as error:
        sights = [("problem", str(error))]
    return judged("sequence", sights, "positions are drawn one by one", "change it as the text says")


def clocks(patient: Patient) -> Check:
    """Who reads the present off different clocks reads the same."""
    sights: list[Sight] = []
    if patient.connection.dialect.name == "postgresql" and not patient.store.clock.authoritative:
        before = patient.store.clock.now()
        there: datetime = patient.connection.execute(_DATABASE_NOW).scalar_one()
        after = patient.store.clock.now()
        ahead = (before - there).total_seconds() if before > there else (after - there).total_seconds()
        if not before <= there <= after and abs(ahead) > SKEW_SECONDS:
            where = "ahead of" if ahead > 0 else "behind"
            said = f"this machine's clock is {span(abs(ahead))} {where} the database's: `delay=` is off by it"
            sights.append(("problem" if abs(ahead) > SKEW_PROBLEM_SECONDS else "warning", said))
    sights += _from_the_future(patient, "worker", ((one.name, one.seen_at) for one in patient.workers))
    recent = select(events.c.recorded_at).order_by(events.c.position.desc()).limit(RECENT).subquery()
    newest = patient.connection.scalar(select(func.max(recent.c.recorded_at)))
    if newest is not None:
        sights += _from_the_future(patient, "the newest event", [("", newest)])
    return judged(
        "clocks",
        sights,
        "they agree within a second",
        "let NTP set the clocks of the database and of every machine that schedules",
    )


def _from_the_future(patient: Patient, what: str, times: Iterable[tuple[str, datetime]]) -> list[Sight]:
    """What was written by a clock that is ahead, or before the clock that decides was set back."""
    return [
        ("warning", f"{f'{what} {name}'.strip()} is {span(-patient.age(at))} in the future")
        for name, at in times
        if -patient.age(at) > SKEW_SECONDS
    ]
