"""A seal proves that nothing of what there was is altered, gone or cut off; and is quiet over honest work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, select, text

from deliveries import Deliveries, Draft
from deliveries.audit import seal as sealing
from deliveries.audit import signing, verify
from deliveries.core import codec
from deliveries.errors import CallerError, InvalidSeal
from deliveries.store.schema import contents, deliveries, events
from support import sealed as made_world
from support.apps import schedule
from support.tampering import WAYS, Past, unguard


@pytest.fixture
def app(fresh_url: str) -> Iterator[Deliveries]:
    made = Deliveries(fresh_url)
    made.adapter("email")(lambda delivery, attempt: None)
    yield made
    made.close()


@pytest.fixture
def ids(app: Deliveries) -> list[UUID]:
    with app.engine.begin() as connection:
        made = app.schedule_many(connection, "email", [Draft(n, recipient=f"r{n}@x.org") for n in range(8)])
    app.drain()
    made.append(schedule(app, "email", "pending", delay=3_600))
    return [one.id for one in made]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert signing.new_key(tmp_path / "key") == tmp_path / "key.pub"
    return tmp_path / "key"


@pytest.fixture(params=[False, True], ids=["buckets", "names"])
def sealed(
    request: pytest.FixtureRequest, app: Deliveries, ids: list[UUID], key: Path, tmp_path: Path
) -> Path:
    app.seal(tmp_path / "seal", key=key, names=request.param)
    return tmp_path / "seal"


@pytest.fixture
def named(app: Deliveries, ids: list[UUID], key: Path, tmp_path: Path) -> Path:
    app.seal(tmp_path / "seal", key=key, names=True)
    return tmp_path / "seal"


def against(app: Deliveries, path: Path) -> Any:
    return app.against(path, public_key=path.with_name("key.pub"))


def test_what_is_in_it(app: Deliveries, ids: list[UUID], key: Path, tmp_path: Path) -> None:
    made = app.seal(tmp_path / "one", key=key)
    assert (made.deliveries, made.events, len(made.buckets)) == (9, 25, 1)
    assert (made.buckets[0].live, made.buckets[0].pruned) == (1, 0)
    assert made.position == max(one.position or 0 for id in ids for one in app.history(id))
    proof = against(app, tmp_path / "one")
    assert (proof.ok, proof.unproven, proof.seal) == (True, 0, made)
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    assert key.stat().st_mode & 0o777 == 0o600
    two = app.seal(tmp_path / "two", key=key)
    assert (two.heads, two.beside) == (made.heads, made.beside)


def test_nothing_at_all(app: Deliveries, key: Path, tmp_path: Path) -> None:
    app.create_schema()
    assert app.seal(tmp_path / "seal", key=key).deliveries == 0
    schedule(app, "email", "later")
    assert against(app, tmp_path / "seal").ok


def test_honest_work_is_no_finding(app: Deliveries, ids: list[UUID], sealed: Path) -> None:
    for n in range(3):
        schedule(app, "email", f"new {n}")
    with app.engine.begin() as connection:
        app.reschedule(connection, ids[-1], delay=0)
        app.record_evidence(connection, "bounced", id=ids[0])
    app.drain()
    app.erase(recipient="r1@x.org")
    with app.engine.begin() as connection:
        app.redrive(connection, ids[2], may_repeat=True)
    app.drain()
    app.rebuild()
    proof = against(app, sealed)
    assert (proof.findings, proof.unproven) == ((), 0)
    named = proof.seal.buckets[0].names is not None
    app.prune(0, where={"id": ids[:4]})
    proof = against(app, sealed)  # their heads are proven; without names their neighbours' evidence is not
    assert (proof.findings, proof.unproven) == ((), 0 if named else 9)
    app.prune(0)  # one of them went on after the seal: what it was then, nobody can tell any more
    proof = against(app, sealed)
    if named:
        assert (proof.findings, proof.unproven) == ((), 1)
    else:
        assert [one.delivery_id for one in proof.findings] == [None]
        assert "without names nobody can tell" in proof.findings[0].text


def test_a_transaction_that_was_open_meanwhile(postgresql_url: str, key: Path, tmp_path: Path) -> None:
    app = Deliveries(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    with app.engine.connect() as late:
        app.schedule(late, "email", "late")
        schedule(app, "email", "quick")
        assert app.seal(tmp_path / "seal", key=key, names=True).deliveries == 0
        late.commit()
    assert against(app, tmp_path / "seal").ok
    app.close()


def test_a_position_that_is_given_once_more_after_a_crash(
    postgresql_url: str, key: Path, tmp_path: Path
) -> None:
    """A position that nobody has seen committed may be lost with its transaction, and handed out again."""
    app = Deliveries(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    last = schedule(app, "email", "kept").id
    with app.engine.connect() as lost:
        app.schedule(lost, "email", "lost")
        lost.rollback()
    made = app.seal(tmp_path / "seal", key=key, names=True)
    assert made.position == app.history(last)[-1].position
    with app.engine.begin() as connection:
        connection.execute(text("SELECT setval('delivery_events_position_seq', :to)"), {"to": made.position})
    schedule(app, "email", "in its place")
    assert against(app, tmp_path / "seal").ok
    app.close()


# -- tampering ---------------------------------------------------------------------------------


@pytest.fixture
def unguarded(app: Deliveries, ids: list[UUID]) -> Iterator[Connection]:
    """Somebody who may do anything."""
    with app.engine.begin() as connection:
        unguard(connection)
    with app.engine.connect() as connection:
        yield connection


def remade(connection: Connection, id: UUID, body: bytes, version: int) -> None:
    """Another body, and a chain and a row made anew: nothing in the database shows it."""
    rows = connection.execute(
        select(events).where(events.c.delivery_id == id).order_by(events.c.version)
    ).all()
    previous = codec.GENESIS
    for row in rows:
        told = body if row.version == version else row.body
        previous = codec.digest(
            previous, id, row.version, row.type, row.schema_version, row.recorded_at, told
        )
        where = events.c.position == row.position
        connection.execute(events.update().where(where).values(body=told, digest=previous))
    connection.execute(deliveries.update().where(deliveries.c.id == id).values(digest=previous))


def gone(connection: Connection, id: UUID) -> None:
    connection.execute(events.delete().where(events.c.delivery_id == id))
    connection.execute(deliveries.delete().where(deliveries.c.id == id))
    connection.execute(contents.delete().where(contents.c.delivery_id == id))


def test_a_chain_made_anew_is_found_by_the_seal_alone(
    app: Deliveries, unguarded: Connection, ids: list[UUID], sealed: Path
) -> None:
    remade(unguarded, ids[3], b'{"attempt":1,"by":"operator"}', 3)
    unguarded.commit()
    assert app.audit().ok
    proof = against(app, sealed)
    if proof.seal.buckets[0].names is None:
        assert [one.delivery_id for one in proof.findings] == [None]
        assert f"9 deliveries from {ids[0]} to {ids[8]} were sealed; 9 are there" in proof.findings[0].text
    else:
        assert [one.delivery_id for one in proof.findings] == [ids[3]]


def test_a_stream_that_is_gone(app: Deliveries, unguarded: Connection, ids: list[UUID], sealed: Path) -> None:
    gone(unguarded, ids[5])
    unguarded.commit()
    assert app.audit().ok
    proof = against(app, sealed)
    assert len(proof.findings) == 1
    if proof.seal.buckets[0].names is None:
        assert "8 are there" in proof.findings[0].text
    else:
        assert (proof.findings[0].delivery_id, proof.findings[0].text) == (
            ids[5],
            "it was sealed, and is gone",
        )


def test_all_that_is_gone(app: Deliveries, unguarded: Connection, ids: list[UUID], sealed: Path) -> None:
    for id in ids:
        gone(unguarded, id)
    unguarded.commit()
    proof = against(app, sealed)
    assert len(proof.findings) == (1 if proof.seal.buckets[0].names is None else 9)


def test_an_end_that_was_cut_off(
    app: Deliveries, unguarded: Connection, ids: list[UUID], sealed: Path
) -> None:
    """And the row set back, so that the delivery would be made again."""
    unguarded.execute(events.delete().where((events.c.delivery_id == ids[2]) & (events.c.version > 1)))
    unguarded.commit()
    app.rebuild()
    assert app.audit().ok
    proof = against(app, sealed)
    assert len(proof.findings) == 1
    if proof.seal.buckets[0].names is not None:
        assert proof.findings[0].delivery_id == ids[2]


def test_each_way_to_tamper(fresh_postgresql_url: str, tmp_path: Path) -> None:
    """On PostgreSQL; the property of all of them is tested on SQLite."""
    app, ids = made_world.make(fresh_postgresql_url)
    made_world.seal(app, tmp_path / "seal", names=True)
    wrong = {}
    with app.engine.connect() as connection:
        unguard(connection)
        before = Past(connection, ids)
        for name, way in WAYS.items():
            past = Past(connection, ids)
            affected = way(past, Random(7))
            past.write(connection)
            connection.commit()
            proof = app.against(tmp_path / "seal", public_key=made_world.public_key(tmp_path / "seal"))
            if affected != {one.delivery_id for one in proof.findings}:
                wrong[name] = (affected, proof.findings)
            before.write(connection)
            connection.commit()
    assert wrong == {}
    proof = app.against(tmp_path / "seal", public_key=made_world.public_key(tmp_path / "seal"))
    assert (proof.found, proof.unproven) == (0, 0)
    app.close()


def test_a_live_delivery_under_a_longer_tombstone(
    app: Deliveries, unguarded: Connection, ids: list[UUID], sealed: Path
) -> None:
    """So it would stand if it had gone on and was pruned: it is told that nobody can tell."""
    past = Past(unguarded, ids)
    row = past.events.pop(ids[-1])[0]
    stone = {"delivery_id": ids[-1], "version": 3, "digest": b"f" * 32, "status": "succeeded"}
    past.tombstones[ids[-1]] = stone | {"pruned_at": row["recorded_at"], "actor": None}
    past.write(unguarded)
    unguarded.commit()
    proof = against(app, sealed)
    assert (proof.found, proof.unproven) == ((1, 0) if proof.seal.buckets[0].names is None else (0, 1))


def test_one_that_was_pruned_hides_none_of_its_neighbours(
    app: Deliveries, unguarded: Connection, ids: list[UUID], sealed: Path
) -> None:
    app.prune(0, where={"id": ids[:1]})
    gone(unguarded, ids[3])
    unguarded.commit()
    assert not against(app, sealed).ok


def test_more_findings_than_are_kept(
    app: Deliveries, unguarded: Connection, ids: list[UUID], named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "KEPT", 2)
    for id in ids:
        gone(unguarded, id)
    unguarded.commit()
    proof = against(app, named)
    assert (proof.found, [one.delivery_id for one in proof.findings]) == (9, ids[:2])


# -- files -------------------------------------------------------------------------------------


def test_a_file_that_is_not_what_its_signer_made(app: Deliveries, sealed: Path, tmp_path: Path) -> None:
    whole = sealed.read_bytes()
    for spoiled in (
        whole.replace(b'"deliveries":9', b'"deliveries":8', 1),
        whole[:-10],
        whole[:40],
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        whole.replace(b"signature", b"signaturE"),
    ):
        (tmp_path / "spoiled").write_bytes(spoiled)
        with pytest.raises(InvalidSeal):
            app.against(tmp_path / "spoiled", public_key=tmp_path / "key.pub")
    signing.new_key(tmp_path / "other")
    with pytest.raises(InvalidSeal, match="not signed with this key"):
        app.against(sealed, public_key=tmp_path / "other.pub")


def test_a_seal_of_another_format(app: Deliveries, key: Path, tmp_path: Path, ids: list[UUID]) -> None:
    made = app.seal(tmp_path / "seal", key=key)
    for n, change in enumerate(
        ({"format": "deliveries-seal-9"}, {"heads": bytes(32)}, {"beside": bytes(32)}, {"deliveries": 7})
    ):
        import msgspec

        data = sealing.encode(msgspec.structs.replace(made, **change))
        signing.write(tmp_path / f"other{n}", data, key)
        with pytest.raises(InvalidSeal):
            app.against(tmp_path / f"other{n}", public_key=tmp_path / "key.pub")


def test_keys(app: Deliveries, ids: list[UUID], key: Path, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="exists"):
        signing.new_key(key)
    with pytest.raises(CallerError, match="private key"):
        app.seal(tmp_path / "seal", key=tmp_path / "key.pub")
    with pytest.raises(CallerError, match="No such file"):
        app.seal(tmp_path / "seal", key=tmp_path / "none")
    app.seal(tmp_path / "seal", key=key)
    with pytest.raises(CallerError, match="exists"):
        app.seal(tmp_path / "seal", key=key)
    with pytest.raises(CallerError, match="public key"):
        app.against(tmp_path / "seal", public_key=key)
    with pytest.raises(CallerError, match="No such file"):
        app.against(tmp_path / "none", public_key=tmp_path / "key.pub")


def test_buckets(app: Deliveries, ids: list[UUID], key: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole = app.seal(tmp_path / "whole", key=key)
    monkeypatch.setattr(sealing, "BUCKET", 2)
    made = app.seal(tmp_path / "seal", key=key, names=True)
    assert [bucket.deliveries for bucket in made.buckets] == [2, 2, 2, 2, 1]
    # they are those of one tree over all
    assert (made.heads, made.beside) == (whole.heads, whole.beside)
    assert against(app, tmp_path / "seal").ok
    with app.engine.begin() as connection:
        unguard(connection)
        for id in ids[2:4]:
            gone(connection, id)
    assert [one.delivery_id for one in against(app, tmp_path / "seal").findings] == ids[2:4]
