"""Scheduling: all of a delivery or nothing, and one delivery for a key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from deliveries.core.commands import Cancel
from deliveries.core.notes import Note
from deliveries.errors import ConcurrentSchedule
from deliveries.store.postgresql import CHUNK
from deliveries.store.rows import Birth
from deliveries.store.schema import contents, deliveries, events, notes
from deliveries.store.store import Store
from store.acts import Acts, StoppedClock, birth


def schedule(acts: Acts, *births: Birth) -> set[UUID]:
    with acts.store.transaction() as connection:
        return acts.store.schedule(connection, births)


def ids(*births: Birth) -> set[UUID]:
    return {born.change.after.id for born in births}


def everywhere(acts: Acts) -> list[set[UUID]]:
    """The deliveries of which there are events, rows and contents."""
    columns = (events.c.delivery_id, deliveries.c.id, contents.c.delivery_id)
    with acts.store.reading() as connection:
        return [set(connection.scalars(select(column))) for column in columns]


def test_a_free_key_is_taken(acts: Acts) -> None:
    born = birth(key="order:7")
    assert schedule(acts, born) == ids(born)
    assert everywhere(acts) == [ids(born)] * 3


def test_a_taken_key_writes_nothing(acts: Acts) -> None:
    first, second, free = birth(key="order:7"), birth(key="order:7"), birth(key="order:8")
    schedule(acts, first)
    assert schedule(acts, second, free) == ids(free)
    assert schedule(acts, second) == set()
    assert everywhere(acts) == [ids(first, free)] * 3


def test_a_key_is_taken_once_in_a_batch(acts: Acts) -> None:
    twins, without = [birth(key="order:7") for _ in range(3)], birth()
    created = schedule(acts, *twins, without)
    assert len(created & ids(*twins)) == 1
    assert everywhere(acts) == [created] * 3


def test_keys_are_a_tenants_own(acts: Acts) -> None:
    births = [birth(key="order:7", tenant=tenant) for tenant in ("", "acme", "umbrella")]
    assert schedule(acts, *births) == ids(*births)
    with acts.store.reading() as connection:
        wanted = [("acme", "order:7"), ("acme", "order:8"), ("nobody", "order:7")]
        found = acts.store.by_key(connection, wanted)
    assert list(found) == [("acme", "order:7")]
    delivery, beside = found["acme", "order:7"]
    assert delivery.id == births[1].change.after.id
    assert beside == births[1].contents


def test_more_than_one_statement_holds(acts: Acts) -> None:
    births = [birth(key=f"order:{number}") for number in range(CHUNK + 1)]
    assert schedule(acts, *births) == ids(*births)
    with acts.store.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(events)) == CHUNK + 1


@pytest.mark.parametrize("winner_commits", [True, False])
def test_of_two_callers_with_one_key_one_wins(
    database_url: str, engines: Callable[..., Engine], acts: Acts, winner_commits: bool
) -> None:
    """T2: the second waits for the first one's end, and takes the key if that rolls back."""
    first, second = birth(key="order:7"), birth(key="order:7")
    created: set[UUID] = set()
    rival = Acts(Store(engines(database_url), StoppedClock()))
    with acts.store.engine.connect() as connection:
        acts.store.schedule(connection, [first])
        waiting = threading.Thread(target=lambda: created.update(schedule(rival, second)))
        waiting.start()
        if winner_commits:
            connection.commit()
        else:
            connection.rollback()
    waiting.join(30)
    assert created == (set() if winner_commits else ids(second))
    assert everywhere(acts) == [ids(first) if winner_commits else ids(second)] * 3


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_callers_with_different_keys_wait_for_nobody(acts: Acts) -> None:
    """T3, in one thread: a wait would never end."""
    one, other, free = birth(key="order:7"), birth(key="order:8"), birth()
    with acts.store.engine.connect() as first, acts.store.engine.connect() as second:
        acts.store.schedule(first, [one])
        acts.store.schedule(second, [other, free])
        second.commit()
        first.commit()
    assert everywhere(acts) == [ids(one, other, free)] * 3


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_where_the_answer_cannot_be_known_the_caller_tries_again(
    database_url: str, engines: Callable[..., Engine], acts: Acts, level: str
) -> None:
    engine = engines(database_url, isolation_level=level)
    with engine.connect() as caller:
        caller.execute(select(deliveries)).all()  # its snapshot is from before the key was taken
        first = birth(key="order:7")
        schedule(acts, first)
        with pytest.raises(ConcurrentSchedule) as raised:
            acts.store.schedule(caller, [birth(key="order:7")])
    assert raised.value.retryable
    assert everywhere(acts) == [ids(first)] * 3


@pytest.mark.parametrize("whose", ["ours", "the caller's"])
def test_a_database_error_tells_no_contents(acts: Acts, whose: str) -> None:
    """R6: errors get into logs; SQLAlchemy's show the parameters of their statement."""
    store, born = acts.store, birth("ann@example.org")
    with store.engine.begin() as connection:
        contents.drop(connection)
    opened = store.transaction() if whose == "ours" else store.engine.begin()
    with pytest.raises(DBAPIError) as raised, opened as connection:
        store.schedule(connection, [born])
    assert "ann@example.org" not in str(raised.value)
    assert "order" not in str(raised.value)


@pytest.mark.parametrize("whose", ["ours", "the caller's"])
def test_a_database_error_tells_no_note(acts: Acts, whose: str) -> None:
    store, id = acts.store, acts.schedule()
    with store.engine.begin() as connection:
        notes.drop(connection)
        stand_in = "SELECT delivery_id, version, '' AS text FROM delivery_events"
        connection.execute(text(f"CREATE VIEW delivery_notes AS {stand_in}"))
    note = Note("ann@example.org bounced", b"salt")
    opened = store.transaction() if whose == "ours" else store.engine.begin()
    with pytest.raises(DBAPIError) as raised, opened as connection:
        store.command(connection, id, lambda now: Cancel(now=now, note=note))
    assert "ann@example.org" not in str(raised.value)


def test_the_callers_own_errors_are_left_as_they_are(store: Store) -> None:
    with pytest.raises(DBAPIError, match="seven"), store.engine.begin() as connection:
        store.caller(connection).execute(text("SELECT :x FROM nowhere"), {"x": "seven"})
