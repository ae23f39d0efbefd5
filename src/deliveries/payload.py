"""What may be a payload: JSON that both databases store and give back unchanged."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import msgspec

from deliveries.errors import InvalidPayload, shown

MAX_PAYLOAD_BYTES = 64 * 1024
"""Default bound of an encoded payload."""

MAX_DEPTH = 64
"""Containers inside containers."""

_ENCODER = msgspec.json.Encoder(order="deterministic")
_decode = msgspec.json.Decoder().decode
_DOUBTFUL = re.compile(r"\\u0000|[0-9]{19}")  # a NUL; a number that may have more than 64 bits
_JSON = frozenset((dict, list, str, int, float, bool, type(None)))  # no need to ask what else they are
_MAX_INT, _MIN_INT = 2**64 - 1, -(2**63)


def encode(payload: Any, max_bytes: int = MAX_PAYLOAD_BYTES) -> str:
    """`payload` as JSON text with sorted keys: equal payloads are equal texts.

    A JSON value, or a msgspec Struct or dataclass. Raises: InvalidPayload, naming the path of what
    is not JSON, or is accepted by one database and refused by the other.
    """
    if type(payload) not in _JSON and (
        isinstance(payload, msgspec.Struct)
        or (dataclasses.is_dataclass(payload) and not isinstance(payload, type))
    ):
        try:
            payload = msgspec.to_builtins(payload)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidPayload("$", str(error)) from None
    if (sound := _sound(payload, max_bytes)) is not None:
        return sound
    _check(payload, max_bytes)
    try:
        text = _ENCODER.encode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidPayload("$", str(error)) from None
    if len(text) > max_bytes:
        raise InvalidPayload("$", f"{len(text)} bytes are more than max_payload_bytes ({max_bytes})")
    return text.decode()


def _sound(payload: Any, max_bytes: int) -> str | None:
    """The text of a payload that is sound beyond doubt; None where each value must be looked at.

    What comes back equal was JSON to begin with. Left are the numbers, texts and depths that only one
    of the databases takes, and those show in the text.
    """
    try:
        encoded = _ENCODER.encode(payload)
        text = encoded.decode()
        if (
            len(encoded) > max_bytes
            or text.count("[") + text.count("{") > MAX_DEPTH
            or _DOUBTFUL.search(text)
        ):
            return None
        return text if _decode(text) == payload else None
    except Exception:  # whatever it is, the slow way knows its name and its place
        return None


def _check(payload: Any, max_bytes: int) -> None:
    """Walk without recursion, so that depth is a limit and not a crash; stop once it is too large."""
    budget = max_bytes
    stack: list[tuple[Any, str, int]] = [(payload, "$", 0)]
    while stack:
        value, path, depth = stack.pop()
        if value is None or value is True or value is False:
            budget -= 4
        elif isinstance(value, str):
            budget -= check_text(value, path)
        elif isinstance(value, (int, float)):
            budget -= _check_number(value, path)
        elif isinstance(value, (dict, list)):
            if depth >= MAX_DEPTH:
                raise InvalidPayload(_short(path), f"nested deeper than {MAX_DEPTH}")
            budget -= 2 + len(value)
            if budget >= 0:
                stack += _children(value, path, depth + 1)
        else:
            hint = "; use a list" if isinstance(value, tuple) else ""
            raise InvalidPayload(_short(path), f"{type(value).__name__} is not a JSON value{hint}")
        if budget < 0:
            raise InvalidPayload("$", f"larger than max_payload_bytes ({max_bytes})")


def _children(value: Any, path: str, depth: int) -> list[tuple[Any, str, int]]:
    if isinstance(value, list):
        return [(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]
    for key in value:
        if not isinstance(key, str):
            raise InvalidPayload(_short(path), f"key {shown(key)} is not a string")
        check_text(key, path)
    return [(item, f"{path}.{key}", depth) for key, item in value.items()]


def _check_number(value: float, path: str) -> int:
    if isinstance(value, int):
        if not _MIN_INT <= value <= _MAX_INT:
            raise InvalidPayload(_short(path), "an integer must fit 64 bits; send it as a string")
    elif not math.isfinite(value):
        raise InvalidPayload(_short(path), f"{value} is not JSON")
    return 1


def check_text(value: str, path: str) -> int:
    """The least number of bytes `value` takes. Raises: InvalidPayload for NUL and lone surrogates."""
    if "\x00" in value:
        raise InvalidPayload(_short(path), "NUL characters are not allowed")
    try:
        return 2 + (len(value) if value.isascii() else len(value.encode()))
    except UnicodeEncodeError:
        raise InvalidPayload(_short(path), "lone surrogates are not allowed") from None


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}…{path[-100:]}"
