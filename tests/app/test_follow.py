"""Projections: each event once, whatever fails, and nothing that can be read is passed by."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from psycopg import errors
from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from deliveries import CorruptHistory, Deliveries, Discard, Draft, Entry, InvalidProjection, Projection
from deliveries import events as e
from deliveries.errors import CallerError
from deliveries.follower import BUSY_SECONDS
from deliveries.store.failures import is_passing
from deliveries.store.schema import events
from store.acts import event_row
from support.apps import Apps, eventually, schedule, statements
from support.followed import followed, logged, note_down, noted, noting, own, seen

LONG = 3_600.0


def some(app: Deliveries, count: int = 5, channel: str = "email") -> list[int]:
    """So many deliveries, scheduled; the positions of the log."""
    if channel not in app.channels:
        app.adapter(channel)(lambda delivery, attempt: None)
    with app.engine.begin() as connection:
        app.schedule_many(connection, channel, [Draft() for _ in range(count)])
    return logged(app)


def catch_up(app: Deliveries, projection: Projection, **settings: Any) -> Any:
    return app.follow(projection, until_caught_up=True, **settings)


# -- each event once ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3, 1_000])
def test_each_event_once_in_the_order_of_the_log(app: Deliveries, batch: int) -> None:
    some(app)
    app.drain()
    done = catch_up(app, noting(app), batch=batch)
    assert seen(app) == logged(app)
    assert (done.seen, done.handled, done.position) == (15, 15, logged(app)[-1])
    assert catch_up(app, noting(app), batch=batch).seen == 0
    some(app)
    assert catch_up(app, noting(app), batch=batch).seen == 5
    assert seen(app) == logged(app)


def test_an_entry_is_the_recorded_event_and_whose_it_is(app: Deliveries) -> None:
    found: list[Entry] = []
    app.adapter("email")(lambda delivery, attempt: Discard("no"))
    delivery = schedule(app, tenant="acme")
    app.drain()
    catch_up(app, Projection("look", lambda entries, connection: found.extend(entries)))
    assert [one.event for one in found] == [one.event for one in app.history(delivery.id)]
    for one, recorded in zip(found, app.history(delivery.id), strict=True):
        assert (one.delivery_id, one.version, one.position) == (
            delivery.id,
            recorded.version,
            recorded.position,
        )
        assert (one.recorded_at, one.body, one.digest) == (
            recorded.recorded_at,
            recorded.body,
            recorded.digest,
        )
        assert (one.channel, one.tenant, one.problem) == ("email", "acme", None)


def test_what_it_is_not_about_is_passed_by(app: Deliveries) -> None:
    some(app, 3)
    some(app, 3, "sms")
    app.drain()
    end = logged(app)[-1]
    done = catch_up(app, noting(app, types=(e.Succeeded, e.Attempted), channels="sms"), batch=2)
    assert sorted(said for _, said in noted(app)) == ["Attempted sms"] * 3 + ["Succeeded sms"] * 3
    assert (done.seen, done.handled, done.position) == (18, 6, end)
    assert catch_up(app, noting(app, "other", types=(e.Event,), channels=["email", "sms"])).handled == 18


def test_two_projections_have_positions_of_their_own(app: Deliveries) -> None:
    some(app, 2)
    catch_up(app, noting(app, "one"))
    catch_up(app, noting(app, "two"))
    assert seen(app) == [1, 2, 1, 2]


def test_a_batch_is_one_transaction(app: Deliveries) -> None:
    some(app, 20)
    projection = noting(app)
    with statements(app.engine) as said:
        catch_up(app, projection, batch=20)
    assert sum("UPDATE delivery_positions" in one for one in said) == 1
    assert len(said) < 16


def test_who_looks_and_finds_nothing_writes_nothing(app: Deliveries) -> None:
    projection = noting(app)
    catch_up(app, projection)
    with app.engine.connect() as busy, statements(app.engine) as said:
        if app.engine.dialect.name == "sqlite":  # nobody else could write now
            busy.begin()
        assert catch_up(app, projection).seen == 0
    assert not [one for one in said if not one.lstrip().startswith("SELECT")]


def test_what_a_projection_schedules_commits_with_its_position(app: Deliveries) -> None:
    some(app, 3)

    @app.projection("thanks", e.Succeeded, channels="email")
    def thanks(entries: Sequence[Entry], connection: Connection) -> None:
        for one in entries:
            app.schedule(connection, "letter", key=f"thanks:{one.delivery_id}")

    app.adapter("letter")(lambda delivery, attempt: None)
    app.drain()
    assert app.follow("thanks", until_caught_up=True).handled == 3
    assert len(app.find(channel="letter")) == 3
    assert app.projections == {"thanks": thanks}


# -- a handler that raises ---------------------------------------------------------------------


class Poison(Projection):
    """Notes all down, and cannot take the event at `at`."""

    at: frozenset[int] = frozenset()

    def __init__(self, app: Deliveries, *at: int) -> None:
        own.create_all(app.engine)
        super().__init__("seen", self.take)
        object.__setattr__(self, "at", frozenset(at))

    def take(self, entries: Sequence[Entry], connection: Connection) -> None:
        note_down(entries, connection)
        if found := self.at.intersection(one.position for one in entries):
            raise ZeroDivisionError(f"at {sorted(found)}")


@pytest.mark.parametrize("batch", [1, 4, 1_000])
def test_it_stops_at_what_its_handler_cannot_take(app: Deliveries, batch: int) -> None:
    positions = some(app, 10)
    with pytest.raises(ZeroDivisionError, match=r"at \[7\]") as caught:
        catch_up(app, Poison(app, 7), batch=batch)
    assert caught.value.__notes__[-1].startswith("projection 'seen', position 7, Scheduled of delivery ")
    assert seen(app) == positions[:6], "what comes before it is done, and it is not"
    catch_up(app, Poison(app), batch=batch)
    assert seen(app) == positions, "mended, it goes on where it stopped"


@pytest.mark.parametrize("batch", [1, 4, 1_000])
def test_or_skips_it_and_says_so(app: Deliveries, caplog: pytest.LogCaptureFixture, batch: int) -> None:
    positions = some(app, 10)
    done = catch_up(app, Poison(app, 1, 7, 10), batch=batch, on_error="skip")
    assert seen(app) == [one for one in positions if one not in {1, 7, 10}]
    assert (done.seen, done.handled, done.skipped, done.position) == (10, 7, 3, 10)
    said = [one.message for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.partition(" of ")[0] for one in said] == ["projection seen skips Scheduled"] * 3
    assert "at position 7: ZeroDivisionError: at [7]" in said[1]


def test_no_event_is_skipped_for_what_the_database_did(postgresql_url: str, apps: Apps) -> None:
    """A connection that is cut in the handler is nobody's event."""
    app = apps(postgresql_url)
    positions = some(app, 3)
    cuts = iter([1, 2, 1])

    def cut(entries: Sequence[Entry], connection: Connection) -> None:
        note_down(entries, connection)
        if entries[0].position == next(cuts, None):
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    own.create_all(app.engine)
    done = catch_up(app, Projection("cut", cut), batch=1, on_error="skip")
    assert (seen(app), done.skipped) == (positions, 0)


def test_who_is_to_catch_up_does_not_wait_for_a_database_for_ever(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url)
    some(app, 1)

    def cut(entries: Sequence[Entry], connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(OperationalError):
        catch_up(app, Projection("cut", cut), patience=1)


class Refusal(sqlite3.OperationalError):
    """As the driver raises it."""

    def __init__(self, code: int) -> None:
        super().__init__("no")
        self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ZeroDivisionError(), False),
        (TimeoutError(), False),
        (PoolTimeout(), True),
        (OperationalError("", {}, Refusal(sqlite3.SQLITE_BUSY)), True),
        (OperationalError("", {}, Refusal(sqlite3.SQLITE_BUSY | 2 << 8)), True),
        (OperationalError("", {}, Refusal(sqlite3.SQLITE_FULL)), True),
        (OperationalError("", {}, Refusal(sqlite3.SQLITE_ERROR)), False),
        (OperationalError("", {}, sqlite3.OperationalError("Could not decode")), False),
        (OperationalError("", {}, errors.DeadlockDetected()), True),
        (OperationalError("", {}, errors.AdminShutdown()), True),
        (OperationalError("", {}, errors.QueryCanceled()), False),
        (ProgrammingError("", {}, errors.UndefinedTable()), False),
        (InterfaceError("", {}, errors.InterfaceError(), connection_invalidated=True), True),
        (InterfaceError("", {}, errors.InterfaceError()), False),
    ],
    ids=str,
)
def test_what_may_succeed_when_it_is_tried_again(error: Exception, passes: bool) -> None:
    assert is_passing(error) is passes


def test_a_table_that_is_not_there_ends_it(app: Deliveries) -> None:
    """Also on SQLite, which says the same of it as of a file that is busy."""
    some(app, 2)

    def missing(entries: Sequence[Entry], connection: Connection) -> None:
        connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(Exception, match="nowhere"):
        app.follow(Projection("missing", missing))


# -- the transaction is not the handler's ------------------------------------------------------


def ends(how: Callable[[Connection], object]) -> Projection:
    def handle(entries: Sequence[Entry], connection: Connection) -> None:
        note_down(entries, connection)
        how(connection)

    return Projection("ends", handle)


@pytest.mark.parametrize("act", ["commit", "rollback", "close", "detach", "invalidate"])
def test_the_connection_refuses_to_end_it(app: Deliveries, act: str) -> None:
    some(app, 1)
    own.create_all(app.engine)
    with pytest.raises(InvalidProjection, match="a projection cannot"):
        catch_up(app, ends(lambda connection: getattr(connection, act)()))
    assert seen(app) == []


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK"])
def test_ending_it_behind_our_back_is_noticed(app: Deliveries, sql: str) -> None:
    some(app, 1)
    own.create_all(app.engine)
    with pytest.raises(InvalidProjection, match="ended the transaction"):
        catch_up(app, ends(lambda connection: connection.exec_driver_sql(sql)))


def test_a_savepoint_that_is_left_open_is_undone(app: Deliveries) -> None:
    some(app, 1)
    own.create_all(app.engine)
    with pytest.raises(InvalidProjection, match="left a savepoint open"):
        catch_up(app, ends(lambda connection: connection.begin_nested()))
    assert seen(app) == []


def test_an_error_that_was_swallowed_is_not_taken_for_success(postgresql_url: str, apps: Apps) -> None:
    """PostgreSQL answers a COMMIT of what it has aborted with a ROLLBACK, and without an error."""
    app = apps(postgresql_url)
    some(app, 1)
    own.create_all(app.engine)

    def swallow(connection: Connection) -> None:
        with pytest.raises(Exception, match="nowhere"):
            connection.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(Exception, match="current transaction is aborted"):
        catch_up(app, ends(swallow))
    assert seen(app) == []


def test_a_session_of_its_own_commits_with_the_rest(app: Deliveries) -> None:
    positions = some(app, 3)
    own.create_all(app.engine)

    def handle(entries: Sequence[Entry], connection: Connection) -> None:
        with Session(connection) as session:
            session.execute(insert(followed), [{"position": one.position, "said": ""} for one in entries])
            session.commit()
        if len(entries) > 1:
            raise ValueError("what the session committed is undone, too")

    catch_up(app, Projection("session", handle))
    assert seen(app) == positions


# -- what cannot be read -----------------------------------------------------------------------


def damaged(app: Deliveries) -> None:
    """An event, two that cannot be read, and another event."""
    some(app, 1)
    with app.engine.begin() as connection:
        connection.execute(insert(events), [event_row(body=b"\xff"), event_row(kind="os:system")])
    some(app, 1)


def test_what_cannot_be_read_is_passed_by_and_said(
    app: Deliveries, apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    apps.damaged = True
    damaged(app)
    done = catch_up(app, noting(app))
    assert seen(app) == [1, 4]
    assert (done.seen, done.handled, done.unreadable) == (4, 2, 2)
    (said,) = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert said.startswith(
        "projection seen: 2 events cannot be read, and are passed by; the first, at position 2"
    )


def test_or_handed_on_to_who_asks_for_it(app: Deliveries, apps: Apps) -> None:
    apps.damaged = True
    damaged(app)
    found: list[Entry] = []
    take = Projection("all", lambda entries, connection: found.extend(entries), unreadable=True)
    assert catch_up(app, take).unreadable == 0
    assert [one.problem is None for one in found] == [True, False, False, True]
    assert found[2].problem == "'os:system' version 1 is an unknown type"
    with pytest.raises(CorruptHistory):
        found[1].event  # noqa: B018 - it raises


# -- late commits ------------------------------------------------------------------------------


def test_what_commits_late_is_not_missed(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url)
    some(app, 1)
    with app.engine.connect() as late:
        app.schedule(late, "email")
        some(app, 2)
        assert catch_up(app, noting(app)).handled < 3
        late.commit()
    catch_up(app, noting(app))
    assert seen(app) == [1, 2, 3, 4]


def test_nothing_above_the_announced_bound_is_read(postgresql_url: str, apps: Apps) -> None:
    """Also from far below it, where a page would reach beyond."""
    app = apps(postgresql_url)
    some(app, 1_100)
    projection = noting(app)
    with app.engine.connect() as late:
        app.schedule(late, "email")
        some(app, 2)
        catch_up(app, projection, batch=2_000)
        assert seen(app) == list(range(1, 1_025)), "the bound is rounded down"
        late.commit()
    catch_up(app, projection)
    assert seen(app) == list(range(1, 1_104))


# -- moving it ---------------------------------------------------------------------------------


def test_rewind_begins_again_in_the_callers_transaction(app: Deliveries) -> None:
    positions = some(app, 4)
    projection = noting(app)
    catch_up(app, projection)
    with app.engine.connect() as connection:
        app.rewind(connection, projection)
        connection.execute(followed.delete())
        connection.rollback()
    assert catch_up(app, projection).seen == 0
    with Session(app.engine) as session, session.begin():
        app.rewind(session, projection)
        session.execute(followed.delete())
    catch_up(app, projection)
    assert seen(app) == positions
    with app.engine.begin() as connection:
        app.rewind(connection, projection, to=3)
    assert catch_up(app, projection).seen == 1


def test_a_new_projection_may_begin_with_what_is_to_come(app: Deliveries) -> None:
    end = some(app, 4)[-1]
    projection = noting(app)
    with app.engine.begin() as connection:
        app.rewind(connection, projection, to=end)
    some(app, 1)
    catch_up(app, projection)
    assert seen(app) == [end + 1]


# -- for as long as it goes on -----------------------------------------------------------------


def test_it_is_woken_by_a_commit_here(app: Deliveries) -> None:
    projection = noting(app)
    with app.following(projection, poll=LONG, listen=False) as follower:
        eventually(lambda: app.event_log.recorder.max_tracking_id(projection.key) == 0)
        for count in range(1, 4):
            some(app, 1)
            eventually(lambda count=count: len(seen(app)) == count)
    assert follower.followed.handled == 3
    assert not follower.is_alive


def test_it_is_woken_by_a_commit_elsewhere(postgresql_url: str, apps: Apps) -> None:
    app, other = apps(postgresql_url), apps(postgresql_url)
    with app.following(noting(app), poll=LONG):
        for count in range(1, 3):
            some(other, 1)
            eventually(lambda count=count: len(seen(app)) == count)


def test_it_finds_by_itself_what_nobody_told_it(app: Deliveries, apps: Apps, database_url: str) -> None:
    other = apps(database_url)
    with app.following(noting(app), poll=0.01, listen=False):
        some(other, 2)
        eventually(lambda: len(seen(app)) == 2)


def test_what_ended_it_is_raised_at_the_end(app: Deliveries) -> None:
    some(app, 3)
    with pytest.raises(ZeroDivisionError), app.following(Poison(app, 2)) as follower:
        eventually(lambda: not follower.is_alive)
    assert seen(app) == [1]
    assert isinstance(follower.error, ZeroDivisionError)


def test_several_followers_of_one_name_do_each_event_once(app: Deliveries) -> None:
    """While eight threads schedule, drain and roll back."""
    app.adapter("email")(lambda delivery, attempt: None)
    projection = noting(app)

    def write(seed: int) -> None:
        for turn in range(6):
            with app.engine.connect() as connection:
                app.schedule_many(connection, "email", [Draft() for _ in range(1 + (seed + turn) % 4)])
                if (seed + turn) % 3:
                    connection.commit()
                else:
                    connection.rollback()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    with app.following(projection, poll=0.01, batch=3), app.following(projection, poll=0.01, batch=2):
        for writer in writers:
            writer.start()
        app.follow(projection, until_caught_up=True, batch=5)
        for writer in writers:
            writer.join()
    catch_up(app, projection)
    assert seen(app) == logged(app)
    assert len(logged(app)) > 50


def test_a_page_that_another_follower_has_done_meanwhile_is_thrown_away(app: Deliveries) -> None:
    positions = some(app, 3)
    projection = noting(app)
    slow = app.follower(projection)
    pages = slow._look()
    catch_up(app, projection)
    assert [slow._take(page) for page in pages] == [False]
    assert seen(app) == positions


def test_a_follower_at_work_keeps_no_other_waiting(postgresql_url: str, apps: Apps) -> None:
    """Or one that was stopped at it would stop them all, and they could not even be ended."""
    app = apps(postgresql_url, connect_args={"options": "-c lock_timeout=5000"})
    positions = some(app, 3)
    projection = noting(app)
    entered, release = threading.Event(), threading.Event()

    def dawdle(entries: Sequence[Entry], connection: Connection) -> None:
        note_down(entries, connection)
        entered.set()
        assert release.wait(30)

    with app.following(Projection("seen", dawdle)):
        assert entered.wait(30)
        assert app.follower(projection)._turn() == BUSY_SECONDS
        assert seen(app) == []
        release.set()
        eventually(lambda: seen(app) == positions)
    assert catch_up(app, projection).seen == 0


# -- asynchronous ------------------------------------------------------------------------------


def test_the_asynchronous_twins(app: Deliveries) -> None:
    others = set(threading.enumerate())
    positions = some(app, 3)
    projection = noting(app)

    async def main() -> None:
        assert (await app.afollow(projection, until_caught_up=True)).handled == 3
        async with app.following_async(projection, poll=0.01):
            pass
        endless = asyncio.create_task(app.afollow(projection, poll=LONG))
        await asyncio.sleep(0)
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless

    asyncio.run(main())
    assert seen(app) == positions
    assert not [one for one in set(threading.enumerate()) - others if "follow" in one.name]


# -- what is refused ---------------------------------------------------------------------------


def nothing(entries: Sequence[Entry], connection: Connection) -> None:
    pass


async def coroutine(entries: Sequence[Entry], connection: Connection) -> None:
    pass


def generator(entries: Sequence[Entry], connection: Connection) -> Any:
    yield


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", nothing), "its name is no name"),
        (("a b", nothing), "its name is no name"),
        (("x" * 101, nothing), "its name is no name"),
        ((None, nothing), "its name is no name"),
        (("a", "handler"), "a plain function"),
        (("a", coroutine), "a plain function"),
        (("a", generator), "is a generator"),
        (("a", nothing, (str,)), "name the events"),
        (("a", nothing, ("Succeeded",)), "name the events"),
        (("a", nothing, (), ()), "at least one"),
        (("a", nothing, (), [7]), "at least one"),
    ],
)
def test_projections_that_cannot_be(arguments: Any, said: str) -> None:
    with pytest.raises(InvalidProjection, match=said):
        Projection(*arguments)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": 0}, "batch must be 1..10000"),
        ({"batch": 10_001}, "batch must be"),
        ({"batch": True}, "batch must be"),
        ({"batch": 1.5}, "batch must be"),
        ({"poll": 0}, "poll must be"),
        ({"poll": "1"}, "poll must be"),
        ({"patience": -1}, "patience must be"),
        ({"on_error": "retry"}, "on_error must be stop or skip"),
        ({"bach": 1}, "bach"),
    ],
)
def test_settings_that_cannot_be(nowhere: Deliveries, settings: Any, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        nowhere.follow(Projection("a", nothing), **settings)


def test_names_are_taken_once_and_must_be_known(nowhere: Deliveries) -> None:
    nowhere.projection("a")(nothing)
    with pytest.raises(InvalidProjection, match="there is a projection 'a' already"):
        nowhere.projection("a")(nothing)
    with pytest.raises(InvalidProjection, match=r"unknown projection 'b' \(there are: a\)"):
        nowhere.follow("b")
    for wrong in (-1, True, "1", 2**63):
        with pytest.raises(CallerError, match="to must be 0 or more"):
            nowhere.rewind(None, "a", to=wrong)  # type: ignore[arg-type]


def test_a_projection_can_be_called_as_its_handler_is() -> None:
    got: list[Any] = []
    Projection("a", lambda entries, connection: got.append((entries, connection)))([], None)  # type: ignore[arg-type]
    assert got == [([], None)]


def test_an_engine_at_a_strict_level_follows_all_the_same(
    postgresql_url: str, apps: Apps, engines: Callable[..., Engine]
) -> None:
    app = apps(postgresql_url, isolation_level="SERIALIZABLE")
    positions = some(app, 3)
    catch_up(app, noting(app))
    assert seen(app) == positions
