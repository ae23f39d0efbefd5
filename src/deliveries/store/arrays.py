"""Many rows in one statement of PostgreSQL: what varies among them travels as arrays.

Drivers make arrays element by element, in Python, each with the care that an unknown type needs, and
the server unpacks them value by value. So a literal is written here, where the type is known, and a
column in which all rows agree, as most do, is passed once, as the value it is. Of the 25 columns of a
new delivery six or seven vary within a batch. Bytes, which would be read digit by digit, travel end to
end, as one value, with where each begins and its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
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
                values |= _bytes(name, column) if kind == "bytea" else {name: literal(kind, column)}
        return Filled(self._statement(tuple(varying)), values, ids, self._returning is not None)

    def _statement(self, varying: tuple[str, ...]) -> Statement:
        statement = self._statements.get(varying)
        if statement is None:  # a handful in the life of a program
            sql = self._sql.format(rows=self._select(varying))
            sql += f"RETURNING {self._returning}" if varying and self._returning else ""
            statement = self._statements[varying] = Statement(sql)
        return statement

    def _select(self, varying: Sequence[str]) -> str:
        chosen = ", ".join(f"{self._chosen(name, name in varying)} AS {name}" for name in self._kinds)
        if not varying:  # in line, so that each insert is one of plain values
            return f"NOT MATERIALIZED (SELECT {chosen})"
        arrays: dict[str, str] = {}
        for name in varying:
            kind = self._kinds[name]
            arrays |= dict.fromkeys(_places(name), "int") if kind == "bytea" else {name: kind}
        # by way of text, so that no driver tries to make an array of it; in a SELECT of its own, so that
        # the planner does not read it too, only to see how long it is
        unpacked = ", ".join(f"(SELECT CAST(CAST(:{name} AS text) AS {arrays[name]}[]))" for name in arrays)
        return f"MATERIALIZED (SELECT {chosen} FROM unnest({unpacked}) AS u({', '.join(arrays)}))"

    def _chosen(self, name: str, varies: bool) -> str:
        value = f"CAST(:{name} AS {self._kinds[name]})"
        if not varies:
            return value
        if self._kinds[name] == "bytea":
            return "substring((SELECT {}) FROM u.{} FOR u.{})".format(value, *_places(name))
        return f"u.{name}"


def _places(name: str) -> tuple[str, str]:
    """The arrays that say where each value of a column of bytes begins, from 1, and how long it is."""
    return f"{name}_from", f"{name}_size"


def _bytes(name: str, column: Sequence[bytes | None]) -> dict[str, Any]:
    """A column of bytes, end to end, and its arrays; NULL has no size."""
    sizes = [None if value is None else len(value) for value in column]
    begin, size = _places(name)
    return {
        name: b"".join([value or b"" for value in column]),
        begin: literal("int", accumulate((size or 0 for size in sizes[:-1]), initial=1)),
        size: literal("int", sizes),
    }


def literal(kind: str, values: Iterable[Any]) -> str:
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
    "text": _quoted,
}
