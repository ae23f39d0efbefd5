"""Workers that die at any point of their work, some in a row, on both databases.

These are two short rounds of what `make crash` does at length. The points are not listed anywhere:
they are what the workers of these rounds have passed, and each round goes on to others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from crash.matrix import Matrix, crash_before, leading_to, play
from crash.plots import PLOTS
from crash.points import Gate, watch
from crash.shop import application
from crash.world import World
from crash.zygote import Zygote

SIGNS = {"KILL": 10, "STOP": 1, "TERM": 2, "TERM TERM": 1}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return Matrix(thorough=False, signs=SIGNS)


@pytest.mark.parametrize("turn", [1, 2])
def test_whatever_kills_workers_each_debt_is_paid_once_and_ends(
    zygote: Zygote, matrix: Matrix, database_url: str, dialect: str, turn: int
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    before = matrix.totals.kills
    with World(zygote, database_url, lease=1.0) as world:
        assert play(world, matrix, dialect, random.Random(seed), workers=6, kills=2) == [], f"seed {seed}"
    assert matrix.totals.kills >= before + 2


@pytest.mark.parametrize(
    ("variant", "plot", "point", "rules"),
    [
        (
            "calls_before_it_writes",
            "keyed-sync plain",
            "claim and record: before commit Attempted",
            {"N1"},
        ),
        ("never_sweeps", "keyed-sync plain", "keyed-sync first: after the answer", {"N4"}),
        ("takes_unsafe_for_safe", "held-sync plain", "held-sync first: after the answer", {"E3"}),
        (
            "makes_a_key_for_each_attempt",
            "keyed-sync plain",
            "keyed-sync first: after the effect, at the receiver",
            {"E1"},
        ),
        ("", "held-sync plain", "held-sync first: after the answer", set()),
    ],
)
def test_a_product_that_is_wrong_is_found_out(
    zygote: Zygote, sqlite_url: str, variant: str, plot: str, point: str, rules: set[str]
) -> None:
    with World(zygote, sqlite_url, lease=0.5, variant=variant or None, patience=2.0) as world:
        world.owe(PLOTS[plot])
        worker = world.worker(at=point)
        assert world.until_hit(worker)
        assert worker.wait() == -9
        world.finish()
        assert {one.partition(":")[0] for one in world.judge()} >= rules
        assert bool(world.judge()) == bool(rules)


def test_every_statement_and_every_end_of_a_transaction_is_a_point(database_url: str) -> None:
    seen: list[str] = []
    gate = Gate(seen.append)
    app = application(database_url, "http://127.0.0.1:1", gate)
    watch(app.engine, gate)
    try:
        with app._store.transaction() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET priority = 1")
        with pytest.raises(LookupError), app._store.transaction():
            raise LookupError
    finally:
        app.close()
    told = [line.partition(": ")[2] for line in seen]
    for moment in ("before", "after"):
        for what in ("UPDATE deliveries", "commit", "rollback"):
            assert f"{moment} {what}" in told


def test_a_gate_acts_at_the_visit_that_was_chosen() -> None:
    seen: list[str] = []
    gate = Gate(seen.append, at="here", visit=2)
    assert [gate.is_due(point) for point in ("here", "there", "here", "here")] == [False, False, True, False]
    assert seen == ["seen here", "seen there", "at here"]


@pytest.mark.parametrize(
    ("point", "plot", "before"),
    [
        (
            "sweep: before APPEND Held",
            "held-sync plain",
            "held-sync first: after the effect, at the receiver",
        ),
        (
            "asked-async lookup: before the question",
            "asked-async plain",
            "asked-async first: after the effect, at the receiver",
        ),
        ("settle: before commit", "asked-hasty-sync late", None),
        ("keyed-sync last: before the request", "keyed-sync single", None),
    ],
)
def test_plots_lead_to_points(point: str, plot: str, before: str | None) -> None:
    assert plot in leading_to(point)
    assert crash_before(point, PLOTS[plot]) == before


def test_what_nobody_has_named_is_learned() -> None:
    assert leading_to("something new: before INSERT") == []
