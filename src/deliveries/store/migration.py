"""Bringing the schema into being, and knowing whether it is there."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert, inspect, select

from deliveries.errors import SchemaMissing, SchemaTooNew, StoreError
from deliveries.store.ddl import install
from deliveries.store.recipients import create_key
from deliveries.store.schema import SCHEMA_VERSION, metadata, schema

_LOCK = 0x64656C69  # "deli": two processes that upgrade at once do it one after the other


def upgrade(connection: Connection, now: datetime) -> None:
    """Create what is missing. Idempotent.

    Raises: SchemaTooNew.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    if _version(connection) == SCHEMA_VERSION:
        return
    metadata.create_all(connection)
    install(connection)
    create_key(connection)
    connection.execute(insert(schema), {"version": SCHEMA_VERSION, "created_at": now})


def verify(connection: Connection) -> None:
    """Check that the schema is there, known, and as we need it.

    Raises: SchemaMissing, SchemaTooNew, StoreError.
    """
    if _version(connection) is None:
        raise SchemaMissing
    if connection.dialect.name != "postgresql":
        return
    name, cached, readable = connection.exec_driver_sql(
        "SELECT seqrelid::regclass::text, seqcache, has_sequence_privilege(seqrelid, 'SELECT, USAGE') "
        "FROM pg_sequence "
        "WHERE seqrelid = pg_get_serial_sequence('delivery_events', 'position')::regclass"
    ).one()
    if not readable:  # inserting needs no right on it; PostgreSQL 17 and newer show it as never used
        raise StoreError(
            f"this role cannot see how far the event log goes: GRANT SELECT ON SEQUENCE {name} TO it"
        )
    if cached != 1:
        raise StoreError(
            "the sequence of delivery_events.position must keep CACHE 1, or readers of the event log "
            f"would miss events; it has CACHE {cached}"
        )


def _version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(schema.name):
        return None
    version = connection.scalar(select(schema.c.version).order_by(schema.c.version.desc()))
    if version is not None and version > SCHEMA_VERSION:
        raise SchemaTooNew(version, SCHEMA_VERSION)
    return version
