"""The shop: its orders, and the adapter that charges for them. If you read one file, read this."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from deliveries import Attempt, Backoff, Cancel, Delivered, Deliveries, Delivery, NotDone, Retry, Unknown

ANSWER_SECONDS = 3.0
Outcome = Delivered | Cancel | Retry | Unknown | NotDone
Point = Callable[[str, Delivery], None]


class Base(DeclarativeBase):
    """The shop's own tables."""


class Order(Base):
    """One order. Its id is the shop's own word, so it is known before anything is flushed."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]


def place(app: Deliveries, session: Session, order: Order, channel: str, card: str = "good") -> Delivery:
    """Take an order and owe its charge: both in the caller's transaction, or neither."""
    session.add(order)
    owed = {"reference": order.id, "customer": order.customer, "cents": order.cents, "card": card}
    return app.schedule(session, channel, owed, recipient=order.customer, key=order.id)


def nowhere(point: str, delivery: Delivery) -> None:
    """A healthy worker dies at no point."""


def payments(database: str, gateway: str, at: Point = nowhere) -> Deliveries:
    """The application: one adapter, three channels that differ in what a second call would do.

    `at` is told how far a call is: `before`, `during` or `after` the charge.
    """
    app, till = Deliveries(database), Till(gateway, at)
    common: dict[str, Any] = {
        "queue": "payments",
        "timeout": ANSWER_SECONDS + 1.0,
        "backoff": Backoff.linear(0.2, cap=60),
    }
    app.adapter("keyed", effect="keyed", **common)(till.charge)
    app.adapter("blind", effect="unsafe", on_unknown="hold", **common)(till.charge)
    app.adapter("lookup", effect="unsafe", on_unknown="lookup", lookup=till.look_up, **common)(till.charge)
    return app


class Till:
    """Speaks to the gateway at `gateway` (host:port), and says no more than is certain."""

    def __init__(self, gateway: str, at: Point) -> None:
        self._gateway, self._at = gateway, at

    def charge(self, delivery: Delivery, attempt: Attempt) -> Outcome:
        """Charge the card."""
        self._at("before", delivery)
        with closing(HTTPConnection(self._gateway, timeout=ANSWER_SECONDS)) as connection:
            try:
                connection.connect()
            except OSError as error:
                return Retry(error)  # nobody was reached, so nothing happened
            # From here on an exception says nothing: an unsafe channel is not called again on a guess.
            headers = {"Idempotency-Key": delivery.idempotency_key}  # the same for every attempt
            connection.request("POST", f"/{delivery.channel}/charges", json.dumps(delivery.payload), headers)
            self._at("during", delivery)
            outcome = meaning(connection.getresponse())
        self._at("after", delivery)
        return outcome

    def look_up(self, delivery: Delivery, attempt: Attempt) -> Outcome:
        """Ask what became of a charge that nobody reported."""
        with closing(HTTPConnection(self._gateway, timeout=ANSWER_SECONDS)) as connection:
            connection.request("GET", f"/lookup/charges/{delivery.key}")
            response = connection.getresponse()
            # A no must be final. It is: this gateway knows of a request as soon as that has arrived,
            # and ours was sent by a worker whose lease is over.
            return NotDone() if response.status == 404 else meaning(response)


def meaning(response: HTTPResponse) -> Outcome:
    """The gateway's answer as an outcome."""
    answer = json.load(response)
    match response.status:
        case 200:
            return Delivered({"charge": answer["id"]})
        case 402:
            return Cancel("the card was declined")
        case 503:
            return Retry(answer["error"])  # the gateway gives its word that nothing was done
        case status:
            return Unknown(f"the gateway answered {status}")  # 202: not yet; 500: who knows
