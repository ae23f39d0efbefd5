"""R2, for ever: what was once written is read as it was meant, and no struct changes in silence."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from msgspec import Struct, structs

from corpus.golden import HERE, Line, add, changed, folded, key_of, missing, read, schema_of, spelled
from deliveries.core import codec
from deliveries.core import events as e
from deliveries.core.delivery import Delivery
from deliveries.core.stream import step
from deliveries.core.upcast import Registry, Retired

FILES = sorted((HERE / "events").glob("*.jsonl"))
STREAMS = read(HERE / "streams.jsonl")


def misread(lines: list[Line], registry: Registry = codec.REGISTRY) -> list[Line]:
    """The lines whose body is not read as they say; those of older classes were right in their time."""
    return [
        line
        for line in lines
        if line["read_as"] == registry.newest[line["type"]]
        and spelled(registry.decode(line["type"], line["schema_version"], line["body"].encode()))
        != line["event"]
    ]


def agree(expected: Any, found: Any) -> bool:
    """Whether all that is expected is found; a state may have got further fields since."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and agree(value, found[name]) for name, value in expected.items()
        )
    return bool(expected == found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_body_is_read_as_it_was_meant(path: Path) -> None:
    lines = read(path)
    assert misread(lines) == []
    newest = codec.REGISTRY.newest[path.stem]
    for line in lines:
        body = line["body"].encode()
        if line["schema_version"] == newest:  # and what we write is what we wrote
            assert codec.encode(codec.decode(path.stem, newest, body)) == body


def test_no_line_is_there_twice_and_none_is_nowhere() -> None:
    for path in [*FILES, HERE / "streams.jsonl", HERE / "schemas.jsonl"]:
        keys = [key_of(line) for line in read(path)]
        assert len(keys) == len(set(keys)) > 0
    assert {path.stem for path in FILES} == {kind.__name__ for kind in e.EVENTS}
    assert {line["type"] for path in FILES for line in read(path)} == {path.stem for path in FILES}


def test_every_type_version_and_field_has_its_lines() -> None:
    assert missing() == {}, "make corpus adds them"


def test_no_struct_was_changed_without_a_new_version() -> None:
    assert changed() == [], "copy the old struct to core/retired.py and raise schema_version: see core/upcast"


def test_every_optional_field_is_there_and_is_not() -> None:
    for path in FILES:
        bodies = [json.loads(line["body"]) for line in read(path)]
        for field in structs.fields(codec.REGISTRY.shapes[path.stem, codec.REGISTRY.newest[path.stem]]):
            there = {field.encode_name in body for body in bodies}
            assert there == ({True} if field.required else {True, False}), (path.stem, field.name)


@pytest.mark.parametrize("line", STREAMS, ids=lambda line: line["name"])
def test_every_stream_folds_to_what_it_was_and_its_chain_holds(line: Line) -> None:
    delivery: Delivery | None = None
    previous, id = codec.GENESIS, UUID(line["events"][0]["delivery"]["id"])
    for one in line["events"]:
        kind, version, body = one["type"], one["schema_version"], one["body"].encode()
        at = datetime.fromisoformat(one["recorded_at"])
        previous = codec.digest(previous, id, one["version"], kind, version, at, body)
        assert previous.hex() == one["digest"]
        delivery = step(delivery, id, one["version"], lambda k=kind, v=version, b=body: codec.decode(k, v, b))
        assert agree(one["delivery"], folded(delivery)), one["version"]


# -- the harness is not blind ------------------------------------------------------------------


class Failed(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """As it is today, under our own roof, so that variants can differ in one thing each."""

    attempt: int
    due_at: e.Instant
    cause: Literal["error", "timeout", "unknown"] = "error"
    error_type: str | None = None
    note: str | None = None


class Renamed(Failed, rename={"note": "remark"}):
    note: str | None = None


class OtherDefault(Failed):
    cause: Literal["error", "timeout", "unknown"] = "timeout"


class OneMore(Failed):
    more: int = 0


class OtherWord(Failed):
    cause: Literal["error", "timeout", "unknown", "boredom"] = "error"


class OtherType(Failed):
    note: str | int | None = None


class Lax(Failed, forbid_unknown_fields=False):
    pass


class Naive(Failed):
    due_at: datetime


def test_a_schema_is_its_fields_and_not_its_name() -> None:
    assert schema_of(Failed) == schema_of(e.Failed)


@pytest.mark.parametrize("variant", [Renamed, OtherDefault, OneMore, OtherWord, OtherType, Lax, Naive])
def test_a_schema_tells_every_change(variant: type[Struct]) -> None:
    assert schema_of(variant) != schema_of(Failed)


def test_a_body_that_is_read_otherwise_is_noticed() -> None:
    (line, *_) = read(HERE / "events" / "Failed.jsonl")
    assert misread([line]) == []
    assert misread([line | {"event": line["event"] | {"cause": "timeout"}}]) != []


# -- adding --------------------------------------------------------------------------------------


class Parcel(e.Event, frozen=True, kw_only=True):
    """An event of this test only, in its first version."""

    weight: int
    note: str | None = None


OLD = Registry((Parcel,))
_NEWER = type("Parcel", (e.Event,), {"__annotations__": {"grams": int}, "schema_version": 2}, kw_only=True)
NEW = Registry((_NEWER,), [Retired("Parcel", 1, Parcel, lambda old: {"grams": old["weight"] * 1_000})])


def test_adding_never_touches_a_line(tmp_path: Path) -> None:
    add(tmp_path, OLD)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert add(tmp_path, OLD) == 0
    assert add(tmp_path, NEW) > 0
    for path, content in before.items():
        assert path.read_bytes().startswith(content)
    assert missing(tmp_path, NEW) == {}
    assert changed(tmp_path, NEW) == []
    lines = read(tmp_path / "events" / "Parcel.jsonl")
    assert misread(lines, NEW) == []
    first = [line for line in lines if line["body"] == '{"weight":1}']
    assert [(line["schema_version"], line["read_as"], line["event"]) for line in first] == [
        (1, 1, {"weight": 1, "note": None}),
        (1, 2, {"grams": 1_000}),
    ]


def test_a_version_that_changed_is_not_added_to(tmp_path: Path) -> None:
    add(tmp_path, OLD)
    same_version = type("Parcel", (e.Event,), {"__annotations__": {"grams": int}}, kw_only=True)
    with pytest.raises(ValueError, match="changed without a new schema_version: Parcel version 1"):
        add(tmp_path, Registry((same_version,)))


def test_a_retired_shape_that_changed_is_noticed(tmp_path: Path) -> None:
    add(tmp_path, OLD)
    lax = Registry((_NEWER,), [Retired("Parcel", 1, Failed, lambda old: {"grams": 1})])
    assert changed(tmp_path, lax) == ["Parcel version 1"]


def test_a_new_event_or_field_without_lines_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(HERE, tmp_path / "corpus")
    path = tmp_path / "corpus" / "events" / "Held.jsonl"
    assert missing(tmp_path / "corpus") == {}
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if "lookup" not in line))
    assert set(missing(tmp_path / "corpus")) == {path}
    path.unlink()
    assert set(missing(tmp_path / "corpus")) == {path}
