"""Exporting the log: every event in the order of positions, up to where nothing can come late any more."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, Protocol, cast

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select

from deliveries.audit.lines import Line, cloud_event, line_of, parsed
from deliveries.errors import CallerError
from deliveries.store.rows import recorded_of
from deliveries.store.schema import contents, events, notes, tombstones
from deliveries.store.store import Store

PAGE = 2_000
"""Events read at a time."""

TAIL = 64 * 1024 * 1024
"""A last line is not longer than this; a payload has at most some hundred KiB."""

Format = Literal["jsonl", "cloudevents", "parquet"]

_PLAIN = select(events)
_TOLD = (
    select(events, notes.c.text, contents.c.recipient, contents.c.payload)
    .outerjoin(notes, (notes.c.delivery_id == events.c.delivery_id) & (notes.c.version == events.c.version))
    .outerjoin(contents, (contents.c.delivery_id == events.c.delivery_id) & (events.c.version == 1))
)


class Exported(Struct, frozen=True):
    """What an export wrote."""

    events: int
    position: int
    """Of the last event, or where it began if there was none: where the next export goes on."""


class Writer(Protocol):
    """Where lines go."""

    def write(self, lines: Sequence[Line]) -> None:
        """Some more of them."""

    def close(self) -> None:
        """That was all."""


def pages(store: Store, after: int, *, told: bool) -> Iterator[list[Line]]:
    """Events behind `after`, page by page; `told`: with notes, recipients and payloads."""
    with store.reading() as connection:
        horizon = store.backend.safe_position(connection)
    while True:
        with store.reading() as connection:
            page = _page(connection, after, horizon, told=told)
        if not page:
            return
        after = page[-1].position
        yield page


def _page(connection: Connection, after: int, horizon: int, *, told: bool) -> list[Line]:
    place = events.c.position
    statement = (_TOLD if told else _PLAIN).where(place > after, place <= horizon).order_by(place).limit(PAGE)
    return [
        line_of(recorded_of(row), _beside(row) if told else None) for row in connection.execute(statement)
    ]


def _beside(row: Any) -> dict[str, Any]:
    payload = None if row.payload is None else msgspec.Raw(row.payload.encode())
    found = {"note": row.text, "recipient": row.recipient, "payload": payload}
    return {name: value for name, value in found.items() if value is not None}


# -- files -------------------------------------------------------------------------------------


class Text:
    """Lines of JSON: our own, or CloudEvents of `source`."""

    def __init__(self, stream: IO[bytes], source: str | None, file: BinaryIO | None = None) -> None:
        """`file`: what is below `stream` and closed with it; None: it stays open."""
        self._stream, self._source, self._file = stream, source, file
        self._encoder = msgspec.json.Encoder()

    def write(self, lines: Sequence[Line]) -> None:
        """See `Writer`."""
        told = lines if self._source is None else [cloud_event(line, self._source) for line in lines]
        self._stream.write(self._encoder.encode_lines(told))

    def close(self) -> None:
        """See `Writer`. What was written to a file is on the disk then."""
        self._stream.flush()
        if self._file is not None:
            if self._stream is not self._file:
                self._stream.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def opened(path: str | os.PathLike[str], format: Format, source: str, *, append: bool) -> Writer:
    """Where an export to `path` writes. Raises: CallerError where the file exists, or cannot be made."""
    if format == "parquet":
        from deliveries.audit.parquet import Parquet

        return Parquet(_new(path))
    file = cast("BinaryIO", open(path, "ab")) if append else _new(path)  # noqa: SIM115 - the writer closes it
    packed = gzip.GzipFile(fileobj=file, mode="wb") if os.fspath(path).endswith(".gz") else None
    stream = cast("IO[bytes]", packed or file)
    return Text(stream, source if format == "cloudevents" else None, file)


def _new(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise CallerError(f"export {os.fspath(path)!r}: {error.strerror}") from None


_BEGINNINGS = (b'{"position":', b'{"specversion":')
"""Of a first line: what begins otherwise is somebody else's file, and is not touched."""


def resumed(path: Path) -> tuple[Line | None, int]:
    """The last event in an export, None if there is none yet, and where its line ends.

    What follows was cut by a crash. Raises: CallerError where it is no export.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - TAIL)
        file.seek(start)
        whole, _, _ = file.read().rpartition(b"\n")
        end = start + len(whole) + 1 if whole else start
        if not whole:
            file.seek(0)
            begins = file.read(16)
            if start or not any(begins.startswith(one[: len(begins)]) for one in _BEGINNINGS):
                raise CallerError(f"{path}: it does not begin as an export does")
            return None, 0
        last = whole.rpartition(b"\n")[2]
        try:
            (line,) = parsed(last)
        except ValueError as error:
            raise CallerError(f"{path}: {error}") from None
        return line, end


def belongs(store: Store, line: Line) -> bool:
    """Whether this database has that event at that position, or had it until its delivery was pruned."""
    with store.reading() as connection:
        digest = connection.scalar(select(events.c.digest).where(events.c.position == line.position))
        if digest is not None:
            return bool(digest.hex() == line.digest)
        stone = select(tombstones.c.version).where(tombstones.c.delivery_id == line.delivery_id)
        return (connection.scalar(stone) or 0) >= line.version
