"""Reading the log as it grows: from where, which events, and where a reader of a name goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from deliveries import Deliveries, Draft, Entry
from deliveries import events as e
from deliveries.errors import CallerError
from deliveries.store.schema import events, positions
from store.acts import event_row
from support.apps import Apps, RunningClock, schedule

LONG = 3_600.0


@pytest.fixture
def told(timed: Deliveries, clock: RunningClock) -> Deliveries:
    """Positions 1 and 2 scheduled, 3 and 4 attempted, 5 and 6 succeeded, an hour later; `sms` is acme's."""
    for channel in ("email", "sms"):
        timed.adapter(channel)(lambda delivery, attempt: None)
    schedule(timed, "email")
    schedule(timed, "sms", tenant="acme")
    clock.advance(3_600)
    timed.drain()
    return timed


def read(app: Deliveries, *kinds: Any, **options: Any) -> list[int | None]:
    return [entry.position for entry in app.tail(*kinds, **options)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"after": 4}, [5, 6]),
        ({"after": 99}, []),
        ({"last": 2}, [5, 6]),
        ({"last": 99}, [1, 2, 3, 4, 5, 6]),
        ({"last": 0}, []),
        ({"last": 1, "tenants": "acme"}, None),
        ({"tenants": ["acme", "other"], "channels": "sms"}, None),
        ({"channels": "letter"}, []),
        ({"last": 5, "channels": "letter"}, []),
    ],
)
def test_where_it_begins_and_what_it_gives(
    told: Deliveries, options: Any, expected: list[int] | None
) -> None:
    if expected is None:  # whose outcome was written first is not said
        all_of_acme = [one.position for one in told.tail() if one.tenant == "acme"]
        expected = all_of_acme[-options.get("last", 99) :]
        assert expected
    assert read(told, **options) == expected


def test_types(told: Deliveries) -> None:
    assert read(told, e.Scheduled) == [1, 2]
    assert read(told, e.Scheduled, e.Succeeded, last=3) == [2, 5, 6]
    assert read(told, e.Event) == [1, 2, 3, 4, 5, 6]


def test_since_a_time(told: Deliveries, clock: RunningClock) -> None:
    now = clock.instant
    assert read(told, since=now - timedelta(minutes=1)) == [3, 4, 5, 6]
    assert read(told, since=now - timedelta(hours=2)) == [1, 2, 3, 4, 5, 6]
    assert read(told, since=now + timedelta(hours=1)) == []


def test_more_than_a_page(app: Deliveries) -> None:
    app.adapter("email")(lambda delivery, attempt: None)
    with app.engine.begin() as connection:
        app.schedule_many(connection, "email", [Draft() for _ in range(1_100)])
    assert read(app) == list(range(1, 1_101))
    assert read(app, last=700) == list(range(401, 1_101))


def test_what_cannot_be_read_has_a_problem(told: Deliveries, apps: Apps) -> None:
    apps.damaged = True
    with told.engine.begin() as connection:
        connection.execute(insert(events), event_row(kind="os:system"))
    (entry,) = told.tail(last=1)
    assert (entry.problem, entry.channel) == ("'os:system' version 1 is an unknown type", None)


def test_a_name_goes_on_where_it_stopped(told: Deliveries) -> None:
    assert read(told, name="mine", after=3) == [4, 5, 6]
    assert read(told, name="mine") == []
    schedule(told)
    assert read(told, name="mine", last=7) == [7], "it has begun: where it would have begun counts no more"
    assert read(told, name="other") == [1, 2, 3, 4, 5, 6, 7]
    with told.engine.connect() as connection:
        kept = dict(connection.execute(select(positions)).all())
    assert kept == {"tail:mine": 7, "tail:other": 7}


def test_a_page_that_was_not_taken_comes_again(told: Deliveries) -> None:
    reading = told.tail(name="mine")
    assert [next(reading).position for _ in range(3)] == [1, 2, 3]
    reading.close()  # type: ignore[attr-defined]  # a generator
    assert read(told, name="mine") == [1, 2, 3, 4, 5, 6]


def test_who_reads_no_more_is_told_no_more(told: Deliveries) -> None:
    reading = told.tail(follow=True)
    next(reading)
    assert told._wakeup._listeners
    reading.close()  # type: ignore[attr-defined]  # a generator
    assert not told._wakeup._listeners


def test_it_waits_for_what_comes(told: Deliveries) -> None:
    found: list[Entry] = []
    enough = threading.Semaphore(0)

    def listen(entries: Iterator[Entry]) -> None:
        for entry in entries:
            found.append(entry)
            enough.release()
            if len(found) == 3:
                return

    listener = threading.Thread(target=listen, args=(told.tail(last=1, follow=True, poll=LONG),))
    listener.start()
    for _ in range(2):
        assert enough.acquire(timeout=30)
        schedule(told)
    listener.join(30)
    assert [entry.position for entry in found] == [6, 7, 8]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"after": -1}, "after must be 0 or more"),
        ({"after": True}, "after must be"),
        ({"last": -1}, "last must be 0 or more"),
        ({"last": 1.5}, "last must be"),
        ({"since": datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None)}, "aware"),
        ({"since": "today"}, "aware"),
        ({"since": datetime(2024, 1, 1, tzinfo=UTC), "after": 1}, "one of after, since and last"),
        ({"name": "a b"}, "is no name"),
        ({"poll": 0}, "poll must be"),
    ],
)
def test_what_cannot_be_is_refused_before_any_sql(nowhere: Deliveries, options: Any, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        nowhere.tail(**options)


def test_types_are_those_of_events(nowhere: Deliveries) -> None:
    with pytest.raises(CallerError, match="name types of events"):
        nowhere.tail(str)  # type: ignore[type-var]
