"""S2: what is accepted reads back equal on both stores; the rest is refused before any SQL."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from deliveries import Deliveries, DeliveriesError, Draft, InvalidPayload
from deliveries.errors import CallerError
from support.apps import Apps, schedule
from support.drawing import FIXTURE_IS_SHARED

CAP = 64 * 1024


@pytest.fixture
def app(app: Deliveries) -> Deliveries:
    app.adapter("email")(lambda delivery, attempt: None)
    return app


# -- accepted ------------------------------------------------------------------------------------------

keys = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
strings = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def identical(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down: 1 is not True, nor 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@given(payloads=st.lists(json_values, min_size=1, max_size=20))
@settings(suppress_health_check=FIXTURE_IS_SHARED, max_examples=25)
def test_any_json_reads_back_equal(app: Deliveries, payloads: list[Any]) -> None:
    with app.engine.begin() as connection:
        made = app.schedule_many(connection, "email", [Draft(payload) for payload in payloads])
        read = [app.get(delivery.id, session=connection) for delivery in made]
    for payload, returned, found in zip(payloads, made, read, strict=True):
        assert identical(returned.payload, payload)
        assert identical(found.payload, payload)


def test_the_adapter_gets_what_was_scheduled(app: Deliveries) -> None:
    got: list[Any] = []

    @app.adapter("sms")
    def sms(delivery: Any, attempt: object) -> None:
        got.append((delivery.payload, delivery.recipient))

    payload = {"n": [1, 2.5, None, True, "é\u2028\x7f💡"], "": {}}
    schedule(app, "sms", payload, recipient="é💡'\"")
    app.drain()
    assert got == [(payload, "é💡'\"")]


BORDERS: list[Any] = [
    None,
    "",
    0,
    -0.0,
    False,
    [],
    {},
    {"": ""},
    2**64 - 1,
    -(2**63),
    sys.float_info.max,
    5e-324,
    "\x01\x1f\x7f\x85\u2028\ufeff\U0010ffff",
    "'; DROP TABLE deliveries; --",
    "%s %(a)s :a {} \\ \\u0000",
    {"\\u0000": "a\nb"},
    "x" * (CAP - 2),
]


def test_borders_that_are_accepted(app: Deliveries) -> None:
    for payload in BORDERS:
        delivery = schedule(app, "email", payload)
        assert identical(app.get(delivery.id).payload, payload)


class Order(msgspec.Struct):
    id: int
    lines: list[str]


@dataclasses.dataclass
class Invoice:
    id: UUID
    at: datetime
    total: Decimal
    order: Order


def test_structs_and_dataclasses_are_encoded(app: Deliveries) -> None:
    order = Order(7, ["a", "b"])
    invoice = Invoice(UUID(int=1), datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.50"), order)
    assert app.get(schedule(app, "email", order).id).payload == {"id": 7, "lines": ["a", "b"]}
    assert app.get(schedule(app, "email", invoice).id).payload == {
        "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-02T00:00:00Z",
        "total": "1.50",
        "order": {"id": 7, "lines": ["a", "b"]},
    }


def nested(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


def test_as_deep_as_allowed(app: Deliveries) -> None:
    payload = nested(64)
    assert app.get(schedule(app, "email", payload).id).payload == payload


# -- refused -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Holder:
    value: Any


def cyclic() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


def self_holding() -> Any:
    holder = Holder(None)
    holder.value = holder
    return holder


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "NUL": (lambda: {"a": ["x", "y\x00"]}, "$.a[1]"),
    "NUL in a key": (lambda: {"a": {"\x00": 1}}, "$.a"),
    "lone surrogate": (lambda: ["\ud800"], "$[0]"),
    "lone surrogate in a key": (lambda: {"\udfff": 1}, "$"),
    "NaN": (lambda: {"a": {"b": math.nan}}, "$.a.b"),
    "infinity": (lambda: [math.inf], "$[0]"),
    "minus infinity": (lambda: [-math.inf], "$[0]"),
    "1e400": (lambda: {"a": float("1e400")}, "$.a"),
    "5,000 digits": (lambda: {"a": 10**5_000}, "$.a"),
    "2**64": (lambda: [2**64], "$[0]"),
    "-2**63 - 1": (lambda: [-(2**63) - 1], "$[0]"),
    "bytes": (lambda: {"a": b"x"}, "$.a"),
    "bytes that are not UTF-8": (lambda: [b"\xff"], "$[0]"),
    "set": (lambda: {"a": {1}}, "$.a"),
    "tuple": (lambda: {"a": (1, 2)}, "$.a"),
    "datetime": (lambda: {"a": datetime(2026, 1, 1)}, "$.a"),  # noqa: DTZ001 - a naive one is meant
    "decimal": (lambda: {"a": Decimal(1)}, "$.a"),
    "uuid": (lambda: {"a": UUID(int=1)}, "$.a"),
    "object": (lambda: {"a": object()}, "$.a"),
    "class": (lambda: Order, "$"),
    "integer key": (lambda: {"a": {1: 2}}, "$.a"),
    "None as a key": (lambda: {None: 2}, "$"),
    "struct inside a list": (lambda: [Order(1, [])], "$[0]"),
    "NaN in a dataclass": (lambda: Holder(math.nan), "$.value"),
    "a dataclass that holds an object": (lambda: Holder(object()), "$"),
    "a dataclass that holds itself": (self_holding, "$"),
    "depth 65": (lambda: nested(65), "$"),
    "depth 100,000": (lambda: nested(100_000), "$"),
    "a list that holds itself": (cyclic, "$"),
    "cap + 1": (lambda: "x" * (CAP - 1), "$"),
    "cap + 1, in many bytes a character": (lambda: "é" * (CAP // 2), "$"),
    "cap + 1, when escaped": (lambda: "\n" * (CAP // 2), "$"),
    "many small things": (lambda: [[] for _ in range(CAP)], "$"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_any_sql(nowhere: Deliveries, name: str) -> None:
    make, path = REFUSED[name]
    payload = make()
    with Session(nowhere.engine) as session, pytest.raises(InvalidPayload) as caught:
        nowhere.schedule(session, "email", payload)
    assert isinstance(caught.value, CallerError)
    assert isinstance(caught.value, DeliveriesError)
    assert caught.value.path.startswith(path)
    assert caught.value.path in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_300_megabytes_are_refused_and_named(nowhere: Deliveries) -> None:
    with (
        Session(nowhere.engine) as session,
        pytest.raises(InvalidPayload, match=f"max_payload_bytes.*{CAP}"),
    ):
        nowhere.schedule(session, "email", "x" * 300_000_000)


def test_the_harness_would_see_a_statement(nowhere: Deliveries) -> None:
    with Session(nowhere.engine) as session, pytest.raises(OperationalError):
        nowhere.schedule(session, "email", "fine")


@pytest.mark.parametrize(("size", "accepted"), [(100, True), (101, False)])
def test_the_cap_is_the_users_to_choose(database_url: str, apps: Apps, size: int, accepted: bool) -> None:
    app = Deliveries(apps(database_url).engine, max_payload_bytes=100)
    app.adapter("email")(lambda delivery, attempt: None)
    payload = "x" * (size - 2)
    if accepted:
        assert app.get(schedule(app, "email", payload).id).payload == payload
    else:
        with pytest.raises(InvalidPayload, match="100"):
            schedule(app, "email", payload)
    app.close()
