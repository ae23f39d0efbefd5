"""The doctor, on databases that are in the state it looks for. Each check, on both where it applies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from deliveries import Deliveries, Unknown
from deliveries.audit.doctor import Check, Diagnosis
from deliveries.audit.doctor.examination import REST
from deliveries.errors import CallerError
from deliveries.processor.heartbeat import Presence
from deliveries.store.schema import SCHEMA_VERSION
from support.apps import Apps, RunningClock, schedule
from support.lives import lead


def check(found: Diagnosis, name: str) -> Check:
    """The one check of that name."""
    (one,) = (one for one in found.checks if one.name == name)
    return one


def said(app: Deliveries, name: str, **options: Any) -> tuple[str, str]:
    """Verdict and all lines of one check."""
    one = check(app.doctor(**options), name)
    assert one.seen
    assert (one.advice is None) is (one.verdict == "ok")
    return one.verdict, "\n".join(one.seen)


@pytest.fixture
def mail(timed: Deliveries) -> Deliveries:
    """An application with one channel, on a clock that it obeys."""
    timed.adapter("email", queue="mail")(lambda delivery, attempt: None)
    return timed


def serve(app: Deliveries, *queues: str, worker: str = "w1") -> None:
    """A worker that stays, as far as its row says."""
    Presence(app._store, worker, 30.0, queues).announce()


# -- all is well -------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_database_at_rest(fresh_url: str, apps: Apps, dialect: str) -> None:
    """A fresh one: in what was wiped ten thousand dead rows of another test may wait for the vacuum."""
    app = apps(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    found = app.doctor()
    assert found.ok
    assert found.problems == ()
    # the tests' own server does without fsync
    bad = {one.name: one.seen for one in found.checks if one.verdict != "ok"}
    assert bad.keys() <= {"durability"}
    assert [one.name for one in found.checks[3:]] == [one.__name__ for one in REST[dialect]]
    assert str(found).count("\n") >= len(found.checks)


def test_it_writes_nothing_and_waits_for_nobody(mail: Deliveries) -> None:
    schedule(mail)
    with mail.engine.begin() as connection:
        mail.queues.pause(connection, "mail")  # holds its row, and on SQLite the database
        assert mail.doctor().ok


@pytest.mark.parametrize("wrong", [{"late": -1}, {"long": "1"}, {"late": True}, {"long": float("nan")}])
def test_seconds_that_are_none_are_refused(mail: Deliveries, wrong: dict[str, Any]) -> None:
    with pytest.raises(CallerError, match="seconds"):
        mail.doctor(**wrong)


# -- the database as we made it ------------------------------------------------------------------


def test_a_database_that_does_not_answer(nowhere: Deliveries) -> None:
    found = nowhere.doctor()
    assert not found.ok
    assert [(one.name, one.verdict) for one in found.checks] == [("version", "problem")]
    assert "does not answer" in found.checks[0].seen[0]


def test_the_password_is_told_to_nobody(apps: Apps) -> None:
    app = apps("postgresql+psycopg://me:hunter2@127.0.0.1:1/shop?password=hunter3&connect_timeout=2")
    assert "hunter" not in str(app.doctor())
    apps.damaged = True


def test_a_database_without_our_tables(empty_url: str, engines: Callable[..., Engine]) -> None:
    app = Deliveries(engines(empty_url))
    assert said(app, "schema") == ("problem", "there is no deliveries schema")
    assert "db upgrade" in str(check(app.doctor(), "schema").advice)
    assert len(app.doctor().checks) == 3


def test_a_schema_of_the_future(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    apps.damaged = True
    with app.engine.begin() as connection:
        now = {"sqlite": "1", "postgresql": "now()"}[connection.dialect.name]
        connection.execute(text(f"INSERT INTO delivery_schema VALUES ({SCHEMA_VERSION + 1}, {now})"))
    verdict, seen = said(app, "schema")
    assert (verdict, f"version {SCHEMA_VERSION + 1}" in seen) == ("problem", True)
    assert check(app.doctor(), "schema").advice == "upgrade the library"


def test_a_table_that_is_gone(fresh_url: str, apps: Apps) -> None:
    app = apps(fresh_url)
    with app.engine.begin() as connection:
        connection.execute(text("DROP TABLE delivery_positions"))
    assert said(app, "schema") == ("problem", "tables are missing: delivery_positions")


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        ("DROP TRIGGER delivery_events_predecessor ON delivery_events", "delivery_events_predecessor"),
        ("DROP INDEX delivery_events_terminal", "delivery_events_terminal"),
        ("DROP INDEX deliveries_due", "deliveries_due"),
    ],
)
def test_a_guard_that_is_gone(fresh_url: str, apps: Apps, taken: str, name: str) -> None:
    app = apps(fresh_url)
    if app.engine.dialect.name == "sqlite":
        taken = taken.partition(" ON ")[0]
    with app.engine.begin() as connection:
        connection.execute(text(taken))
    assert said(app, "guards") == ("problem", f"{name} is missing")


class Off:
    """A process's clock that is an hour ahead; the database's decides, where it has one."""

    authoritative = False

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(hours=1)


def test_somebody_schedules_by_a_clock_that_is_ahead(database_url: str, apps: Apps) -> None:
    ahead, right = apps(database_url, Off()), apps(database_url)
    ahead.adapter("email")(lambda delivery, attempt: None)
    schedule(ahead)
    verdict, seen = said(right, "clocks")
    assert (verdict, seen) == ("warning", "the newest event is 59 min in the future")


# -- who works on what ---------------------------------------------------------------------------


def test_due_work_that_nobody_serves(mail: Deliveries, clock: RunningClock) -> None:
    schedule(mail)
    clock.advance(59)
    assert said(mail, "workers")[0] == "warning"
    clock.advance(2)
    verdict, seen = said(mail, "workers")
    assert verdict == "problem"
    assert seen.startswith("no live worker serves it: 1 due in queue 'mail', the oldest for 61 s")
    serve(mail, "other")
    assert said(mail, "workers")[0] == "problem"
    serve(mail, "mail", "more", worker="w2")
    assert said(mail, "workers")[0] == "ok"


def test_work_that_is_not_due_needs_nobody(mail: Deliveries) -> None:
    schedule(mail, delay=60)
    assert said(mail, "workers", late=0)[0] == "ok"
    assert said(mail, "lateness", late=0) == ("ok", "nothing is due")


def test_a_worker_that_is_silent(mail: Deliveries, clock: RunningClock) -> None:
    schedule(mail)
    serve(mail, "mail")
    clock.advance(29)
    assert said(mail, "heartbeats")[0] == "ok"
    clock.advance(2)
    assert said(mail, "heartbeats") == ("warning", "w1 is silent for 31 s, its lease is 30 s")
    assert said(mail, "workers", late=10)[0] == "problem"


def test_a_worker_that_really_works(database_url: str, apps: Apps) -> None:
    from support.apps import eventually

    app = apps(database_url)
    app.adapter("email")(lambda delivery, attempt: None)
    with app.running({"email": 1}):
        eventually(lambda: said(app, "workers")[1].startswith("1 live worker;"))


def test_a_paused_queue_with_due_work(mail: Deliveries) -> None:
    schedule(mail)
    with mail.engine.begin() as connection:
        mail.queues.pause(connection, "mail", actor="ann", reason="the provider is down")
    verdict, seen = said(mail, "paused")
    assert verdict == "warning"
    assert seen.endswith("Z by ann (the provider is down): 1 due in queue 'mail'")
    assert said(mail, "workers", late=0)[0] == "ok"  # it is told once


def test_a_paused_queue_without_work_is_nobodys_concern(mail: Deliveries) -> None:
    with mail.engine.begin() as connection:
        mail.queues.pause(connection, "mail")
    assert said(mail, "paused")[0] == "ok"


def test_a_queue_at_its_total(mail: Deliveries, clock: RunningClock) -> None:
    lead(mail, clock, "attempting")
    schedule(mail)
    with mail.engine.begin() as connection:
        mail.queues.limit(connection, "mail", 2)
    assert said(mail, "limits") == ("ok", "1 of at most 2 attempts run: 1 due in queue 'mail'")
    with mail.engine.begin() as connection:
        mail.queues.limit(connection, "mail", 1)
    assert said(mail, "limits") == ("warning", "1 of at most 1 attempts run: 1 due in queue 'mail'")


def test_a_rate_that_is_too_low(mail: Deliveries, clock: RunningClock) -> None:
    schedule(mail)
    with mail.engine.begin() as connection:
        mail.queues.rate(connection, "mail", 1, "hour", by="tenant")
    assert said(mail, "limits")[0] == "ok"
    clock.advance(61)
    expected = "at most 1 start in 3600 s for each tenant: 1 due in queue 'mail'"
    assert said(mail, "limits") == ("warning", expected)


def test_a_channel_without_adapter(
    mail: Deliveries, database_url: str, apps: Apps, clock: RunningClock
) -> None:
    schedule(mail)
    other = apps(database_url, clock)
    assert said(other, "channels") == ("unknown", "this program has no adapters, so nobody can tell")
    other.adapter("sms")(lambda delivery, attempt: None)
    expected = "this program has no adapter for channel 'email': 1 due in queue 'mail'"
    assert said(other, "channels") == ("problem", expected)
    assert said(mail, "channels")[0] == "ok"


def test_how_late_the_oldest_is(mail: Deliveries, clock: RunningClock) -> None:
    schedule(mail, priority=9)
    clock.advance(30)
    schedule(mail, priority=0)
    assert said(mail, "lateness")[0] == "ok"
    clock.advance(31)
    expected = "2 due in queue 'mail', the oldest for 61 s, of channel 'email'"
    assert said(mail, "lateness") == ("warning", expected)
    clock.advance(600)
    assert said(mail, "lateness")[0] == "problem"


def test_leases_that_nobody_sweeps(mail: Deliveries, clock: RunningClock) -> None:
    lead(mail, clock, "attempting")
    clock.advance(70)  # its lease was for 60
    assert said(mail, "leases")[0] == "ok"
    clock.advance(10)
    assert said(mail, "leases") == ("problem", "1 open attempt past the lease, one for 20 s")


def test_what_waits_for_a_person(mail: Deliveries, clock: RunningClock) -> None:
    lead(mail, clock, "held for a person")
    assert said(mail, "held") == ("warning", "1 wait for a person to say what became of them")


def test_lookups_that_nobody_asks(timed: Deliveries, clock: RunningClock) -> None:
    timed.adapter("charge", effect="unsafe", lookup=lambda *_: Unknown())(lambda *_: Unknown())
    schedule(timed, "charge")
    timed.drain()
    verdict, seen = said(timed, "held")
    assert (verdict, seen) == ("ok", "1 wait for a lookup")
    clock.advance(3_600)
    verdict, seen = said(timed, "held")
    assert verdict == "warning"
    assert seen.startswith("1 wait for a lookup, one for ")


def test_what_was_put_aside(mail: Deliveries) -> None:
    id = schedule(mail).id
    with mail._store.transaction() as connection:
        mail._store.put_aside(connection, [id], 3_600)
    verdict, seen = said(mail, "aside")
    assert verdict == "warning"
    assert seen.startswith("1 in queue 'mail', until 2024-01-01 13:00:00")
    assert said(mail, "lateness", late=0) == ("ok", "nothing is due")


def test_a_rate_for_each_recipient_puts_aside_too(mail: Deliveries) -> None:
    for _ in range(2):
        schedule(mail, recipient="ann@example.org")
    with mail.engine.begin() as connection:
        mail.queues.rate(connection, "mail", 1, "hour", by="recipient")
    mail.drain()
    assert said(mail, "aside")[0] == "ok"
    assert said(mail, "aside")[1].startswith("1 in queue 'mail'")


# -- many ----------------------------------------------------------------------------------------


def test_a_long_list_is_cut(mail: Deliveries, clock: RunningClock) -> None:
    for number in range(23):
        mail.adapter(f"c{number}")(lambda delivery, attempt: None)
        schedule(mail, f"c{number}")
    verdict, seen = said(mail, "workers", late=0)
    assert verdict == "problem"
    assert (seen.count("\n"), seen.endswith("\nand 3 more")) == (20, True)
