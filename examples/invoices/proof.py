"""The customers' mailboxes held against the invoices; the PDFs are read by another library."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage

from pypdf import PdfReader

from deliveries import Delivery

from .billing import Invoice, money

Inbox = Callable[[str], Sequence[EmailMessage]]


def findings(invoices: Sequence[Invoice], deliveries: Mapping[str, Delivery], inbox: Inbox) -> list[str]:
    """What speaks against "each invoice once, to its customer, with its total"; nothing if it holds.

    `deliveries`: by key. `inbox`: what the owner of an address sees.
    """
    found = []
    for invoice in invoices:
        delivery, title = deliveries.get(f"invoice:{invoice.id}"), f"Invoice {invoice.id}"
        texts = [text_of(message) for message in inbox(invoice.email)]
        mine = [text for text in texts if text.startswith(f"{title}\n")]
        if delivery is None:
            found.append(f"{title} is forgotten")
        elif not delivery.is_terminal:
            found.append(f"{title} is {delivery.status}, not settled")
        elif len(mine) != (delivery.status == "succeeded"):
            found.append(f"{title}: {delivery.status}, and {len(mine)} mails")
        if any(f"\nTotal {money(invoice.cents)}" not in text for text in mine):
            found.append(f"{title} states another total")
    for address in sorted({one.email for one in invoices}):
        titles = {text_of(message).partition("\n")[0] for message in inbox(address)}
        theirs = {f"Invoice {one.id}" for one in invoices if one.email == address}
        found += [f"{address} got somebody else's {title}" for title in sorted(titles - theirs)]
    issued = {f"invoice:{one.id}" for one in invoices}
    return found + [f"{key} was never issued" for key in sorted(deliveries.keys() - issued)]


def text_of(message: EmailMessage) -> str:
    """What the attached PDF says. Raises: whatever a broken one makes the reader raise."""
    (attached,) = message.iter_attachments()
    assert isinstance(attached, EmailMessage)
    assert attached.get_content_type() == "application/pdf"
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(attached.get_content())).pages)
