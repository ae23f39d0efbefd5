"""Many rows in one statement of PostgreSQL: what varies among them travels as arrays.

Drivers make arrays element by element, in Python, each with the care that an unknown type needs, and
the server unpacks them value by value. So a literal is written here, where the type is known, and a
column in which all rows agree, as most do, is passed once, as the value it is. Of the 25 columns of a
new delivery six or seven vary within a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection

from deliveries.store.statement import Statement


class Filled(Struct, frozen=True, gc=False):
    """A statement and the rows that it is to write."""

    statement: Statement
    values: Mapping[str, Any]
    ids: Sequence[UUID]
    tells: bool
    """Whether it says which were written, where not all were."""

    def write(self, connection: Connection, **values: Any) -> set[UUID]:
        """Write them; `values` are the other parameters. Returns the ids of those that were left out."""
        written = self.statement.run(connection, {**self.values, **values})
        if written.rowcount == len(self.ids):  # as nearly always: nobody need read which
            written.close()
            return set()
        return set(self.ids).difference(row[0] for row in written.fetchall()) if self.tells else set(self.ids)


class Rows:
    """A statement that writes rows, and says which, so that those that it left out are known.

    In `sql`, `WITH u AS {rows}` gives the rows that it is run for; `returning`: the id of each that was
    written, None where no row can be left out. `kinds`: column -> type, in the order in which rows have
    them, the id first.
    """

    def __init__(self, sql: str, returning: str | None, kinds: Mapping[str, str]) -> None:
        self._sql, self._returning, self._kinds = sql, returning, dict(kinds)
        self._statements: dict[tuple[str, ...], Statement] = {}

    def write(self, connection: Connection, rows: Sequence[tuple[Any, ...]], **values: Any) -> set[UUID]:
        """Write these rows, at least one, each with another id; `values` are the other parameters.

        Returns the ids of those that were left out.
        """
        return self.filled(rows).write(connection, **values)

    def filled(self, rows: Sequence[tuple[Any, ...]]) -> Filled:
        """The statement for these rows, at least one, each with another id; it needs no connection yet."""
        ids = [row[0] for row in rows]
        if len(rows) == 1:
            return Filled(self._statement(()), dict(zip(self._kinds, rows[0], strict=True)), ids, False)
        values, varying = {}, []
        for (name, kind), column in zip(self._kinds.items(), zip(*rows, strict=True), strict=True):
            values[name] = first = column[0]
            if column[-1] != first or column.count(first) < len(column):  # the last one often says it
                varying.append(name)
                values[name] = literal(kind, column)
        return Filled(self._statement(tuple(varying)), values, ids, self._returning is not None)

    def _statement(self, varying: tuple[str, ...]) -> Statement:
        statement = self._statements.get(varying)
        if statement is None:  # a handful in the life of a program
            sql = self._sql.format(rows=self._select(varying))
            sql += f"RETURNING {self._returning}" if varying and self._returning else ""
            statement = self._statements[varying] = Statement(sql)
        return statement

    def _select(self, varying: Sequence[str]) -> str:
        chosen = ", ".join(
            f"u.{name}" if name in varying else f"CAST(:{name} AS {kind}) AS {name}"
            for name, kind in self._kinds.items()
        )
        if not varying:  # in line, so that each insert is one of plain values
            return f"NOT MATERIALIZED (SELECT {chosen})"
        # by way of text, so that no driver tries to make an array of it; in a SELECT of its own, so that
        # the planner does not read it too, only to see how long it is
        arrays = ", ".join(
            f"(SELECT CAST(CAST(:{name} AS text) AS {self._kinds[name]}[]))" for name in varying
        )
        return f"MATERIALIZED (SELECT {chosen} FROM unnest({arrays}) AS u({', '.join(varying)}))"


def literal(kind: str, values: Sequence[Any]) -> str:
    """An array of that type, as PostgreSQL writes it."""
    element = _ELEMENTS[kind]
    return "{" + ",".join(["NULL" if value is None else element(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


_ELEMENTS: Mapping[str, Callable[[Any], str]] = {
    "uuid": lambda value: value.hex,
    "int": str,
    "float8": repr,
    "timestamptz": lambda value: value.isoformat(),
    "bytea": lambda value: f'"\\\\x{value.hex()}"',
    "text": _quoted,
}
