"""Sealing: a signed file that says what there was, and a database held against it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from deliveries.audit import proof, signing
from deliveries.audit import seal as s
from deliveries.audit.proof import Proof
from deliveries.audit.seal import Seal
from deliveries.store import scan
from deliveries.store.schema import events, evidence, tombstones

if TYPE_CHECKING:
    from deliveries.app import Deliveries

SEALED = (events, evidence, tombstones)
"""Tables that a seal speaks of."""


class Sealing:
    """The part of `Deliveries` that seals."""

    def seal(self, path: str | os.PathLike[str], *, key: str | os.PathLike[str], names: bool = False) -> Seal:
        """Write a seal of all that there is to a new file, signed with the private key in file `key`.

        Events, evidence and tombstones. `names`: with a name for each delivery, some 50 bytes, so that what
        differs later can be told by delivery, and what was pruned hides nothing of its neighbours. It seals
        what is there, whatever that is: audit first. Raises: CallerError.
        """
        store = cast("Deliveries", self)._store
        with store.reading() as connection:
            safe = store.backend.safe_position(connection)
            now = store.now(connection)
        with scan.snapshot(store) as snapshot:
            made = s.sealed(snapshot.wholes(of=SEALED), safe, now, snapshot.epoch, names=names)
        signing.write(path, s.encode(made), key)
        return made

    def against(self, path: str | os.PathLike[str], *, public_key: str | os.PathLike[str]) -> Proof:
        """Hold the database against a seal: nothing sealed was altered, removed or cut off since.

        What came afterwards is not looked at. Raises: InvalidSeal where the file is not what its signer
        made, CallerError.
        """
        seal = s.decode(signing.read(path, public_key))
        with scan.snapshot(cast("Deliveries", self)._store) as snapshot:
            return proof.against(seal, snapshot.wholes(of=SEALED), snapshot.epoch)
