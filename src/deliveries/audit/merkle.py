"""The tree of RFC 6962, section 2.1: one digest over any number of leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def leaf(*parts: bytes) -> bytes:
    """The hash of a leaf that holds these parts, each with its length before it."""
    packed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(b"\0" + packed).digest()


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaves, in logarithmic memory; of none it is the hash of nothing."""
    done: list[tuple[int, bytes]] = []
    for each in leaves:
        node, height = each, 0
        while done and done[-1][0] == height:
            node, height = _node(done.pop()[1], node), height + 1
        done.append((height, node))
    if not done:
        return hashlib.sha256(b"").digest()
    found = done[-1][1]
    for _, left in reversed(done[:-1]):
        found = _node(left, found)
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
