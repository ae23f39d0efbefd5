"""The tree of a seal, beside the definition of RFC 6962."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from deliveries.audit.merkle import root_of


def defined(leaves: list[bytes]) -> bytes:
    """Section 2.1, word for word, over hashes of leaves."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + defined(leaves[:k]) + defined(leaves[k:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_it_is_the_tree_of_the_rfc(leaves: list[bytes]) -> None:
    assert root_of(leaves) == defined(leaves)
