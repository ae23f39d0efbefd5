"""The example that mails invoices: real PDFs, real SMTP, and a proof that can fail."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pypdf import PdfReader

from deliveries import Deliveries, Delivery, Status
from unit.docs.pages import blocks, matches

ROOT = Path(__file__).parents[2]
README = ROOT / "examples" / "invoices" / "README.md"
SECONDS = 120.0


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def test_the_story_is_as_its_page_says(empty_url: str) -> None:
    table, explanation, verdict = blocks(README.read_text(), "text")
    command = [sys.executable, "-W", "error", "-m", "examples.invoices.story", "--url", empty_url]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.startswith(table)
    assert any(matches(explanation.strip(), part) for part in told.stdout.split("\n\n"))
    assert told.stdout.endswith(verdict)
    with closing(Deliveries(empty_url)) as app, app.engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from invoices").scalar() == 9


def an_invoice(id: int = 7, **fields: Any) -> Any:
    from examples.invoices.billing import Invoice

    given = {"customer": "Zoë", "email": "zoe@tea.example", "issued": date(2026, 3, 1), **fields}
    return Invoice(id=id, lines=[("Green tea", 450), ("Cups", 123_456)], withdrawn=False, **given)


def test_a_pdf_says_what_the_invoice_says_and_is_the_same_each_time() -> None:
    from examples.invoices.billing import pdf

    document = pdf(an_invoice())
    assert document.startswith(b"%PDF-")
    assert pdf(an_invoice()) == document
    (page,) = PdfReader(io.BytesIO(document)).pages
    assert page.extract_text().splitlines() == [
        "Invoice 7",
        "Zoë, 01 March 2026",
        "Green tea EUR 4.50",
        "Cups EUR 1,234.56",
        "Total EUR 1,239.06",
    ]


def delivery(status: str) -> Delivery:
    return Delivery(
        id=uuid4(),
        channel="invoice",
        queue="invoices",
        status=Status(status),
        version=3,
        scheduled_at=datetime(2026, 1, 1, tzinfo=UTC),
        due_at=None,
    )


@pytest.mark.parametrize(
    ("status", "mails", "found"),
    [
        ("succeeded", ["its own"], []),
        ("cancelled", [], []),
        ("suppressed", [], []),
        ("succeeded", [], ["Invoice 7: succeeded, and 0 mails"]),
        ("succeeded", ["its own", "its own"], ["Invoice 7: succeeded, and 2 mails"]),
        ("cancelled", ["its own"], ["Invoice 7: cancelled, and 1 mails"]),
        ("held", [], ["Invoice 7 is held, not settled"]),
        ("pending", ["its own"], ["Invoice 7 is pending, not settled"]),
        (None, [], ["Invoice 7 is forgotten"]),
        ("succeeded", ["another total"], ["Invoice 7 states another total"]),
        (
            "succeeded",
            ["its own", "somebody else's"],
            ["zoe@tea.example got somebody else's Invoice 8"],
        ),
    ],
)
def test_what_the_proof_finds(status: str | None, mails: Sequence[str], found: list[str]) -> None:
    from examples.invoices.billing import pdf
    from examples.invoices.proof import findings

    def message(kind: str) -> EmailMessage:
        invoice = an_invoice(8 if kind == "somebody else's" else 7)
        invoice.lines = invoice.lines[: 1 if kind == "another total" else None]
        made = EmailMessage()
        made.add_attachment(pdf(invoice), maintype="application", subtype="pdf")
        return made

    inbox = {"zoe@tea.example": [message(kind) for kind in mails]}
    owed = {} if status is None else {"invoice:7": delivery(status)}
    assert findings([an_invoice()], owed, lambda address: inbox[address]) == found


def test_a_debt_that_nobody_issued_is_found() -> None:
    from examples.invoices.proof import findings

    assert findings([], {"invoice:9": delivery("succeeded")}, lambda address: []) == [
        "invoice:9 was never issued"
    ]
