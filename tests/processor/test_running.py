"""A processor beside the program: threads, event loops, lifespans, and hints that wake it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text

from deliveries import Deliveries, Status
from deliveries.errors import CallerError
from deliveries.store.schema import workers
from support.apps import Apps, Calls, assert_called_once_each, eventually, schedule

LISTENING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                 " AND query = 'LISTEN deliveries' AND state = 'idle'")  # fmt: skip


@pytest.fixture
def app(app: Deliveries, calls: Calls) -> Deliveries:
    app.adapter("email")(calls(lambda delivery, attempt: None))
    return app


def known(app: Deliveries) -> list[Any]:
    with app.engine.connect() as connection:
        return list(connection.execute(workers.select()))


def test_running_in_a_thread(app: Deliveries, calls: Calls) -> None:
    before = schedule(app).id
    with app.running(queues={"email": 2}) as processor:
        eventually(lambda: app.get(before).is_terminal)
        after = schedule(app).id
        eventually(lambda: app.get(after).is_terminal)
        (worker,) = eventually(lambda: known(app))
        assert (worker.worker, worker.queues) == (processor.worker, "email")
    assert not processor.is_alive
    assert processor.error is None
    assert processor.summary.succeeded == 2
    assert known(app) == []
    assert_called_once_each(app, calls)


def test_it_stops_when_the_block_raises(app: Deliveries) -> None:
    def fail() -> None:
        with app.running() as processor:
            seen.append(processor)
            raise RuntimeError

    seen: list[Any] = []
    with pytest.raises(RuntimeError):
        fail()
    assert not seen[0].is_alive


def test_what_it_starts_it_ends(app: Deliveries) -> None:
    others = set(threading.enumerate())

    def threads() -> list[str]:
        ours = [one.name for one in set(threading.enumerate()) - others if one.name.startswith("deliveries-")]
        return [name for name in ours if name != "deliveries-notify"]

    @app.adapter("sms")
    async def sms(delivery: Any, attempt: Any) -> None: ...

    with app.running():
        for id in [schedule(app).id, schedule(app, "sms").id]:
            eventually(lambda id=id: app.get(id).is_terminal)
        assert threads()
    eventually(lambda: not threads())


def test_running_beside_an_event_loop(app: Deliveries, calls: Calls) -> None:
    async def main() -> None:
        async with app.running_async(poll=0.05) as processor:
            id = (await asyncio.to_thread(schedule, app)).id
            async with asyncio.timeout(15):
                while not (await app.aget(id)).is_terminal:  # noqa: ASYNC110 - it is the database that is asked
                    await asyncio.sleep(0.01)
        assert not processor.is_alive

    asyncio.run(main())
    assert len(calls) == 1


def test_a_lifespan(app: Deliveries, calls: Calls) -> None:
    async def serve() -> None:
        async with app.lifespan(object()):
            id = (await asyncio.to_thread(schedule, app)).id
            async with asyncio.timeout(15):
                while not (await app.aget(id)).is_terminal:  # noqa: ASYNC110 - it is the database that is asked
                    await asyncio.sleep(0.01)

    asyncio.run(serve())
    assert len(calls) == 1


@pytest.mark.parametrize(("queues", "settings"), [({"q": 0}, {}), (None, {"lease": 0}), (None, {"odd": 1})])
def test_a_lifespan_takes_queues_and_settings(app: Deliveries, queues: Any, settings: dict[str, Any]) -> None:
    async def serve() -> None:
        async with app.lifespan(object(), queues, **settings):
            raise AssertionError("they were not looked at")

    with pytest.raises(CallerError):
        asyncio.run(serve())


def test_draining_and_performing_beside_an_event_loop(app: Deliveries, calls: Calls) -> None:
    one, other = schedule(app).id, schedule(app).id

    async def main() -> None:
        assert (await app.aperform(one)).result == "done"
        assert (await app.adrain(queues={"email": 3})).succeeded == 1

    asyncio.run(main())
    assert calls.made == [(one, 1), (other, 1)]


# -- hints -------------------------------------------------------------------------------------------


def idle(app: Deliveries) -> None:
    """Wait until a processor with a long poll has nothing to do but to wait."""
    first = schedule(app).id
    eventually(lambda: app.get(first).is_terminal)
    if app.engine.dialect.name == "postgresql":
        with app.engine.connect() as connection:  # within one transaction the list of sessions stands still
            watch = connection.execution_options(isolation_level="AUTOCOMMIT")
            eventually(lambda: watch.scalar(LISTENING))


def test_a_commit_in_this_process_wakes_it(app: Deliveries) -> None:
    with app.running(poll=30, sweep_every=30):
        idle(app)
        for _ in range(5):
            id = schedule(app).id
            eventually(lambda id=id: app.get(id).is_terminal, seconds=5)


def test_a_notification_wakes_it_across_engines(postgresql_url: str, apps: Apps) -> None:
    app, elsewhere = apps(postgresql_url), apps(postgresql_url)
    for one in (app, elsewhere):
        one.adapter("email")(lambda delivery, attempt: None)
    with app.running(poll=30, sweep_every=30):
        idle(app)
        for _ in range(3):
            id = schedule(elsewhere).id
            eventually(lambda id=id: app.get(id).is_terminal, seconds=5)


SCHEDULE = """
import sys
from deliveries import Deliveries
app = Deliveries(sys.argv[1])
app.adapter("email")(lambda delivery, attempt: None)
with app.engine.begin() as connection:
    delivery = app.schedule(connection, "email")
print(delivery.id, flush=True)
sys.stdin.read()
"""


def test_a_notification_wakes_it_across_processes(postgresql_url: str, apps: Apps) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(lambda delivery, attempt: None)
    with app.running(poll=30, sweep_every=30):
        idle(app)
        with subprocess.Popen(
            [sys.executable, "-c", SCHEDULE, postgresql_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ,
            text=True,
        ) as process:
            assert process.stdout is not None
            id = process.stdout.readline().strip()
            eventually(lambda: app.get(id).is_terminal, seconds=5)
            process.communicate()


def test_without_hints_polling_finds_it(database_url: str, apps: Apps) -> None:
    app, elsewhere = apps(database_url), apps(database_url)
    for one in (app, elsewhere):
        one.adapter("email")(lambda delivery, attempt: None)
    with app.running(poll=0.1, listen=False):
        idle_id = schedule(app).id
        eventually(lambda: app.get(idle_id).is_terminal)
        id = schedule(elsewhere).id
        eventually(lambda: app.get(id).is_terminal, seconds=5)


def test_a_retry_is_not_left_to_the_next_poll(app: Deliveries) -> None:
    from deliveries import Retry

    says = iter([Retry(after=0.2), None])
    app.adapter("sms")(lambda delivery, attempt: next(says))
    with app.running(poll=30):
        id = schedule(app, "sms").id
        eventually(lambda: app.get(id).status is Status.SUCCEEDED, seconds=10)


def test_it_lives_through_a_database_that_goes_away(postgresql_url: str, apps: Apps, calls: Calls) -> None:
    app = apps(postgresql_url)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    with app.running(poll=0.2) as processor:
        for _ in range(3):
            cut_off(app.engine)
            with app.engine.connect() as connection:  # the pool's own dead connections aside
                connection.rollback()
            id = eventually(lambda: unless_cut(lambda: schedule(app).id))
            eventually(lambda id=id: unless_cut(lambda: app.get(id).is_terminal))
        assert processor.is_alive
    app.engine.dispose()  # of what was cut and not used since
    assert_called_once_each(app, calls)


def test_a_drain_begins_again_where_its_first_connection_is_cut(
    postgresql_url: str, apps: Apps, calls: Calls
) -> None:
    """It was halted for so long that the server closed the transaction in which it asked the time."""
    app = apps(postgresql_url)
    app.adapter("email")(calls(lambda delivery, attempt: None))
    schedule(app)
    app.engine.dispose()

    def cut(*_: Any) -> None:
        if not cuts:
            cuts.append("cut")
            cut_off(other)

    cuts: list[str] = []
    other = create_engine(app.engine.url, poolclass=NullPool)
    event.listen(app.engine, "before_cursor_execute", cut)
    assert app.drain().succeeded == 1
    assert cuts


def cut_off(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def unless_cut(act: Callable[[], Any]) -> Any:
    """None where the pool gave a connection that had been cut off."""
    from sqlalchemy.exc import OperationalError

    try:
        return act()
    except OperationalError:
        return None
