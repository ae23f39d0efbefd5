"""Whatever is changed of a sealed past, in whatever way, is found, and told by the delivery's name."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveries import Deliveries
from deliveries.audit.proof import Proof
from support import sealed
from support.tampering import WAYS, Past, unguard

BEFORE, AFTER = "at once", "after honest work and a prune"
NAMED, UNNAMED = "names", "buckets"

Worlds = dict[tuple[str, str], tuple[Path, Path, list[UUID]]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """(when, which seal) -> a database, its seal, and whose past is sealed and still there."""
    folder, made = tmp_path_factory.mktemp("worlds"), {}
    for what in (NAMED, UNNAMED):
        app, ids = sealed.make(f"sqlite:///{folder / what}.db")
        sealed.seal(app, folder / what, names=what == NAMED)
        app.close()
        made[BEFORE, what] = (
            Path(shutil.copy(folder / f"{what}.db", folder / f"{what}1")),
            folder / what,
            ids,
        )
        app = Deliveries(f"sqlite:///{folder / what}.db")
        app.adapter(sealed.CHANNEL)(lambda delivery, attempt: None)
        gone = sealed.go_on(app, ids)
        app.close()
        made[AFTER, what] = (folder / f"{what}.db", folder / what, [id for id in ids if id != gone])
    return made


def tampered(path: Path, seal: Path, ids: list[UUID], way: str, random: Random) -> tuple[Proof, set[UUID]]:
    copy = Path(shutil.copy(path, path.with_suffix(".tampered")))
    app = Deliveries(f"sqlite:///{copy}")
    try:
        with app.engine.begin() as connection:
            unguard(connection)
            past = Past(connection, ids)
            affected = WAYS[way](past, random)
            past.write(connection)
        return app.against(seal, public_key=sealed.public_key(seal)), affected
    finally:
        app.close()
        copy.unlink()


@given(st.sampled_from(sorted(WAYS)), st.sampled_from([BEFORE, AFTER]), st.randoms(use_true_random=False))
def test_with_names_each_change_is_found_and_has_a_name(
    worlds: Worlds, way: str, when: str, random: Random
) -> None:
    proof, affected = tampered(*worlds[when, NAMED], way, random)
    assert {one.delivery_id for one in proof.findings} == affected
    assert proof.unproven == 0


@given(st.sampled_from(sorted(WAYS)), st.sampled_from([BEFORE, AFTER]), st.randoms(use_true_random=False))
def test_without_names_each_change_is_found_or_said_to_be_beyond_proof(
    worlds: Worlds, way: str, when: str, random: Random
) -> None:
    """After a prune positions and evidence of its neighbours are; heads never."""
    told_at_all(tampered(*worlds[when, UNNAMED], way, random)[0], way, when)


def told_at_all(proof: Proof, way: str, when: str) -> None:
    assert proof.found or (when == AFTER and proof.unproven)
    if proof.ok:
        assert any(
            word in way for word in ("evidence", "position", "change of a tombstone", "beside its stream")
        )


@pytest.mark.parametrize("when", [BEFORE, AFTER])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_each_way(worlds: Worlds, way: str, when: str) -> None:
    proof, affected = tampered(*worlds[when, NAMED], way, Random(7))
    assert {one.delivery_id for one in proof.findings} == affected
    told_at_all(tampered(*worlds[when, UNNAMED], way, Random(7))[0], way, when)


def test_a_world_that_nobody_touched(worlds: Worlds) -> None:
    for (when, what), (path, seal, _) in worlds.items():
        app = Deliveries(f"sqlite:///{path}")
        proof = app.against(seal, public_key=sealed.public_key(seal))
        assert (proof.findings, proof.unproven) == ((), 9 if (when, what) == (AFTER, UNNAMED) else 0)
        app.close()
