"""An application moved to another database and another clock, and back.

It stays the same object, and so do its store and its parts: whatever holds on to one of them (your
modules, hooks, policies) is moved with it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from deliveries.app import Deliveries
from deliveries.clock import Clock
from deliveries.processor.wakeup import Wakeup
from deliveries.store.store import Store

OBSERVER = "observer"
"""What the store tells of every append stays where it is."""


@contextmanager
def moved(app: Deliveries, engine: Engine, clock: Clock) -> Iterator[None]:
    """For the length of the `with`, `app` works on `engine`; what is registered meanwhile is forgotten."""
    registered = [(one, copy.copy(one)) for one in _containers(app, set())]
    homes = {app._store: Store(engine, clock), app._wakeup: Wakeup(engine)}
    kept = [(one, dict(vars(one))) for one in (app, *homes)]
    for one, fresh in homes.items():
        stays = {name: value for name, value in vars(one).items() if name == OBSERVER}
        vars(one).clear()
        vars(one).update(vars(fresh) | stays)
    app._event_log = None
    vars(app).pop("event_log_class", None)
    try:
        yield
    finally:
        if app._event_log is not None:
            app._event_log.close()
        app._wakeup.close()
        for one, was in kept:
            vars(one).clear()
            vars(one).update(was)
        for container, content in registered:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


def _containers(value: Any, seen: set[int]) -> Iterator[Any]:
    """Every dict, list and set in which an object of ours keeps what was registered."""
    if id(value) in seen or isinstance(value, (Store, Wakeup)):
        return
    seen.add(id(value))
    if isinstance(value, (dict, list, set)):
        yield value
        parts = value.values() if isinstance(value, dict) else value
    elif type(value).__module__.partition(".")[0] == "deliveries":
        parts = getattr(value, "__dict__", {}).values()
    else:
        return
    for part in list(parts):
        yield from _containers(part, seen)
