"""Recipients as digests: known again when they come back, and not to be read.

HMAC-SHA256 under a key that this database drew for itself. The same recipient has another digest in
another database, and whoever sees a digest cannot try names against it without the key. Who can read
all tables can: then they are pseudonyms, not secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata

from sqlalchemy import Connection, select, text

from deliveries.errors import ConcurrentChange
from deliveries.store.schema import secrets

_NAME = "recipients"
_KEY = select(secrets.c.value).where(secrets.c.name == _NAME)
_CREATE = text("""
INSERT INTO delivery_secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING
""")


def normalised(recipient: str) -> str:
    """The spelling that all spellings of a recipient share: no case, no blanks around, one form of each
    character (Unicode's NFKC). More than one mailbox may share it where case counts: then too many are
    suppressed rather than too few.
    """
    return unicodedata.normalize("NFKC", recipient).strip().casefold()


def digest(connection: Connection, *parts: str) -> bytes | None:
    """HMAC-SHA256 of these parts, 32 bytes; None while the database has no key, and so no digest."""
    key = connection.scalar(_KEY)
    if key is None:
        return None
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in (part.encode() for part in parts))
    return hmac.new(key, framed, hashlib.sha256).digest()


def create_key(connection: Connection) -> None:
    """Draw the key, unless there is one. `create_schema` does; who uses only the tables gets it late.

    Raises: ConcurrentChange where somebody draws it too, and this transaction may not see it.
    """
    connection.execute(_CREATE, {"name": _NAME, "value": os.urandom(32)})
    if connection.scalar(_KEY) is None:
        raise ConcurrentChange("another transaction has just drawn the key of this database")


def new_digest(connection: Connection, *parts: str) -> bytes:
    """As `digest`, drawing the key where there is none."""
    found = digest(connection, *parts)
    if found is None:
        create_key(connection)
        found = digest(connection, *parts)
    assert found is not None
    return found
