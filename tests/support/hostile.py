"""Rows that somebody with write access could leave, and every reader that will meet them.

The corpus (`tests/corpus/hostile/*.jsonl`) has one hostile row a line, with a `why`. `plant` writes
one past guards and types, as a superuser, or a backup restored half, would. `READERS` are the ways
in which the product reads a delivery; `told` says what one of them made of it.

A row's fields: `table`; `life`, which delivery it befalls (a name of `LIVES`); `act`, `update` or
`insert`; `version`, of the event or note in question; `set`, the columns, of both databases or,
below their names, of one; `only`, where the row makes sense on one database alone; `refused`, the
databases whose types and constraints let nobody write it, whatever became of the guards; `reads`:
`corrupt` (the default: reading the stream raises CorruptHistory), `other` (it makes sense, and only
the chain of digests or the row tells), `contents` (the stream is whole, the payload is not), `whole`
(the damage stands beside the stream); `open`: on these databases the product does not bear it yet.

Run as a program it reads a database that others have planted, under an audit hook, and prints what
each reader made of each row and what was imported, executed or unpickled meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from eventsourcing import persistence as es
from sqlalchemy import Connection, text

from deliveries import Deliveries
from deliveries.cli.app import run
from deliveries.core import commands as c
from deliveries.core import outcomes as o
from deliveries.core.stream import replay
from deliveries.errors import DeliveriesError
from deliveries.store import ddl
from deliveries.store.store import Store
from deliveries.testing.examples import report
from support.apps import ManualClock

CORPUS = Path(__file__).parent.parent / "corpus" / "hostile"

KEYS = {"deliveries": "id"}
"""The column that names the delivery; `delivery_id` elsewhere."""


class _Cast(bytes):
    """Bytes that SQLite is told to take for text."""


@dataclass(frozen=True)
class Row:
    """One line of the corpus."""

    name: str
    why: str
    set: dict[str, Any]
    table: str = "delivery_events"
    life: str = "abandoned"
    act: str = "update"
    version: int | None = None
    only: str | None = None
    refused: tuple[str, ...] = ()
    reads: str = "corrupt"

    def values(self, dialect: str) -> dict[str, Any]:
        """The columns to write, in the corpus's notation."""
        return self.set.get(dialect, {k: v for k, v in self.set.items() if k not in ddl.STATEMENTS})


def corpus(dialect: str | None = None) -> list[Row]:
    """All rows, or those that make sense on `dialect`."""
    lines = [line for path in sorted(CORPUS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    rows = [
        Row(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})
        for told in map(json.loads, lines)
    ]
    assert len({row.name for row in rows}) == len(rows), "two rows have one name"
    return [row for row in rows if dialect is None or row.only in (None, dialect)]


# -- planting ------------------------------------------------------------------------------------

LIVES: dict[str, tuple[c.Command, ...]] = {
    "pending": (),
    "abandoned": (),
    "held": (report(1, o.Unknown("no answer")),),
    "succeeded": (report(1, o.Delivered("a receipt")),),
}
"""What happens to a delivery, after its first attempt unless pending, before a row befalls it."""


@contextmanager
def unguarded(connection: Connection) -> Iterator[None]:
    """No triggers in this transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        yield
        connection.execute(text("SET LOCAL session_replication_role = origin"))
        return
    for name in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        connection.execute(text(f"DROP TRIGGER {name}"))
    yield
    ddl.install(connection)


def plant(connection: Connection, row: Row, id: UUID, other: UUID | None = None) -> None:
    """Write `row` into the delivery `id`; `other` stands for another delivery's id.

    The statement goes to the driver as it is: no type of ours, or SQLAlchemy's, sees the values.
    """
    dialect, table = connection.dialect.name, row.table
    key = KEYS.get(table, "delivery_id")
    where: dict[str, Any] = {key: _id(id, dialect)}
    if row.version is not None:
        where["version"] = row.version
    wanted = row.values(dialect)
    old = _old(connection, table, where, list(wanted)) if row.act == "update" else {}
    values = {name: _value(value, name, old.get(name), other, dialect) for name, value in wanted.items()}
    mark = "?" if dialect == "sqlite" else "%s"
    marks = [f"CAST({mark} AS TEXT)" if isinstance(value, _Cast) else mark for value in values.values()]
    if row.act == "update":
        sets = ", ".join(f"{name} = {mark}" for name, mark in zip(values, marks, strict=True))
        wheres = " AND ".join(f"{name} = {mark}" for name in where)
        statement = f"UPDATE {table} SET {sets} WHERE {wheres}"
        parameters = (*values.values(), *where.values())
    else:
        names, marks = [*where, *values], [mark] * len(where) + marks
        statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(marks)})"
        parameters = (*where.values(), *values.values())
    assert connection.exec_driver_sql(statement, parameters).rowcount == 1, f"{row.name} hit nothing"


def _old(connection: Connection, table: str, where: dict[str, Any], names: list[str]) -> dict[str, Any]:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    wheres = " AND ".join(f"{name} = {mark}" for name in where)
    statement = f"SELECT {', '.join(names)} FROM {table} WHERE {wheres}"
    found = connection.exec_driver_sql(statement, tuple(where.values())).one()
    return dict(zip(names, found, strict=True))


def _id(id: UUID, dialect: str) -> Any:
    return id.hex if dialect == "sqlite" else id


def _value(value: Any, name: str, old: Any, other: UUID | None, dialect: str) -> Any:
    """What the corpus's notation stands for. A plain text in a column of bytes is its UTF-8."""
    if isinstance(value, str) and name in {"body", "digest", "salt"}:
        return value.encode()
    if not isinstance(value, dict):
        return value
    ((kind, given),) = value.items()
    return _NOTATION[kind](given, old, other, dialect)


def _merged(given: Any, old: Any, other: UUID | None, dialect: str) -> bytes:
    return json.dumps(json.loads(old) | given).encode()


def _dropped(given: Any, old: Any, other: UUID | None, dialect: str) -> bytes:
    return json.dumps({name: value for name, value in json.loads(old).items() if name != given}).encode()


def _replaced(given: Any, old: Any, other: UUID | None, dialect: str) -> bytes:
    assert given[0].encode() in bytes(old), given
    return bytes(old).replace(given[0].encode(), given[1].encode("utf-8", "surrogatepass"))


def _repeated(given: Any) -> str:
    return "".join(part * times for part, times in zip(given[::2], given[1::2], strict=True))


_NOTATION: dict[str, Callable[..., Any]] = {
    "text": lambda given, *_: given,
    "base64": lambda given, *_: base64.b64decode(given),
    "hex": lambda given, *_: bytes.fromhex(given),
    "repeat": lambda given, *_: _repeated(given),
    "repeat bytes": lambda given, *_: _repeated(given).encode(),
    "cast": lambda given, *_: _Cast(bytes.fromhex(given)),
    "cut": lambda given, old, *_: bytes(old)[:given],
    "merge": _merged,
    "drop": _dropped,
    "replace": _replaced,
    "long worker": lambda given, old, *_: bytes(old).replace(b'"w1"', b'"' + b"w" * given + b'"'),
    "before": lambda given, old, *_: bytes.fromhex(given) + bytes(old),
    "after": lambda given, old, *_: bytes(old) + bytes.fromhex(given),
    "other": lambda given, old, other, dialect: _id(other, dialect),
    "body of other": lambda given, old, other, dialect: json.dumps(
        json.loads(old) | {"delivery_id": str(other)}
    ).encode(),
}


# -- reading -------------------------------------------------------------------------------------


@dataclass
class Subject:
    """An application, and what it reads deliveries with."""

    app: Deliveries
    url: str

    @property
    def store(self) -> Store:
        return self.app._store


def _asked(act: Callable[[Deliveries, Connection, UUID], Any]) -> Callable[[Subject, UUID], None]:
    """A command, rolled back: only whether it can be decided is in question."""

    def asked(subject: Subject, id: UUID) -> None:
        with subject.app.engine.connect() as connection, connection.begin() as transaction:
            act(subject.app, connection, id)
            transaction.rollback()

    return asked


def _history(subject: Subject, id: UUID) -> None:
    for one in subject.app.history(id):
        with contextlib.suppress(DeliveriesError):
            assert one.event is not None


def _histories(subject: Subject, id: UUID) -> None:
    with subject.store.reading() as connection:
        replay(subject.store.histories(connection, [id])[id])


def _selected(subject: Subject, id: UUID) -> None:
    log = subject.app.event_log
    for stored in log.recorder.select_events(id):
        log.mapper.to_domain_event(stored).read()


def _notified(subject: Subject, id: UUID) -> None:
    """The whole log, as a subscription gets it: nothing in it may raise before it is decoded."""
    log = subject.app.event_log
    last = log.recorder.max_notification_id()
    with log.subscribe() as subscription:
        for entry, tracking in subscription:
            if entry.originator_id == id:
                with contextlib.suppress(DeliveriesError):
                    entry.read()
            if tracking.notification_id >= last:
                break


def _command_line(*arguments: str) -> Callable[[Subject, UUID], None]:
    def called(subject: Subject, id: UUID) -> None:
        said = [str(id) if one == "ID" else one for one in arguments]
        code, out, err = command(*said, "--url", subject.url)
        assert "unexpected" not in err, err
        assert "the database says" not in err, err
        if "--json" in said:
            for line in out.splitlines():
                json.loads(line)
        if code:
            assert err.startswith("deliveries: ")
            raise DeliveriesError(err)

    return called


OF_ONE: dict[str, Callable[[Subject, UUID], Any]] = {
    "get": lambda subject, id: subject.app.get(id),
    "history": _history,
    "explain": lambda subject, id: str(subject.app.explain(id)),
    "histories": _histories,
    "cancel": _asked(lambda app, connection, id: app.cancel(connection, id)),
    "suppress": _asked(lambda app, connection, id: app.suppress(connection, id)),
    "reschedule": _asked(lambda app, connection, id: app.reschedule(connection, id, delay=1)),
    "resolve": _asked(lambda app, connection, id: app.resolve(connection, id, o.Delivered())),
    "schedule again": _asked(
        lambda app, connection, id: app.schedule(connection, "email", {"order": 7}, key=str(id))
    ),
    "log.get_delivery": lambda subject, id: subject.app.event_log.get_delivery(id),
    "log.repository": lambda subject, id: subject.app.event_log.repository.get(id),
    "select_events": _selected,
    "show": _command_line("show", "ID"),
    "show --json": _command_line("show", "ID", "--json"),
    "explained": _command_line("explain", "ID"),
    "explain --json": _command_line("explain", "ID", "--json"),
}
"""Readers of one delivery."""

OF_ALL: dict[str, Callable[[Subject, UUID], Any]] = {
    "find": lambda subject, id: subject.app.find(limit=10_000),
    "find by note": lambda subject, id: subject.app.find(note="x", limit=10_000),
    "trace": lambda subject, id: subject.app.trace("c1"),
    "doctor": lambda subject, id: str(subject.app.doctor()),
    "subscribe": _notified,
    "list": _command_line("list", "--limit", "10000"),
    "list --json": _command_line("list", "--limit", "10000", "--json"),
}
"""Readers of everything: what one row does to them, it does to all."""

ALIKE = ("suppress", "reschedule", "resolve", "schedule again", "log.repository")
"""Readers that do with a stream what others do."""
COMMAND_LINE = ("show", "show --json", "explained", "explain --json")
LISTS = ("list", "list --json")
FOLDING = ("get", "explain", "histories", "cancel", "log.get_delivery", "log.repository", *COMMAND_LINE)
"""Readers that cannot but fold the stream."""
WITH_CONTENTS = ("get", "show", "show --json")


def told(reader: str, subject: Subject, id: UUID) -> str:
    """`read`, `refused` (an error of ours), or the name of any other exception."""
    try:
        (OF_ONE | OF_ALL)[reader](subject, id)
    except DeliveriesError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "read"


def wrong(row: Row, subject: Subject, id: UUID, readers: Iterable[str] = OF_ONE) -> list[str]:
    """What readers made of `row`, in the delivery `id`, that they should not have."""
    must = {"corrupt": FOLDING, "contents": WITH_CONTENTS}.get(row.reads, ())
    found = {reader: told(reader, subject, id) for reader in readers}
    return [
        f"{row.name}: {reader}: {what}"
        for reader, what in found.items()
        if what not in ("read", "refused") or (what == "read" and reader in must)
    ]


def command(*arguments: str) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout, stderr."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()  # type: ignore[attr-defined]


# -- under an audit hook -------------------------------------------------------------------------

_EXACT = {"compile", "exec", "import", "code.__new__", "function.__new__", "pickle.find_class"}
_PREFIXES = ("ctypes.", "marshal.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile")
_CODE = (".py", ".pyc", ".so", ".pth")


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Hook:
    """Records what would run code, while it is switched on. Nobody can take it out again."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (
            event in _EXACT
            or event in ("os.system", "subprocess.Popen", "pty.spawn")
            or event.startswith(_PREFIXES)
            or (event == "open" and str(arguments[0]).endswith(_CODE))
            or (event in ("object.__getattr__", "object.__setattr__") and _is_of_code(arguments))
        ):
            self.seen.append(_ADDRESS.sub("", f"{event} {arguments!r}")[:200])

    @contextmanager
    def recording(self) -> Iterator[list[str]]:
        self.seen, self.on = [], True
        try:
            yield self.seen
        finally:
            self.on = False


def _is_of_code(arguments: tuple[Any, ...]) -> bool:
    """Tracebacks ask frames for their code, too: only functions' own counts."""
    return arguments[1] in ("__code__", "__globals__", "__closure__", "__builtins__")


def not_blind(hook: Hook, planted: bytes, topic: str) -> dict[str, list[str]]:
    """What the hook sees where such a row does run code: pickle, and eventsourcing's default mapper."""
    with hook.recording() as unpickled, contextlib.suppress(Exception):
        pickle.loads(planted)
    with hook.recording() as resolved, contextlib.suppress(Exception):
        es.Mapper(es.JSONTranscoder()).to_domain_event(es.StoredEvent(uuid4(), 1, topic, b"{}"))
    return {"pickle": unpickled, "topic": resolved}


def main(url: str, now: str, bad: dict[str, str], good: str, planted: str, topic: str, every: int) -> None:
    """Read every row of `bad` (id -> name); each `every`-th by the command line, and by all others, too."""
    subject = Subject(Deliveries(url, clock=ManualClock(datetime.fromisoformat(now))), url)
    rows = {row.name: row for row in corpus()}
    library = [reader for reader in OF_ONE if reader not in COMMAND_LINE]
    few = [reader for reader in library if reader not in ALIKE]
    hook = Hook()
    for id in (UUID(good), uuid4(), *map(UUID, list(bad)[:1])):  # what is imported late is imported now
        for reader in (*OF_ONE, *OF_ALL):
            told(reader, subject, id)
    with hook.recording() as usual:  # the parser of the command line compiles annotations, each time
        for reader in COMMAND_LINE + LISTS:
            told(reader, subject, UUID(good))
    findings, seen = [], []
    for place, (id, name) in enumerate(bad.items()):
        with hook.recording() as heard:
            findings += wrong(rows[name], subject, UUID(id), few if place % every else library)
        seen += [f"{name}: {what}" for what in heard]
        if place % every == 0:
            with hook.recording() as heard:
                findings += wrong(rows[name], subject, UUID(id), COMMAND_LINE)
            seen += [f"{name}: {what}" for what in heard if what not in usual]
    for reader in OF_ALL:
        with hook.recording() as heard:
            what = told(reader, subject, UUID(good))
        findings += [] if what == "read" else [f"everything: {reader}: {what}"]
        seen += [f"{reader}: {what}" for what in heard if reader not in LISTS or what not in usual]
    imported = "hostile_module" in sys.modules
    subject.app.close()
    answer = {"findings": findings, "seen": seen, "imported": imported, "usual": len(usual)}
    print(json.dumps(answer | not_blind(hook, base64.b64decode(planted), topic)))


if __name__ == "__main__":
    logging.getLogger("deliveries").addHandler(logging.NullHandler())
    main(**json.loads(sys.stdin.read()))
