"""Text that people wrote or programs shouted: bounded, cleaned, redacted, and kept beside the stream.

A note is erasable; the event it belongs to holds only its salted SHA-256. Nothing here may raise,
whatever an exception's `__str__` does: a text must never decide whether an outcome is recorded.
"""

from __future__ import annotations

import hashlib
import re

from msgspec import Struct

MAX_TEXT = 2_000
"""Characters kept of an error text, a receipt or a reason."""

MAX_NAME = 200
"""Characters kept of an exception's class name."""

# control characters, line separators, lone surrogates, and what reorders or hides text
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_URL = r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,30}://[^\s/:@]*)"
_PARTED = re.compile(_URL + r":[^\s@]*\Z")
_SECRETS = (
    (re.compile(_URL + r":[^\s/]+@"), r"\1:[redacted]@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), r"\1 [redacted]"),
    (
        re.compile(
            # no \b in front: access_token, client_secret, DB_PASSWORD
            r"(?i)(pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|authorization|signature)"
            r"(\\*\"?'?\s*[=:]\s*)(?!(?:\w+\s+)?\[redacted\])(?:(?:bearer|basic|token|digest)\s+)?"
            r"(?:\\+\"[^\"]*(?:\"|\Z)|\"(?:\\.|[^\"\\])*(?:\"|\Z)|'(?:\\.|[^'\\])*(?:'|\Z)|[^\s,;&\"')}\]]+)"
        ),
        r"\1\2[redacted]",
    ),
    (re.compile(r"\b(?:sk|pk|rk|whsec|ghp|xox[abp])[_-][A-Za-z0-9_-]{8,}"), "[redacted]"),
)


class Note(Struct, frozen=True, gc=False):
    """A text and its salt; `digest` is what the event keeps."""

    text: str
    salt: bytes

    @property
    def digest(self) -> str:
        return salted(self.salt, self.text.encode())


def salted(salt: bytes, content: bytes) -> str:
    """Hex SHA-256 of salt and content: tells nothing about the content once the salt is erased."""
    return hashlib.sha256(salt + content).hexdigest()


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` without secrets, without characters that a database or a terminal would choke on.

    At most `limit` characters; a cut is marked.
    """
    cut = text[: limit * 2]  # look at no more than we could keep: the text may have 100 MB
    if len(cut) < len(text):  # the cut may have parted a password from the @ that tells it
        cut = _PARTED.sub(r"\1:[redacted]", cut)
    for pattern, replacement in _SECRETS:
        cut = pattern.sub(replacement, cut)
    cut = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", cut)
    return cut if len(cut) <= limit and len(text) <= limit * 2 else cut[: limit - 1] + "…"


def describe(value: object) -> str:
    """What `value` (an exception, a receipt, a reason) says of itself, as clean text."""
    try:
        if issubclass(type(value), str):  # not isinstance: `__class__` may be a property that raises
            return clean(str.__str__(value))
        text = str(value) or repr(value)
        return clean(str.__str__(text))
    except BaseException:
        return f"<unprintable {type_name(value)}>"


def type_name(value: object) -> str:
    """The class name of `value`, clean and bounded."""
    return clean(str.__str__(_NAME(type(value))), MAX_NAME)


_NAME = type.__dict__["__name__"].__get__
"""The one `__name__` that no metaclass can override."""
