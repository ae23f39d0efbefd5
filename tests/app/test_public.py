"""What is public, and that each piece of it says what it is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import deliveries
from deliveries import errors
from deliveries.processor.processor import Processor
from deliveries.queues import Queues
from deliveries.registration import Registration

PUBLIC = """
    Attempt AuditReport Backoff Bounced Cancel ConcurrentChange ConcurrentSchedule CorruptHistory
    DatabaseMoved Defer Delivered Deliveries DeliveriesError Delivery DeliveryNotFound
    DeliveryPruned Diagnosis Discard Draft EngineNotConfigured Entry Evidence Explanation Followed
    IdempotencyConflict InvalidAdapter InvalidCommand InvalidFilter InvalidHook InvalidPayload
    InvalidPolicy InvalidProjection InvalidQueue InvalidSchedule NotDone Performed Proceed
    Projection Queue Recorded ReferenceNotFound Report Retry SchemaMissing SchemaTooNew Snooze
    Status Summary Suppress Trace Unique Unknown UnknownChannel Where events metadata policies
    sqlite
"""


def test_the_public_names() -> None:
    assert sorted(deliveries.__all__) == sorted(PUBLIC.split())
    assert list(deliveries.__all__) == sorted(deliveries.__all__)
    assert all(hasattr(deliveries, name) for name in PUBLIC.split())


def public_objects() -> Iterator[tuple[str, Any]]:
    """Every public class, function and method that a user can get at."""
    roots = {name: getattr(deliveries, name) for name in deliveries.__all__}
    roots |= {"Processor": Processor, "Registration": Registration, "Queues": Queues}
    roots |= {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    for name, value in roots.items():
        if inspect.isclass(value):
            yield name, value
            for member, method in inspect.getmembers(value):
                defined = any(
                    member in vars(base) and base.__module__.startswith("deliveries")
                    for base in value.__mro__
                )
                callable_or_property = inspect.isroutine(method) or isinstance(method, property)
                if defined and not member.startswith("_") and callable_or_property:
                    yield f"{name}.{member}", method
        elif inspect.isroutine(value) or inspect.ismodule(value):
            yield name, value
    for name, value in vars(deliveries.sqlite).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield f"sqlite.{name}", value


@pytest.mark.parametrize(
    ("name", "value"), list(public_objects()), ids=lambda one: one if isinstance(one, str) else ""
)
def test_everything_public_says_what_it_is(name: str, value: Any) -> None:
    own = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    assert own, f"{name} has no docstring"
    assert not own.startswith(f"{name}("), f"{name} has only a generated docstring"
    assert own.strip().splitlines()[0].strip()


def test_every_error_is_of_our_tree() -> None:
    for name, value in vars(errors).items():
        if inspect.isclass(value):
            assert issubclass(value, deliveries.DeliveriesError), name
            assert name in (errors.__doc__ or ""), f"{name} is not drawn in the tree"


def test_every_verb_has_its_twin() -> None:
    verbs = """
        schedule schedule_many get history explain find trace doctor cancel suppress reschedule
        resolve perform drain redrive record_evidence evidence cancel_where suppress_where
        reschedule_where redrive_where prune erase tick follow rewind statistics reset_statistics
        audit replay rebuild export
    """
    for verb in verbs.split():
        assert inspect.iscoroutinefunction(getattr(deliveries.Deliveries, f"a{verb}")), verb
        assert not inspect.iscoroutinefunction(getattr(deliveries.Deliveries, verb)), verb


def test_every_verb_of_queues_has_its_twin() -> None:
    for verb in ["list", "pause", "resume", "scale", "limit", "rate", "fair", "clear"]:
        assert inspect.iscoroutinefunction(getattr(Queues, f"a{verb}")), verb
        assert not inspect.iscoroutinefunction(getattr(Queues, verb)), verb


def test_nothing_happens_at_import() -> None:
    """No thread, no environment read, no optional dependency."""
    code = """
import os, sys, threading
class Watched(dict):
    def get(self, name, *rest):
        assert not name.startswith("DELIVERIES"), name
        return dict.get(self, name, *rest)
    def __getitem__(self, name):
        assert not name.startswith("DELIVERIES"), name
        return dict.__getitem__(self, name)
os.environ = Watched(os.environ)
import deliveries
assert threading.active_count() == 1
for module in ("psycopg", "asyncpg", "aiosqlite", "httpx", "httpx2", "cyclopts", "rich", "hypothesis"):
    assert module not in sys.modules, module
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
