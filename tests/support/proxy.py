"""A TCP proxy between a client and a PostgreSQL server that cuts connections around COMMIT.

    with Proxy(server_url, lambda commit: Cut.AFTER_COMMIT) as proxy:
        engine = create_engine(proxy.url(server_url))

It reads just enough of the wire protocol to know where a COMMIT begins, in the simple and in the
extended protocol, and where its answer ends. Whoever made it is asked at each COMMIT what to do,
from the proxy's own thread. Whatever it cuts it counts in `cuts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import URL

MAX_SENT = 1 << 16
"""So many bytes of a transaction are remembered, for those who decide by what it wrote."""

_ENCRYPTION = {80877103, 80877104}  # SSLRequest, GSSENCRequest: both are answered with a plain no
_ENDS = {b"COMMIT", b"END", b"COMMIT TRANSACTION", b"END TRANSACTION", b"COMMIT WORK", b"END WORK"}


class Cut(StrEnum):
    """What happens to a connection that says COMMIT."""

    BEFORE_COMMIT = "before commit"
    """Both sides are cut; the server never sees the COMMIT."""
    AFTER_COMMIT = "after commit"
    """The server has answered, and the client is cut without the answer."""
    HANG_BEFORE_COMMIT = "half-open before commit"
    """Nothing is forwarded any more, and nothing closed; cut after `hang_seconds`."""
    HANG_AFTER_COMMIT = "half-open after commit"
    """As before, but the server has answered."""


@dataclass(frozen=True)
class Commit:
    """A COMMIT that has arrived from a client and was not forwarded yet."""

    connection: int
    """Which connection of this proxy, from 1."""
    sent: bytes
    """What the client sent since the transaction before, at most `MAX_SENT` bytes of it."""


Decide = Callable[[Commit], Cut | None]


def let_pass(commit: Commit) -> None:
    """Cut nothing."""


class Proxy:
    """Listens on 127.0.0.1 for the length of a `with`; `server` is where it connects."""

    def __init__(self, server: URL, decide: Decide = let_pass, hang_seconds: float = 1.0) -> None:
        self._host = str(server.query.get("host") or server.host or "127.0.0.1")
        self._server_port = server.port or 5432
        self.decide, self.hang_seconds = decide, hang_seconds
        self.cuts: Counter[str] = Counter()
        self.connections = 0
        self.port = 0
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._ready: Future[None] = Future()

    def url(self, server: URL) -> URL:
        """The address of `server`, through here."""
        return server.set(host="127.0.0.1", port=self.port, query={})

    def cut_all(self, hang: bool = False) -> int:
        """Cut every connection, half-open ones too, or leave all half-open for a while; how many."""
        return asyncio.run_coroutine_threadsafe(self._cut_all(hang), self._loop).result(10)

    async def _cut_all(self, hang: bool) -> int:
        victims = [one for one in self._open if not (hang and one.is_hanging)]
        for one in victims:
            self.cuts["half-open at random" if hang else "at random"] += 1
            one.hang() if hang else one.cut()
        return len(victims)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set_result(None)
        loop.run_forever()
        server.close()
        for one in list(self._open):
            one.cut()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        client = _Side(reader, writer)
        try:
            server = await self._connect()
        except OSError:
            client.reset()
            return
        one = _Connection(self, self.connections, client, server)
        self._open.add(one)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
                await one.run()
        finally:
            self._open.discard(one)

    async def _connect(self) -> _Side:
        if self._host.startswith("/"):
            path = f"{self._host}/.s.PGSQL.{self._server_port}"
            return _Side(*await asyncio.open_unix_connection(path, limit=1 << 20))
        return _Side(*await asyncio.open_connection(self._host, self._server_port, limit=1 << 20))


class _Side:
    """One end: messages in, bytes out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def startup(self) -> bytes:
        """A message without a type, as a client's first one is."""
        head = await self._reader.readexactly(4)
        return head + await self._reader.readexactly(int.from_bytes(head) - 4)

    async def message(self) -> bytes:
        """One whole message."""
        head = await self._reader.readexactly(5)
        return head + await self._reader.readexactly(int.from_bytes(head[1:]) - 4)

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    def reset(self) -> None:
        """Close without goodbye: what is unsent is lost, and the peer gets a RST."""
        connection = self._writer.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_INET:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class _Connection:
    """A client, its server, and what is known of the transaction between them."""

    def __init__(self, proxy: Proxy, number: int, client: _Side, server: _Side) -> None:
        self._proxy, self._number, self._client, self._server = proxy, number, client, server
        self._sent = bytearray()
        self._commits: set[bytes] = set()  # prepared statements, and portals, that are a COMMIT
        self._swallow: Cut | None = None  # how to cut once the server has answered
        self._cut = asyncio.Event()
        self.is_hanging = False

    async def run(self) -> None:
        ways = [asyncio.ensure_future(self._quietly(way)) for way in (self._up, self._down)]
        ended = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait([*ways, ended], return_when=asyncio.FIRST_COMPLETED)
            if self.is_hanging:
                await asyncio.wait([ended], timeout=self._proxy.hang_seconds)
        finally:
            for task in (*ways, ended):
                task.cancel()
            await asyncio.gather(*ways, ended, return_exceptions=True)
            self._client.reset()
            self._server.reset()

    def cut(self) -> None:
        """Reset both sides."""
        self._cut.set()

    def hang(self) -> None:
        """Forward nothing more, close nothing; after a while, cut."""
        self.is_hanging = True
        asyncio.get_running_loop().call_later(self._proxy.hang_seconds, self.cut)

    async def _quietly(self, way: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await way()

    async def _up(self) -> None:
        """From the client to the server."""
        while True:
            first = await self._client.startup()
            if int.from_bytes(first[4:8]) not in _ENCRYPTION:
                break
            await self._client.send(b"N")
        await self._server.send(first)
        while True:
            message = await self._client.message()
            if self.is_hanging:
                await self._cut.wait()
            if self._swallow is None and self._is_commit(message):
                await self._committing()
            if len(self._sent) < MAX_SENT:
                self._sent += message[:MAX_SENT]
            await self._server.send(message)

    async def _committing(self) -> None:
        commit = Commit(self._number, bytes(self._sent))
        self._sent.clear()
        chosen = self._proxy.decide(commit)
        if chosen is None:
            return
        self._proxy.cuts[chosen] += 1
        if chosen in (Cut.AFTER_COMMIT, Cut.HANG_AFTER_COMMIT):
            self._swallow = chosen
            return
        await self._end(chosen)

    async def _end(self, cut: Cut) -> None:
        """Cut, or hang and cut; never returns."""
        if cut in (Cut.HANG_BEFORE_COMMIT, Cut.HANG_AFTER_COMMIT):
            self.hang()
        else:
            self.cut()
        await asyncio.Event().wait()

    async def _down(self) -> None:
        """From the server to the client."""
        while True:
            message = await self._server.message()
            if self.is_hanging:
                await self._cut.wait()
            if self._swallow is None:
                await self._client.send(message)
            elif message[:1] == b"Z":  # ready for the next query: the COMMIT has its answer
                await self._end(self._swallow)

    def _is_commit(self, message: bytes) -> bool:
        """Whether the server would commit on receiving this. Remembers who is prepared to."""
        kind, body = message[:1], message[5:]
        if kind == b"Q":
            return _says_commit(body.split(b"\0")[0])
        if kind == b"P":
            name, query = body.split(b"\0")[:2]
            self._mark(b"S" + name, _says_commit(query))
        elif kind == b"B":
            portal, name = body.split(b"\0", 2)[:2]
            self._mark(b"P" + portal, b"S" + name in self._commits)
        elif kind == b"E":
            return b"P" + body.split(b"\0")[0] in self._commits
        return False

    def _mark(self, name: bytes, commits: bool) -> None:
        (self._commits.add if commits else self._commits.discard)(name)


def _says_commit(query: bytes) -> bool:
    return b" ".join(query.strip(b" \t\r\n;").upper().split()) in _ENDS


def on(needle: bytes, cut: Cut, times: int = 1) -> Any:
    """Decides for `cut`, the first `times` that a transaction is committed which sent `needle`."""
    left = [times]

    def decide(commit: Commit) -> Cut | None:
        if left[0] and needle in commit.sent:
            left[0] -= 1
            return cut
        return None

    return decide
