"""The event log as an `eventsourcing` application."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing import persistence as es
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.domain import Aggregate
from sqlalchemy import insert

from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.events import Attempted, Scheduled, Succeeded
from deliveries.errors import CorruptHistory, UnreadableEvent
from deliveries.store.log import DeliveryEvent, DeliveryLog, UnreadableDeliveryEvent, log_class
from deliveries.store.schema import events
from deliveries.testing.examples import NOW, report
from store.acts import Acts, event_row

STRAY = {
    "CIPHER_KEY": "c3RyYXkgc3RyYXkgc3RyYXkgc3RyYXk=",
    "CIPHER_TOPIC": "eventsourcing.cipher:AESCipher",
    "COMPRESSOR_TOPIC": "zlib",
    "PERSISTENCE_MODULE": "eventsourcing.sqlite",
    "SQLITE_DBNAME": ":memory:",
    "MAPPER_TOPIC": "no.such.module:Mapper",
    "TRANSCODER_TOPIC": "no.such.module:Transcoder",
    "IS_SNAPSHOTTING_ENABLED": "y",
    "AGGREGATE_CACHE_MAXSIZE": "10",
    "AGGREGATE_CACHE_FASTFORWARD": "no boolean",
}


@pytest.fixture
def log(acts: Acts) -> DeliveryLog:
    return log_class(acts.store)()


def succeeded(acts: Acts) -> UUID:
    id = acts.schedule()
    acts.attempt(id)
    acts.do(id, report(1, o.Delivered()))
    return id


def write(acts: Acts, *rows: dict[str, Any]) -> None:
    """Events past every check but the database's own."""
    with acts.store.transaction() as connection:
        connection.execute(insert(events), list(rows))


def read(log: DeliveryLog) -> list[Any]:
    """Everything in the log, as subscribers get it."""
    return [log.mapper.to_domain_event(found) for found in log.recorder.select_notifications(None, 100)]


# -- deliveries --------------------------------------------------------------------------------


def test_a_delivery_is_folded_from_its_events(log: DeliveryLog, acts: Acts) -> None:
    id = succeeded(acts)
    assert log.get_delivery(id) == acts.stream(id).delivery
    assert log.repository.get(id) == log.get_delivery(id)
    assert id in log.repository


def test_a_delivery_as_it_was(log: DeliveryLog, acts: Acts) -> None:
    id = succeeded(acts)
    told = [log.get_delivery(id, version).status for version in (1, 2, 3)]
    assert told == ["pending", "attempting", "succeeded"]
    assert log.repository.get(id, version=2).attempt == 1


def test_a_projector_of_ones_own(log: DeliveryLog, acts: Acts) -> None:
    id = succeeded(acts)
    types = log.repository.get(id, projector_func=lambda _, found: [one.type for one in found])
    assert types == ["Scheduled", "Attempted", "Succeeded"]


def test_an_unknown_delivery_is_not_found(log: DeliveryLog) -> None:
    with pytest.raises(AggregateNotFoundError):
        log.get_delivery(uuid4())
    assert uuid4() not in log.repository


# -- envelopes ---------------------------------------------------------------------------------


def test_events_come_in_envelopes(log: DeliveryLog, acts: Acts) -> None:
    id = succeeded(acts)
    found = read(log)
    assert [type(one.event) for one in found] == [Scheduled, Attempted, Succeeded]
    for one, recorded in zip(found, acts.history(id), strict=True):
        assert one == DeliveryEvent(
            originator_id=id,
            originator_version=recorded.version,
            timestamp=recorded.recorded_at,
            type=recorded.type,
            schema_version=recorded.schema_version,
            digest=recorded.digest,
            event=recorded.event,
        )


UNREADABLE = {
    "a foreign type": {"kind": "Noise", "version": 0, "schema_version": 0, "body": b"\xff"},
    "a pickle": {"kind": "builtins:eval", "body": b"cbuiltins\neval\n(S'1/0'\ntR."},
    "a broken body": {"kind": "Scheduled", "version": 1, "body": b'{"delivery_id":'},
    "no body": {"kind": "Scheduled", "version": 1, "body": b""},
    "a wrong field": {"kind": "Scheduled", "version": 1, "body": b'{"attempt":1}'},
    "a version of the future": {"kind": "Scheduled", "version": 1, "schema_version": 99},
    "a depth of 100,000": {"kind": "Scheduled", "version": 1, "body": b"[" * 100_000},
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_comes_as_it_is(log: DeliveryLog, acts: Acts, what: str) -> None:
    row = event_row(**UNREADABLE[what])
    write(acts, row)
    (found,) = read(log)
    assert isinstance(found, UnreadableDeliveryEvent)
    assert (found.originator_id, found.type, found.body) == (row["delivery_id"], row["type"], row["body"])
    assert found.reason


def test_a_stream_with_an_unreadable_event_is_corrupt(log: DeliveryLog, acts: Acts) -> None:
    id, sound = acts.schedule(), succeeded(acts)
    write(acts, event_row(id, 2, "Attempted", body=b'{"attempt":'))
    with pytest.raises(UnreadableEvent, match="version 2"):
        log.get_delivery(id)
    assert log.get_delivery(id, version=1).status == "pending"
    assert log.get_delivery(sound).status == "succeeded"


def test_a_stream_that_the_table_forbids_is_corrupt(log: DeliveryLog, acts: Acts) -> None:
    id = acts.schedule()
    write(acts, event_row(id, 2, "Succeeded", body=b'{"attempt":1}'))
    with pytest.raises(CorruptHistory, match="version 2: Succeeded cannot follow pending"):
        log.get_delivery(id)


def test_a_stream_with_a_hole_is_corrupt(log: DeliveryLog, acts: Acts) -> None:
    id = acts.schedule()
    write(acts, event_row(id, 3, "Noise"))
    with pytest.raises(CorruptHistory, match="version 3 where 2 was expected"):
        log.get_delivery(id)


def test_a_stream_of_another_delivery_is_corrupt(log: DeliveryLog, acts: Acts) -> None:
    (recorded,) = acts.history(acts.schedule())
    write(acts, event_row(forged := uuid4(), 1, "Scheduled", body=recorded.body))
    with pytest.raises(CorruptHistory, match="belongs to delivery"):
        log.get_delivery(forged)


def test_no_row_is_imported(
    log: DeliveryLog, acts: Acts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3. The library's own mapper would run the module that a topic names."""
    module = f"named_by_a_row_{uuid4().hex}"
    (tmp_path / f"{module}.py").write_text("class Boom: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    write(acts, event_row(kind=f"{module}:Boom", body=b"no JSON"))
    (found,) = read(log)
    assert isinstance(found, UnreadableDeliveryEvent)
    assert module not in sys.modules
    with pytest.raises(es.MapperDeserialisationError):
        es.Mapper[UUID](es.JSONTranscoder()).to_domain_event(log.recorder.select_notifications(None, 1)[0])
    assert sys.modules.pop(module), "known bad: the harness would see an import"


# -- an application ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["environ", "environ, with the name before it", "argument"])
def test_a_stray_setting_changes_nothing(acts: Acts, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    id = succeeded(acts)
    prefix = "DELIVERYLOG_" if "name" in where else ""
    stray = {prefix + name: value for name, value in STRAY.items()}
    if where != "argument":
        for name, value in stray.items():
            monkeypatch.setenv(name, value)
    log = log_class(acts.store)(stray if where == "argument" else None)
    assert dict(log.env) == {}
    assert log.snapshots is None
    assert log.repository.cache is None
    assert log.get_delivery(id).status == "succeeded"
    assert [one.type for one in read(log)] == ["Scheduled", "Attempted", "Succeeded"]


def test_the_notification_log_has_sections(log: DeliveryLog, acts: Acts) -> None:
    succeeded(acts)
    section = log.notification_log["1,2"]
    assert (section.id, section.next_id) == ("1,2", "3,4")
    assert [found.topic for found in section.items] == ["Scheduled", "Attempted"]
    assert [found.id for found in log.notification_log.select(2, 1_000)] == [2, 3]


def test_a_log_writes_nothing(log: DeliveryLog, acts: Acts) -> None:
    id = acts.schedule()
    delivery = log.mapper.to_domain_event(log.recorder.select_events(id)[0])
    for written in (Aggregate(), delivery):
        with pytest.raises(es.ProgrammingError, match="read only"):
            log.save(written)
    with pytest.raises(es.NotSupportedError):
        log.factory.aggregate_recorder("snapshots")
    assert len(read(log)) == 1


def test_logs_of_one_class_share_what_wakes_them(acts: Acts) -> None:
    bound = log_class(acts.store)
    assert bound.name == DeliveryLog.name, "it stands in the tables of projections"
    assert bound().recorder is bound().recorder
    assert log_class(acts.store)().recorder is not bound().recorder


def test_a_subscription_gives_events_and_their_places(log: DeliveryLog, acts: Acts) -> None:
    id = acts.schedule()
    write(acts, event_row())
    with log.subscribe() as subscription:
        (first, place), (second, _) = next(subscription), next(subscription)
        acts.do(id, c.Cancel(now=NOW))
        log.wake()
        third, last = next(subscription)
    assert [first.type, second.type, third.type] == ["Scheduled", "Noise", "Cancelled"]
    assert (place, last) == (es.Tracking("DeliveryLog", 1), es.Tracking("DeliveryLog", 3))


def test_a_subscription_from_a_place_and_of_types(log: DeliveryLog, acts: Acts) -> None:
    ids = [succeeded(acts) for _ in range(2)]
    with log.subscribe(gt=3, topics=["Succeeded"]) as subscription:
        found, _ = next(subscription)
    assert (found.type, found.originator_id) == ("Succeeded", ids[1])


# -- start-up ----------------------------------------------------------------------------------


def test_the_library_is_imported_by_those_who_want_it_only() -> None:
    """It takes 40 ms, and most programs never read the log."""
    program = "import sys, deliveries, deliveries.store.store; sys.exit('eventsourcing' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
