"""Inline: performed at commit. And applications that are put under test and back."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from deliveries import Deliveries, Delivery, Retry, SchemaMissing, Status, sqlite
from deliveries.core import events as e
from deliveries.core.stream import replay
from deliveries.errors import CallerError
from deliveries.testing import Kit, VirtualClock, under_test
from deliveries.testing.examples import NOW
from deliveries.testing.places import OneConnection
from support.databases import Server

# -- inline ----------------------------------------------------------------------------------------


def test_inline_performs_at_commit_and_not_before(kit: Kit) -> None:
    script = kit.script("email")
    with kit.mode("inline"):
        with Session(kit.engine) as session, session.begin():
            delivery = kit.app.schedule(session, "email", {"n": 1})
            assert script.calls == []
        assert kit.app.get(delivery.id).status is Status.SUCCEEDED
    assert len(script.calls) == 1
    kit.schedule("email")
    assert len(script.calls) == 1


def test_inline_performs_nothing_that_was_rolled_back(kit: Kit) -> None:
    script = kit.script("email")
    with kit.mode("inline"), Session(kit.engine) as session:
        kit.app.schedule(session, "email")
        session.rollback()
    assert script.calls == []


def test_inline_leaves_what_is_due_later(kit: Kit) -> None:
    script = kit.script("email", Retry("503"))
    with kit.mode("inline"):
        kit.schedule("email", delay=60)
        retried = kit.schedule("email")
    assert len(script.calls) == 1
    kit.drain(until="end")
    assert len(script.calls) == 3
    assert kit.app.get(retried.id).status is Status.SUCCEEDED


def test_inline_performs_what_adapters_owe(kit: Kit) -> None:
    def cascade(delivery: Delivery, attempt: object) -> None:
        if delivery.payload:
            kit.schedule("email", delivery.payload - 1)

    script = kit.script("email", then=cascade)
    with kit.mode("inline"):
        kit.schedule("email", 3)
    assert [delivery.payload for delivery, _ in script.calls] == [3, 2, 1, 0]


def test_inline_performs_for_commits_of_any_thread(kit: Kit) -> None:
    script = kit.script("email")
    with kit.mode("inline"):
        threads = [threading.Thread(target=lambda: kit.schedule("email")) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    kit.drain()
    assert len(script.calls) == 6


def test_inline_may_be_the_mode_of_all() -> None:
    with under_test(mode="inline") as kit:
        script = kit.script("email")
        with kit.mode("manual"):
            kit.schedule("email")
            assert script.calls == []
        kit.schedule("email")
        assert len(script.calls) == 2


def test_another_mode_is_a_slip(kit: Kit) -> None:
    with pytest.raises(ValueError, match="'online': manual or inline"), kit.mode("online"):  # type: ignore[arg-type]
        pass


def test_inline_with_an_asynchronous_session(empty_sqlite_url: str) -> None:
    with under_test(database=empty_sqlite_url, mode="inline") as kit:
        script = kit.script("email")

        async def main() -> Delivery:
            engine = create_async_engine(empty_sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
            sqlite.configure(engine)
            async with AsyncSession(engine) as session, session.begin():
                delivery = await kit.app.aschedule(session, "email")
            await engine.dispose()
            return delivery

        delivery = asyncio.run(main())
        assert kit.app.get(delivery.id).status is Status.SUCCEEDED
        assert len(script.calls) == 1


# -- under test, and back --------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    """An application of a user's, on a database that nobody made."""
    app = Deliveries(f"sqlite:///{tmp_path / 'production.db'}")
    app.adapter("email", max_attempts=7)(lambda delivery, attempt: None)
    yield app
    app.close()


def test_the_same_object_is_under_test_and_comes_back(shop: Deliveries, tmp_path: Path) -> None:
    production, store, log = shop.engine, shop._store, shop.event_log_class
    with under_test(shop, clock=VirtualClock(NOW)) as kit:
        assert kit.app is shop
        assert shop._store is store
        assert shop.engine is kit.engine is not production
        kit.script("email")
        shop.adapter("sms")(lambda delivery, attempt: None)
        delivery = kit.schedule("email")
        assert delivery.scheduled_at == NOW
        assert shop.event_log.notification_log.select(start=1, limit=10)
        kit.drain()
    assert shop.engine is production
    assert shop.event_log_class is log
    assert list(shop.channels) == ["email"]
    assert not isinstance(shop.channels["email"].function, type(kit.script))
    assert not (tmp_path / "production.db").exists()
    with pytest.raises(SchemaMissing):
        shop.get(delivery.id)


def test_it_comes_back_after_an_error(shop: Deliveries) -> None:
    production = shop.engine
    with pytest.raises(ZeroDivisionError), under_test(shop):
        1 / 0  # noqa: B018
    assert shop.engine is production


def test_one_after_the_other_sees_nothing_of_the_other(shop: Deliveries) -> None:
    for _ in range(2):
        with under_test(shop) as kit:
            kit.refute_scheduled()
            kit.schedule("email")


def test_kits_beside_each_other(shop: Deliveries) -> None:
    with under_test(shop) as one, under_test() as other:
        one.schedule("email")
        other.script("email")
        other.refute_scheduled()


def test_everything_of_an_application_is_moved_or_registered(shop: Deliveries) -> None:
    """Whoever gives an application a part that holds an engine of its own must move that too."""
    with under_test(shop) as kit:
        kit.schedule("email")
        holders = {name: getattr(part, "_store", part) for name, part in vars(shop).items()}
        urls = {name: str(getattr(getattr(one, "engine", None), "url", "")) for name, one in holders.items()}
        production = [name for name, url in urls.items() if "production.db" in url]
        assert urls["_store"] == "sqlite://"
    assert production == []


def test_an_engine_is_used_as_it_is(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'mine.db'}")
    sqlite.configure(engine)
    for expected in (1, 2):
        with under_test(database=engine) as kit:
            assert kit.engine is engine
            kit.script("email")
            kit.schedule("email")
            assert len(kit.all_scheduled()) == expected
    engine.dispose()


def test_your_own_tables_stand_beside_ours(kit: Kit) -> None:
    with kit.engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS kit_orders (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO kit_orders VALUES (1)"))
        kit.app.schedule(connection, "email", {"order": 1})
    kit.assert_scheduled("email", {"order": 1})
    with kit.engine.begin() as connection:
        connection.execute(text("DROP TABLE kit_orders"))


def test_postgresql_gets_a_schema_of_its_own(postgresql_server: Server) -> None:
    """Also where the database has our tables already, whose rows no test sees."""
    url = postgresql_server.create_with_schema()
    try:
        schemas = text("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'deliveries_test_%'")
        with under_test(database=url) as kit, under_test(database=url) as other:
            kit.script("email")
            other.script("email")
            kit.schedule("email")
            other.refute_scheduled()
            with kit.engine.connect() as connection:
                assert connection.scalar(schemas) == 2
                assert connection.scalar(text("SELECT count(*) FROM public.deliveries")) == 0
        app = Deliveries(url)
        with app.engine.connect() as connection:
            assert connection.scalar(schemas) == 0
        app.close()
    finally:
        postgresql_server.drop(url)


# -- one connection --------------------------------------------------------------------------------


def test_the_database_in_memory_is_one_for_all_threads() -> None:
    with under_test() as kit:
        assert isinstance(kit.engine.pool, OneConnection)
        kit.script("email")
        ids: list[Any] = []

        def work() -> None:
            for _ in range(20):
                ids.append(kit.schedule("email").id)
                kit.app.get(ids[-1])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(kit.all_scheduled()) == len(set(ids)) == 80
        assert kit.app.drain({"email": 8}).succeeded == 80


def test_whoever_would_wait_for_itself_is_told() -> None:
    with under_test() as kit:
        kit.script("email")
        with kit.engine.begin() as connection:
            kit.app.schedule(connection, "email")
            with pytest.raises(CallerError, match="an open transaction of this thread has it"):
                kit.drain()
        assert kit.drain().succeeded == 1


def test_what_the_kit_leaves_is_sound(kit: Kit) -> None:
    """The streams are the product's own, digests and all."""
    kit.script("email", Retry("503"), kit.CRASH, kit.TIMEOUT)
    delivery = kit.schedule("email", max_attempts=9)
    kit.drain(until="end")
    stream = kit.app.history(delivery.id)
    assert replay(stream).delivery == kit.app.get(delivery.id)
    assert isinstance(stream[-1].event, e.Succeeded)


def test_findings_are_found(kit: Kit) -> None:
    """Known bad: a call that nobody started."""
    delivery = kit.schedule("email")
    kit.drain()
    kit._stage.calls.append(kit.calls[0])
    (finding,) = kit.findings()
    assert (finding.rule, finding.delivery_id) == ("N1", delivery.id)
    kit._stage.calls.pop()
