"""What an e-mail adapter needs beside its verdicts: a bounded conversation, and addresses."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

MAX_REPLY: Final = 65_536
"""Bytes of one reply; RFC 5321, section 4.5.3.1.5, knows lines of 512."""

_REPLY_LINE = re.compile(rb"([1-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LABEL = r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\u0080-\U0010ffff-]*[A-Za-z0-9\u0080-\U0010ffff])?"
_ADDRESS = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>{_LABEL}(?:\.{_LABEL})*)")
_INVISIBLE = re.compile(r"[\s\u0080-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")


class Garbled(Exception):
    """The other side does not speak SMTP, or not in its turn."""


class Refused(Exception):
    """A reply that is not the one that was needed; `stage` is what it answers."""

    def __init__(self, stage: str, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.stage, self.code, self.text = stage, code, text


class Conversation(smtplib.SMTP):
    """smtplib's client with one deadline over all of it, bounded replies, and strict turns.

    smtplib bounds each wait alone, so that a server which drips bytes, or never ends a reply, keeps
    it for ever. Here `deadline` (`time.monotonic()` seconds) bounds the whole, but for resolving the
    name, which the system bounds. Nothing is sent while something is unread: what a stranger slips
    in before TLS begins would be taken for an answer after it (CVE-2011-0411).
    """

    def __init__(self, host: str, port: int, *, deadline: float, connect_timeout: float) -> None:
        super().__init__(local_hostname="localhost")  # or it would look its own name up
        self.host, self._deadline, self._unread = host, deadline, bytearray()
        self.sock = self._connected(port, connect_timeout)
        self.local_hostname = _literal(self.sock)

    def _connected(self, port: int, limit: float) -> socket.socket:
        """To the first of the host's addresses that answers. Raises: OSError."""
        failed: OSError = OSError("the name has no address")
        for family, kind, protocol, _, place in socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(min(limit, self._left()))
                sock.connect(place)
            except OSError as error:
                sock.close()
                failed = error
            else:
                return sock
        raise failed

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this attempt is over")
        return left

    @property
    def _open(self) -> socket.socket:
        if self.sock is None:
            raise ConnectionError("the connection is closed")
        return self.sock

    def secure(self, context: ssl.SSLContext) -> None:
        """TLS from here on; what was learnt before it counts no more (RFC 3207, section 4.2)."""
        plain = self._open
        plain.settimeout(self._left())
        self.sock = context.wrap_socket(plain, server_hostname=self.host)
        self.esmtp_features, self.does_esmtp = {}, False

    def send(self, s: object) -> None:
        """All of `s`. When it raises, the last of it was not handed over."""
        if self._unread:
            raise Garbled("the server speaks out of turn")
        data = s.encode(self.command_encoding) if isinstance(s, str) else s
        rest = memoryview(data)  # type: ignore[arg-type]  # bytes: smtplib sends nothing else
        while rest:
            self._open.settimeout(self._left())
            rest = rest[self._open.send(rest) :]

    def getreply(self) -> tuple[int, bytes]:
        """The next reply, its lines joined. Raises: OSError; Garbled if it is none."""
        lines: list[bytes] = []
        code, budget = b"", MAX_REPLY
        while True:
            line = self._line(budget)
            budget -= len(line) + 1
            found = _REPLY_LINE.fullmatch(line.rstrip(b"\r"))
            if found is None or (lines and found[1] != code):
                raise Garbled("the server does not speak SMTP")
            code = found[1]
            lines.append((found[3] or b"").strip())
            if found[2] != b"-":
                return int(code), b"\n".join(lines)

    def _line(self, budget: int) -> bytes:
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) >= budget:
                raise Garbled(f"a reply of more than {MAX_REPLY} bytes")
            self._open.settimeout(self._left())
            got = self._open.recv(4096)
            if not got:
                raise ConnectionError("the server closed the connection")
            self._unread += got
        if end >= budget:
            raise Garbled(f"a reply of more than {MAX_REPLY} bytes")
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def expect(self, stage: str, wanted: int, reply: tuple[int, bytes | str] | None = None) -> str:
        """The text of `reply`, or of the next one, which must have the first digit `wanted`.

        Raises: Refused with any other.
        """
        code, said = self.getreply() if reply is None else reply
        text = said if isinstance(said, str) else said.decode("utf-8", "replace")
        if code // 100 != wanted:
            raise Refused(stage, code, text)
        return text

    def leave(self) -> None:
        """Say goodbye, if that takes no time, and close."""
        self._deadline = min(self._deadline, time.monotonic() + 1.0)
        with suppress(OSError, Garbled):
            self.docmd("QUIT")
        self.close()


def _literal(sock: socket.socket) -> str:
    """Our end as an address literal: true, and without a name to look up (RFC 5321, 4.1.3)."""
    address = str(sock.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def address(value: str | None) -> str:
    """`value` as a bare mailbox (RFC 5321, section 4.1.2), without quoted local parts and literals.

    One that is not ASCII stays as it is: Python's IDNA is that of 2003, which leads some names to
    another domain. It needs a server that takes it (RFC 6531).

    Raises: ValueError, repeating nothing of it.
    """
    found = _ADDRESS.fullmatch(value or "")
    if found is None or _INVISIBLE.search(found[0]):
        raise ValueError("the recipient is no e-mail address")
    if len(found["local"].encode()) > 64 or len(found[0].encode()) > 254:
        raise ValueError("the recipient's address is too long")
    return found[0]


def lined(content: bytes) -> bytes:
    """`content` with CRLF at the end of each line, the last one too.

    No lone CR or LF survives, by which some servers would see an end where there is none
    (CVE-2023-51764 and its kin).
    """
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def dotted(content: bytes) -> bytes:
    """As it goes over the wire: `lined`, dots doubled, the last dot added."""
    lines = lined(content)
    return (b"." if lines.startswith(b".") else b"") + lines.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def redacted(text: str, secrets: tuple[str, ...], clean: Callable[[str], str]) -> str:
    """`text`, which the other side may have chosen, without what it can echo of our secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:  # a shorter one would be found everywhere
            text = text.replace(secret, "[redacted]")
    return clean(text)
