"""The shop's partner: receives its webhooks, and honours keys. It has never heard of `deliveries`."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Partner:
    """A server in threads, for the length of a `with`, at `url`."""

    def __init__(self) -> None:
        self.posts: Counter[str] = Counter()
        """Requests, by the order that they name."""
        self.orders: dict[str, str] = {}
        """What it has taken in, by key: an order once, however often it is told."""
        self.answering = threading.Event()
        self.answering.set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"partner": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}/orders"

    def take(self, key: str, order: str) -> None:
        """Take an order in; the answer may be long in coming."""
        with self._lock:
            self.posts[order] += 1
            self.orders.setdefault(key, order)
        self.answering.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    partner: Partner

    def do_POST(self) -> None:
        hook = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.partner.take(self.headers["Idempotency-Key"], hook["order"])
        with contextlib.suppress(ConnectionError):  # the shop has died meanwhile; the order stands
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
