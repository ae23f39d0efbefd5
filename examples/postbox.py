"""A mail server for the examples: aiosmtpd in a thread of its own. It has never heard of `deliveries`.

The address decides how it behaves: mail to `gone@...` is refused, to `busy@...` put off the first
time, and for `lost@...` the server dies once, after it accepted the message and before it says so.
"""

from __future__ import annotations

import asyncio
import email
import threading
from email.message import EmailMessage
from email.policy import default
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session


class Postbox:
    """Open for the length of a `with`, on `port`. `letters`: recipient and message, as accepted."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, EmailMessage]] = []
        self._seen: set[str] = set()
        self._open, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)

    def inbox(self, recipient: str) -> list[EmailMessage]:
        """What its owner sees: of messages with the same Message-ID, one."""
        mine = [message for name, message in self.letters if name == recipient]
        return list({message["Message-ID"]: message for message in mine}.values())

    def _first_time(self, recipient: str, mood: str) -> bool:
        first = recipient.startswith(f"{mood}@") and recipient not in self._seen
        self._seen |= {recipient} if first else set()
        return first

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Who may get mail."""
        if address.startswith("gone@"):
            return "550 5.1.1 no such mailbox"
        if self._first_time(address, "busy"):
            return "451 4.7.1 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Accept a message."""
        assert isinstance(envelope.original_content, bytes)
        message = email.message_from_bytes(envelope.original_content, policy=default)
        assert isinstance(message, EmailMessage)
        for recipient in envelope.rcpt_tos:
            self.letters.append((recipient, message))
            if self._first_time(recipient, "lost"):
                assert isinstance(server.transport, asyncio.Transport)
                server.transport.abort()
        return f"250 2.0.0 Ok: queued as {len(self.letters)}"

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        listening = await self._loop.create_server(lambda: SMTP(self, loop=self._loop), "127.0.0.1", 0)
        self.port: int = listening.sockets[0].getsockname()[1]
        self._open.set()
        async with listening:
            await self._closing.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        self._open.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
