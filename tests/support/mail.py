"""Mail servers on loopback: one that is real, and one that does as it is told, however hostile.

with Postbox() as postbox: ...              # aiosmtpd; postbox.letters
with Scripted(RCPT=b"550 no\r\n") as server: ...  # server.heard: the commands as they came
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from support.receiver import server_context

MAX_SECONDS = 20.0


@dataclass(frozen=True)
class Letter:
    """One message as it was accepted."""

    sender: str
    recipient: str
    message: EmailMessage
    raw: bytes
    hello: str
    options: tuple[str, ...]
    tls: bool
    login: str | None


class Postbox:
    """A real SMTP server in a thread; `password`: the one that it takes, from anybody."""

    def __init__(self, *, tls: str = "none", password: str | None = None, **options: Any) -> None:
        self.letters: list[Letter] = []
        self._password, self._started = password, threading.Event()
        context = server_context() if tls != "none" else None
        self._implicit = context if tls == "implicit" else None
        self._options: dict[str, Any] = {"enable_SMTPUTF8": True, "hostname": "postbox.example", **options}
        if tls == "starttls":
            self._options |= {"tls_context": context, "require_starttls": False}
        if password is not None:
            self._options |= {"authenticator": self._authenticate, "auth_require_tls": tls == "starttls"}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="postbox")

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        good = data.password.decode() == self._password
        return AuthResult(success=good, handled=good, auth_data=data.login.decode())

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        raw = envelope.original_content or b""
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        for recipient in envelope.rcpt_tos:
            self.letters.append(
                Letter(
                    sender=envelope.mail_from or "",
                    recipient=recipient,
                    message=message,
                    raw=raw,
                    hello=session.host_name or "",
                    options=tuple(envelope.mail_options),
                    tls=session.ssl is not None,
                    login=session.auth_data,
                )
            )
        return f"250 2.0.0 Ok: queued as {len(self.letters)}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(
            lambda: SMTP(self, loop=self._loop, **self._options), "127.0.0.1", 0, ssl=self._implicit
        )
        self.port: int = server.sockets[0].getsockname()[1]
        self._started.set()
        async with server:
            await self._stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(MAX_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class Hangup(Exception):
    """An act of `Scripted`: close the connection."""


Act = bytes | Callable[["Visit"], bytes]
"""What a stage is answered with: bytes, or what a function does and answers. It may raise Hangup."""

POLITE: dict[str, Act] = {
    "connect": b"220 scripted.example ESMTP\r\n",
    "EHLO": b"250-scripted.example\r\n250-SIZE 1000000\r\n250 8BITMIME\r\n",
    "MAIL": b"250 2.1.0 Ok\r\n",
    "RCPT": b"250 2.1.5 Ok\r\n",
    "DATA": b"354 go on\r\n",
    "message": b"250 2.0.0 Ok: queued as 7\r\n",
    "QUIT": b"221 bye\r\n",
}


class Visit:
    """One connection of a `Scripted` server."""

    def __init__(self, server: Scripted, connection: socket.socket) -> None:
        self.server, self.connection = server, connection
        self.input = connection.makefile("rb")

    def serve(self) -> None:
        with contextlib.suppress(OSError, Hangup), contextlib.closing(self):
            self._say("connect")
            while line := self.input.readline(65_536):
                word = line.split(None, 1)[0].decode("latin-1").upper() if line.strip() else ""
                self.server.heard.append(line.decode("utf-8", "replace").rstrip("\r\n"))
                answer = self._say(word)
                if word == "QUIT":
                    return
                if word == "DATA" and answer.startswith(b"354"):
                    self._read_message()
                    self._say("message")

    def close(self) -> None:
        """Whatever the connection has become meanwhile."""
        self.input.close()
        self.connection.close()

    def _read_message(self) -> None:
        content = bytearray()
        while not content.endswith(b"\r\n.\r\n"):
            line = self.input.readline(65_536)
            if not line:
                raise Hangup
            content += line
        self.server.messages.append(bytes(content))

    def _say(self, stage: str) -> bytes:
        act = self.server.script.get(stage, b"502 5.5.2 what?\r\n")
        answer = act(self) if callable(act) else act
        self.connection.sendall(answer)
        return answer

    def wait(self, seconds: float = MAX_SECONDS) -> None:
        """Less, if the server stops before."""
        if self.server.stopping.wait(seconds):
            raise Hangup


class Scripted:
    """A server that answers each stage by its script, and is polite where that says nothing."""

    def __init__(self, script: dict[str, Act] | None = None, **more: Act) -> None:
        self.script: dict[str, Act] = {**POLITE, **(script or {}), **more}
        self.heard: list[str] = []
        self.messages: list[bytes] = []
        self.stopping = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.02)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self.port: int = self._listening.getsockname()[1]
        self._visits: list[tuple[Visit, threading.Thread]] = []
        self._thread = threading.Thread(target=self._serve, name="scripted")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._thread.join()
        for visit, thread in self._visits:
            with contextlib.suppress(OSError):
                visit.connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _serve(self) -> None:
        ends = time.monotonic() + 60.0
        with self._listening:
            while not self.stopping.is_set() and time.monotonic() < ends:
                with contextlib.suppress(TimeoutError):
                    connection, _ = self._listening.accept()
                    connection.settimeout(MAX_SECONDS)
                    visit = Visit(self, connection)
                    thread = threading.Thread(target=visit.serve, name="visit")
                    self._visits.append((visit, thread))
                    thread.start()


# -- acts --------------------------------------------------------------------------------------


def hang_up(visit: Visit) -> bytes:
    """Close."""
    raise Hangup


def reset(visit: Visit) -> bytes:
    """Close with a TCP reset."""
    visit.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Hangup


def silence(visit: Visit) -> bytes:
    """Say nothing, until nobody listens any more."""
    visit.wait()
    raise Hangup


def drip(visit: Visit) -> bytes:
    """A reply that never comes to its end, a byte at a time."""
    visit.connection.sendall(b"250-")
    while True:
        visit.connection.sendall(b"x")
        visit.wait(0.02)


def endless(visit: Visit) -> bytes:
    """A reply of more and more lines, as fast as they are taken."""
    while not visit.server.stopping.is_set():
        visit.connection.sendall(b"250-and another thing\r\n" * 100)
    raise Hangup


def secured(then: bytes = b"") -> Callable[[Visit], bytes]:
    """Agree to TLS, with `then` slipped in behind the plain answer."""

    def act(visit: Visit) -> bytes:
        visit.connection.sendall(b"220 go ahead\r\n" + then)
        visit.input.close()
        visit.connection = server_context().wrap_socket(visit.connection, server_side=True)
        visit.input = visit.connection.makefile("rb")
        return b""

    return act
