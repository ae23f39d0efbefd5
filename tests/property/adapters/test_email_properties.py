"""Whatever stands in a message, an address or a reply: one message, one recipient, a clear outcome."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveries.adapters.email import Smtp, letter
from deliveries.adapters.letters import written
from deliveries.adapters.smtp import Refused, address, dotted
from deliveries.core.delivery import Delivery, Status
from deliveries.core.outcomes import Bounced, Cancel, Outcome, Retry, Unknown

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADAPTER = Smtp("mail.example", sender="shop@example.org")


def a_delivery(subject: str, text: str, html: str | None = None) -> Delivery:
    payload = {"subject": subject, "text": text} | ({} if html is None else {"html": html})
    return Delivery(
        id=UUID(int=7),
        channel="email",
        queue="mail",
        status=Status.ATTEMPTING,
        version=2,
        scheduled_at=NOW,
        due_at=None,
        payload=payload,
    )


def undotted(wire: bytes) -> tuple[bytes, bytes]:
    """As a server reads it (RFC 5321, section 4.5.2): the message, and what it takes for commands."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    kept = [line[1:] if line.startswith(b".") else line for line in lines[:end]]
    return b"".join(line + b"\r\n" for line in kept), b"\r\n".join(lines[end + 1 :])


# -- the message -------------------------------------------------------------------------------

hostile = st.sampled_from([b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\n.\r\n", b".", b"..", b"\r", b"\n", b"x"])


@given(st.lists(hostile | st.binary(max_size=5), max_size=12).map(b"".join))
def test_a_message_ends_once_and_is_read_as_it_was(content: bytes) -> None:
    wire = dotted(content)
    assert not {*b"\r\n"} & {*wire.replace(b"\r\n", b"")}
    message, rest = undotted(wire)
    assert rest == b""
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
    assert message == b"".join(line + b"\r\n" for line in lines)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
encoded = st.sampled_from(["=?utf-8?q?=0D=0ABcc:_eve=40x?=", "=?utf-8?b?DQpCY2M6IGV2ZUB4?=", "a: b", "\t"])


@given(st.lists(texts | encoded, max_size=5).map(" ".join), texts, st.none() | texts)
@example("\x85Bcc: eve@x", "", None)
@example("\u2028Bcc: eve@x", "\u2028", "\x85")
@example("x" * 998, ".", ".")
@example("\n", "", None)
@example("x\r", "", None)
def test_any_subject_and_text_are_refused_or_arrive_under_their_own_headers(
    subject: str, text: str, html: str | None
) -> None:
    try:
        made = letter(a_delivery(subject, text, html))
        wire = written(made, wide=False)
    except (Cancel, ValueError):
        return
    assert wire.isascii()
    got = email.message_from_bytes(undotted(wire)[0], policy=email.policy.default)
    assert isinstance(got, EmailMessage)
    assert got.keys() == made.keys()
    body = got.get_body(["plain"])
    assert isinstance(body, EmailMessage)
    sent = made.get_body(["plain"])
    assert isinstance(sent, EmailMessage)
    assert body.get_content().splitlines() == sent.get_content().splitlines()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_an_ordinary_subject_arrives(subject: str) -> None:
    wire = written(letter(a_delivery(subject, "text")), wide=False)
    got = email.message_from_bytes(undotted(wire)[0], policy=email.policy.default)
    if "=?" not in subject:
        assert str(got["Subject"]).split() == subject.split()


# -- addresses ---------------------------------------------------------------------------------

marks = st.sampled_from(["@", ".", "<", ">", ",", '"', "(", "\r\n", "\n", " ", "\0", "é", "\u202e", "%", ":"])


@given(st.lists(marks | st.text(max_size=4), max_size=9).map("".join))
def test_any_address_is_one_word_or_refused(value: str) -> None:
    try:
        found = address(value)
    except ValueError:
        return
    assert found == value
    assert found.count("@") == 1
    assert len(found.encode()) <= 254
    assert not set(found) & set('<>,"();:\\[]\r\n\0 \t')


@given(st.emails())
def test_ordinary_addresses_are_usable(value: str) -> None:
    local, _, _ = value.rpartition("@")
    if len(local) <= 64 and len(value) <= 254:
        assert address(value) == value


# -- replies -----------------------------------------------------------------------------------


@given(
    st.sampled_from(["connect", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "message"]),
    st.integers(100, 599),
    st.text(max_size=30) | st.from_regex(r"[245]\.[0-9]{1,3}\.[0-9]{1,3} .{0,9}", fullmatch=True),
)
def test_every_reply_has_its_outcome(stage: str, code: int, text: str) -> None:
    outcome: Outcome = ADAPTER._judge(Refused(stage, code, text))
    if code < 400:
        assert type(outcome) is (Unknown if stage == "message" else Retry)
    elif code < 500 or stage in ("connect", "EHLO", "STARTTLS", "AUTH") or code in (530, 534, 535, 538):
        assert type(outcome) is Retry
    elif stage == "MAIL":
        assert type(outcome) is Cancel
    else:
        assert type(outcome) in (Cancel, Bounced)
    assert len(str(outcome.text)) < 400


@pytest.mark.parametrize("stage", ["RCPT", "message"])
@given(st.integers(0, 999), st.integers(0, 999))
def test_only_the_mailbox_bounces(stage: str, subject: int, detail: int) -> None:
    outcome = ADAPTER._judge(Refused(stage, 550, f"5.{subject}.{detail} no"))
    mailbox = subject == 2 or (subject == 1 and detail not in (7, 8))
    assert type(outcome) is (Bounced if mailbox else Cancel)
