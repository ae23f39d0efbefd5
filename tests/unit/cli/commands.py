"""Running the command in a test, and what it may never let through."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HOSTILE = "[red]x[/red]\x1b[31m\x9b31m\u202e\u2028\x7f\n\t"
"""What somebody would write who wants the operator's terminal."""


def harmless(text: str) -> bool:
    """One line, without control, format or separator characters; blanks of all widths are welcome."""
    return all(character.isprintable() or unicodedata.category(character) == "Zs" for character in text)


SHOP = """\
from deliveries import Deliveries

app = Deliveries({url!r})
without_channels = Deliveries({url!r})
number = 3


@app.adapter("email", queue="mail", max_attempts=2)
def email(delivery, attempt):
    if isinstance(delivery.payload, dict) and "print" in delivery.payload:
        print(delivery.payload["print"])
    if isinstance(delivery.payload, dict) and "error" in delivery.payload:
        raise RuntimeError(delivery.payload["error"])


@app.adapter("charge", effect="unsafe", on_unknown="hold")
def charge(delivery, attempt):
    raise ConnectionError("cut off")
"""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        """The documents on stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def failed(self, code: int, *said: str) -> None:
        """It wrote one line to stderr, in which all this is said, and nothing to stdout."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.startswith("deliveries: "), self
        assert self.err.count("\n") == 1, self
        for words in said:
            assert words in self.err, self


Command = Callable[..., Result]
