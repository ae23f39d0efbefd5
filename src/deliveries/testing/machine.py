"""A state machine over an application: everything that happens to deliveries, in any order.

Needs Hypothesis. Users extend it with rules of their own:

    class Shop(DeliveryMachine):
        app = shop.app
        debts = {"receipt": st.fixed_dictionaries({"order": st.integers(1)})}

        @rule(order=st.integers(1))
        def pay(self, order): ...

    TestShop = Shop.TestCase

After every step the rules of `deliveries.audit.invariants` hold for every delivery and every call,
and what has ended is as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, Literal
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deliveries.app import Deliveries
from deliveries.core import outcomes as o
from deliveries.core.delivery import Delivery, Status
from deliveries.errors import IdempotencyConflict
from deliveries.scheduling import Draft
from deliveries.testing.clock import VirtualClock
from deliveries.testing.examples import NOW
from deliveries.testing.idempotency import check_terminal_idempotency
from deliveries.testing.kit import Kit, under_test
from deliveries.testing.places import Place
from deliveries.testing.strategies import payloads

ANY = st.integers(0, 99)
"""Which of those that there are."""
WAITS = st.sampled_from((0.001, 1.0, 40.0, 3_600.0, 86_400.0))
RESOLVED = st.sampled_from(
    (o.Delivered(), o.NotDone(), o.Retry(after=5), o.Cancel("lost"), o.Discard("lost"))
)


def _owed(machine: DeliveryMachine) -> st.SearchStrategy[tuple[str, Any]]:
    debts = machine.debts or dict.fromkeys(machine.kit.app.channels, payloads())
    return st.sampled_from(sorted(debts)).flatmap(lambda name: st.tuples(st.just(name), debts[name]))


OWED = st.runner().flatmap(_owed)
"""A channel and what may be owed through it, as the machine says."""


class DeliveryMachine(RuleBasedStateMachine):
    """Deliveries of `app` under callers, operators, time and processes that die."""

    app: ClassVar[Deliveries | None] = None
    """The application; put on `database` for each example."""
    debts: ClassVar[Mapping[str, st.SearchStrategy[Any]]] = {}
    """Channel -> payloads (or `Draft`s) that may be owed. Empty: any payload, through every channel."""
    database: ClassVar[Place] = "sqlite://"
    """As the fixture `deliveries_database`."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        clock = VirtualClock(NOW)
        self.kit: Kit = self._stack.enter_context(under_test(self.app, database=self.database, clock=clock))
        self._all: list[Delivery] = []
        self._ended: dict[UUID, tuple[int, int]] = {}
        """Delivery -> its version and the calls made for it, when it was first seen at its end."""
        self.prepare()

    def prepare(self) -> None:
        """Override it to prepare an example: create your tables on `self.kit.engine`, say."""

    def teardown(self) -> None:
        """The application goes back to where it came from."""
        self._stack.close()

    def deliveries(self, *statuses: Status) -> list[Delivery]:
        """All in one of `statuses` (default: any) as the last step left them, in order of scheduling."""
        wanted = statuses or tuple(Status)
        return [delivery for delivery in self._all if delivery.status in wanted]

    def pick(self, number: int, *statuses: Status) -> Delivery:
        """One of them, that there must be."""
        found = self.deliveries(*statuses)
        return found[number % len(found)]

    # -- callers -------------------------------------------------------------------------------

    @initialize(debts=st.lists(OWED, min_size=1, max_size=3))
    def begin(self, debts: list[tuple[str, Any]]) -> None:
        """Any rule may be left out of an example, so there is something to do from the start."""
        for channel, owed in debts:
            self._schedule(channel, owed)

    @rule(
        debt=OWED,
        key=st.sampled_from((None, None, None, "a", "b")),
        delay=st.sampled_from((None, None, 0.0, 60.0)),
        undone=st.sampled_from((False, False, False, True)),
    )
    def schedule(self, debt: tuple[str, Any], key: str | None, delay: float | None, undone: bool) -> None:
        """A caller writes a debt down, and may roll back."""
        channel, owed = debt
        self._schedule(channel, owed, undone=undone, key=key, delay=delay)

    def _schedule(self, channel: str, owed: Any, *, undone: bool = False, **fields: Any) -> None:
        known = {delivery.id for delivery in self.kit.all_scheduled()}
        with self.kit.engine.connect() as connection, connection.begin() as transaction:
            try:
                if isinstance(owed, Draft):
                    (made,) = self.kit.app.schedule_many(connection, channel, [owed])
                else:
                    made = self.kit.app.schedule(connection, channel, owed, **fields)
            except IdempotencyConflict as conflict:
                owner = conflict.delivery_id
                must(owner in known, "T2", f"a conflict with delivery {owner}, which is not there")
                return
            if undone:
                transaction.rollback()
        must(made.created == (made.id not in known), "T2", f"created is {made.created}")
        there = {delivery.id for delivery in self.kit.all_scheduled()}
        expected = known if undone else known | {made.id}
        must(there == expected, "T1", f"{len(there)} deliveries are there, not {len(expected)}")

    # -- processors and time -------------------------------------------------------------------

    @rule()
    def drain(self) -> None:
        """A processor performs what is due."""
        self.kit.drain()

    @rule()
    def drain_next(self) -> None:
        """Time passes until something happens, and it does."""
        if self.kit.next_due() is not None:
            self.kit.advance()
        self.kit.drain()

    @rule(number=ANY)
    @precondition(lambda self: self.deliveries())
    def perform(self, number: int) -> None:
        """Somebody dispatches one delivery, whatever became of it."""
        delivery = self.pick(number)
        self.kit.perform(delivery.id)

    @rule(before_call=st.booleans())
    def crash(self, before_call: bool) -> None:
        """A process dies with what it is about to attempt, or has just done."""
        self.kit.crash_next(before_call=before_call)
        try:
            self.kit.drain()
        finally:
            self.kit._stage.crashes.clear()

    @rule(seconds=WAITS)
    def time_passes(self, seconds: float) -> None:
        """Nobody does anything for a while."""
        self.kit.advance(seconds)

    # -- operators -----------------------------------------------------------------------------

    @rule(number=ANY, act=st.sampled_from(("cancel", "suppress", "reschedule")))
    @precondition(lambda self: self.deliveries())
    def operate(self, number: int, act: Literal["cancel", "suppress", "reschedule"]) -> None:
        """An operator steps in, on any delivery."""
        delivery = self.pick(number)
        options = {"delay": 30.0} if act == "reschedule" else {"reason": "because"}
        with self.kit.engine.begin() as connection:
            getattr(self.kit.app, act)(connection, delivery.id, actor="ann", **options)

    @rule(number=ANY, outcome=RESOLVED)
    @precondition(lambda self: self.deliveries(Status.HELD))
    def resolve(self, number: int, outcome: o.Outcome) -> None:
        """A person says what became of a held delivery."""
        delivery = self.pick(number, Status.HELD)
        with self.kit.engine.begin() as connection:
            self.kit.app.resolve(connection, delivery.id, outcome, actor="ann")

    @rule(number=ANY)
    @precondition(lambda self: self._ended)
    def disturb(self, number: int) -> None:
        """Everything is asked of a delivery that has ended."""
        ended = list(self._ended)
        check_terminal_idempotency(self.kit.app, ended[number % len(ended)])

    # -- what must hold ------------------------------------------------------------------------

    @invariant()
    def every_rule_holds(self) -> None:
        """Streams, records, rows and calls are sound, by the product's own judges."""
        self._all = self.kit.all_scheduled()
        for one in self.kit.findings():
            must(False, one.rule, f"{one.text} (delivery {one.delivery_id}, version {one.version})")

    @invariant()
    def the_end_is_the_end(self) -> None:
        """What has ended has no further event, and no further call."""
        calls = Counter(call.delivery.id for call in self.kit.calls)
        for delivery in self._all:
            if delivery.is_terminal:
                stands = (delivery.version, calls[delivery.id])
                ended = self._ended.setdefault(delivery.id, stands)
                must(
                    stands == ended,
                    "I11",
                    f"delivery {delivery.id} ended at version {ended[0]} after {ended[1]} calls, "
                    f"and is at version {stands[0]} after {stands[1]}",
                )


def must(holds: bool, rule: str, text: str) -> None:
    """Raises: AssertionError where `rule` is broken."""
    if not holds:
        raise AssertionError(f"{rule}: {text}")
