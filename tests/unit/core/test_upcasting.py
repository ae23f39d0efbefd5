"""An event with three versions, of this test only, through the registry that reads all events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct

from deliveries.core import codec
from deliveries.core.events import EVENTS, Event, Instant
from deliveries.core.retired import RETIRED
from deliveries.core.upcast import Registry, Retired
from deliveries.errors import UnreadableEvent


class Parcel1(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Pounds, and one name."""

    id: UUID
    pounds: int
    to: str = "nobody"


class Parcel2(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Grams, and one name."""

    id: UUID
    grams: int
    to: str = "nobody"


class Parcel(Event, frozen=True, kw_only=True):
    """Grams, several names, and a time."""

    schema_version = 3

    id: UUID
    grams: int
    names: tuple[str, ...] = ()
    sent_at: Instant | None = None


class Letter(Event, frozen=True, kw_only=True):
    """One that never changed."""

    stamp: int


def grams(old: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in old.items() if name != "pounds"} | {"grams": old["pounds"] * 454}


def names(old: dict[str, Any]) -> dict[str, Any]:
    return {"id": old["id"], "grams": old["grams"], "names": [old["to"]] if "to" in old else []}


FIRST, SECOND = Retired("Parcel", 1, Parcel1, grams), Retired("Parcel", 2, Parcel2, names)
REGISTRY = Registry((Parcel, Letter), (SECOND, FIRST))
ID = UUID(int=7)
WHO = f'"id":"{ID}"'


@pytest.mark.parametrize(
    ("version", "body", "expected"),
    [
        (1, f'{{{WHO},"pounds":2}}', Parcel(id=ID, grams=908)),
        (1, f'{{{WHO},"pounds":2,"to":"ann"}}', Parcel(id=ID, grams=908, names=("ann",))),
        (2, f'{{{WHO},"grams":5,"to":"bob"}}', Parcel(id=ID, grams=5, names=("bob",))),
        (3, f'{{{WHO},"grams":5,"names":["a","b"]}}', Parcel(id=ID, grams=5, names=("a", "b"))),
        (
            3,
            f'{{{WHO},"grams":5,"sent_at":"2024-01-01T00:00:00Z"}}',
            Parcel(id=ID, grams=5, sent_at=datetime(2024, 1, 1, tzinfo=UTC)),
        ),
    ],
)
def test_every_version_is_read_as_the_newest(version: int, body: str, expected: Parcel) -> None:
    assert REGISTRY.decode("Parcel", version, body.encode()) == expected


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (1, f'{{{WHO},"grams":2}}'),  # the shape of another version
        (2, f'{{{WHO},"pounds":2}}'),
        (1, f'{{{WHO},"pounds":"2"}}'),
        (1, f'{{{WHO},"pounds":2,"names":[]}}'),
        (3, f'{{{WHO},"pounds":2}}'),
        (1, "{"),
        (1, ""),
        (2, "null"),
    ],
)
def test_a_body_must_have_the_shape_of_its_own_version(version: int, body: str) -> None:
    with pytest.raises(UnreadableEvent, match=f"^Parcel version {version}: "):
        REGISTRY.decode("Parcel", version, body.encode())


@pytest.mark.parametrize("version", [-1, 0, 4, 99])
def test_a_version_of_the_future_stays_unreadable(version: int) -> None:
    with pytest.raises(UnreadableEvent, match="a version of the future"):
        REGISTRY.decode("Parcel", version, b"{}")
    with pytest.raises(UnreadableEvent, match="an unknown type"):
        REGISTRY.decode("Parcel1", 1, f'{{{WHO},"pounds":2}}'.encode())


def _fails(old: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("a case that nobody thought of")


@pytest.mark.parametrize(
    ("up", "why"),
    [
        (_fails, "a case that nobody thought of"),
        (lambda old: {"grams": 1}, "Object missing required field `id`"),
        (lambda old: None, "Expected `object`, got `null`"),
        (lambda old: old, "Object contains unknown field `to`"),
    ],
)
def test_an_upcaster_that_fails_makes_one_event_unreadable(up: Any, why: str) -> None:
    registry = Registry((Parcel,), (FIRST, Retired("Parcel", 2, Parcel2, up)))
    with pytest.raises(UnreadableEvent, match=f"an earlier Parcel that cannot be led on: .*{why}"):
        registry.decode("Parcel", 1, f'{{{WHO},"pounds":2,"to":"ann"}}'.encode())
    assert registry.decode("Parcel", 3, f'{{{WHO},"grams":2}}'.encode()) == Parcel(id=ID, grams=2)


@pytest.mark.parametrize(
    ("retired", "differs"),
    [
        ((), "[('Parcel', 1), ('Parcel', 2)]"),
        ((FIRST,), "[('Parcel', 2)]"),
        ((SECOND,), "[('Parcel', 1)]"),
        ((FIRST, SECOND, FIRST), "one is there twice"),
        ((FIRST, SECOND, Retired("Parcel", 3, Parcel2, names)), "[('Parcel', 3)]"),
        ((FIRST, SECOND, Retired("Parcel", 0, Parcel2, names)), "[('Parcel', 0)]"),
        ((FIRST, SECOND, Retired("Other", 1, Parcel2, names)), "[('Other', 1)]"),
    ],
)
def test_a_registry_has_every_version_once(retired: tuple[Retired, ...], differs: str) -> None:
    with pytest.raises(ValueError, match="retired") as caught:
        Registry((Parcel,), retired)
    assert str(caught.value) == f"each version before the newest is retired, once: {differs}"


def test_what_is_known_of_versions_cannot_be_added_to() -> None:
    assert dict(REGISTRY.newest) == {"Parcel": 3, "Letter": 1}
    assert dict(REGISTRY.shapes) == {
        ("Parcel", 1): Parcel1,
        ("Parcel", 2): Parcel2,
        ("Parcel", 3): Parcel,
        ("Letter", 1): Letter,
    }
    with pytest.raises(TypeError):
        REGISTRY.newest["Parcel"] = 4  # type: ignore[index]
    with pytest.raises(TypeError):
        REGISTRY.shapes["Parcel", 4] = Letter  # type: ignore[index]


def test_the_product_reads_through_the_same_code() -> None:
    assert type(codec.REGISTRY) is Registry
    assert set(codec.REGISTRY.newest) == {kind.__name__ for kind in EVENTS} == codec.REGISTERED
    assert len(codec.REGISTRY.shapes) == len(EVENTS) + len(RETIRED)


def test_a_digest_is_over_the_bytes_that_were_stored() -> None:
    """Led on or not: an audit that re-encoded would call every old event altered."""
    body = f'{{{WHO},"pounds":2}}'.encode()
    at = datetime(2024, 1, 1, tzinfo=UTC)
    event = REGISTRY.decode("Parcel", 1, body)
    stored = codec.digest(codec.GENESIS, ID, 1, "Parcel", 1, at, body)
    assert stored != codec.digest(codec.GENESIS, ID, 1, "Parcel", 3, at, codec.encode(event))
