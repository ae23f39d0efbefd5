"""Naming every moment of a worker at which it can die, and acting at the one that was chosen.

A point is named by whose transaction it is, and by what is about to happen or has just happened:

    claim and record: before INSERT_EVENT Attempted
    heartbeat: after commit
    keyed first: before the request

Statements are heard from the engine, so that a new one in the product is a new point by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import FrameType, ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection, TextClause, event

from deliveries.core.events import Event
from deliveries.store import postgresql, sqlite
from deliveries.store.arrays import Rows
from deliveries.store.statement import Statement

Points = Callable[[str], None]
"""Called with the name of a point that has been reached; may never return."""

WORDS = {
    "processor._exchange": "claim and record",
    "processor._is_worth_claiming": "look",
    "sweep.sweep": "sweep",
    "heartbeat.beat": "heartbeat",
    "heartbeat.announce": "presence",
    "heartbeat.leave": "absence",
    "claims.lookups": "lookups",
    "claims.start": "start one",
    "claims.orphans": "doubt",
    "ledger.settle": "settle",
    "ledger.late": "late evidence",
    "now.ask": "clock",
    "wakeup._notify": "notify",
    "performing.worker": "first look of the command",
    "shop.cancel": "cancel",
}
"""Which function of ours began a transaction -> what it is for. Others go by their own name."""

_KIND, _WROTE = "crash.kind", "crash.wrote"
_TYPES = frozenset(kind.__name__ for kind in Event.__subclasses__())


class Gate:
    """Tells `report` of each point, the first time, and acts at one of them.

    `at` is the point, `visit` says which visit of it counts, `sign` is the signal that this process
    gets there: SIGKILL ends it on the spot, SIGSTOP halts it, SIGTERM asks it to stop.
    """

    def __init__(
        self, report: Callable[[str], None], at: str | None = None, visit: int = 1, sign: int = signal.SIGKILL
    ) -> None:
        self.report, self.sign = report, sign
        self._at, self._left = at, visit
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, point: str) -> None:
        if self.is_due(point):
            os.kill(os.getpid(), self.sign)
            if self.sign == signal.SIGKILL:
                time.sleep(60)  # a moment may pass until it is delivered; nothing more happens here

    def is_due(self, point: str) -> bool:
        """Whether somebody is to act here and now; said once."""
        with self._lock:
            if point not in self._seen:
                self._seen.add(point)
                self.report(f"seen {point}")
            if point != self._at:
                return False
            self._left -= 1
            if self._left:
                return False
            self.report(f"at {point}")
            return True


def watch(engine: Engine, points: Points) -> None:
    """Tell `points` of all that `engine` sends to its database: before it is sent, after the answer."""
    dialect: Any = engine.dialect
    commit, rollback = dialect.do_commit, dialect.do_rollback

    def begin(connection: Connection) -> None:
        kind = connection.info[_KIND] = _who(sys._getframe(1))
        connection.info[_WROTE] = set()
        points(f"{kind}: before it begins")

    def before(connection: Connection, cursor: Any, sql: str, values: Any, context: Any, many: bool) -> None:
        if sql.startswith("BEGIN"):
            begin(connection)
        types = _types(context)
        connection.info.setdefault(_WROTE, set()).update(types)
        for name in _names(connection, context, sql, types):
            points(f"{_kind(connection)}: before {name}")

    def after(connection: Connection, cursor: Any, sql: str, values: Any, context: Any, many: bool) -> None:
        for name in _names(connection, context, sql, _types(context)):
            points(f"{_kind(connection)}: after {name}")

    @contextlib.contextmanager
    def around(connection: Any, what: str) -> Iterator[None]:
        info: dict[str, Any] = {}
        if isinstance(connection, PoolProxiedConnection):  # else nobody has it yet
            with contextlib.suppress(NotImplementedError):  # as the first connection, while it is tried
                info = connection.info
        kind, wrote = info.get(_KIND, "pool"), sorted(info.get(_WROTE, ())) or [""]
        for name in wrote:
            points(f"{kind}: before {what} {name}".rstrip())
        yield
        for name in wrote:
            points(f"{kind}: after {what} {name}".rstrip())

    def do_commit(connection: Any) -> None:
        with around(connection, "commit"):
            commit(connection)
        if isinstance(connection, PoolProxiedConnection):
            connection.info.pop(_WROTE, None)  # what the pool rolls back afterwards is nothing

    def do_rollback(connection: Any) -> None:
        with around(connection, "rollback"):
            rollback(connection)

    if engine.dialect.name != "sqlite":  # there BEGIN is sent as a statement
        event.listen(engine, "begin", begin)
    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    dialect.do_commit, dialect.do_rollback = do_commit, do_rollback


def _kind(connection: Connection) -> str:
    return str(connection.info.get(_KIND, "none"))


def _who(frame: FrameType | None) -> str:
    """The innermost function of a processor, a command or the shop: it began the transaction."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("deliveries.processor", "deliveries.cli", "crash.shop")):
            name = f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
            return WORDS.get(name, name)
        frame = frame.f_back
    return "none"


def _names(connection: Connection, context: Any, sql: str, types: set[str]) -> list[str]:
    statement = _statement(context, sql)
    return [f"{statement} {kind}" for kind in sorted(types)] or [statement]


def _statement(context: Any, sql: str) -> str:
    bare = _bare(sql)
    for text, name in _constants().items():
        if text in bare:
            return name
    found = re.search(r"^\s*(\w+).*?(?:(?<=FROM\s)|(?<=INTO\s)|(?<=UPDATE\s))([\w.]+)", sql, re.DOTALL)
    return f"{found[1]} {found[2]}" if found else " ".join(sql.split()[:3])


def _bare(sql: str) -> str:
    """`sql` without the names of its parameters, which each driver writes in its own way."""
    return re.sub(r"%\(\w+\)s|(?<!:):\w+|\$\d+|\?", "?", sql).strip()


@cache
def _constants() -> dict[str, str]:
    """Text of a statement -> the name it has in the store."""
    found: dict[str, str] = {}
    modules: tuple[ModuleType, ...] = (postgresql, sqlite)
    for module in modules:
        for name, value in vars(module).items():
            clause = getattr(value, "element", value)  # `text(...).columns(...)` holds its clause
            if isinstance(clause, TextClause):
                found[_bare(clause.text)] = name
            elif isinstance(value, Rows):
                found[_bare(value._sql.partition("{rows}")[2])] = name
            elif isinstance(value, Statement):
                found[_bare(value.text)] = name
            elif isinstance(value, sqlite.Plain):
                found[_bare(value.sql)] = name
    return found


def _types(context: Any) -> set[str]:
    """The types of the events that this statement writes."""
    if context is None or "INTO delivery_events" not in context.statement:
        return set()
    words = {word for values in context.parameters for text in _texts(values) for word in _words(text)}
    return words & _TYPES


def _texts(values: Any) -> Iterable[str]:
    given = values.values() if isinstance(values, dict) else values
    return (value for value in given if isinstance(value, str))


def _words(text: str) -> list[str]:
    """PostgreSQL gets many values as one text."""
    return re.findall(r"\w+", text) if len(text) < 100_000 else []
