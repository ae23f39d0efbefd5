"""E-mail over SMTP: each attempt hands one message for one recipient to one server.

    app.adapter("email", queue="mail")(Smtp("smtp.example.org", sender="shop@example.org", ...))

============================  ======================================================================
2xx after the whole message   `Delivered`, the receipt being the reply and the Message-ID
4xx, at any time              `Retry`, by the backoff: greylisting, a full disk, a server that closes
5xx to RCPT                   `Bounced`; with an enhanced code that speaks of policy or of the sender
                              rather than of the mailbox (RFC 3463), `Cancel`
5xx to MAIL, DATA, message    `Cancel`: it would be refused again; `Bounced` where the enhanced code
                              speaks of the mailbox
5xx before MAIL, and 530,     `Retry`: the greeting, TLS and the password are about us and the server,
534, 535, 538 at any time     and no reason to drop what is owed while a person mends them
no connection, broken talk    `Retry`, as long as the end of the message was not sent
the same after that           `Unknown`: it may have been accepted; `on_unknown` decides
no address, no message        `Cancel`; what `message` raises, `Retry`
============================  ======================================================================

SMTP has no idempotency key. A message that was accepted while its reply was lost is sent again, with
the same Message-ID, made from the delivery's key: some mailboxes fold the two, others show both. Where
the second copy would do harm, say `effect="unsafe"`.
"""

from __future__ import annotations

import base64
import re
import ssl
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from smtplib import SMTPAuthenticationError
from typing import Final, Literal

from deliveries.adapters.letters import letter, sender_of, written
from deliveries.adapters.smtp import Conversation, Garbled, Refused, address, redacted
from deliveries.core.delivery import Attempt, Delivery
from deliveries.core.notes import clean, describe, type_name
from deliveries.core.outcomes import Bounced, Cancel, Delivered, Outcome, Retry, Unknown, seconds
from deliveries.errors import InvalidAdapter, shown

__all__ = ["Smtp", "letter"]

HEADROOM: Final = 0.1
"""Share of an attempt's timeout kept back, at most half a second, so that our verdict is first."""

PORTS: Final = {"starttls": 587, "implicit": 465, "none": 25}
"""Where each kind of `tls` is usually spoken (RFC 6409, RFC 8314, RFC 5321)."""

Compose = Callable[[Delivery], "EmailMessage | Outcome"]
Tls = Literal["starttls", "implicit", "none"]

_ABOUT_US = ("connect", "EHLO", "STARTTLS", "AUTH")
_LOG_IN_FIRST = (530, 534, 535, 538)  # RFC 4954, sections 4.7.1 and 6
_MAILBOX = re.compile(r"5\.(1\.(?![78]\b)|2\.)[0-9]{1,3}\b")  # X.1.7 and X.1.8 are the sender's address


class Smtp:
    """An adapter that mails to `delivery.recipient`, a bare address: one message, one recipient.

    A message without them gets From, To and Date; the Message-ID is always ours, and Bcc is taken
    out. A new connection is made for each attempt. Durations are seconds or a timedelta.

    Args:
        host: The server, by the name that its certificate has.
        port: By default 587 for "starttls", 465 for "implicit", 25 for "none".
        sender: Who it is from, as `shop@example.org` or `The Shop <shop@example.org>`. Bounce
            messages come back to this address.
        tls: "starttls": demanded, never done without. "implicit": from the first byte. "none": for
            a server on the same machine.
        username: With `password`: sent only under TLS.
        password: See `username`.
        message: Makes the message of a delivery, `letter` by default. It may return or raise an
            outcome instead; any other exception is a failed attempt, since nothing was sent.
        effect: As registered: "natural", since a second copy is a nuisance and seldom harm;
            "keyed" for a server that drops a Message-ID it has seen; "unsafe".
        timeout: From `message` to the last reply; the attempt's own timeout bounds it too.
        connect_timeout: For each address of the host.
        hostname: What we call ourselves; by default the address of our end of the connection.
        context: How to verify; by default the system's certificates, and the host's name.

    Raises:
        InvalidAdapter: an argument is out of range, or a password would be sent in the clear.
    """

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        sender: str,
        tls: Tls = "starttls",
        username: str | None = None,
        password: str | None = None,
        message: Compose = letter,
        effect: Literal["natural", "keyed", "unsafe"] = "natural",
        timeout: float | timedelta = 30.0,
        connect_timeout: float | timedelta = 5.0,
        hostname: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.effect = effect
        self._host, self._tls, self._message, self._hostname = host, tls, message, hostname
        self._login = None if username is None or password is None else (username, password)
        try:
            self._sender, self._from = sender_of(sender)
            self._timeout = seconds(timeout, "timeout")
            self._connect_timeout = seconds(connect_timeout, "connect_timeout")
            flaw = _flaw_of(host, port, tls, username, password, hostname, effect)
        except (ValueError, TypeError) as error:
            raise InvalidAdapter(str(error)) from None
        if not self._timeout or not self._connect_timeout:
            flaw = "a timeout of 0 seconds leaves no time to send anything"
        if flaw is not None:
            raise InvalidAdapter(flaw)
        self._port = PORTS[tls] if port is None else port
        self._context = context or ssl.create_default_context()
        self._secrets = _forms(*self._login) if self._login else ()

    def __call__(self, delivery: Delivery, attempt: Attempt) -> Outcome:
        """One attempt. No `Exception` leaves it."""
        limit = min(self._timeout, attempt.timeout - min(attempt.timeout * HEADROOM, 0.5))
        deadline = time.monotonic() + limit
        try:
            recipient = address(delivery.recipient)
        except ValueError as error:
            return Cancel(str(error))
        try:
            made = self._message(delivery)
            if isinstance(made, Outcome):
                return made
            message, identity = self._completed(made, delivery, attempt)
        except Outcome as said:
            return said
        except Exception as error:
            return Retry(error)  # nothing was sent
        try:
            content = written(message, wide=not recipient.isascii())
        except Exception as error:
            return Cancel(f"the message cannot be sent: {describe(error)}")
        return self._exchange(recipient, content, identity, deadline)

    def _completed(
        self, message: EmailMessage, delivery: Delivery, attempt: Attempt
    ) -> tuple[EmailMessage, str]:
        """A copy with what was missing, and the Message-ID, which is the same for every attempt."""
        if not isinstance(message, EmailMessage):
            raise TypeError(f"an EmailMessage is needed, not {type(message).__name__}")
        message = deepcopy(message)  # the same one may be made for somebody else, in another thread
        identity = f"<{delivery.idempotency_key}@{self._sender.rpartition('@')[2]}>"
        for name in ("Bcc", "Resent-Bcc", "Message-ID"):
            del message[name]
        message["Message-ID"] = identity
        for name, value in (
            ("From", self._from),
            ("To", delivery.recipient),
            ("Date", format_datetime(attempt.started_at)),
        ):
            if name not in message:
                message[name] = value
        return message, identity

    def _exchange(self, recipient: str, content: bytes, identity: str, deadline: float) -> Outcome:
        smtp, sent = None, False
        try:
            smtp = Conversation(
                self._host, self._port, deadline=deadline, connect_timeout=self._connect_timeout
            )
            self._enter(smtp)
            self._address(smtp, recipient, len(content))
            smtp.send(content)
            sent = True  # its last dot too: from here on it may be accepted
            reply = smtp.expect("message", 2)
        except Outcome as said:
            return said
        except Refused as refused:
            return self._judge(refused)
        except Exception as error:
            text = self._broken(error)
            return Unknown(f"{text}, after the whole message was sent") if sent else Retry(text)
        finally:
            if smtp is not None:
                smtp.leave()
        return Delivered({"reply": self._told(reply), "message_id": identity})

    def _enter(self, smtp: Conversation) -> None:
        """Greet, secure the line, and say who we are."""
        if self._hostname is not None:
            smtp.local_hostname = self._hostname
        if self._tls == "implicit":
            smtp.secure(self._context)
        smtp.expect("connect", 2)
        smtp.expect("EHLO", 2, smtp.ehlo())
        if self._tls == "starttls":
            if not smtp.has_extn("starttls"):
                raise Garbled("the server offers no TLS")
            smtp.expect("STARTTLS", 2, smtp.docmd("STARTTLS"))
            smtp.secure(self._context)
            smtp.expect("EHLO", 2, smtp.ehlo())
        if self._login is not None:
            try:
                smtp.login(*self._login)
            except SMTPAuthenticationError as error:
                smtp.expect("AUTH", 2, (error.smtp_code, error.smtp_error))

    def _address(self, smtp: Conversation, recipient: str, size: int) -> None:
        """The envelope, up to where the message may follow."""
        wide = not recipient.isascii()
        if wide and not smtp.has_extn("smtputf8"):
            raise Cancel("the recipient's address is not ASCII, and the server takes none such")
        smtp.command_encoding = "utf-8" if wide else "ascii"
        options = f" SIZE={size}" if smtp.has_extn("size") else ""
        options += " SMTPUTF8" if wide else ""
        smtp.expect("MAIL", 2, smtp.docmd("MAIL", f"FROM:<{self._sender}>{options}"))
        smtp.expect("RCPT", 2, smtp.docmd("RCPT", f"TO:<{recipient}>"))
        smtp.expect("DATA", 3, smtp.docmd("DATA"))

    def _judge(self, refused: Refused) -> Outcome:
        stage, code = refused.stage, refused.code
        text = f"SMTP {code} to {stage} from {self._host}:{self._port}: {self._told(refused.text)}"
        if code // 100 not in (4, 5):  # an answer to some other question
            return Unknown(text) if stage == "message" else Retry(text)
        if code < 500 or stage in _ABOUT_US or code in _LOG_IN_FIRST:
            return Retry(text)
        enhanced = re.match(r"5\.[0-9]{1,3}\.[0-9]{1,3}\b", refused.text)
        bounced = _MAILBOX.match(refused.text) if enhanced else stage == "RCPT"
        return Bounced(text) if bounced and stage != "MAIL" else Cancel(text)

    def _broken(self, error: Exception) -> str:
        return f"{type_name(error)} from {self._host}:{self._port}: {self._told(describe(error))}"

    def _told(self, text: str) -> str:
        return redacted(text, self._secrets, lambda told: clean(told, 300))


def _flaw_of(
    host: str,
    port: int | None,
    tls: str,
    username: str | None,
    password: str | None,
    hostname: str | None,
    effect: str,
) -> str | None:
    """What is wrong with the arguments; None if nothing is."""
    if not isinstance(host, str) or not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", host):
        return "host must be a name or an address, without a port"
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65_536):
        return f"port must be 1..65535, not {shown(port)}"
    if tls not in PORTS:
        return f"tls must be 'starttls', 'implicit' or 'none', not {shown(tls)}"
    if (username is None) != (password is None):
        return "username and password belong together"
    if not (username or "").isascii() or not (password or "").isascii():
        return "username and password must be ASCII"
    if username is not None and tls == "none":
        return "the password would be sent in the clear: say tls='starttls' or 'implicit'"
    if hostname is not None and not re.fullmatch(r"[\[\]A-Za-z0-9.:-]{1,255}", hostname):
        return "hostname must be a name, or an address in brackets"
    if effect not in ("natural", "keyed", "unsafe"):
        return f"effect must be 'natural', 'keyed' or 'unsafe', not {shown(effect)}"
    return None


def _forms(username: str, password: str) -> tuple[str, ...]:
    """How a server may echo what we logged in with."""
    sent = (password, f"\0{username}\0{password}")
    return (*sent, *(base64.b64encode(form.encode()).decode() for form in sent))
