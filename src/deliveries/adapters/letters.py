"""What is mailed: the default message of a payload, the sender, and the bytes for the wire."""

from __future__ import annotations

import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from deliveries.adapters.smtp import address, dotted, lined
from deliveries.core.delivery import Delivery
from deliveries.core.outcomes import Cancel

_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322, section 3.6.8


def letter(delivery: Delivery) -> EmailMessage:
    """The message of a payload such as `{"subject": ..., "text": ...}`, with `"html"` if there is one.

    Raises: Cancel, naming what is wrong and repeating none of it.
    """
    payload = delivery.payload if isinstance(delivery.payload, dict) else {}
    if not {"subject", "text"} <= payload.keys() <= {"subject", "text", "html"}:
        raise Cancel('the payload must have "subject" and "text", may have "html", and nothing else')
    if not all(isinstance(part, str) for part in payload.values()):
        raise Cancel("subject, text and html must be text")
    subject = payload["subject"]
    if subject and subject.splitlines() != [subject]:  # `EmailMessage` would take one at the end
        raise Cancel("the subject holds a line break")
    message = EmailMessage()
    message["Subject"] = subject
    message.set_content(payload["text"])
    if "html" in payload:
        message.add_alternative(payload["html"], subtype="html")
    return message


def sender_of(sender: str) -> tuple[str, Address]:
    """The address of the envelope, and what From says. Raises: ValueError."""
    if not isinstance(sender, str) or not sender.isprintable():
        raise ValueError("sender must be an address, or a name and an address in <>")
    name, bracket, rest = sender.rpartition("<")
    spec = rest.removesuffix(">") if bracket else sender
    try:
        plain = address(spec if spec.isascii() and (not bracket or rest != spec) else None)
    except ValueError:
        raise ValueError("sender must be one address, in ASCII, in <> where a name precedes it") from None
    return plain, Address(name.strip().strip('"'), addr_spec=plain)


def written(message: EmailMessage, *, wide: bool) -> bytes:
    """The bytes for the wire. Raises: ValueError where a header is not one header."""
    policy = SMTP.clone(cte_type="7bit", utf8=wide)
    flat = lined(message.as_bytes(policy=policy))  # first: a lone line break ends a header's line as well
    head = flat.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    # However it was smuggled in: what would be read as a header must be one that was set.
    if names != message.keys() or not all(map(_HEADER_NAME.fullmatch, names)):
        raise ValueError("a header holds a line break, or its name cannot be one")
    return dotted(flat)
