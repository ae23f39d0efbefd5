"""Hooks: user code in the transaction that appends an event, whoever appends it.

Theory of operation
-------------------
The store tells `Hooks` what it has just appended, inside the transaction. Each hook runs in a
savepoint of its own, on a connection that will not commit, roll back or close. What a hook raises is
undone with its savepoint and logged; the event stands, and so do the events of its neighbours.

A hook runs in the thread that does all the database work of a processor. What it does beyond this
database it does before anybody knows whether the event will be committed: it should write, schedule,
and leave the rest to an adapter. One that waits too long loses its connection to the watchdog.

A hook that ends the transaction all the same takes the batch down with it, as a broken connection
does. The batch is written again, and such a hook with it; at the third time it is left out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, NoReturn

from sqlalchemy import Connection, NestedTransaction

from deliveries.core import events as e
from deliveries.core.delivery import Delivery
from deliveries.core.notes import MAX_NAME, clean
from deliveries.core.stream import Change
from deliveries.errors import CorruptHistory, InvalidHook, StoreError, shown
from deliveries.lent import Lent
from deliveries.registration import must_be_awaited
from deliveries.store.failures import cause
from deliveries.store.rows import with_contents
from deliveries.store.store import Store

HookFunction = Callable[..., Any]

MAX_DEPTH = 8
"""Hooks within hooks: what the last one appends is refused if it would start another."""

MAX_WRECKS = 3
"""A hook that ends the transaction so often over one event is left out there."""

_MOST_WRECKS_KNOWN = 10_000

_depth: ContextVar[int] = ContextVar("deliveries.hooks.depth", default=0)
_log = logging.getLogger("deliveries")


@dataclass(frozen=True, kw_only=True, eq=False)
class Hook:
    """A function and the events it waits for."""

    function: HookFunction
    """`(event, delivery, connection)`, `def` only."""
    kinds: tuple[type[e.Event], ...]
    """Types of `deliveries.events`; `Event` stands for all of them."""
    channels: str | Sequence[str] | None = None
    """Deliveries of these channels only; None: of all."""

    def __post_init__(self) -> None:
        if not callable(self.function) or must_be_awaited(self.function):
            raise InvalidHook(f"a hook is a plain function, not {shown(self.function)}")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise InvalidHook(f"hook {self.name} is a generator: its body would not run")
        for kind in self.kinds or (None,):
            if kind is not e.Event and kind not in e.EVENTS:
                raise InvalidHook(
                    f"hook {self.name}: name the events it waits for, such as Exhausted, not {shown(kind)}"
                )
        if self.channels is not None:
            named = (self.channels,) if isinstance(self.channels, str) else tuple(self.channels)
            if not named or not all(isinstance(channel, str) for channel in named):
                raise InvalidHook(f"hook {self.name}: channels are names, at least one; None means all")
            object.__setattr__(self, "channels", frozenset(named))

    @property
    def name(self) -> str:
        """What logs call it."""
        return clean(str(getattr(self.function, "__qualname__", type(self.function).__name__)), MAX_NAME)

    def waits_for(self, change: Change) -> bool:
        """Whether the delivery is of its channels."""
        return self.channels is None or change.after.channel in self.channels


class Hooks:
    """The hooks of an application; `appended` is what the store calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of: defaultdict[type[e.Event], list[Hook]] = defaultdict(list)
        self._wrecks: Counter[tuple[int, bytes]] = Counter()

    def add(self, hook: Hook) -> None:
        """Run `hook` after those that are here. Without any, the store is not even told of us."""
        for kind in e.EVENTS if e.Event in hook.kinds else dict.fromkeys(hook.kinds):
            self._of[kind].append(hook)
        self._store.observer = self.appended

    def appended(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Run what waits for these events. Raises: InvalidHook where hooks lead to hooks without end."""
        wanted = [
            (hook, change)
            for change in changes
            for hook in self._of.get(type(change.event), ())
            if hook.waits_for(change)
        ]
        if not wanted:
            return
        with _deeper():
            furnished = self._furnished(connection, [change for _, change in wanted])
            for hook, change in wanted:
                self._run(connection, hook, change, furnished.get(change.after.id, change.after))

    def _furnished(self, connection: Connection, changes: Sequence[Change]) -> dict[Any, Delivery]:
        """Those deliveries with their contents that were appended to without having them at hand."""
        bare = {c.after.id: c.after for c in changes if c.after.recipient is None and c.after.payload is None}
        if not bare:
            return bare
        for id, beside in self._store.contents(connection, list(bare)).items():
            if beside is not None:
                try:
                    bare[id] = with_contents(bare[id], beside.recipient, beside.payload)
                except CorruptHistory as error:
                    _log.error("a hook is called without contents: %s", error)
        return bare

    def _run(self, connection: Connection, hook: Hook, change: Change, delivery: Delivery) -> None:
        key = (id(hook), change.recorded.digest)
        if self._wrecks[key] >= MAX_WRECKS:
            return
        savepoint = connection.begin_nested()
        try:
            said = hook.function(change.event, delivery, _Lent.of(connection))
            _check(connection, savepoint, said)
        except BaseException as error:
            if not _is_whole(connection):
                self._wrecked(key, hook, delivery, error)
            _undo(connection, savepoint)
            if _is_meant_for_the_caller(error):
                raise
            _log.error("hook %s failed for delivery %s: %s", hook.name, delivery.id, cause(error))
        else:
            savepoint.commit()

    def _wrecked(
        self, key: tuple[int, bytes], hook: Hook, delivery: Delivery, error: BaseException
    ) -> NoReturn:
        if len(self._wrecks) > _MOST_WRECKS_KNOWN:
            self._wrecks.clear()
        self._wrecks[key] += 1
        left_out = "; it is left out now" if self._wrecks[key] >= MAX_WRECKS else ""
        _log.error("the transaction ended in hook %s for delivery %s%s", hook.name, delivery.id, left_out)
        raise StoreError(f"the transaction ended in hook {hook.name}: {cause(error)}") from error


class _Lent(Lent):
    """As hooks get it."""

    borrower, lender, refusal = "a hook", "whoever appended the event", InvalidHook


@contextmanager
def _deeper() -> Iterator[None]:
    depth = _depth.get()
    if depth >= MAX_DEPTH:
        raise InvalidHook(f"hooks that append what starts hooks: {MAX_DEPTH} deep is enough")
    token = _depth.set(depth + 1)
    try:
        yield
    finally:
        _depth.reset(token)


def _check(connection: Connection, savepoint: NestedTransaction, said: object) -> None:
    """A hook has returned: is what it leaves behind fit to be kept? Raises where it is not."""
    if issubclass(type(said), CoroutineType):
        said.close()  # type: ignore[attr-defined]  # a coroutine
        raise InvalidHook("it returned a coroutine, which nobody awaits: a hook is a plain function")
    if not _is_whole(connection) or connection.get_nested_transaction() is not savepoint:
        raise InvalidHook("it left a savepoint or a session open, or closed ours")
    if connection.dialect.name == "postgresql":  # an error that it swallowed has aborted the transaction
        connection.exec_driver_sql("SELECT 1")


def _undo(connection: Connection, savepoint: NestedTransaction) -> None:
    """Back to where the hook began, whatever it left open."""
    while (left := connection.get_nested_transaction()) not in (None, savepoint):
        left.rollback()
    if savepoint.is_active:
        savepoint.rollback()


def _is_whole(connection: Connection) -> bool:
    return not connection.closed and not connection.invalidated and connection.in_transaction()


def _is_meant_for_the_caller(error: BaseException) -> bool:
    """Ctrl-C and a cancelled task are none of the hook's doing: whoever waits for us wants to stop."""
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    if isinstance(error, asyncio.CancelledError):
        return asyncio._get_running_loop() is not None
    return False
