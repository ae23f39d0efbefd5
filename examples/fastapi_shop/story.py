"""Customers order, the shop is killed in the middle, comes back, and owes nobody anything in the end.

    python -m examples.fastapi_shop.story [--url URL] [--orders N]

Exit code 0 if every order has its webhook and its mail, once, else 1. `--url`: an empty database, in
place of a SQLite file.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Any

from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from deliveries import Deliveries
from examples.postbox import Postbox
from examples.process import PATIENCE_SECONDS, Process, until

from .partner import Partner
from .proof import findings
from .shop import Order

ITEMS = ("teapot", "cup", "green tea", "kettle", "unicorn")


class Story:
    """One shop, its partner, its mail server and its customers."""

    def __init__(self, database: str, partner: Partner, postbox: Postbox) -> None:
        url = make_url(database)
        if url.get_backend_name() == "sqlite":
            url = url.set(drivername="sqlite+aiosqlite")
        self.partner, self.postbox = partner, postbox
        self.app, self._port = Deliveries(database), free_port()
        self.answers: dict[str, int] = {}
        self._variables = {
            "SHOP_DATABASE": url.render_as_string(hide_password=False),
            "SHOP_PARTNER": partner.url,
            "SHOP_SMTP_PORT": str(postbox.port),
        }

    @contextmanager
    def shop(self) -> Iterator[Process]:
        """The shop's process, serving requests."""
        command = ("--factory", "examples.fastapi_shop.shop:create", "--port", str(self._port))
        with Process("uvicorn", *command, "--log-level", "warning", **self._variables) as process:
            until(lambda: self.says("GET", "/orders/none")[0] == 404, "the shop opens")
            yield process

    def says(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The shop's answer: a status, 0 for none, and what it says."""
        try:
            with closing(HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)) as connection:
                connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                return response.status, json.load(response)
        except (OSError, HTTPException, ValueError):
            return 0, None

    def order(self, number: int) -> None:
        """A customer orders, and says it again until there is an answer."""
        reference = f"order-{number}"
        order = {
            "reference": reference,
            "item": ITEMS[number % len(ITEMS)],
            "email": f"customer{number % 3}@tea.example",
        }

        def answered() -> bool:
            self.answers[reference] = self.says("PUT", f"/orders/{reference}", order)[0]
            return self.answers[reference] in (200, 409)

        until(answered, f"{reference} is answered")

    def owed(self) -> int:
        """How much is not paid yet."""
        return sum(not one.is_terminal for one in self.app.find(limit=10_000))

    def perform(self, orders: int) -> None:
        """From the first order to the last mail, with a kill in between."""
        with ThreadPoolExecutor(4) as customers:
            with self.shop() as shop:
                first = [customers.submit(self.order, number) for number in range(orders // 2)]
                until(lambda: len(self.partner.orders) >= orders // 8, "the partner gets the first ones")
                self.partner.answering.clear()  # it takes orders in, and answers nobody
                known = len(self.partner.orders)
                second = [customers.submit(self.order, number) for number in range(orders // 2, orders)]
                until(lambda: len(self.partner.orders) > known, "an order is on its way")
                shop.kill()
                shop.wait()
            print(f"kill -9: the shop is gone, and owes {self.owed()} webhooks and mails")
            self.partner.answering.set()
            with self.shop() as shop:
                for customer in (*first, *second):
                    customer.result()
                until(lambda: not self.owed(), "the new shop pays what the old one owed")
                print(f"order-0: {self.says('GET', '/orders/order-0')[1]}")
                shop.send_signal(signal.SIGTERM)
                if shop.wait(PATIENCE_SECONDS) not in (0, -signal.SIGTERM):
                    raise RuntimeError("the shop did not close well")

    def report(self) -> bool:
        """Print what everybody has; True if nothing speaks against it."""
        with Session(self.app.engine) as session:
            orders = session.scalars(select(Order)).all()
        promised = [reference for reference, status in self.answers.items() if status == 200]
        mails: dict[str, list[str]] = {}
        for address in {recipient for recipient, _ in self.postbox.letters}:
            mails[address] = [message["Subject"] for message in self.postbox.inbox(address)]
        against = findings(orders, promised, self.partner.orders, mails)
        posts, letters = self.partner.posts.total(), len(self.postbox.letters)
        print(f"{len(self.answers)} customers, {len(self.answers) - len(promised)} of them told: sold out")
        print(f"{posts} requests to the partner, {letters} mails")
        print(f"{len(orders)} orders, held against what the partner and the mailboxes have:")
        for line in against or ["every order has its webhook and its mail, once"]:
            print(f"  {'NO' if against else 'ok'}  {line}")
        return not against


def free_port() -> int:
    """One that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def main() -> int:
    """Play it."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--orders", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Partner() as partner, Postbox() as postbox:
        story = Story(options.url or f"sqlite:///{folder}/shop.db", partner, postbox)
        with closing(story.app):
            story.perform(options.orders)
            return 0 if story.report() else 1


if __name__ == "__main__":
    sys.exit(main())
