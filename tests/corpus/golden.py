"""The golden corpus: every shape of every version of every event, as stored, and what it is read as.

* `events/<Type>.jsonl`: a body a line, of which version, and the event that it is read as, with every
  field; `read_as` is the version that the event's class had when the line was written.
* `streams.jsonl`: a stream a line, with its digests, and the delivery after each event.
* `schemas.jsonl`: what the struct of each version is, field by field.

Lines are added, by `make corpus`, and never changed or taken out: databases hold such rows. When an
event gets a new version, the bodies of the old ones get lines that say what they are read as now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, inspect, structs

from deliveries.core import codec
from deliveries.core.delivery import Delivery
from deliveries.core.stream import START, advance
from deliveries.core.upcast import Registry
from deliveries.testing.lives import DETOURS, ENDINGS, Life, life

HERE = Path(__file__).parent

Line = dict[str, Any]


# -- every shape of a struct -------------------------------------------------------------------

_EXTREMES: dict[type[inspect.Type], list[Any]] = {
    inspect.NoneType: [None],
    inspect.BoolType: [True, False],
    inspect.IntType: [1, 0, 2**31 - 1],
    inspect.FloatType: [30.0, 0.0, 0.000001, 366 * 86_400.0],
    inspect.StrType: ["a", "", 'é "quoted" \\ \n \u2028 \U0001f600', "x" * 255],
    inspect.UUIDType: [UUID(int=0x018CC4F57A007000800000000000CAFE), UUID(int=0), UUID(int=2**128 - 1)],
    inspect.DateTimeType: [
        datetime(2024, 1, 1, 12, tzinfo=UTC),
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(2024, 2, 29, 23, 59, 59, 1, tzinfo=UTC),
        datetime(8999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
}


def values(of: inspect.Type) -> list[Any]:
    """Values of a field: a plain one first, then the extremes; every word of an enumeration."""
    if isinstance(of, inspect.UnionType):
        return [value for one in of.types for value in values(one)]
    if isinstance(of, inspect.LiteralType):
        return list(of.values)
    if isinstance(of, inspect.VarTupleType):
        return [tuple(values(of.item_type)[:1]), (), tuple(values(of.item_type))]
    if isinstance(of, inspect.StructType):
        return list(examples(of.cls))
    return _EXTREMES[type(of)]


def examples(kind: type[Struct]) -> Iterator[Any]:
    """With what it must have, with each further field alone, with all; each field at each of its values."""
    fields = inspect.type_info(kind).fields  # type: ignore[attr-defined]  # of a struct
    least = {one.name: values(one.type)[0] for one in fields if one.required}
    most = {one.name: next(v for v in values(one.type) if v != one.default) for one in fields}
    yield kind(**least)
    for one in fields:
        for value in values(one.type):
            yield kind(**least | {one.name: value})
    yield kind(**most)
    for one in fields:
        if not one.required:
            yield kind(**{name: value for name, value in most.items() if name != one.name})
    yield kind(**{one.name: values(one.type)[-1] for one in fields})


def spelled(value: Any) -> Any:
    """As JSON, with every field, whether it holds its default or not."""
    if isinstance(value, Struct):
        return {one.name: spelled(getattr(value, one.name)) for one in structs.fields(value)}
    return msgspec.json.decode(msgspec.json.encode(value))


def schema_of(kind: type[Struct]) -> Any:
    """What bodies of a struct may be: fields, types, bounds and defaults, but no name of a class."""
    return _described(inspect.type_info(kind))


def _described(what: Any) -> Any:
    if isinstance(what, inspect.StructType):
        return {
            "strict": what.forbid_unknown_fields,
            "fields": {
                one.encode_name: {"of": _described(one.type)}
                | ({} if one.required else {"default": spelled(one.default)})
                for one in what.fields
            },
        }
    if isinstance(what, inspect.Type):
        said = {name: _described(value) for name, value in structs.asdict(what).items() if value is not None}
        return {"is": type(what).__name__.removesuffix("Type")} | said
    return sorted(map(_described, what), key=str) if isinstance(what, tuple) else what


# -- the lines ---------------------------------------------------------------------------------


def bodies(registry: Registry = codec.REGISTRY, known: Iterable[Line] = ()) -> Iterator[Line]:
    """The lines that there should be: of each newest version its shapes, of `known` ones the bodies."""
    seen = {}
    for name, newest in registry.newest.items():
        for event in examples(registry.shapes[name, newest]):
            seen[name, newest, codec.encode(event).decode()] = None
    seen |= {(line["type"], line["schema_version"], line["body"]): None for line in known}
    for name, version, body in seen:
        yield {
            "type": name,
            "schema_version": version,
            "body": body,
            "read_as": registry.newest[name],
            "event": spelled(registry.decode(name, version, body.encode())),
        }


def schemas(registry: Registry = codec.REGISTRY) -> Iterator[Line]:
    """What the struct of each version is."""
    for (name, version), shape in sorted(registry.shapes.items()):
        yield {"type": name, "schema_version": version, "schema": schema_of(shape)}


def streams() -> Iterator[Line]:
    """A life to every ending, and one by all detours."""
    for ending in ENDINGS:
        yield _stream(ending, life(ending))
    yield _stream("by all detours", life("bounced", DETOURS, key="k", tags=("a", "b"), priority=0))


def _stream(name: str, told: Life) -> Line:
    stream, events = START, []
    for command in told.commands:
        if (change := advance(stream, command)) is not None:
            one, stream = change.recorded, change.stream
            events.append(
                {
                    "version": one.version,
                    "type": one.type,
                    "schema_version": one.schema_version,
                    "recorded_at": msgspec.to_builtins(one.recorded_at),
                    "body": one.body.decode(),
                    "digest": one.digest.hex(),
                    "delivery": folded(change.after),
                }
            )
    return {"name": name, "events": events}


def folded(delivery: Delivery) -> Line:
    """What a fold yields; the last three fields of a delivery come from elsewhere."""
    return {k: v for k, v in spelled(delivery).items() if k not in {"recipient", "payload", "created"}}


# -- the files ---------------------------------------------------------------------------------


def read(path: Path) -> list[Line]:
    """A file's lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key_of(line: Line) -> tuple[Any, ...]:
    """What a line is about: two lines about the same are one."""
    return tuple(line.get(name) for name in ("name", "type", "schema_version", "body", "read_as"))


def missing(where: Path = HERE, registry: Registry = codec.REGISTRY) -> dict[Path, list[Line]]:
    """File -> lines that should be in it and are not."""
    known = [line for path in sorted((where / "events").glob("*.jsonl")) for line in read(path)]
    wanted = {
        where / "schemas.jsonl": list(schemas(registry)),
        where / "streams.jsonl": list(streams()),
        **{where / "events" / f"{name}.jsonl": [] for name in registry.newest},
    }
    for line in bodies(registry, known):
        wanted[where / "events" / f"{line['type']}.jsonl"].append(line)
    lacking = {}
    for path, lines in wanted.items():
        there = {key_of(line) for line in read(path)}
        if new := [line for line in lines if key_of(line) not in there]:
            lacking[path] = new
    return lacking


def changed(where: Path = HERE, registry: Registry = codec.REGISTRY) -> list[str]:
    """The versions that are not what they were: somebody changed a struct and not its version."""
    stored = {key_of(line): line["schema"] for line in read(where / "schemas.jsonl")}
    return [
        f"{line['type']} version {line['schema_version']}"
        for line in schemas(registry)
        if stored.get(key_of(line), line["schema"]) != line["schema"]
    ]


def add(where: Path = HERE, registry: Registry = codec.REGISTRY) -> int:
    """Append the missing lines; returns how many. Raises: ValueError where a version was changed."""
    if wrong := changed(where, registry):
        raise ValueError(f"changed without a new schema_version: {', '.join(wrong)}")
    lacking = missing(where, registry)
    for path, lines in lacking.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.writelines(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)
    return sum(map(len, lacking.values()))
