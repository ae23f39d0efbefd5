"""What the product once got wrong, each by a test that failed then."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from deliveries import CorruptHistory, Deliveries, DeliveriesError, InvalidPayload, InvalidSchedule
from support.apps import Apps, schedule

HUGE = 10**5_000
"""Python refuses to print it: ValueError, not of our tree."""


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", HUGE),
        ("max_attempts", HUGE),
        ("priority", Unprintable()),
        ("max_attempts", Unprintable()),
        ("tags", {1, "a"}),
    ],
    ids=["priority", "max_attempts", "unprintable priority", "unprintable max_attempts", "mixed tags"],
)
def test_values_that_cannot_be_shown_are_refused_all_the_same(
    nowhere: Deliveries, field: str, value: Any
) -> None:
    with Session(nowhere.engine) as session, pytest.raises(InvalidSchedule) as caught:
        nowhere.schedule(session, "email", **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("key", [HUGE, Unprintable()], ids=["huge", "unprintable"])
def test_keys_that_cannot_be_shown_are_refused_all_the_same(nowhere: Deliveries, key: Any) -> None:
    with Session(nowhere.engine) as session, pytest.raises(InvalidPayload):
        nowhere.schedule(session, "email", {"a": {key: 1}})


@pytest.mark.parametrize("id", [HUGE, Unprintable()], ids=["huge", "unprintable"])
def test_ids_that_cannot_be_shown_are_refused_all_the_same(nowhere: Deliveries, id: Any) -> None:
    with Session(nowhere.engine) as session, pytest.raises(InvalidSchedule):
        nowhere.cancel(session, id)


@pytest.mark.parametrize("option", ["max_attempts", "max_snoozes"])
def test_options_that_cannot_be_shown_are_refused_all_the_same(nowhere: Deliveries, option: str) -> None:
    with pytest.raises(DeliveriesError, match=option):
        nowhere.adapter("sms", **{option: HUGE})(lambda delivery, attempt: None)


@pytest.mark.parametrize("limit", [HUGE, Unprintable()], ids=["huge", "unprintable"])
def test_limits_that_cannot_be_shown_are_refused_all_the_same(nowhere: Deliveries, limit: Any) -> None:
    with pytest.raises(DeliveriesError, match="limit"):
        nowhere.find(limit=limit)


def test_what_is_no_draft_is_refused(nowhere: Deliveries) -> None:
    with Session(nowhere.engine) as session, pytest.raises(DeliveriesError, match="Draft"):
        nowhere.schedule_many(session, "email", [{"payload": 1}])  # type: ignore[list-item]


def test_the_beginning_of_time_stops_nobody_else(postgresql_url: str, apps: Apps) -> None:
    """Where the server's zone is west of Greenwich, year 1 is shown as 1 BC, which no driver reads."""
    app = apps(postgresql_url, connect_args={"options": "-c timezone=America/New_York"})
    app.adapter("email")(lambda delivery, attempt: None)
    apps.damaged = True  # the row cannot be read back
    with contextlib.suppress(InvalidSchedule):  # refusing it is an answer, too
        schedule(app, priority=0, due_at=datetime.min.replace(tzinfo=UTC))
    schedule(app)
    assert app.drain(patience=0).succeeded >= 1


def test_contents_that_were_tampered_with_are_an_error_of_our_tree(fresh_url: str, apps: Apps) -> None:
    apps.damaged = True
    app = apps(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    id = schedule(app, "email", {"a": 1}, key="k").id
    with app.engine.begin() as connection:
        connection.execute(text("UPDATE delivery_contents SET payload = '{broken'"))
    with pytest.raises(CorruptHistory):
        app.get(id)
    with pytest.raises(DeliveriesError):
        schedule(app, "email", {"a": 1}, key="k")


def test_one_row_that_was_tampered_with_hides_no_other(fresh_url: str, apps: Apps) -> None:
    apps.damaged = True
    app = apps(fresh_url)
    app.adapter("email")(lambda delivery, attempt: None)
    ids = [schedule(app, tags=["a"]).id for _ in range(3)]
    with app.engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET tags = 'x' WHERE key IS NULL AND id = :id"), {
            "id": ids[1] if app.engine.dialect.name == "postgresql" else ids[1].hex
        })  # fmt: skip
    assert {ids[0], ids[2]} <= {one.id for one in app.find()}
