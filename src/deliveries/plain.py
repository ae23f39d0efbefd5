"""Strangers' words on their way to people: as plain text, in HTML, in Markdown.

Rows hold what strangers wrote: error texts, keys, recipients. Whatever they are shown in must show them
and obey none of them. Each function takes a text for what it is and returns one that means the same.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable

_SUSPECT = re.compile(r"[^\x20-\x7e]")

# What starts a construct of CommonMark or of GitHub's dialect inside a line; lines start with our own words.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&#!$^{}]")
_LINKS = re.compile(r"(?i)(?<=www)\.|:(?=//)|(?<=mailto):|(?<=xmpp):")


def plain(text: str) -> str:
    """`text` with everything unprintable (control, format, bidirectional, newline) as an escape."""
    return escaped(text, _python_escape)


def plain_lines(text: str) -> str:
    """`plain`, line by line, for a text whose line breaks are our own."""
    return "\n".join(plain(line) for line in text.split("\n"))


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """`text` with `escape` of every character that is not printable; blanks of all widths are."""
    return _SUSPECT.sub(lambda found: _shown(found.group(), escape), text)


def as_json(value: object) -> str:
    """`value` as JSON. A lone surrogate, for a byte of a text that is none, is written as its escape."""
    import msgspec

    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


def as_html(text: str) -> str:
    """`text` for the inside of an HTML element or of an attribute in double quotes."""
    return html.escape(plain(text))


def as_markdown(text: str) -> str:
    """`text` for the inside of a Markdown paragraph or table cell: no markup, no link, no mention."""
    shown = _MARKDOWN.sub(r"\\\g<0>", plain(text))
    return _LINKS.sub(lambda found: f"&#{ord(found.group())};", shown).replace("@", "&#64;")


def _shown(character: str, escape: Callable[[str], str]) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return escape(character)


def _python_escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
