"""A small world with a past of every kind, and the seal of it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from deliveries import Deliveries, Draft, Retry
from deliveries.audit import signing

CHANNEL = "email"


def make(url: str) -> tuple[Deliveries, list[UUID]]:
    """Ended ones, two that have not ended, evidence, and two that were pruned; with those that are there."""
    app = Deliveries(url)

    @app.adapter(CHANNEL)
    def email(delivery, attempt):  # type: ignore[no-untyped-def]
        return Retry("not yet", after=3_600) if delivery.payload == "fails" else None

    app.create_schema()
    with app.engine.begin() as connection:
        payloads = [*(f"mail {n}" for n in range(7)), "fails"]
        made = [one.id for one in app.schedule_many(connection, CHANNEL, [Draft(each) for each in payloads])]
    app.drain()
    with app.engine.begin() as connection:
        made.append(app.schedule(connection, CHANNEL, "later", delay=3_600).id)
        for id in (made[2], made[4], made[-1]):
            app.record_evidence(connection, "opened", id=id)
        for kind in ("clicked", "complained"):
            app.record_evidence(connection, kind, id=made[4])
    app.prune(0, where={"id": made[:2]}, actor="ann")
    return app, made[2:]


def seal(app: Deliveries, path: Path, *, names: bool) -> None:
    """Beside a new key."""
    signing.new_key(path.with_suffix(".key"))
    app.seal(path, key=path.with_suffix(".key"), names=names)


def public_key(path: Path) -> Path:
    """Of the seal in this file."""
    return path.with_suffix(".key.pub")


def go_on(app: Deliveries, ids: list[UUID]) -> UUID:
    """Honest work after the seal: others come, and one of `ids` that had ended is pruned."""
    with app.engine.begin() as connection:
        for n in range(3):
            app.schedule(connection, CHANNEL, f"new {n}", delay=0 if n else 60)
    app.drain()
    app.prune(0, where={"id": ids[3:4]})
    return ids[3]
