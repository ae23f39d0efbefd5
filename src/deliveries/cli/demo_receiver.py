"""The demo's receiver: a real HTTP server on loopback that misbehaves on purpose, and keeps a log.

It refuses before it accepts, never after, and its slow answers stay far below the adapter's timeout.
So an accepted request whose answer is lost has one cause only: the process that made it was killed.
A key that it has accepted before it accepts again, at once, and without a second effect.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from deliveries.cli.demo_proof import Request

RETRY_AFTER_SECONDS = 1
SLOW_SECONDS = (0.6, 1.0)
"""How long a slow answer takes, least and most."""
MAX_SECONDS = 15.0
"""How long a connection may say nothing before its thread ends."""

ACCEPT, ACCEPT_SLOWLY, RESET = 200, -200, 0
"""What a habit lists beside the HTTP statuses of a refusal."""


class Habit(Enum):
    """How the receiver treats an order: a label, a share of orders in percent, and a script.

    The script says what it does with the first request, the second, and so on; the last entry stays.
    """

    PROMPT = ("accepts", 50, (ACCEPT,))
    TARDY = ("accepts, answers slowly", 14, (ACCEPT_SLOWLY,))
    FAULTY = ("500, 503, then accepts", 10, (500, 503, ACCEPT))
    RUDE = ("resets, then accepts", 8, (RESET, ACCEPT))
    STRICT = ("429, then accepts", 7, (429, ACCEPT))
    AWFUL = ("500, reset, 429, slowly", 6, (500, RESET, 429, ACCEPT_SLOWLY))
    GONE = ("410, for ever", 5, (410,))

    def __init__(self, label: str, percent: int, script: tuple[int, ...]) -> None:
        self.label, self.percent, self.script = label, percent, script

    @classmethod
    def deal(cls, orders: int, chance: random.Random) -> list[Habit]:
        """One habit for each order, in exact shares, shuffled; prompt is what remains."""
        dealt: list[Habit] = []
        for habit in cls:
            if habit is not cls.PROMPT:
                dealt += [habit] * max(1, orders * habit.percent // 100)
        dealt += [cls.PROMPT] * (orders - len(dealt))
        chance.shuffle(dealt)
        return dealt


@dataclass(frozen=True)
class Reply:
    """What to do with one request."""

    status: int
    delay: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.status == ACCEPT


class Receiver:
    """A context manager. `habits` by order number; an order it never heard of is accepted."""

    def __init__(self, habits: Mapping[int, Habit], half: int) -> None:
        self.requests: list[Request] = []
        """The log, in the order of arrival."""
        self.midway = threading.Event()
        """Set while a slow answer is on its way, once `half` keys are accepted: kill now."""
        self.stopping = threading.Event()
        self._habits, self._half = dict(habits), half
        self._accepted: set[str] = set()
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/orders"

    @property
    def accepted(self) -> int:
        """How many keys were accepted: the effects."""
        return len(self._accepted)

    def receive(self, key: str, attempt: int, order: int) -> Reply:
        """Log one request and say what to do with it."""
        with self._lock:
            reply = Reply(ACCEPT) if key in self._accepted else self._reply(key, order)
            self.requests.append(Request(key, attempt, order, reply.status))
            if reply.accepted:
                self._accepted.add(key)
            else:
                self._refused[key] += 1
            if reply.delay and len(self._accepted) >= self._half:
                self.midway.set()
            return reply

    def _reply(self, key: str, order: int) -> Reply:
        script = self._habits.get(order, Habit.PROMPT).script
        step = script[min(self._refused[key], len(script) - 1)]
        # Drawn from the order alone, so that a seed repeats whatever the scheduling of threads.
        delay = random.Random(order).uniform(*SLOW_SECONDS)  # noqa: S311 - no secret
        return Reply(ACCEPT, delay) if step == ACCEPT_SLOWLY else Reply(step)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()  # waits for the handlers' threads


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look its own name up
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        self.close_request(request)  # without a shutdown, whose FIN would forestall a reset

    def hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """The other side went away: the killed worker did."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = MAX_SECONDS
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key, attempt = self.headers["Idempotency-Key"], int(self.headers["Delivery-Attempt"])
        reply = self.server.receiver.receive(key, attempt, json.loads(body)["order"])
        if reply.status == RESET:
            # Linger for 0 seconds: closing discards what is unsent and sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self.server.receiver.stopping.wait(reply.delay)
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        said = {ACCEPT: b"thank you", 410: b"the customer closed this address"}.get(reply.status, b"not now")
        head = [f"HTTP/1.1 {reply.status} Demo", f"Content-Length: {len(said)}"]
        if reply.status == 429:
            head.append(f"Retry-After: {RETRY_AFTER_SECONDS}")
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + said)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
