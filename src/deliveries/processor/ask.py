"""One delivery about which policies are asked, and what they said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from types import CoroutineType
from typing import Any

from sqlalchemy import Connection

from deliveries.core.delivery import Delivery
from deliveries.core.notes import describe, type_name
from deliveries.core.outcomes import Outcome, text_of
from deliveries.core.policy import Decision, Proceed, decision_of
from deliveries.policies.registered import Policy
from deliveries.processor.call import Call
from deliveries.store.store import Store


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policies said, as plain data."""

    decision: Decision | None
    """None: none was given."""
    policy: str = ""
    text: str | None = None


class Background:
    """`Asked` in a transaction of its own. `doors`: no more than so many at a time."""

    def __init__(self, store: Store, now: datetime, doors: AbstractContextManager[Any]) -> None:
        self.store, self.now, self._doors = store, now, doors

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read from, once there is room."""
        with self._doors, self.store.reading() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction to write in, once there is room."""
        with self._doors, self.store.transaction() as connection:
            yield connection


@dataclass(eq=False, slots=True)
class Ask(Call):
    """One delivery about which policies are asked: a call that is none of an adapter."""

    policies: tuple[Policy, ...] = ()
    """Those that are still to be asked."""
    asked: Any = None
    asking: str = ""
    """The name of the one that is being asked."""
    answer: Answer | None = None
    settled: bool = False
    """True once the answer is written, or worth nothing any more."""

    @property
    def stage(self) -> tuple[Policy, ...]:
        """What is asked in one go: the next policies that are all sync, or all async."""
        kind = self.policies[0].is_async
        return tuple(takewhile(lambda policy: policy.is_async is kind, self.policies))

    @property
    def is_async(self) -> bool:
        return self.policies[0].is_async

    @property
    def timeout(self) -> float:
        return sum(policy.seconds for policy in self.stage)

    @property
    def function(self) -> Any:
        return self._await if self.is_async else self._ask

    @property
    def attempt(self) -> Any:
        """There is none yet."""
        return None

    @property
    def is_mute(self) -> bool:
        """True where it came to no answer."""
        return self.answer is None or self.answer.decision is None

    def _ask(self, delivery: Delivery, attempt: object) -> Any:
        for policy in self.stage:
            self.asking = policy.name
            said = _judged(policy.ask, delivery, self.asked)
            if not issubclass(type(said), Proceed):
                return said
        return Proceed()

    async def _await(self, delivery: Delivery, attempt: object) -> Any:
        for policy in self.stage:
            self.asking = policy.name
            try:
                said = await policy.ask(delivery, self.asked)
            except Outcome as raised:
                said = raised
            if not issubclass(type(said), Proceed) and said is not Proceed:
                return said
        return Proceed()

    def read(self) -> None:
        """Put what was said into our own words, in the thread that ran the policy."""
        try:
            self.answer = self._answer()
        except BaseException:  # what was said defends itself against being read
            self.answer = Answer(None, self.asking, "what it said cannot be read")
        self.value = self.error = None

    def _answer(self) -> Answer:
        if self.cause == "timeout":
            return Answer(None, self.asking, f"no answer within {self.timeout:g} s")
        said: Any = self.value if self.error is None else self.error
        try:
            if self.error is not None and not issubclass(type(self.error), Outcome):
                raise self.error
            decision = decision_of(said)
        except BaseException as error:
            return Answer(None, self.asking, f"{type_name(error)}: {describe(error)}")
        text = None if isinstance(decision, Proceed) else text_of(said)
        return Answer(decision, self.asking, None if text is None else describe(text))

    def goes_on(self) -> bool:
        """Whether there are further policies to ask; they are the stage then."""
        proceeds = self.answer is not None and isinstance(self.answer.decision, Proceed)
        left = self.policies[len(self.stage) :] if proceeds else ()
        if left:
            self.policies, self.entered, self.returned = left, False, False
        return bool(left)


def _judged(ask: Callable[..., Any], delivery: Delivery, asked: object) -> Any:
    """What a policy returned or raised, which means the same. Raises: any other exception."""
    try:
        said = ask(delivery, asked)
    except Outcome as raised:
        return raised
    if issubclass(type(said), CoroutineType):
        said.close()
        raise TypeError("it returned a coroutine: a policy that waits is an `async def`")
    return Proceed() if said is Proceed else said
