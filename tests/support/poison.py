"""What hostile adapters say and do: lists of values, exceptions and deeds, and how they must end.

Each value is made anew for each attempt, inside the adapter. What it returns is returned by the
adapter, unless it is a `Raise`; what it raises by itself is raised there too.
"""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import gc
import locale
import os
import random
import signal
import socket
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from deliveries import (
    Bounced,
    Cancel,
    Delivered,
    Deliveries,
    Discard,
    NotDone,
    Retry,
    Snooze,
    Suppress,
    Unknown,
)

MEGABYTES = 100_000_000
DEPTH = 10_000


@dataclass(frozen=True)
class Raise:
    """To be raised, not returned."""

    error: BaseException


@dataclass(frozen=True)
class Poison:
    """Something to say, and what must be recorded of it."""

    make: Callable[[], Any]
    ends: str = "Failed"
    """The event that closes its attempt."""
    error_type: str | None = None
    """The recorded type of the exception, where it matters."""
    note: str | None = None
    """A piece of the text that is kept, where it matters."""


# -- texts -----------------------------------------------------------------------------------------


class Describes(Exception):
    """An exception whose `__str__` and `__repr__` do what they are given."""

    def __init__(self, how: Callable[[], Any]) -> None:
        super().__init__()
        self.how = how

    def __str__(self) -> str:
        answer: str = self.how()
        return answer

    __repr__ = __str__


def raises(error: BaseException) -> Any:
    raise error


class HostileText(str):
    """A string that answers nothing of what is asked of a string."""

    __slots__ = ()

    def _refuse(self, *given: Any) -> Any:
        raise SystemExit(3)

    __str__ = __repr__ = __len__ = __getitem__ = __iter__ = __eq__ = __format__ = _refuse  # type: ignore[assignment]
    encode = isascii = partition = _refuse  # type: ignore[assignment]
    __hash__ = str.__hash__


class Recursive(Exception):
    """Describing it never ends, but for the recursion limit."""

    def __str__(self) -> str:
        return f"{self}"


TEXTS: dict[str, Poison] = {
    "a NUL": Poison(lambda: Raise(ValueError("a\x00b")), note="a\\u0000b"),
    "lone surrogates": Poison(lambda: Raise(ValueError("\ud800\udfff")), note="\\ud800\\udfff"),
    "no UTF-8": Poison(lambda: Raise(ValueError(b"\xff\xfe\x00".decode("utf-8", "surrogateescape")))),
    "a real decoding error": Poison(b"\xff\x00".decode, error_type="UnicodeDecodeError"),
    "a real encoding error": Poison("\ud800".encode, error_type="UnicodeEncodeError"),
    "bytes": Poison(lambda: Raise(ValueError(b"\xff\x00"))),
    "terminal escapes": Poison(lambda: Raise(ValueError("\x1b[2J\x9b31m\r\b\u202eevil")), note="\\u001b"),
    "only spaces": Poison(lambda: Raise(ValueError(" \n\t "))),
    "no text": Poison(lambda: Raise(ValueError(""))),
    "huge arguments": Poison(lambda: Raise(ValueError(*range(200_000)))),
    "a huge integer": Poison(lambda: Raise(ValueError(10**5_000)), note="<unprintable ValueError>"),
    "arguments that hold themselves": Poison(lambda: Raise(ValueError(cyclic_dict(), cyclic_list()))),
    "arguments nested too deep": Poison(lambda: Raise(ValueError(nested(DEPTH))), error_type="ValueError"),
    "__str__ raises": Poison(
        lambda: Raise(Describes(lambda: raises(RuntimeError("no")))), note="unprintable"
    ),
    "__str__ exits": Poison(lambda: Raise(Describes(lambda: raises(SystemExit(3)))), note="unprintable"),
    "__str__ interrupts": Poison(lambda: Raise(Describes(lambda: raises(KeyboardInterrupt())))),
    "__str__ ends a generator": Poison(lambda: Raise(Describes(lambda: raises(GeneratorExit())))),
    "__str__ raises itself": Poison(lambda: raises_itself()),  # noqa: PLW0108 - it is defined below
    "__str__ recurses": Poison(lambda: Raise(Recursive()), note="unprintable"),
    "__str__ gives a number": Poison(lambda: Raise(Describes(lambda: 7)), note="unprintable"),
    "__str__ gives bytes": Poison(lambda: Raise(Describes(lambda: b"text")), note="unprintable"),
    "__str__ gives None": Poison(lambda: Raise(Describes(lambda: None)), note="unprintable"),
    "__str__ gives a hostile string": Poison(lambda: Raise(Describes(lambda: HostileText("text")))),
    "a hostile string": Poison(lambda: Raise(ValueError(HostileText("text")))),
    "a pattern's worst case": Poison(lambda: Raise(ValueError("password=" * 100_000 + "\\" * 100_000))),
}


# -- exceptions ------------------------------------------------------------------------------------


def cyclic_dict() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def cyclic_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def raises_itself() -> Raise:
    error = Describes(lambda: raises(error))
    return Raise(error)


def cyclic_cause() -> BaseException:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    one.__context__, other.__context__ = other, one
    return one


def deep_chain(depth: int = DEPTH) -> BaseException:
    error = ValueError(0)
    for n in range(1, depth):
        last, error = error, ValueError(n)
        error.__context__ = error.__cause__ = last
    return error


def deep_group(depth: int = 500) -> BaseException:
    error: BaseException = ValueError("innermost")
    for _ in range(depth):
        error = BaseExceptionGroup("\x00", [error, KeyboardInterrupt()])
    return error


def odd_class(name: str) -> BaseException:
    return type(name, (Exception,), {})("odd")  # type: ignore[no-any-return]


def renamed(name: str) -> BaseException:
    kind = type("Fine", (Exception,), {})
    kind.__name__ = kind.__qualname__ = name
    kind.__module__ = "\x00" * 1_000
    return kind("renamed")  # type: ignore[no-any-return]


class HostileMeta(type):
    """A metaclass that answers no question about its classes."""

    def _refuse(cls, *given: Any) -> Any:
        raise SystemExit(3)

    __getattribute__ = __subclasscheck__ = __instancecheck__ = __repr__ = _refuse  # type: ignore[assignment]
    __name__ = property(_refuse)  # type: ignore[assignment]


class OfHostileClass(Exception, metaclass=HostileMeta):
    pass


class ComparesBadly(Exception):
    """It can be neither compared, hashed, asked for its truth, nor given attributes."""

    def _refuse(self, *given: Any) -> Any:
        raise SystemExit(3)

    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __setattr__ = _refuse  # type: ignore[assignment]


class HidesItself(Exception):
    """Even the attributes of every exception raise."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(3)


class SaysDelivered(ValueError):
    """An error whose `__class__` says that it is a success."""

    __class__ = Delivered  # type: ignore[assignment]


class SaysNothing(ValueError):
    """An error that will not tell its class."""

    @property
    def __class__(self) -> Any:
        raise SystemExit(3)


EXCEPTIONS: dict[str, Poison] = {
    "BaseException": Poison(lambda: Raise(BaseException("base")), error_type="BaseException"),
    "SystemExit": Poison(lambda: Raise(SystemExit(1)), error_type="SystemExit"),
    "SystemExit of an object": Poison(lambda: Raise(SystemExit(object())), error_type="SystemExit"),
    "KeyboardInterrupt": Poison(lambda: Raise(KeyboardInterrupt()), error_type="KeyboardInterrupt"),
    "GeneratorExit": Poison(lambda: Raise(GeneratorExit()), error_type="GeneratorExit"),
    "StopIteration": Poison(lambda: Raise(StopIteration(1))),  # a coroutine makes a RuntimeError of it
    "StopAsyncIteration": Poison(lambda: Raise(StopAsyncIteration())),
    "CancelledError": Poison(lambda: Raise(asyncio.CancelledError("mine")), error_type="CancelledError"),
    "InvalidStateError": Poison(lambda: Raise(asyncio.InvalidStateError()), error_type="InvalidStateError"),
    "a real RecursionError": Poison(lambda: endless(), error_type="RecursionError"),  # noqa: PLW0108 - as above
    "MemoryError": Poison(lambda: Raise(MemoryError()), error_type="MemoryError"),
    "a real MemoryError": Poison(lambda: bytearray(2**62), error_type="MemoryError"),
    "a group": Poison(
        lambda: Raise(BaseExceptionGroup("g\x00", [KeyboardInterrupt(), ValueError("\ud800"), SystemExit()])),
        error_type="BaseExceptionGroup",
    ),
    "a group of thousands": Poison(
        lambda: Raise(ExceptionGroup("many", [ValueError(n) for n in range(5_000)])),
        error_type="ExceptionGroup",
        note="5000 sub-exceptions",
    ),
    "groups in groups": Poison(lambda: Raise(deep_group()), error_type="BaseExceptionGroup"),
    "a cyclic cause": Poison(lambda: Raise(cyclic_cause()), note="one"),
    "a deep chain of contexts": Poison(lambda: Raise(deep_chain()), note=str(DEPTH - 1)),
    "a class with NUL in its name": Poison(lambda: Raise(renamed("a\tb\x7f")), error_type="a\tb\\u007f"),
    "a class without a name": Poison(lambda: Raise(odd_class("")), error_type=""),
    "a class named by surrogates": Poison(lambda: Raise(odd_class("\u202e")), error_type="\\u202e"),
    "a class with 10 MB of name": Poison(lambda: Raise(odd_class("E" * 10_000_000))),
    "a class with a secret for a name": Poison(lambda: Raise(odd_class("password=hunter2"))),
    "a hostile metaclass": Poison(lambda: Raise(OfHostileClass("meta"))),  # raising it asks it, too
    "hostile operators": Poison(lambda: Raise(ComparesBadly("op")), error_type="ComparesBadly"),
    "hostile attributes": Poison(lambda: Raise(HidesItself("attr")), error_type="HidesItself"),
    "a class that says it succeeded": Poison(lambda: Raise(SaysDelivered("x")), error_type="SaysDelivered"),
    "a class that is not told": Poison(lambda: Raise(SaysNothing("x")), error_type="SaysNothing"),
}


def endless() -> Any:
    return endless()


# -- outcomes --------------------------------------------------------------------------------------


def spoilt(outcome: Any, **values: Any) -> Any:
    """`outcome` with fields that its constructor would have refused."""
    for name, value in values.items():
        setattr(outcome, name, value)
    return outcome


class HostileValue:
    """It does nothing that is asked of it."""

    def _refuse(self, *given: Any) -> Any:
        raise SystemExit(3)

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __float__ = _refuse  # type: ignore[assignment]
    __class__ = property(_refuse)  # type: ignore[assignment]


def textless(kind: type[Any], *given: Any) -> Any:
    """An instance of a subclass of `kind` whose text raises."""

    def refuse(self: Any) -> Any:
        raise SystemExit(3)

    return type(f"Textless{kind.__name__}", (kind,), {"text": property(refuse, lambda self, value: None)})(
        *given
    )


def own_cause(cause: Any) -> Any:
    return type("Unsubscribed", (Cancel,), {"cause": cause})("no")


class WaitsForever(Snooze):
    """A snooze that decides its own time, which is none."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__(5_000)
        self.answer = answer

    def due_at(self, now: datetime) -> Any:
        return self.answer()


class ChangesItsMind(Retry):
    """Sound when it is looked at first, and never after."""

    looks = 0

    @property  # type: ignore[override]
    def after(self) -> float:
        self.looks += 1
        return 1_000.0 if self.looks == 1 else float("nan")

    @after.setter
    def after(self, value: Any) -> None:
        pass


class SaysItIsDelivered(Retry):
    """A retry whose `__class__` says that it is a success."""

    __class__ = Delivered  # type: ignore[assignment]


NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - naive on purpose

OUTCOMES: dict[str, Poison] = {
    "Retry of an error with NUL": Poison(lambda: Retry(ValueError("\x00")), note="\\u0000"),
    "Retry of a hostile value": Poison(lambda: Retry(HostileValue()), note="unprintable HostileValue"),
    "Retry of an error that lies": Poison(lambda: Retry(SaysDelivered("x")), error_type="SaysDelivered"),
    "Retry of an interrupt": Poison(lambda: Retry(KeyboardInterrupt()), error_type="KeyboardInterrupt"),
    "Retry of itself": Poison(lambda: itself()),  # noqa: PLW0108 - as above
    "Retry, raised from another": Poison(lambda: Raise(Retry("x")), note="x"),
    "Cancel of a hostile value": Poison(lambda: Cancel(HostileValue()), "Cancelled", note="unprintable"),
    "Cancel of surrogates": Poison(lambda: Raise(Cancel("\ud800")), "Cancelled", note="\\ud800"),
    "Bounced of bytes": Poison(lambda: Bounced(b"\xff"), "Cancelled"),
    "Discard of an object": Poison(lambda: Discard(object()), "Exhausted"),
    "Suppress of a dict that holds itself": Poison(lambda: Suppress(cyclic_dict()), "Suppressed"),
    "Unknown of a hostile value": Poison(lambda: Unknown(HostileValue())),
    "NotDone of a class": Poison(lambda: NotDone(HostileValue)),
    "a receipt that is hostile": Poison(lambda: Delivered(HostileValue()), "Succeeded"),
    "a receipt that holds itself": Poison(lambda: Delivered(cyclic_list()), "Succeeded"),
    "a receipt too deep": Poison(lambda: Delivered(nested(DEPTH)), "Succeeded"),
    "a receipt with hostile keys": Poison(lambda: Delivered({HostileText("k"): 1, 2: 3}), "Succeeded"),
    "a receipt of a huge integer": Poison(lambda: Delivered(10**5_000), "Succeeded"),
    "a receipt of infinity": Poison(lambda: Delivered([float("inf"), float("nan")]), "Succeeded"),
    "after=nan": Poison(lambda: Retry(after=float("nan")), error_type="ValueError"),
    "after=-1": Poison(lambda: Retry(after=-1), error_type="ValueError"),
    "after=10**400": Poison(lambda: Retry(after=10**400), error_type="ValueError"),
    "after is set to nan": Poison(lambda: spoilt(Retry("x"), after=float("nan")), error_type="ValueError"),
    "after is set to infinity": Poison(
        lambda: spoilt(Retry("x"), after=float("inf")), error_type="ValueError"
    ),
    "after is set to 10**400": Poison(lambda: spoilt(Retry("x"), after=10**400), error_type="ValueError"),
    "after is set to 1e15": Poison(lambda: spoilt(Retry("x"), after=1e15), note="x"),
    "after is set to a timedelta": Poison(lambda: spoilt(Retry("x"), after=timedelta(days=900)), note="x"),
    "after is set to an object": Poison(lambda: spoilt(Retry("x"), after=HostileValue())),
    "after changes": Poison(ChangesItsMind),
    "for_ is negative": Poison(lambda: Snooze(-1), error_type="ValueError"),
    "for_ is infinite": Poison(lambda: Snooze(float("inf")), error_type="ValueError"),
    "for_ is set to a timedelta": Poison(
        lambda: spoilt(Snooze(5_000), for_=timedelta(days=1)), "Rescheduled"
    ),
    "for_ is set to 1e300": Poison(lambda: spoilt(Snooze(5_000), for_=1e300), "Rescheduled"),
    "for_ is set to nothing": Poison(lambda: spoilt(Snooze(5_000), for_=None), error_type="ValueError"),
    "until is naive": Poison(lambda: Snooze(until=NAIVE), error_type="ValueError"),
    "until is set to a naive one": Poison(
        lambda: spoilt(Snooze(5_000), for_=None, until=NAIVE), error_type="ValueError"
    ),
    "until is set to a text": Poison(
        lambda: spoilt(Snooze(5_000), for_=None, until="soon"), error_type="ValueError"
    ),
    "a snooze until a text": Poison(lambda: WaitsForever(lambda: "soon"), "Rescheduled"),
    "a snooze until a naive time": Poison(lambda: WaitsForever(lambda: NAIVE), "Rescheduled"),
    "a snooze that exits": Poison(lambda: WaitsForever(lambda: raises(SystemExit(3))), "Rescheduled"),
    "a cause of its own": Poison(lambda: own_cause("unsubscribed"), "Cancelled"),
    "a cause that is a number": Poison(lambda: own_cause(5), "Cancelled"),
    "a cause that is an object": Poison(lambda: own_cause(object()), "Cancelled"),
    "a cause with NUL and surrogates": Poison(lambda: Raise(own_cause("\x00\ud800")), "Cancelled"),
    "a cause of 10 MB": Poison(lambda: own_cause("x" * 10_000_000), "Cancelled"),
    "a cause that is hostile": Poison(lambda: own_cause(HostileText("x")), "Cancelled"),
    "Delivered without a text": Poison(lambda: textless(Delivered), "Succeeded"),
    "Cancel without a text": Poison(lambda: Raise(textless(Cancel)), "Cancelled"),
    "Snooze without a text": Poison(lambda: textless(Snooze, 5_000), "Rescheduled"),
    "Retry without a text": Poison(lambda: textless(Retry)),
    "a retry that says it is a success": Poison(SaysItIsDelivered),
    "an outcome of no kind": Poison(lambda: type("Odd", (Delivered.__base__,), {})("odd"), note="odd"),
    "the class of an outcome": Poison(lambda: Cancel, error_type="TypeError"),
}


def itself() -> Any:
    outcome = Retry("x")
    return spoilt(outcome, error=outcome, text=outcome)


# -- values ----------------------------------------------------------------------------------------


class Liar:
    """An object whose `__class__` says something else."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    @property
    def __class__(self) -> Any:
        return self.kind


def success(make: Callable[[], Any]) -> Poison:
    return Poison(make, "Succeeded")


async def coroutine() -> str:
    return "never awaited by itself"


async def failing() -> None:
    raise ValueError("later")


VALUES: dict[str, Poison] = {
    "a hostile value": success(HostileValue),
    "a class": success(lambda: HostileValue),
    "a hostile class": success(lambda: OfHostileClass),
    "an exception": success(lambda: KeyboardInterrupt("returned")),
    "a generator": success(lambda: (n for n in range(3))),
    "a generator that raises": success(lambda: (raises(SystemExit(3)) for _ in range(1))),
    "an asynchronous generator": success(lambda: _asynchronous_generator()),  # noqa: PLW0108 - as above
    "a future of nobody": success(threading.Event),
    "a dict that holds itself": success(cyclic_dict),
    "a deep list": success(lambda: nested(DEPTH)),
    "100 MB": success(lambda: bytes(MEGABYTES)),
    "says it is a coroutine": success(lambda: Liar(types.CoroutineType)),
    "says it is a Retry": success(lambda: Liar(Retry)),
    "says it is a type": success(lambda: Liar(type)),
    "says it is an exception": success(lambda: Liar(SystemExit)),
    "NotImplemented": success(lambda: NotImplemented),
    "a module": success(lambda: types),
}


async def _asynchronous_generator() -> Any:
    yield 1


SAID: dict[str, Poison] = {
    f"{kind}: {name}": poison
    for kind, poisons in {
        "text": TEXTS,
        "exception": EXCEPTIONS,
        "outcome": OUTCOMES,
        "value": VALUES,
    }.items()
    for name, poison in poisons.items()
}
"""All of the above."""


def said(name: str) -> Any:
    """Say it, as an adapter does."""
    made = SAID[name].make()
    if type(made) is Raise:
        raise made.error
    return made


# -- deeds -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deed:
    """Something an adapter does to the process, the application or its own delivery."""

    do: Callable[[Deliveries, Any, Any], Any]
    """Called with the application, the delivery and the attempt."""
    ends: str = "Succeeded"
    only: str = ""
    """`sync` or `async`, where the other kind of adapter cannot do it."""
    error_type: str | None = None


def in_a_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(10)


def schedules_more(app: Deliveries, delivery: Any, attempt: Any) -> None:
    with app.engine.begin() as connection:
        app.schedule(connection, delivery.channel, "healthy", key=f"after {delivery.id}")


def cancels_itself(app: Deliveries, delivery: Any, attempt: Any) -> None:
    with app.engine.begin() as connection:
        app.cancel(connection, delivery.id, reason="\u202eno")


def cancels_itself_and_fails(app: Deliveries, delivery: Any, attempt: Any) -> None:
    cancels_itself(app, delivery, attempt)
    raise ValueError("after all")


def resolves_itself(app: Deliveries, delivery: Any, attempt: Any) -> None:
    with app.engine.begin() as connection:
        app.resolve(connection, delivery.id, Delivered())
        app.reschedule(connection, delivery.id, delay=0)
        app.suppress(connection, delivery.id)
    raise ValueError("not resolved: it was not held")


def performs_itself(app: Deliveries, delivery: Any, attempt: Any) -> None:
    assert app.perform(delivery.id).result == "busy"


def rolls_back(app: Deliveries, delivery: Any, attempt: Any) -> None:
    with app.engine.connect() as connection:
        app.schedule(connection, delivery.channel, "never")
        connection.rollback()


def mutates_its_input(app: Deliveries, delivery: Any, attempt: Any) -> Any:
    for name in ("id", "version", "status", "attempt", "rules", "queue"):
        with contextlib.suppress(AttributeError):
            setattr(delivery, name, None)
        with contextlib.suppress(AttributeError):
            setattr(attempt, name, None)
    msgspec.structs.force_setattr(delivery, "payload", object())
    return Retry("mutated")


def forgets_its_registration(app: Deliveries, delivery: Any, attempt: Any) -> None:
    app._registrations.pop(delivery.channel, None)


def forks(app: Deliveries, delivery: Any, attempt: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)


def changes_signal_handlers(app: Deliveries, delivery: Any, attempt: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the main thread may


def changes_the_process(app: Deliveries, delivery: Any, attempt: Any) -> None:
    """The test puts it back: see `process_unchanged`."""
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    locale.setlocale(locale.LC_ALL, "C")
    decimal.getcontext().prec = 1
    decimal.setcontext(decimal.Context(prec=1, traps=[decimal.Inexact]))
    random.seed(0)
    os.chdir("/")
    os.umask(0o777)
    socket.setdefaulttimeout(0.000_001)
    gc.disable()
    sys.set_int_max_str_digits(640)


@contextlib.contextmanager
def process_unchanged() -> Iterator[None]:
    """Puts back what `changes_the_process` changes."""
    zone, here, mask = os.environ.get("TZ"), os.getcwd(), os.umask(0o022)
    places, digits = locale.setlocale(locale.LC_ALL), sys.get_int_max_str_digits()
    os.umask(mask)
    try:
        yield
    finally:
        os.environ.pop("TZ") if zone is None else os.environ.update(TZ=zone)
        time.tzset()
        locale.setlocale(locale.LC_ALL, places)
        os.chdir(here)
        os.umask(mask)
        socket.setdefaulttimeout(None)
        gc.enable()
        sys.set_int_max_str_digits(digits)


async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()


async def _exits() -> None:
    sys.exit(3)


async def leaves_a_task_that_exits() -> None:
    _LEFT.append(asyncio.get_running_loop().create_task(_exits()))


async def leaves_an_interrupt() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    asyncio.get_running_loop().call_soon(interrupt)


async def cancels_everybody() -> None:
    own = asyncio.current_task()
    for task in asyncio.all_tasks():
        if task is own:
            task.cancel()
            task.uncancel()


_LEFT: list[Any] = []
"""A loop holds its tasks weakly."""


DEEDS: dict[str, Deed] = {
    "schedules more": Deed(schedules_more),
    "cancels itself, and succeeds": Deed(cancels_itself),
    "cancels itself, and fails": Deed(cancels_itself_and_fails, "Cancelled", error_type="ValueError"),
    "resolves itself": Deed(resolves_itself, "Cancelled", error_type="ValueError"),
    "performs itself": Deed(performs_itself),
    "rolls back": Deed(rolls_back),
    "mutates its input": Deed(mutates_its_input, "Failed"),
    "forgets its registration": Deed(forgets_its_registration),
    "disposes of the engine": Deed(lambda app, delivery, attempt: app.engine.dispose()),
    "closes the application": Deed(lambda app, delivery, attempt: app.close()),
    "forks": Deed(forks),
    "changes signal handlers": Deed(changes_signal_handlers, "Failed", error_type="ValueError"),
    "changes the process": Deed(changes_the_process),
    "exits in a thread": Deed(lambda app, delivery, attempt: in_a_thread(sys.exit)),
    "stops the loop": Deed(lambda app, delivery, attempt: stops_the_loop(), only="async"),
    "leaves a task that exits": Deed(lambda app, delivery, attempt: leaves_a_task_that_exits(), only="async"),
    "leaves an interrupt": Deed(lambda app, delivery, attempt: leaves_an_interrupt(), only="async"),
    "cancels and uncancels": Deed(
        lambda app, delivery, attempt: cancels_everybody(), only="async", ends="Succeeded"
    ),
}
