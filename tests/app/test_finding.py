"""Finding: page after page, by what notes say, and without reading what an index can tell."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from deliveries import Deliveries, Delivery, Discard, Draft
from deliveries.errors import CallerError, DeliveriesError
from support.apps import schedule


@pytest.fixture
def mail(timed: Deliveries) -> Deliveries:
    """An application whose adapter discards what it is told to, with that text."""

    @timed.adapter("email", queue="mail")
    def email(delivery: Delivery, attempt: object) -> Any:
        return Discard(delivery.payload) if delivery.payload else None

    return timed


# -- pages -------------------------------------------------------------------------------------


def test_pages_meet_without_overlap_or_gap(mail: Deliveries) -> None:
    ids = [schedule(mail, tags=["odd"] if number % 2 else []).id for number in range(7)]
    newest = list(reversed(ids))
    first = mail.find(limit=3)
    second = mail.find(limit=3, after=first[-1].id)
    assert [one.id for one in (*first, *second)] == newest[:6]
    assert [one.id for one in mail.find(limit=3, after=str(second[-1].id))] == newest[6:]
    assert mail.find(limit=3, after=newest[6]) == []
    assert [len(page) for page in mail.pages(limit=3)] == [3, 3, 1]
    assert [one.id for page in mail.pages(limit=3) for one in page] == newest
    assert [one.id for page in mail.pages({"tag": "odd"}, limit=1) for one in page] == newest[1::2]
    assert list(mail.pages(key="nobody's")) == []


def test_what_is_scheduled_meanwhile_is_in_no_page(mail: Deliveries) -> None:
    ids = [schedule(mail).id for _ in range(4)]
    pages = mail.pages(limit=2)
    found = next(pages)
    schedule(mail)
    found += [one for page in pages for one in page]
    assert [one.id for one in found] == list(reversed(ids))


def test_the_twin_of_pages(mail: Deliveries) -> None:
    ids = [schedule(mail).id for _ in range(3)]

    async def gathered() -> list[UUID]:
        return [one.id async for page in mail.apages(limit=2) for one in page]

    assert asyncio.run(gathered()) == list(reversed(ids))


@pytest.mark.parametrize("wrong", [{"after": "none"}, {"after": 7}, {"limit": 0}])
def test_what_cannot_be_is_refused(nowhere: Deliveries, wrong: dict[str, Any]) -> None:
    with pytest.raises(DeliveriesError):
        nowhere.find(**wrong)
    if "limit" in wrong:
        with pytest.raises(CallerError):
            nowhere.pages(**wrong)


# -- notes -------------------------------------------------------------------------------------


def test_deliveries_are_found_by_what_their_notes_say(mail: Deliveries) -> None:
    said = ["503 Service Unavailable", "100% of_all", "", None]
    full, percent, _, moved = [schedule(mail, "email", one).id for one in said]
    mail.drain()
    with mail.engine.begin() as connection:
        late = mail.redrive(connection, full, reason="the 503 is over").id
        assert mail.cancel(connection, moved).status == "succeeded"

    def found(**wanted: Any) -> list[UUID]:
        return [one.id for one in mail.find(**wanted)]

    assert found(note="service unavailable") == [full]
    assert found(note="503") == [late, full]
    assert found(note=["100%", "SERVICE"]) == [percent, full]
    assert found(note="f_a") == [percent]  # no wildcards
    assert found(note="0%o") == []
    assert found(note="503", status="exhausted") == [full]
    assert found(note="'; DROP TABLE deliveries; --") == []


def test_acts_on_many_take_it_too(mail: Deliveries) -> None:
    for one in ("503 down", "550 no such user"):
        schedule(mail, "email", one)
    mail.drain()
    report = mail.redrive_where({"note": "503"}, actor="ann", reason="it is up again")
    assert (report.matched, report.done) == (1, 1)


def test_an_erased_note_is_found_no_more(mail: Deliveries) -> None:
    schedule(mail, "email", "503 down", recipient="ann@example.org")
    mail.drain()
    assert mail.find(note="503") != []
    mail.erase(recipient="ann@example.org", actor="ann")
    assert mail.find(note="503") == []


# -- indexes -----------------------------------------------------------------------------------


def looked_up(app: Deliveries, **wanted: Any) -> str:
    """How the database answers `find`, in its own words: the statement that it runs, explained."""
    ran: list[tuple[str, Any]] = []

    def see(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if "ORDER BY deliveries.id" in statement:
            ran.append((statement, parameters))

    event.listen(app.engine, "before_cursor_execute", see)
    app.find(**wanted)
    event.remove(app.engine, "before_cursor_execute", see)
    (statement, parameters) = ran[0]
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[app.engine.dialect.name]
    with app.engine.connect() as connection:
        return "\n".join(
            str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)
        )


@pytest.fixture
def many(mail: Deliveries) -> Deliveries:
    """So many that no planner would rather read them all."""
    drafts = [Draft(key=f"k{n}", tenant=f"t{n % 10}", correlation_id=f"c{n}") for n in range(1_000)]
    with mail.engine.begin() as connection:
        mail.schedule_many(connection, "email", drafts)
    with mail.engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    return mail


SCANS = {"sqlite": "SCAN deliveries\n", "postgresql": "Seq Scan"}


def test_what_has_an_index_uses_it(many: Deliveries, dialect: str) -> None:
    (one,) = many.find(key="k500", tenant="t0")
    plans = {
        "newest": looked_up(many),
        "after": looked_up(many, after=one.id),
        "id": looked_up(many, id=one.id),
        "key": looked_up(many, key="k500", tenant="t0"),
    }
    for name, told in plans.items():
        assert SCANS[dialect] not in told + "\n", (name, told)
        assert "Sort" not in told or name == "key", (name, told)
    assert "deliveries_key" in plans["key"]


def test_a_correlation_id_uses_an_index_that_you_make(many: Deliveries, dialect: str) -> None:
    """There is none from us, since each costs every write; operations.md has the statement."""
    index = "CREATE INDEX correlated ON deliveries (correlation_id) WHERE correlation_id IS NOT NULL"
    assert "correlated" not in looked_up(many, correlation_id="c7")
    with many.engine.begin() as connection:
        connection.execute(text(index))
        connection.execute(text("ANALYZE"))
    try:
        assert "correlated" in looked_up(many, correlation_id="c7")
        assert len(many.trace("c7").links) == 1
    finally:
        with many.engine.begin() as connection:
            connection.execute(text("DROP INDEX correlated"))
