"""The receiver in a process of its own: it outlives every worker, and knows what has really happened.

Requests say what is to be answered, and may have a signal sent to their sender before or after the
effect. It honours keys where the sender says so: one effect per key. `GET /done` is a provider's
lookup, `GET /all` tells everything.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """Delivery -> its requests as they came."""
        self.effects: dict[str, int] = defaultdict(int)
        self.unread: dict[Any, int] = {}
        """Connections on which a request is still to come -> their order."""
        self.accepted = 0
        self.lookups: dict[str, int] = defaultdict(int)
        self.keys: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> Any:
        connection, address = super().get_request()
        with self.lock:
            self.accepted += 1
            self.unread[address] = self.accepted
        return connection, address

    def is_read(self, address: Any) -> None:
        """The request of this connection counts now, or will never come."""
        with self.lock:
            self.unread.pop(address, None)

    def wait_for_earlier(self, address: Any) -> None:
        """What was sent before has an answer before: a lookup overtakes no request."""
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            with self.lock:
                mine = self.unread.get(address, 0)
                if not any(order < mine for order in self.unread.values()):
                    return
            time.sleep(0.005)

    def handle_error(self, request: object, client_address: object) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            return  # the sender was killed, as the tests want it to be
        super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def finish(self) -> None:
        self.server.is_read(self.client_address)
        super().finish()

    def do_POST(self) -> None:
        """An effect is asked for."""
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return  # the sender died while it was sending
        asked = json.loads(body)
        delivery = asked["delivery"]
        with self.server.lock:
            self.server.requests[delivery].append(
                {
                    "attempt": asked["attempt"],
                    "key": asked["key"],
                    "entered": asked["entered"],
                    "arrived": datetime.now(UTC).isoformat(),
                }
            )
        self._signal(asked, "before")
        if asked["answer"] == 200:
            with self.server.lock:
                if not asked["keyed"] or asked["key"] not in self.server.keys:
                    self.server.keys.add(asked["key"])
                    self.server.effects[delivery] += 1
        self.server.is_read(self.client_address)
        self._signal(asked, "after")
        time.sleep(asked["hold"])
        self._answer(asked["answer"], b"{}")

    def do_GET(self) -> None:
        """Somebody asks what has happened."""
        path = urlsplit(self.path)
        self.server.wait_for_earlier(self.client_address)
        found: Any
        with self.server.lock:
            if path.path == "/done":
                found = self._looked_up(**{name: one for name, (one,) in parse_qs(path.query).items()})
            else:
                found = {"requests": self.server.requests, "effects": self.server.effects}
            body = json.dumps(found).encode()
        self._answer(200, body)

    def _looked_up(self, delivery: str, shy: str = "0") -> bool | None:
        self.server.lookups[delivery] += 1
        if self.server.lookups[delivery] <= int(shy):
            return None
        return self.server.effects.get(delivery, 0) > 0

    def _signal(self, asked: dict[str, Any], when: str) -> None:
        if asked["signal"] and asked["signal"][0] == when:
            os.kill(asked["signal"][2], asked["signal"][1])

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def main(report: int) -> int:
    """Serve until SIGTERM; the first line that is reported is the URL."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = _Server()
    os.write(report, f"http://127.0.0.1:{server.server_address[1]}\n".encode())
    server.serve_forever()
    return 0
