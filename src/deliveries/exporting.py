"""Exporting: all events to a file, and on from where the last export ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast, get_args

from deliveries.audit import export as x
from deliveries.audit.export import Exported, Format
from deliveries.audit.lines import schema
from deliveries.errors import CallerError, shown

if TYPE_CHECKING:
    from deliveries.app import Deliveries


class Exporting:
    """The part of `Deliveries` that exports."""

    def export(
        self,
        path: str | os.PathLike[str] | IO[bytes],
        *,
        format: Format = "jsonl",
        after: int = 0,
        contents: bool = False,
        resume: bool = False,
        source: str = "/deliveries",
    ) -> Exported:
        """Write all events behind position `after`, in the order of the log, one a line.

        `path`: a new file, or a binary stream that stays open; `.gz` is packed. `format`: "jsonl",
        "cloudevents" (1.0, in the name of `source`) or "parquet". `contents`: with recipients, payloads
        and notes, as far as they were not erased. `resume`: go on in a file where its last event stands.

        Flat memory. No event is missed, whatever the order of commits: what an open transaction may
        still bring is left for the next time. Returns how far it went. Raises: CallerError.
        """
        store = cast("Deliveries", self)._store
        if format not in get_args(Format):
            raise CallerError(f"format {shown(format)}: one of {', '.join(get_args(Format))}")
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise CallerError(f"after must be a position from 0 on, not {shown(after)}")
        if resume:
            after = self._last(path, format, after)
        if isinstance(path, (str, os.PathLike)):
            there = resume and Path(path).exists()
            writer: x.Writer = x.opened(path, format, source, append=there)
        elif format == "parquet":
            raise CallerError("Parquet is written to a file, not to a stream")
        else:
            writer = x.Text(path, source if format == "cloudevents" else None)
        events = 0
        try:
            for page in x.pages(store, after, told=contents):
                writer.write(page)
                events, after = events + len(page), page[-1].position
        finally:
            writer.close()
        return Exported(events, after)

    def _last(self, path: Any, format: Format, after: int) -> int:
        """Where an export to that file ended. Raises: CallerError."""
        if after:
            raise CallerError("resume knows by itself behind which position to go on")
        if not isinstance(path, (str, os.PathLike)) or format == "parquet" or str(path).endswith(".gz"):
            raise CallerError("only a file of plain lines can be resumed")
        file = Path(path)
        if not file.exists():
            return 0
        line, end = x.resumed(file)
        if line is not None and not x.belongs(cast("Deliveries", self)._store, line):
            raise CallerError(f"{file}: its last event is none of this database")
        os.truncate(file, end)
        return 0 if line is None else line.position

    @staticmethod
    def event_schema() -> dict[str, Any]:
        """JSON Schema of every event, as exports hold it in `event`."""
        return schema()
