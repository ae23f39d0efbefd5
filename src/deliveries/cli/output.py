"""What the command writes: data to stdout, talk to stderr, and nothing that a terminal would obey.

Rows hold what strangers wrote: error texts, keys, recipients. Shown to people, every character that
is not printable is written as an escape, and nothing is ever parsed as markup. In JSON the same
characters are written as JSON's own escapes, so that the data stay equal and a terminal stays calm.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from deliveries.plain import as_json, escaped, plain, plain_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["data", "log_to_stderr", "plain", "plain_lines", "say", "text_console", "write"]

MAX_LINE = 1_000
"""Characters of one line about an error."""

_WIDE = 100_000
"""Columns where no terminal limits them."""


def say(text: str) -> None:
    """One line to stderr, in the voice of the command."""
    line = plain(" ".join(text.split()))
    sys.stderr.write(f"deliveries: {line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + '…'}\n")


def data(value: Any) -> None:
    """One line of JSON to stdout, in UTF-8 whatever the locale says."""
    line = escaped(as_json(value), _json_escape)
    sys.stdout.flush()
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()


def write(what: RenderableType, *, wrap: bool = True) -> None:
    """A page for people to stdout. Text in it, unless it is our own, has been through `plain`.

    `wrap`: on a terminal, fit it to the width. Into a pipe goes every row whole, on one line, and
    without the blanks that fill a table.
    """
    terminal = sys.stdout.isatty()
    console = _console(None if wrap and terminal else _WIDE, markup=False)
    if terminal and wrap:
        console.print(what)
        return
    with console.capture() as captured:
        console.print(what)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().split("\n")[:-1]))


def text_console() -> Console:
    """Where our own texts are shown: they may have markup, and wrap, at 80 columns without a terminal."""
    return _console(None, markup=True)


def _console(width: int | None, *, markup: bool) -> Console:
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - rich calls this in its `except BrokenPipeError`, to exit by itself

    return Quiet(
        # NO_COLOR asks for no colour only, and rich would still write bold and dim: we write nothing
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        width=width,
        markup=markup,
        emoji=False,
        highlight=False,
    )


def log_to_stderr() -> None:
    """Log there, unless the application has set logging up by itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    logging.getLogger("deliveries").setLevel(logging.INFO)


class _PlainFormatter(logging.Formatter):
    """One line for a message, however hostile; only a traceback keeps its line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return plain(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return plain_lines(super().formatException(ei))


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
