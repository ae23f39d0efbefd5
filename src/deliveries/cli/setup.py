"""The tables: `db upgrade` makes them, `db sql` prints what makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

from deliveries.cli.options import Common, Database
from deliveries.cli.output import write

FROM_ENVIRONMENT = Database()
NOTHING_ELSE = Common()

# the moment of the installation, by the database's clock; on SQLite in microseconds, as `Instant` is
_NOW = {"sqlite": "CAST(strftime('%s', 'now') AS INTEGER) * 1000000", "postgresql": "now()"}

# 32 bytes that nobody can guess; a UUID of version 4 has 122 random bits
_RANDOM = {
    "sqlite": "randomblob(32)",
    "postgresql": "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())",
}


def upgrade(*, database: Database = FROM_ENVIRONMENT) -> int:
    """Create the tables, indexes and guards that are missing. Harmless to repeat.

    Args:
        database: Where to create them.
    """
    with database.opened(create=True) as app:
        app.create_schema()
        write(f"{app.engine.url!s} has the deliveries schema")
    return 0


def sql(dialect: Literal["sqlite", "postgresql"], /, *, common: Common = NOTHING_ELSE) -> int:
    """Print the SQL that creates everything in an empty database, for psql or sqlite3.

    It is one transaction: psql -v ON_ERROR_STOP=1, or sqlite3 -bail, stop at the first error.

    Args:
        dialect: For which database.
        common: No database is needed.
    """
    sys.stdout.writelines(f"{statement};\n\n" for statement in statements(dialect))
    return 0


def statements(dialect: str) -> Iterator[str]:
    """What `create_schema` executes, without a database, and the row that says it was done."""
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    from deliveries.store.ddl import STATEMENTS
    from deliveries.store.schema import SCHEMA_VERSION, metadata, schema, secrets

    made = {"sqlite": sqlite, "postgresql": postgresql}[dialect].dialect()
    yield "BEGIN"
    for table in metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=made)).strip()
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=made)).strip()
    yield from (statement.strip() for statement in STATEMENTS[dialect])
    key = f"('recipients', {_RANDOM[dialect]})"
    yield f"INSERT INTO {secrets.name} (name, value) VALUES {key}"  # noqa: S608 - our constants
    row = f"({SCHEMA_VERSION}, {_NOW[dialect]})"
    yield f"INSERT INTO {schema.name} (version, created_at) VALUES {row}"  # noqa: S608 - our constants
    yield "COMMIT"
