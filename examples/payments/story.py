"""A worker dies in the middle of nine charges, another takes over, a person settles the rest.

    python -m examples.payments.story [--url URL] [--lie]

Exit code 0 if no customer was charged twice and no charge was forgotten, else 1. `--url`: an empty
database, in place of a SQLite file. `--lie`: the gateway says that it honours keys, and does not.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection
from itertools import count
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from deliveries import Delivered, Delivery, NotDone
from examples.process import PATIENCE_SECONDS, Process, until

from .proof import findings
from .shop import Base, Order, payments, place

CHANNELS = ("keyed", "blind", "lookup")
CUSTOMERS = ("ann", "bob", "cleo", "dan", "eve")
POINTS = ("before", "during", "after")


class SoldOut(Exception):
    """The shop changes its mind in the middle of a transaction."""


class Story:
    """What people do, on an empty database and with the gateway at this address."""

    def __init__(self, database: str, gateway: str) -> None:
        self.app = payments(database, gateway)
        self.app.create_schema()
        Base.metadata.create_all(self.app.engine)
        self._database, self._gateway, self._numbers = database, gateway, count(1)

    def order(self, channel: str, card: str = "good", *, sold_out: bool = False) -> Delivery:
        """A customer buys something."""
        number = next(self._numbers)
        order = Order(id=f"order-{number}", customer=CUSTOMERS[number % 5], cents=100 * number)
        with Session(self.app.engine) as session, session.begin():
            delivery = place(self.app, session, order, channel, card)
            if sold_out:
                raise SoldOut  # takes the charge along
        return delivery

    def kill_worker(self, stops: Mapping[str, str]) -> None:
        """A worker gets `kill -9`, with the charge of each of these orders at its point."""
        with self.worker("--die", *(f"{order}:{point}" for order, point in stops.items())) as worker:
            if worker.wait(PATIENCE_SECONDS) != -signal.SIGKILL:
                raise RuntimeError("the worker was to be killed")

    def worker(self, *options: str) -> Process:
        """Another worker."""
        return Process("examples.payments.worker", self._database, self._gateway, *options)

    def books(self) -> dict[str, Any]:
        """What the gateway states."""
        with closing(HTTPConnection(self._gateway, timeout=PATIENCE_SECONDS)) as connection:
            connection.request("GET", "/books")
            return dict(json.load(connection.getresponse()))

    def held(self) -> list[Delivery]:
        """What only a person can settle: the gateway answers no questions about these."""
        return self.app.find(status="held", channel="blind")

    def settled(self) -> bool:
        """Whether nothing is left to do but for a person."""
        waiting = {one.id for one in self.held()}
        return all(one.is_terminal or one.id in waiting for one in self.app.find())

    def resolve(self, held: Delivery) -> None:
        """A person looks into the gateway's books, and says what became of a charge."""
        charge: dict[str, Any]
        charge = next((one for one in self.books()["payments"] if one["reference"] == held.key), {})
        outcome: Delivered | NotDone
        match charge.get("state"):
            case "charged":
                outcome, reason = Delivered(), f"their books have {charge['id']}"
            case None:
                outcome, reason = NotDone(), "their books have no such charge"
            case state:
                raise ValueError(f"{held.key} is {state}: too early to tell")
        with Session(self.app.engine) as session, session.begin():
            self.app.resolve(session, held.id, outcome, reason=reason, actor="ops:pat")

    def perform(self) -> dict[str, str]:
        """From the first order to the last charge. Returns whose charge was cut off, and where."""
        stops = {f"{self.order(channel).key}": point for point in POINTS for channel in CHANNELS}
        self.kill_worker(stops)
        print(f"kill -9: a worker is gone, in the middle of {len(stops)} charges")
        for channel, card in zip(CHANNELS, ("declined", "busy", "slow"), strict=True):
            self.order(channel, card)
        with suppress(SoldOut):
            self.order("blind", sold_out=True)
        with self.worker() as worker:
            until(self.settled, "a worker finishes what the dead ones left")
            for held in self.held():
                print(f"{held.key} is held: a person looks into the gateway's books, and resolves it")
                self.resolve(held)
            until(self.settled, "it charges what had not been charged")
            worker.communicate(timeout=PATIENCE_SECONDS)
        return stops

    def report(self, stops: Mapping[str, str]) -> bool:
        """Print what became of everybody's money; True if nothing speaks against it."""
        books, owed = self.books(), {str(one.key): one for one in self.app.find()}
        charges = Counter(one["reference"] for one in books["payments"] if one["state"] == "charged")
        with Session(self.app.engine) as session:
            orders = session.scalars(select(Order).order_by(Order.cents)).all()
        print(
            f"\n{'customer':<10}{'order':<10}{'channel':<9}{'killed':<9}{'attempts':>8}{'charges':>9}  ended"
        )
        for order in orders:
            one = owed[order.id]
            who = f"{order.customer:<10}{order.id:<10}{one.channel:<9}{stops.get(order.id, ''):<9}"
            print(f"{who}{one.attempt:>8}{charges[order.id]:>9}  {one.status}")
        for key in ("order-2", "order-7", "order-8", "order-9"):
            print(f"\n{key}, killed {stops[key]} the charge\n{self.app.explain(owed[key].id)}")
        against = findings(orders, owed, books["payments"])
        print(f"\n{len(orders)} orders, held against {charges.total()} charges in the gateway's books:")
        for line in against or ["no customer charged twice, no charge forgotten"]:
            print(f"  {'NO' if against else 'ok'}  {line}")
        return not against


def main() -> int:
    """Play it."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--lie", action="store_true")
    options = parser.parse_args()
    lie = ["--forget-keys"] if options.lie else []
    with tempfile.TemporaryDirectory() as folder, Process("examples.payments.gateway", *lie) as gateway:
        story = Story(options.url or f"sqlite:///{folder}/shop.db", gateway.says())
        with closing(story.app):
            return 0 if story.report(story.perform()) else 1


if __name__ == "__main__":
    sys.exit(main())
