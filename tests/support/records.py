"""Streams as they are stored, made without a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from deliveries.core import codec
from deliveries.core import events as e
from deliveries.core.stream import Recorded
from deliveries.testing.examples import ID, at


def record(*told: e.Event, times: Sequence[datetime] = (), id: UUID = ID) -> list[Recorded]:
    """A sound chain over these events, a minute apart unless `times` says otherwise."""
    found, previous = [], codec.GENESIS
    for version, event in enumerate(told, start=1):
        recorded_at = times[version - 1] if times else at(60 * version)
        body, name = codec.encode(event), type(event).__name__
        previous = codec.digest(previous, id, version, name, 1, recorded_at, body)
        found.append(
            Recorded(
                delivery_id=id,
                version=version,
                type=name,
                schema_version=1,
                recorded_at=recorded_at,
                body=body,
                digest=previous,
                position=version,
            )
        )
    return found
