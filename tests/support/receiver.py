"""A real HTTP receiver on loopback that does as it is told, and counts.

    with Receiver() as receiver:
        url = receiver.on("/orders", Reply(503), Reply(200))  # in this order; the last one stays
        ...
        assert receiver.calls[key] == 2

Every wait ends early when the receiver stops, no answer takes longer than `MAX_SECONDS`, and a
receiver that nobody stops ends by itself after `lifetime`.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import socketserver
import ssl
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

MAX_SECONDS = 20.0
MAX_BODY = 16 * 2**20


@dataclass(frozen=True)
class Reply:
    """What to do with one request. `delay` and `drip` are seconds."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    repeat: int = 1
    """The body is sent so many times over, never held whole."""
    delay: float = 0.0
    """Before anything is answered."""
    drip: float | None = None
    """Between one byte of the body and the next."""
    drip_head: float | None = None
    """Between one byte of the status line and headers and the next."""
    raw: bytes | None = None
    """Sent in place of an HTTP answer, after which the connection is closed."""
    reset: bool = False
    """Answer with a TCP reset, after `raw` if there is any."""


def gzip_bomb(mebibytes: int = 64) -> Reply:
    """A few kilobytes that would unpack to `mebibytes`."""
    return Reply(200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(2**20) * mebibytes))


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: tuple[str, int]
    """The sender's address: one per connection."""


class Receiver:
    """A context manager; `tls` serves with `CERTIFICATE`, which nobody trusts."""

    def __init__(self, *, tls: bool = False, lifetime: float = 60.0) -> None:
        self.seen: list[Seen] = []
        self.calls: Counter[str] = Counter()
        """Requests per Idempotency-Key."""
        self.tls = tls
        self.stopping = threading.Event()
        self._scripts: dict[str, list[Reply]] = {}
        self._changed = threading.Condition()
        self._server = _Server(self)
        self._ends = time.monotonic() + lifetime
        self._thread = threading.Thread(target=self._serve, name="receiver")

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def on(self, path: str, *replies: Reply) -> str:
        """Script `path` and return its URL. A path without a script answers 404."""
        with self._changed:
            self._scripts[path] = list(replies) or [Reply()]
        return self.url + path

    def wait_for(self, requests: int, timeout: float = 5.0) -> bool:
        """Wait until so many requests have arrived; false after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.seen) >= requests, timeout)

    def reply_to(self, seen: Seen) -> Reply:
        with self._changed:
            self.seen.append(seen)
            self.calls[seen.headers.get("idempotency-key", "")] += 1
            self._changed.notify_all()
            script = self._scripts.get(urlsplit(seen.target).path, [Reply(404, body=b"no script")])
            return script.pop(0) if len(script) > 1 else script[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        self._server.timeout = 0.02
        while not self.stopping.is_set() and time.monotonic() < self._ends:
            self._server.handle_request()
        self.stopping.set()
        self._server.hang_up()
        self._server.server_close()  # waits for the handlers' threads


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._tls = server_context() if receiver.tls else None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look its own name up
        self.server_name, self.server_port = self.server_address[:2]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(MAX_SECONDS)
        if self._tls is not None:  # the handshake is the handler thread's, at its first read
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
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
        """The other side went away, as the tests want it to."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = MAX_SECONDS

    def do_POST(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS
        length = min(int(self.headers.get("Content-Length", 0)), MAX_BODY)
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, self.rfile.read(length), self.client_address)
        reply = self.server.receiver.reply_to(seen)
        try:
            self._wait(reply.delay)
            self._answer(reply)
        except (OSError, _Stopped):
            self.close_connection = True

    do_GET = do_POST  # noqa: N815 - the base's name

    def _answer(self, reply: Reply) -> None:
        if reply.raw is not None or reply.reset:
            self.wfile.write(reply.raw or b"")
            self.close_connection = True
            if reply.reset:
                # Linger for 0 seconds: closing discards what is unsent and sends RST.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        self._send(b"".join(self._head(reply)), reply.drip_head)
        for _ in range(reply.repeat):
            self._send(reply.body, reply.drip)

    def _head(self, reply: Reply) -> Iterator[bytes]:
        yield b"HTTP/1.1 %d Scripted\r\n" % reply.status
        if reply.status not in (204, 304) and reply.status >= 200:
            yield b"Content-Length: %d\r\n" % (len(reply.body) * reply.repeat)
        for name, value in reply.headers.items():
            yield f"{name}: {value}\r\n".encode("latin-1")
            self.close_connection |= (name.lower(), value) == ("connection", "close")
        yield b"\r\n"

    def _send(self, content: bytes, drip: float | None) -> None:
        if drip is None:
            self.wfile.write(content)
            return
        for byte in content:
            self.wfile.write(bytes([byte]))
            self._wait(drip)

    def _wait(self, seconds: float) -> None:
        left = self._deadline - time.monotonic()
        if self.server.receiver.stopping.wait(max(0.0, min(seconds, left))) or left <= 0:
            raise _Stopped

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Stopped(Exception):
    """The receiver stops, or this answer has taken long enough."""


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(_KEY + CERTIFICATE)
        file.flush()
        context.load_cert_chain(file.name)
    return context


# Signed by itself for localhost and 127.0.0.1, valid from 2020 to 2120. The key guards nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBZzCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNAo+Ugo+RDes2U+
O6nTgML0ujRCHu2rQlRQ0y/NmfY8B92wMwdQcvqvN/eSblCXRauQSjzqcUZibAtr
PZtw+1GjTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBQbpZpargkDEfRl2xwiCMSLLSCsMDAKBggqhkjOPQQD
AgNIADBFAiBkzFmZsyGgWswFK1gMN4c3nhTI7204mf/5dmAwcwDEBQIhAJ6jmLNn
Bgs4xciCnZ5jfuZtIKkaYyJiHjhWh7O/5Wo+
-----END CERTIFICATE-----
"""
_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQghrfwyOcLgKiRZjYk
uTsuGLA8H39Rf1koJE4g+7WJTnuhRANCAATQKPlIKPkQ3rNlPjup04DC9Lo0Qh7t
q0JUUNMvzZn2PAfdsDMHUHL6rzf3km5Ql0WrkEo86nFGYmwLaz2bcPtR
-----END PRIVATE KEY-----
"""
