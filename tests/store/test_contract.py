"""eventsourcing's own contract tests, which its wheel ships, on our recorder and both databases.

Left out: `AggregateRecorderTestCase`, which wants None for the positions that an application's
recorder has to return. And, on PostgreSQL, `NonInterleavingNotificationIDsBaseCase`, which wants the
positions of concurrent transactions never to alternate. Only a lock until commit could promise that,
and we take none: what readers need is that no position appears below one they have passed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from eventsourcing.tests import persistence as contract
from sqlalchemy import Engine

from deliveries.clock import SystemClock
from deliveries.store.recorder import DeliveryRecorder
from deliveries.store.store import Store


class Contract:
    """Gives a contract its recorder, on an empty database."""

    store: Store

    def create_recorder(self) -> DeliveryRecorder:
        return DeliveryRecorder(self.store)


class OnSQLite(Contract):
    @pytest.fixture(autouse=True)
    def _give(self, sqlite_url: str, engines: Callable[..., Engine]) -> Iterator[None]:
        self.store = Store(engines(sqlite_url), SystemClock())
        with joined_threads():
            yield


class OnPostgreSQL(Contract):
    @pytest.fixture(autouse=True)
    def _give(self, postgresql_url: str, engines: Callable[..., Engine]) -> Iterator[None]:
        self.store = Store(engines(postgresql_url), SystemClock())
        with joined_threads():
            yield


@contextmanager
def joined_threads() -> Iterator[None]:
    """Wait for the threads of the contract's tests, which leave readers behind that were told to stop."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)


class Subscribing:
    """The contract's test of subscriptions, which it leaves to those who want it."""

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderOnSQLite(OnSQLite, Subscribing, contract.ApplicationRecorderTestCase):
    pass


class TestApplicationRecorderOnPostgreSQL(OnPostgreSQL, Subscribing, contract.ApplicationRecorderTestCase):
    pass


class TestTrackingRecorderOnSQLite(OnSQLite, contract.TrackingRecorderTestCase):
    pass


class TestTrackingRecorderOnPostgreSQL(OnPostgreSQL, contract.TrackingRecorderTestCase):
    pass


class TestProcessRecorderOnSQLite(OnSQLite, contract.ProcessRecorderTestCase):
    pass


class TestProcessRecorderOnPostgreSQL(OnPostgreSQL, contract.ProcessRecorderTestCase):
    pass


class TestNonInterleavingOnSQLite(OnSQLite, contract.NonInterleavingNotificationIDsBaseCase):
    pass
