"""Events as lines of text: what an export writes, and what is read from it without a database.

A body stands in its line byte by byte, as the JSON that it is, so that digests can be computed again from
the file. One that is no JSON on one line stands there in base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, structs

from deliveries.core.events import EVENTS
from deliveries.core.stream import Recorded

CLOUDEVENTS = "1.0"


Number = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What a column holds: beyond, nobody has ever recorded anything."""


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. Members that have nothing to say are left out."""

    position: Number
    """In the log; grows from line to line, with gaps."""
    delivery_id: UUID
    version: Number
    type: str
    schema_version: Number
    recorded_at: Annotated[datetime, Meta(tz=True)]
    digest: str
    """Hex SHA-256 over the predecessor's digest and this event, see `codec.digest`."""
    event: Raw | UnsetType = UNSET
    """The body."""
    body: str | UnsetType = UNSET
    """The body in base64, where it is no JSON on one line."""
    note: str | UnsetType = UNSET
    recipient: str | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET

    def recorded(self) -> Recorded:
        """The event with its envelope. Raises: ValueError where it is damaged."""
        if isinstance(self.event, Raw):
            body = bytes(self.event)
        elif isinstance(self.body, str):
            body = base64.b64decode(self.body, validate=True)
        else:
            raise ValueError("a line without an event")
        return Recorded(
            delivery_id=self.delivery_id,
            version=self.version,
            type=self.type,
            schema_version=self.schema_version,
            recorded_at=self.recorded_at,
            body=body,
            digest=bytes.fromhex(self.digest),
            position=self.position,
            note=self.note if isinstance(self.note, str) else None,
        )


def line_of(one: Recorded, beside: Mapping[str, Any] | None = None) -> Line:
    """The line of an event; `beside`: what else is to be told, as members of `Line`."""
    found = Line(
        position=one.position or 0,
        delivery_id=one.delivery_id,
        version=one.version,
        type=one.type,
        schema_version=one.schema_version,
        recorded_at=one.recorded_at,
        digest=one.digest.hex(),
        **_body(one.body),
    )
    return structs.replace(found, **beside) if beside else found


def _body(body: bytes) -> dict[str, Any]:
    try:
        if b"\n" not in body and bytes(msgspec.json.decode(body, type=Raw)) == body:
            return {"event": Raw(body)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return {"body": base64.b64encode(body).decode()}


def cloud_event(line: Line, source: str) -> dict[str, Any]:
    """The same as a CloudEvent 1.0 in JSON. Its id is unique within its source."""
    told: dict[str, Any] = {
        "specversion": CLOUDEVENTS,
        "id": f"{line.delivery_id}/{line.version}",
        "source": source,
        "type": f"deliveries.{line.type}.v{line.schema_version}",
        "subject": str(line.delivery_id),
        "time": line.recorded_at,
        "datacontenttype": "application/json",
        "sequence": str(line.position),
        "digest": line.digest,
    }
    if isinstance(line.event, Raw):
        return told | {"data": line.event}
    return told | {"data_base64": line.body}


def from_cloud_event(told: Mapping[str, Any]) -> dict[str, Any]:
    """The members of `Line` in a CloudEvent that `cloud_event` made. Raises: ValueError."""
    id, _, version = str(told.get("id", "")).rpartition("/")
    _, kind, schema_version = str(told.get("type", "")).split(".")
    found = {
        "position": int(told["sequence"]),
        "delivery_id": id,
        "version": int(version),
        "type": kind,
        "schema_version": int(schema_version.removeprefix("v")),
        "recorded_at": told["time"],
        "digest": told["digest"],
    }
    if "data" in told:
        return found | {"event": told["data"]}
    return found | {"body": told["data_base64"]}


_decode_raw = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_line = msgspec.json.Decoder(Line).decode


def parsed(text: bytes) -> Iterator[Line]:
    """The events of one line: of an export, of its form as CloudEvents, or of what was pruned.

    Raises: ValueError where it is none of these.
    """
    try:
        members = _decode_raw(text)
        if "specversion" in members:
            told = {name: _plain(name, raw) for name, raw in members.items()}
            yield msgspec.convert(from_cloud_event(told), Line, strict=False)
        elif "events" in members:
            yield from _pruned(msgspec.json.decode(text))
        else:
            yield _decode_line(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"no line of an export: {error}") from None


def _plain(name: str, raw: Raw) -> Any:
    return raw if name == "data" else msgspec.json.decode(raw)


def _pruned(told: Any) -> Iterator[Line]:
    """A delivery that `prune` exported: its events, with their bodies as texts."""
    for one in told["events"]:
        members = {name: value for name, value in one.items() if name != "body"}
        given = members | {"delivery_id": told["delivery_id"]} | _body(one["body"].encode())
        yield msgspec.convert(given, Line)


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every event, by public name and version, made from the code."""
    _, found = msgspec.json.schema_components(EVENTS, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Events of deliveries",
        "oneOf": [
            {"title": f"{kind.__name__}.v{kind.schema_version}", "$ref": f"#/$defs/{kind.__name__}"}
            for kind in EVENTS
        ],
        "$defs": dict(sorted(found.items())),
    }
