"""A month's invoices are issued, made into PDFs, and mailed to a server that has its moods.

    python -m examples.invoices.story [--url URL]

Exit code 0 if every customer has each invoice once, with its total, else 1. `--url`: an empty
database, in place of a SQLite file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import date

from sqlalchemy import select
from sqlalchemy.orm import Session

from deliveries import Deliveries
from examples.postbox import Postbox
from examples.process import until

from .billing import Base, Invoice, billing, issue, money
from .proof import findings

CUSTOMERS = {
    "Ann": "ann@tea.example",
    "Bob": "busy@bob.example",  # what the mail server does to these is in `examples/postbox.py`
    "Cleo": "cleo@tea.example",
    "Dan": "gone@dan.example",
    "Eve": "lost@eve.example",
    "Zoë": "zoe@tea.example",
}


class PowerCut(Exception):
    """The shop's program ends in the middle of a transaction."""


def month(number: int, customers: Iterable[str]) -> list[Invoice]:
    """One invoice for each of them."""
    return [
        Invoice(
            customer=name,
            email=CUSTOMERS[name],
            issued=date(2026, number, 1),
            lines=[("Green tea", 450 + place), ("A thousand cups", 123_400 * number)],
        )
        for place, name in enumerate(customers)
    ]


def perform(app: Deliveries) -> None:
    """Two months; a third one fails while it is issued. Then one worker, until nothing is left."""
    with Session(app.engine) as session, session.begin():
        issue(app, session, month(1, CUSTOMERS))
        issue(app, session, month(2, ("Ann", "Cleo", "Zoë")))
    with suppress(PowerCut), Session(app.engine) as session, session.begin():
        issue(app, session, month(3, CUSTOMERS))
        raise PowerCut  # the invoices and their mails are gone together
    with Session(app.engine) as session, session.begin():
        disputed = session.scalars(
            select(Invoice).where(Invoice.customer == "Cleo").order_by(Invoice.id)
        ).first()
        assert disputed is not None
        disputed.withdrawn = True  # after it was owed, before it was sent
    with app.running({"invoices": 3}, poll=0.05):
        until(lambda: all(one.is_terminal for one in app.find()), "all mails come to an end")


def report(app: Deliveries, postbox: Postbox) -> bool:
    """Print what became of every invoice; True if nothing speaks against it."""
    owed = {str(one.key): one for one in app.find()}
    with Session(app.engine) as session:
        invoices = session.scalars(select(Invoice).order_by(Invoice.id)).all()
    print(f"{'invoice':>7}  {'customer':<9}{'total':>13}  {'mailbox':<20}{'attempts':>8}{'mails':>6}  ended")
    for invoice in invoices:
        one = owed[f"invoice:{invoice.id}"]
        mails = [
            message
            for recipient, message in postbox.letters
            if recipient == invoice.email and message["Subject"] == f"Invoice {invoice.id}"
        ]
        print(
            f"{invoice.id:>7}  {invoice.customer:<9}{money(invoice.cents):>13}  {invoice.email:<20}"
            f"{one.attempt:>8}{len(mails):>6}  {one.status}"
        )
    for key in ("invoice:2", "invoice:3", "invoice:4", "invoice:5"):
        print(f"\n{app.explain(owed[key].id)}")
    against = findings(invoices, owed, postbox.inbox)
    print(f"\n{len(invoices)} invoices, held against what the customers see:")
    for line in against or ["each invoice once, to its customer, with its total"]:
        print(f"  {'NO' if against else 'ok'}  {line}")
    return not against


def main() -> int:
    """Play it."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--url")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Postbox() as postbox,
        closing(billing(options.url or f"sqlite:///{folder}/billing.db", postbox.port)) as app,
    ):
        app.create_schema()
        Base.metadata.create_all(app.engine)
        perform(app)
        return 0 if report(app, postbox) else 1


if __name__ == "__main__":
    sys.exit(main())
