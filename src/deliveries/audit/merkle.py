"""The tree of RFC 6962, section 2.1: one digest over any number of leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def leaf(*parts: bytes) -> bytes:
    """The hash of a leaf that holds these parts, each with its length before it."""
    packed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(b"\0" + packed).digest()


class Tree:
    """The root over leaves that come one by one, in memory for the logarithm of their number."""

    def __init__(self) -> None:
        self._done: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        """The next leaf."""
        height = 0
        while self._done and self._done[-1][0] == height:
            leaf, height = _node(self._done.pop()[1], leaf), height + 1
        self._done.append((height, leaf))

    def root(self) -> bytes:
        """Over all that came; of none it is the hash of nothing."""
        if not self._done:
            return hashlib.sha256(b"").digest()
        found = self._done[-1][1]
        for _, left in reversed(self._done[:-1]):
            found = _node(left, found)
        return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaves."""
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()
