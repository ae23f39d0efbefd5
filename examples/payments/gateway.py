"""A payment gateway in a process of its own, with three doors; it has never heard of `deliveries`.

    POST /keyed/charges     same Idempotency-Key, same charge
    POST /blind/charges     looks at no key: every POST charges
    POST /lookup/charges    the same, but GET /lookup/charges/REFERENCE tells what became of one
    GET  /books             all payments, and how many POSTs came for each order

The card decides: `declined` is refused, `busy` finds the gateway out of service once, `slow` takes
its time. `--forget-keys` makes the first door a liar. Ends when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_SECONDS = 2.5
STATUS = {"charged": 200, "processing": 202, "declined": 402}
Answer = tuple[int, dict[str, Any]]


class Books:
    """All payments, in memory: they outlive the shop's crashes, which is all that is asked of them."""

    def __init__(self, honours_keys: bool) -> None:
        self._honours_keys, self._lock = honours_keys, threading.Lock()
        self._payments: list[dict[str, Any]] = []
        self._posts: Counter[str] = Counter()

    def charge(self, door: str, key: str, order: dict[str, Any]) -> Answer:
        """Charge a card, unless the key says that it was done already."""
        with self._lock:
            self._posts[order["reference"]] += 1
            if door == "keyed" and self._honours_keys and (known := self._find("key", key)):
                return STATUS[known["state"]], known
            if order["card"] == "busy" and self._posts[order["reference"]] == 1:
                return 503, {"error": "out of service, nothing was done"}
            payment = {"id": f"ch-{len(self._payments) + 1}", "key": key, "state": "processing", **order}
            self._payments.append(payment)  # whoever asks is told of it from here on
        time.sleep(SLOW_SECONDS if order["card"] == "slow" else 0)
        with self._lock:
            payment["state"] = "declined" if order["card"] == "declined" else "charged"
            return STATUS[payment["state"]], payment

    def read(self, path: str) -> Answer:
        """The answer to a question."""
        with self._lock:
            if path == "/books":
                return 200, {"payments": [*self._payments], "posts": {**self._posts}}
            known = path.startswith("/lookup/") and self._find("reference", path.rpartition("/")[2])
            return (STATUS[known["state"]], known) if known else (404, {"error": "no such charge"})

    def _find(self, field: str, value: str) -> dict[str, Any] | None:
        return next((payment for payment in self._payments if payment[field] == value), None)


class Handler(BaseHTTPRequestHandler):
    """HTTP, and nothing else."""

    books: Books

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._say(*self.books.charge(self.path.split("/")[1], self.headers["Idempotency-Key"], order))

    def do_GET(self) -> None:
        self._say(*self.books.read(self.path))

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # the shop has died meanwhile; the charge stands
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Handler.books = Books(honours_keys="--forget-keys" not in sys.argv)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
