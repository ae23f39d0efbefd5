"""Invoices, their PDF, and the mail that carries it. If you read one file, read this."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from email.message import EmailMessage
from typing import Any

from fpdf import FPDF
from sqlalchemy import JSON, Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from deliveries import Backoff, Cancel, Deliveries, Delivery, Draft, Suppress
from deliveries.adapters.email import Smtp


class Base(DeclarativeBase):
    """The shop's own tables."""


class Invoice(Base):
    """One invoice. `lines`: pairs of a text and an amount in cents."""

    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    email: Mapped[str]
    issued: Mapped[date]
    lines: Mapped[list[Any]] = mapped_column(JSON)
    withdrawn: Mapped[bool] = mapped_column(default=False)

    @property
    def cents(self) -> int:
        """The total."""
        return sum(cents for _, cents in self.lines)


def issue(app: Deliveries, session: Session, invoices: Sequence[Invoice]) -> list[Delivery]:
    """Write invoices down, and that each is owed to its customer: all of it, or nothing.

    The debt carries the invoice's id and nothing else. What it says is read when it is sent.
    """
    session.add_all(invoices)
    session.flush()  # the ids exist from here on, and the keys are made of them
    owed = [Draft({"invoice": one.id}, recipient=one.email, key=f"invoice:{one.id}") for one in invoices]
    return app.schedule_many(session, "invoice", owed)


def billing(database: str, port: int) -> Deliveries:
    """The application; mail goes to the server at this port.

    `app.running({"invoices": 3})` makes three PDFs at a time: it is hard work.
    """
    app = Deliveries(database)
    smtp = Smtp(
        "127.0.0.1",
        port,
        sender="Billing <billing@shop.example>",
        tls="none",  # the server is on this machine; elsewhere leave it out
        message=lambda delivery: mail(app.engine, delivery),
    )
    app.adapter("invoice", queue="invoices", max_attempts=5, backoff=Backoff.linear(0.2))(smtp)
    return app


def mail(engine: Engine, delivery: Delivery) -> EmailMessage | Cancel | Suppress:
    """The message for one invoice. What it raises is a failed attempt, since nothing was sent."""
    with Session(engine) as session:
        invoice = session.get(Invoice, delivery.payload["invoice"])
    if invoice is None:
        return Cancel("there is no such invoice")
    if invoice.withdrawn:
        return Suppress("the invoice was withdrawn")
    message = EmailMessage()
    message["Subject"] = f"Invoice {invoice.id}"
    message.set_content(f"Dear {invoice.customer},\n\nplease find attached your invoice {invoice.id}.\n")
    message.add_attachment(
        pdf(invoice), maintype="application", subtype="pdf", filename=f"invoice-{invoice.id}.pdf"
    )
    return message


def pdf(invoice: Invoice) -> bytes:
    """One page; the same bytes each time, so that a second attempt sends the same document.

    The fonts that come with every reader know Latin-1 only. For other names load one with `add_font`.
    """
    page = FPDF()
    page.set_creation_date(datetime.combine(invoice.issued, time.min, tzinfo=UTC))
    page.add_page()
    page.set_font("Helvetica", "B", 20)
    page.cell(text=f"Invoice {invoice.id}", new_x="LMARGIN", new_y="NEXT")
    page.set_font("Helvetica", size=11)
    page.cell(h=12, text=f"{invoice.customer}, {invoice.issued:%d %B %Y}", new_x="LMARGIN", new_y="NEXT")
    with page.table(col_widths=(4, 1), text_align=("LEFT", "RIGHT"), first_row_as_headings=False) as table:
        for text, cents in [*invoice.lines, ("Total", invoice.cents)]:
            row = table.row()
            row.cell(text)
            row.cell(money(cents))
    return bytes(page.output())


def money(cents: int) -> str:
    """As people write it."""
    return f"EUR {cents // 100:,}.{cents % 100:02d}"
