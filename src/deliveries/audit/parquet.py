"""An export as Parquet, for whoever counts in columns: `deliveries[parquet]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any
from uuid import UUID

from msgspec import Raw, UnsetType

from deliveries.audit.lines import Line
from deliveries.errors import CallerError

GROUP = 100_000
"""Events in one row group."""


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise CallerError("Parquet needs pyarrow: pip install 'deliveries[parquet]'") from None
    return pa


class Parquet:
    """Writes row groups; see `export.Writer`."""

    def __init__(self, file: IO[bytes]) -> None:
        pa = _pyarrow()
        self._schema = pa.schema(
            [
                ("position", pa.int64()),
                ("delivery_id", pa.string()),
                ("version", pa.int32()),
                ("type", pa.dictionary(pa.int8(), pa.string())),
                ("schema_version", pa.int32()),
                ("recorded_at", pa.timestamp("us", tz="UTC")),
                ("digest", pa.string()),
                ("event", pa.string()),
                ("body", pa.string()),
                ("note", pa.string()),
                ("recipient", pa.string()),
                ("payload", pa.string()),
            ]
        )
        self._file, self._pa = file, pa
        self._writer = pa.parquet.ParquetWriter(file, self._schema, write_page_checksum=True)
        self._lines: list[Line] = []

    def write(self, lines: Sequence[Line]) -> None:
        """Some more of them."""
        self._lines += lines
        if len(self._lines) >= GROUP:
            self._flush()

    def close(self) -> None:
        """That was all."""
        self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._lines:
            columns = {
                name: [_plain(getattr(line, name)) for line in self._lines] for name in self._schema.names
            }
            self._writer.write_table(self._pa.table(columns, schema=self._schema))
            self._lines = []


def _plain(value: Any) -> Any:
    if isinstance(value, UnsetType):
        return None
    if isinstance(value, Raw):
        return bytes(value).decode()
    return str(value) if isinstance(value, UUID) else value


def lines(path: Any) -> Iterator[Line]:
    """The events of such a file. Raises: CallerError, ValueError where it is damaged."""
    pa = _pyarrow()
    try:
        file = pa.parquet.ParquetFile(path, page_checksum_verification=True)
        for batch in file.iter_batches(10_000):
            for row in batch.to_pylist():
                given = {name: value for name, value in row.items() if value is not None}
                for name in ("event", "payload"):
                    if name in given:
                        given[name] = Raw(given[name].encode())
                given["delivery_id"] = UUID(given["delivery_id"])
                yield Line(**given)
    except Exception as error:  # of a damaged file it says so in many ways
        raise ValueError(f"no export: {error}") from None
