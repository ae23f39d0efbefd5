"""Rows that we never write: readers name them, run nothing that they hold, and lose no neighbour.

S3: no bytes from a row lead to an import, an unpickling or an attribute look-up. R4: one unreadable
stream does not stop the others. The rows, and why each is there, are in `tests/corpus/hostile`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.exc import DBAPIError

from deliveries import CorruptHistory, Deliveries, DeliveriesError, Entry, Projection
from deliveries.core import codec
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.delivery import Status
from deliveries.core.notes import salted
from deliveries.core.stream import START, Change, advance
from deliveries.errors import UnreadableEvent
from deliveries.store.rows import Birth, Contents, Write
from deliveries.store.schema import contents, deliveries, events, notes
from deliveries.testing.examples import NOW, attempted, failed, held, scheduled, start
from support import hostile
from support.apps import ManualClock, RunningClock, assert_sound_stream, eventually, everything, stopped
from support.drawing import FIXTURE_IS_SHARED
from support.hostile import LIVES, Row, plant, unguarded

LEASE = 60.0
ASIDE = 3_600.0
"""How long a processor leaves alone what it cannot read."""


@pytest.fixture
def clock() -> RunningClock:
    return RunningClock()


@pytest.fixture
def app(database_url: str, engines: Callable[..., Engine], clock: RunningClock) -> Iterator[Deliveries]:
    """An application whose adapters succeed, on a database that may be damaged."""
    made = Deliveries(engines(database_url), clock=clock)
    made.adapter("email", on_unknown="lookup", lookup=lambda delivery, attempt: o.Delivered())(
        lambda delivery, attempt: None
    )
    made.adapter("charge")(lambda delivery, attempt: None)
    yield made
    made.close()


def live(app: Deliveries, lives: Sequence[str]) -> list[UUID]:
    """Deliveries that have lived so, under leases that end in a minute."""
    births, later = [], []
    for life in lives:
        id, salt = uuid4(), os.urandom(16)
        payload_digest = salted(salt, b'{"order":7}')
        event = scheduled(delivery_id=id, key=str(id), payload_digest=payload_digest)
        first = advance(START, c.Schedule(now=NOW, scheduled=event))
        assert first is not None
        births.append(Birth(first, Contents(recipient=None, payload='{"order":7}', salt=salt)))
        later.append(_later(first, life))
    store = app._store
    with store.transaction() as connection:
        assert len(store.schedule(connection, births)) == len(births)
        for writes in zip(*[[*found, None, None][:2] for found in later], strict=True):
            batch = [write for write in writes if write is not None]
            assert len(store.backend.append(connection, batch, store.deciding_now)) == len(batch)
    return [birth.change.after.id for birth in births]


def _later(first: Change, life: str) -> list[Write]:
    """What follows on `Scheduled`: an attempt, and what the life says of it."""
    if life == "pending":
        return []
    begun = advance(first.stream, start(on_unknown="lookup" if life == "held" else "retry"))
    assert begun is not None
    writes = [Write(begun, lease_owner="w1", lease_seconds=LEASE)]
    for command in LIVES[life]:
        ended = advance(begun.stream, command)
        assert ended is not None
        writes.append(Write(ended, lookup_seconds=LEASE if life == "held" else None))
    return writes


def damage(app: Deliveries, row: Row, id: UUID) -> None:
    with app.engine.begin() as connection, unguarded(connection):
        plant(connection, row, id, uuid4())


def names(rows: Sequence[Row]) -> list[str]:
    return [row.name for row in rows]


# -- the corpus ----------------------------------------------------------------------------------


def test_the_corpus_says_why_each_row_is_there() -> None:
    rows = hostile.corpus()
    assert len(rows) > 400
    assert all(len(row.why) > 3 for row in rows)
    assert {row.table for row in rows} == {
        *("delivery_events", "deliveries", "delivery_contents", "delivery_notes", "delivery_evidence")
    }
    assert {dialect for row in rows for dialect in row.refused} <= {"sqlite", "postgresql"}
    assert {row.life for row in rows} <= set(LIVES)
    assert {row.reads for row in rows} == {"corrupt", "other", "contents", "whole"}


@pytest.mark.parametrize(
    "event", [scheduled(), attempted(), failed(), held(1)], ids=lambda event: type(event).__name__
)
def test_a_body_cut_anywhere_is_unreadable(event: Any) -> None:
    body = codec.encode(event)
    for length in range(len(body)):
        with pytest.raises(UnreadableEvent):
            codec.decode(type(event).__name__, 1, body[:length])


# -- what the database refuses by itself ---------------------------------------------------------


def test_guards_refuse_every_change_of_an_event(app: Deliveries, dialect: str) -> None:
    """Whoever wants to write such a row has to take the triggers away first."""
    lives = live(app, list(LIVES))
    ids = dict(zip(LIVES, lives, strict=True))
    before = everything(app)
    rows = [row for row in hostile.corpus(dialect) if row.table == "delivery_events" and row.act == "update"]
    with app.engine.connect() as connection:
        for row in rows:
            with connection.begin(), pytest.raises(DBAPIError):
                plant(connection, row, ids[row.life], ids["held"])
    assert len(rows) > 200
    assert everything(app) == before


def test_guards_refuse_events_without_a_live_predecessor(app: Deliveries, dialect: str) -> None:
    ids = dict(zip(LIVES, live(app, list(LIVES)), strict=True))
    before = everything(app)
    let_in = []
    with app.engine.connect() as connection:
        for row in hostile.corpus(dialect):
            if row.table == "delivery_events" and row.act == "insert":
                transaction = connection.begin()
                try:
                    plant(connection, row, ids[row.life])
                    let_in.append(row.name)
                except DBAPIError:
                    pass
                transaction.rollback()
    assert let_in == LET_IN
    assert everything(app) == before


LET_IN = [
    "a forged success",
    "a forged success of attempt 2",
    "foreign event at the end",
    "foreign event at version 0",
]
"""What guards cannot tell from the real thing: they know types and versions, no attempts and no rows."""


def test_types_and_constraints_refuse_what_guards_do_not_look_at(app: Deliveries, dialect: str) -> None:
    ids = dict(zip(LIVES, live(app, list(LIVES)), strict=True))
    before = everything(app)
    rows = [row for row in hostile.corpus(dialect) if dialect in row.refused]
    for row in rows:
        with pytest.raises(DBAPIError):
            damage(app, row, ids[row.life])
    assert len(rows) > 10
    assert everything(app) == before


# -- two hundred good streams, and all the others --------------------------------------------------


@pytest.fixture
def planted(app: Deliveries, dialect: str) -> tuple[dict[UUID, Row], list[UUID]]:
    """A database with good deliveries among which every row of the corpus has befallen one."""
    rows = [row for row in hostile.corpus(dialect) if dialect not in row.refused]
    good = live(app, ["pending"] * 100 + ["abandoned"] * 60 + ["held"] * 40)
    bad = dict(zip(live(app, [row.life for row in rows]), rows, strict=True))
    with app.engine.begin() as connection, unguarded(connection):
        for id, row in bad.items():
            plant(connection, row, id, uuid4())
    return bad, good


def test_no_row_ends_a_follower(app: Deliveries, planted: tuple[dict[UUID, Row], list[UUID]]) -> None:
    """It gets every event of a good stream once, and the statistics and `tail` come to the end, too."""
    _, good = planted
    got: Counter[tuple[UUID, int]] = Counter()

    def note(entries: Sequence[Entry], connection: Connection) -> None:
        got.update((one.delivery_id, one.version) for one in entries)

    with app.engine.connect() as connection:
        end = connection.scalar(select(func.max(events.c.position)))
        count = connection.scalar(select(func.count()).select_from(events))
    done = app.follow(Projection("note", note), until_caught_up=True, batch=100)
    assert (done.position, done.seen, done.unreadable > 0) == (end, count, True)
    assert {key for key in got if key[0] in good} == {
        (id, one.version) for id in good for one in app.history(id)
    }
    assert max(got.values()) == 1
    assert app.statistics(catch_up=True)
    assert len(list(app.tail())) == count


HOSTILE_MODULE = """
import pathlib
pathlib.Path(__file__).with_name("it ran").touch()
class Boom: ...
"""


def test_no_reader_runs_what_a_row_holds(
    app: Deliveries,
    planted: tuple[dict[UUID, Row], list[UUID]],
    database_url: str,
    dialect: str,
    clock: RunningClock,
    tmp_path: Path,
) -> None:
    """S3, by an audit hook in a process of its own, which cannot be taken out again."""
    bad, good = planted
    (tmp_path / "hostile_module.py").write_text(HOSTILE_MODULE)
    pickled = next(row for row in bad.values() if row.name == "body pickle of an import")
    topic = next(row for row in bad.values() if row.name == "type planted module")
    clock.advance(LEASE + 1)
    asked = {
        "url": database_url,
        "now": clock.now().isoformat(),
        # what bytes decode to is the same on both; a statement costs more on the second
        "bad": {str(id): row.name for id, row in list(bad.items())[:: 1 if dialect == "sqlite" else 4]},
        "good": str(good[0]),
        "planted": pickled.set["body"]["base64"],
        "topic": topic.set["type"],
        "every": 16,  # the command line opens a connection each time
    }
    tests = Path(hostile.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", hostile.__file__],
        input=json.dumps(asked),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    answer = json.loads(done.stdout)
    assert answer["findings"] == []
    assert answer["seen"] == []
    assert not answer["imported"]
    # the hook is not blind: with such rows other readers do run code
    assert any("hostile_module" in seen for seen in answer["pickle"]), answer["pickle"]
    assert any("pickle.find_class" in seen for seen in answer["pickle"]), answer["pickle"]
    assert answer["topic"] or (tmp_path / "it ran").exists()


def test_what_makes_sense_but_was_changed_is_told_by_chain_or_row(
    app: Deliveries, planted: tuple[dict[UUID, Row], list[UUID]]
) -> None:
    bad, good = planted
    with app._store.reading() as connection:
        changed = [id for id, row in bad.items() if row.reads == "other"]
        found = connection.execute(select(deliveries).where(deliveries.c.id.in_(changed)))
        rows = {row.id: row for row in found}
    silent = []
    for id in changed:
        try:
            assert_sound_stream(rows[id], app.history(id))
        except (AssertionError, DeliveriesError):
            continue
        silent.append(bad[id].name)
    assert len(changed) > 20
    assert silent == []
    for id in good:
        app.get(id)


def test_good_streams_are_performed_among_bad_ones(
    app: Deliveries,
    planted: tuple[dict[UUID, Row], list[UUID]],
    clock: RunningClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R4: the processor neither stops nor spins, and names what it puts aside, once a look."""
    bad, good = planted
    caplog.set_level(logging.WARNING, "deliveries")
    clock.advance(LEASE + 1)
    processor = app.processor(sweep_every=0.05, poll=0.05)
    processor.start()
    eventually(lambda: statuses(app, good)["pending"] == 60 and not statuses(app, good)["attempting"], 60)
    clock.advance(LEASE + 1)
    eventually(lambda: statuses(app, good) == {"succeeded": len(good)}, 60)
    eventually(lambda: processor._claims.free() and not processor._calls)
    processor.stop()
    stopped(processor)

    named = Counter(id for record in caplog.records for id in bad if str(id) in record.getMessage())
    unread = {id: row for id, row in bad.items() if row.reads == "corrupt" and row.life == "abandoned"}
    assert names([row for id, row in unread.items() if not named[id]]) == []
    assert max(named.values()) <= 3
    assert len(caplog.records) <= 3 * len(bad)
    assert all(str(id) not in caplog.text for id in good)

    app.drain()  # puts aside what the stopped processor had not come to
    lines = len(caplog.records)
    assert app.drain().attempted == 0  # what was put aside stays there, in silence
    assert len(caplog.records) == lines
    clock.advance(ASIDE)
    app.drain()
    assert len(caplog.records) <= 2 * lines + len(bad)


def statuses(app: Deliveries, ids: Sequence[UUID]) -> dict[str, int]:
    with app.engine.connect() as connection:
        found = connection.execute(select(deliveries.c.id, deliveries.c.status)).all()
    wanted = set(ids)
    return Counter(row.status for row in found if row.id in wanted)


# -- any damage ------------------------------------------------------------------------------------

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
_numbers = st.integers(-(2**31) + 1, 2**31 - 2)
_instants = st.integers(-(10**6), 10**6).map(lambda seconds: NOW + timedelta(seconds=seconds))
_NEW: dict[tuple[Any, str], st.SearchStrategy[Any]] = {
    (events, "version"): _numbers,
    (events, "type"): _texts | st.sampled_from(sorted(codec.REGISTERED)),
    (events, "schema_version"): _numbers,
    (events, "recorded_at"): _instants,
    (events, "body"): st.binary(max_size=60) | st.just(b"{}"),
    (events, "digest"): st.binary(max_size=40),
    (deliveries, "status"): _texts | st.sampled_from([status.value for status in Status]),
    (deliveries, "version"): _numbers,
    (deliveries, "attempt"): _numbers,
    (deliveries, "tags"): _texts,
    (deliveries, "digest"): st.binary(max_size=40),
    (contents, "payload"): _texts,
    (notes, "text"): _texts,
}


@st.composite
def damages(draw: st.DrawFn) -> tuple[Any, str, int, Any, list[tuple[int, int]]]:
    """Table, column, which row, a new value; or, of bytes, some flipped bits instead."""
    table, column = draw(st.sampled_from(list(_NEW)))
    flips = draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 7)), max_size=3))
    return table, column, draw(st.integers(0, 30)), draw(_NEW[table, column]), flips


@pytest.mark.parametrize("clock", [ManualClock()], ids=["stopped"])  # what is looked at tells its age
def test_whatever_is_damaged_is_told_and_stays_alone(app: Deliveries) -> None:
    """Each example damages one row in a transaction, looks, and rolls back."""
    ids = live(app, [*LIVES] * 2)
    store = app._store

    def look(connection: Connection, id: UUID) -> Any:
        return app.get(id, session=connection), str(app.explain(id, session=connection))

    with store.reading() as connection:
        whole = {id: look(connection, id) for id in ids}

    def is_whole(connection: Connection, id: UUID) -> bool:
        return bool(look(connection, id) == whole[id])

    @settings(suppress_health_check=FIXTURE_IS_SHARED, deadline=None)
    @given(damages())
    def check(damage: tuple[Any, str, int, Any, list[tuple[int, int]]]) -> None:
        with app.engine.connect() as connection, connection.begin() as transaction:
            with unguarded(connection):
                hit = _damaged(connection, *damage)
            for id in ids:
                if id == hit:
                    assert _is_told(app, connection, id, partial(is_whole, connection, id))
                else:
                    assert is_whole(connection, id)
            found = {one.id for one in app.find(session=connection)}
            assert found >= set(ids) - {hit}
            transaction.rollback()

    check()
    with store.reading() as connection:
        assert {id: look(connection, id) for id in ids} == whole


def _damaged(
    connection: Connection, table: Any, column: str, place: int, value: Any, flips: list[tuple[int, int]]
) -> UUID | None:
    """Write it; the delivery that it hit, None where the database would not have it."""
    keys = list(table.primary_key.columns)
    rows = connection.execute(select(table).order_by(*keys)).all()
    if not rows:
        return None
    row = rows[place % len(rows)]
    old = getattr(row, column)
    if isinstance(old, bytes) and flips:
        flipped = bytearray(old)
        for at, bit in flips:
            if flipped:
                flipped[at % len(flipped)] ^= 1 << bit
        value = bytes(flipped)
    where = [key == getattr(row, key.name) for key in keys]
    try:
        with connection.begin_nested():
            connection.execute(update(table).where(*where).values({column: value}))
    except DBAPIError:
        return None
    return row.id if table is deliveries else row.delivery_id


def _is_told(app: Deliveries, connection: Connection, id: UUID, is_whole: Callable[[], bool]) -> bool:
    """Whether a damaged delivery reads as before, or raises our error, or breaks chain or row."""
    try:
        if is_whole():
            return True
        row = connection.execute(select(deliveries).where(deliveries.c.id == id)).one()
        assert_sound_stream(row, app.history(id, session=connection))
    except (CorruptHistory, AssertionError):
        return True
    return False
