from __future__ import annotations

import email.policy
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import pytest

from deliveries.adapters.email import Smtp, letter
from deliveries.core.delivery import Attempt, Delivery, Status
from deliveries.core.outcomes import Bounced, Cancel, Delivered, Outcome, Retry, Suppress, Unknown
from deliveries.errors import InvalidAdapter
from support import mail
from support.mail import Act, Postbox, Scripted
from support.receiver import CERTIFICATE

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
ID = UUID("01890000-0000-7000-8000-000000000001")
MESSAGE_ID = f"<{ID}@shop.example>"
PASSWORD = "pearls-before-swine"


def an_attempt(number: int = 1, timeout: float = 10.0) -> Attempt:
    return Attempt(number=number, is_last=False, timeout=timeout, started_at=NOW)


def a_delivery(recipient: str | None = "ann@example.org", payload: Any = None, **fields: Any) -> Delivery:
    return Delivery(
        id=ID,
        channel="email",
        queue="mail",
        status=Status.ATTEMPTING,
        version=2,
        scheduled_at=NOW,
        due_at=None,
        recipient=recipient,
        payload={"subject": "Paid", "text": "Thank you.\n"} if payload is None else payload,
        **fields,
    )


def smtp(server: Postbox | Scripted, **options: Any) -> Smtp:
    given = {"sender": "The Shop <shop@shop.example>", "tls": "none", **options}
    return Smtp("127.0.0.1", server.port, **given)


def call(adapter: Smtp, *args: Any, attempt: Attempt | None = None, **fields: Any) -> Outcome:
    return adapter(a_delivery(*args, **fields), attempt or an_attempt())


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CERTIFICATE)
    return context


def text(outcome: Outcome) -> str:
    return str(outcome.text)


# -- the message -------------------------------------------------------------------------------


def test_a_message_arrives() -> None:
    with Postbox() as postbox:
        outcome = call(smtp(postbox))
    assert outcome == Delivered({"reply": "2.0.0 Ok: queued as 1", "message_id": MESSAGE_ID})
    (got,) = postbox.letters
    assert (got.sender, got.recipient) == ("shop@shop.example", "ann@example.org")
    assert dict(got.message.items()) == {
        "Subject": "Paid",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
        "MIME-Version": "1.0",
        "Message-ID": MESSAGE_ID,
        "From": "The Shop <shop@shop.example>",
        "To": "ann@example.org",
        "Date": "Sun, 01 Mar 2026 12:30:00 +0000",
    }
    assert got.message.get_content() == "Thank you.\r\n"


def test_every_attempt_has_the_same_message_id() -> None:
    with Postbox() as postbox:
        for number in (1, 2):
            call(smtp(postbox), attempt=an_attempt(number))
    assert [got.message["Message-ID"] for got in postbox.letters] == [MESSAGE_ID] * 2


def test_a_redriven_delivery_keeps_the_message_id_of_its_root() -> None:
    root = UUID(int=ID.int + 1)
    with Postbox() as postbox:
        call(smtp(postbox), root_id=root)
    assert postbox.letters[0].message["Message-ID"] == f"<{root}@shop.example>"


def test_what_is_not_ascii_arrives_as_it_was() -> None:
    payload = {"subject": "Grüße 🎉 " * 20, "text": "naïve\n" + "ö" * 2_000 + "\n", "html": "<p>ß</p>\n"}
    with Postbox(decode_data=False) as postbox:
        assert isinstance(call(smtp(postbox), payload=payload), Delivered)
    (got,) = postbox.letters
    assert got.raw.isascii()
    assert max(map(len, got.raw.split(b"\r\n"))) <= 998
    assert got.message["Subject"] == payload["subject"]
    plain, html = got.message.iter_parts()
    assert isinstance(plain, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert plain.get_content().replace("\r\n", "\n") == payload["text"]
    assert html.get_content().replace("\r\n", "\n") == payload["html"]


def test_dots_and_odd_line_ends_neither_end_a_message_nor_begin_another() -> None:
    body = ".\n..\n.hidden\r\n.\rMAIL FROM:<eve@example.org>\n.\r\n\r.\n end"
    with Scripted() as server:
        assert isinstance(call(smtp(server), payload={"subject": "s", "text": body}), Delivered)
    (content,) = server.messages
    assert content.count(b"\r\n.\r\n") == 1
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert sum(line.startswith("MAIL") for line in server.heard) == 1


@pytest.mark.parametrize(
    "payload",
    [
        "text",
        ["subject", "text"],
        {},
        {"subject": "pearl"},
        {"text": "pearl"},
        {"subject": "pearl", "text": "pearl", "bcc": "pearl@example.org"},
        {"subject": 5, "text": "pearl"},
        {"subject": "pearl", "text": None},
        {"subject": "pearl", "text": "pearl", "html": ["pearl"]},
        {"subject": "pearl\nBcc: eve@example.org", "text": "x"},
        {"subject": "pearl\r\n\r\npearl", "text": "x"},
        {"subject": "pearl\rX: y", "text": "x"},
    ],
)
def test_a_payload_that_makes_no_message_cancels_and_is_not_repeated(payload: Any) -> None:
    with Scripted() as server:
        outcome = call(smtp(server), payload=payload)
    assert type(outcome) is Cancel
    assert "pearl" not in text(outcome)
    assert server.heard == []


@pytest.mark.parametrize(
    "recipient",
    [
        None,
        "",
        "pearl",
        "pearl@",
        "@pearl.example",
        "pearl@one@two",
        "Pearl <pearl@example.org>",
        "<pearl@example.org>",
        "pearl@example.org, eve@example.org",
        "pearl@example.org\r\nRCPT TO:<eve@example.org>",
        "pearl@example.org\n",
        "pearl@example.org>\r\nDATA",
        "pearl@example.org> SIZE=1",
        "pearl @example.org",
        "pearl@exam ple.org",
        '"pearl"@example.org',
        "pearl@[127.0.0.1]",
        "pearl..x@example.org",
        ".pearl@example.org",
        "pearl@-example.org",
        "pearl@example..org",
        "pearl@example.org.",
        "pearl\x00@example.org",
        "pearl\u202e@example.org",
        "pearl\u200b@example.org",
        "pearl@exa\u2028mple.org",
        "pearl@\ud800.example",
        "p" * 65 + "@example.org",
        "pearl@" + "e" * 250 + ".org",
    ],
)
def test_an_address_that_cannot_be_used_cancels_and_is_not_repeated(recipient: str | None) -> None:
    with Scripted() as server:
        outcome = call(smtp(server), recipient)
    assert type(outcome) is Cancel
    assert "pearl" not in text(outcome)
    assert server.heard == []


@pytest.mark.parametrize("recipient", ["a.b+c@example.org", "o'neil@x.example", "root@localhost", "1@2.3"])
def test_ordinary_addresses_are_usable(recipient: str) -> None:
    with Postbox() as postbox:
        assert isinstance(call(smtp(postbox), recipient), Delivered)
    assert postbox.letters[0].recipient == recipient


def test_an_address_that_is_not_ascii_needs_a_server_that_takes_it() -> None:
    with Postbox() as postbox:
        assert isinstance(call(smtp(postbox), "änn@straße.example"), Delivered)
    (got,) = postbox.letters
    assert (got.recipient, got.message["To"]) == ("änn@straße.example", "änn@straße.example")
    assert "SMTPUTF8" in got.options
    with Scripted() as server:
        outcome = call(smtp(server), "änn@example.org")
    assert type(outcome) is Cancel
    assert not any(line.startswith("MAIL") for line in server.heard)


def test_the_server_is_told_the_size_and_our_address() -> None:
    with Postbox() as postbox:
        call(smtp(postbox))
        call(smtp(postbox, hostname="shop.example"))
    assert [got.hello for got in postbox.letters] == ["[127.0.0.1]", "shop.example"]
    assert any(option.startswith("SIZE=") for option in postbox.letters[0].options)


# -- a message of one's own --------------------------------------------------------------------


def test_a_message_of_ones_own_with_an_attachment() -> None:
    def invoice(delivery: Delivery) -> EmailMessage:
        message = letter(delivery)
        message["From"] = "Billing <billing@shop.example>"
        message["To"] = f"Ann <{delivery.recipient}>"
        message["Cc"] = "books@shop.example"
        message["Bcc"] = "eve@example.org"
        message["Message-ID"] = "<other@example.org>"
        message.add_attachment(
            b"%PDF-\x00\xff\r\n.\r\n", maintype="application", subtype="pdf", filename="i.pdf"
        )
        return message

    with Postbox() as postbox:
        assert isinstance(call(smtp(postbox, message=invoice)), Delivered)
    (got,) = postbox.letters
    assert (got.sender, got.recipient) == ("shop@shop.example", "ann@example.org")
    assert got.message["From"] == "Billing <billing@shop.example>"
    assert got.message["To"] == "Ann <ann@example.org>"
    assert got.message["Message-ID"] == MESSAGE_ID
    assert b"eve" not in got.raw
    (attached,) = got.message.iter_attachments()
    assert isinstance(attached, EmailMessage)
    assert attached.get_content() == b"%PDF-\x00\xff\r\n.\r\n"


def test_one_message_for_everybody_names_each_of_them() -> None:
    same = letter(a_delivery())
    with Postbox() as postbox:
        for recipient in ("ann@example.org", "bob@example.org"):
            call(smtp(postbox, message=lambda delivery: same), recipient)
    assert [got.message["To"] for got in postbox.letters] == ["ann@example.org", "bob@example.org"]
    assert "To" not in same


@pytest.mark.parametrize("said", [Cancel("gone"), Suppress("unsubscribed"), Retry("later", after=5)])
@pytest.mark.parametrize("raised", [False, True])
def test_an_outcome_instead_of_a_message_is_the_outcome(said: Outcome, raised: bool) -> None:
    def message(delivery: Delivery) -> Outcome:
        if raised:
            raise said
        return said

    with Scripted() as server:
        assert call(smtp(server, message=message)) is said
    assert server.heard == []


@pytest.mark.parametrize("effect", ["natural", "unsafe"])
def test_a_message_that_cannot_be_made_now_is_a_failed_attempt(effect: str) -> None:
    error = ConnectionError("the database is down")

    def message(delivery: Delivery) -> EmailMessage:
        raise error

    with Scripted() as server:
        outcome = call(smtp(server, message=message, effect=effect))
    assert isinstance(outcome, Retry)
    assert outcome.error is error


@pytest.mark.parametrize("junk", [None, "Subject: x", b"", 5])
def test_what_is_no_message_is_a_failed_attempt(junk: Any) -> None:
    with Scripted() as server:
        outcome = call(smtp(server, message=lambda delivery: junk))
    assert isinstance(outcome, Retry)
    assert isinstance(outcome.error, TypeError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Subject", "x\r\nBcc: eve@example.org"),
        ("Subject", "x\nBcc: eve@example.org"),
        ("Subject", "x\r\n\r\nanother body"),
        ("Subject", "x\rBcc: eve@example.org"),
        ("X-Odd\r\nBcc", "eve@example.org"),
        ("X Odd", "x"),
        ("X:Odd", "x"),
        ("", "x"),
    ],
)
def test_headers_cannot_be_smuggled_past_an_old_policy(name: str, value: str) -> None:
    def message(delivery: Delivery) -> EmailMessage:
        made = EmailMessage(policy=email.policy.compat32)
        made[name] = value
        made.set_payload("text")
        return made

    with Scripted() as server:
        outcome = call(smtp(server, message=message))
    assert type(outcome) is Cancel
    assert not server.messages


def test_a_folded_header_is_one_header() -> None:
    def message(delivery: Delivery) -> EmailMessage:
        raw = b"Subject: one\r\n and two\r\n\tand three\r\nX-Empty:\r\n\r\ntext\r\n"
        made = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(made, EmailMessage)
        return made

    with Postbox() as postbox:
        assert isinstance(call(smtp(postbox, message=message)), Delivered)
    assert postbox.letters[0].message["Subject"].split() == ["one", "and", "two", "and", "three"]


# -- what replies mean -------------------------------------------------------------------------

STAGES = ("connect", "EHLO", "MAIL", "RCPT", "DATA", "message")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("code", [421, 450, 451, 452, 454])
def test_4xx_is_retried_at_any_time(stage: str, code: int) -> None:
    with Scripted({stage: b"%d 4.3.2 later\r\n" % code}) as server:
        outcome = call(smtp(server))
    assert outcome == Retry(f"SMTP {code} to {stage} from 127.0.0.1:{server.port}: 4.3.2 later")


@pytest.mark.parametrize(
    ("stage", "reply", "expected"),
    [
        ("connect", b"554 no service here", Retry),
        ("EHLO", b"550 who are you", Retry),
        ("MAIL", b"550 5.1.8 no such sender", Cancel),
        ("MAIL", b"550 5.1.1 whom do you mean", Cancel),
        ("MAIL", b"552 5.3.4 too big", Cancel),
        ("MAIL", b"530 5.7.0 log in first", Retry),
        ("MAIL", b"530 5.7.0 Must issue a STARTTLS command first", Retry),
        ("RCPT", b"550 5.1.1 no such user", Bounced),
        ("RCPT", b"550 5.1.10 null MX", Bounced),
        ("RCPT", b"552 5.2.2 mailbox full", Bounced),
        ("RCPT", b"550 no such user", Bounced),
        ("RCPT", b"550", Bounced),
        ("RCPT", b"550 5.7.1 relaying denied", Cancel),
        ("RCPT", b"550 5.1.8 bad sender", Cancel),
        ("RCPT", b"550 5.1.7 bad sender", Cancel),
        ("RCPT", b"530 5.7.0 log in first", Retry),
        ("RCPT", b"535 5.7.8 who?", Retry),
        ("DATA", b"554 no valid recipients", Cancel),
        ("message", b"554 5.7.1 spam", Cancel),
        ("message", b"550 5.1.1 no such user, after all", Bounced),
        ("message", b"552 5.2.3 too big", Bounced),
        ("message", b"554", Cancel),
        ("connect", b"354 go on", Retry),
        ("RCPT", b"354 go on", Retry),
        ("DATA", b"250 ok", Retry),
        ("message", b"354 go on", Unknown),
        ("message", b"150 well", Unknown),
    ],
)
def test_what_a_refusal_means(stage: str, reply: bytes, expected: type[Outcome]) -> None:
    with Scripted({stage: reply + b"\r\n"}) as server:
        outcome = call(smtp(server))
    assert type(outcome) is expected
    assert f"SMTP {reply[:3].decode()} to {stage}" in text(outcome)
    if stage != "message":
        assert not server.messages


def test_a_message_too_big_for_the_server_is_refused_before_it_is_sent() -> None:
    with Postbox(data_size_limit=1_000) as postbox:
        outcome = call(smtp(postbox), payload={"subject": "s", "text": "x\n" * 1_000})
    assert type(outcome) is Cancel
    assert "to MAIL" in text(outcome)


@pytest.mark.parametrize(
    "reply", [b"250 ok\r\n", b"250\r\n", b"250-a\r\n250 b\r\n", b"251 ok\n", b"250 \xff\x00\x1b[31m\r\n"]
)
def test_any_well_formed_yes_is_a_yes(reply: bytes) -> None:
    with Scripted(message=reply) as server:
        outcome = call(smtp(server))
    assert isinstance(outcome, Delivered)
    assert outcome.receipt["reply"].isprintable() or "\n" in outcome.receipt["reply"]


# -- broken conversations ----------------------------------------------------------------------

BROKEN: dict[str, Act] = {
    "closed": mail.hang_up,
    "reset": mail.reset,
    "silent": mail.silence,
    "dripping": mail.drip,
    "endless": mail.endless,
    "a long line": b"250 " + b"x" * 70_000 + b"\r\n",
    "many lines": b"250-x\r\n" * 20_000 + b"250 x\r\n",
    "no SMTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\n",
    "an empty line": b"\r\n",
    "two digits": b"25 ok\r\n",
    "four digits": b"2500 ok\r\n",
    "a code of 999": b"999 ok\r\n",
    "a code of 000": b"000 ok\r\n",
    "digits of another script": "٢٥٠ ok\r\n".encode(),
    "two codes in one reply": b"250-yes\r\n550 no\r\n",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_conversation_is_retried_unless_the_message_was_sent(stage: str, kind: str) -> None:
    limit = 2.0 if stage == "message" else 0.3  # it must come as far as that, also on a busy machine
    started = time.monotonic()
    with Scripted({stage: BROKEN[kind]}) as server:
        outcome = call(smtp(server, timeout=limit))
        assert time.monotonic() - started < limit + 3
    assert type(outcome) is (Unknown if stage == "message" else Retry)
    assert f"127.0.0.1:{server.port}" in text(outcome)
    assert len(text(outcome)) < 500


def heavy(delivery: Delivery) -> EmailMessage:
    """More than the buffers between two sockets take; in long lines, which are quickly written."""
    message = EmailMessage()
    message.set_payload(("x" * 990 + "\n") * 6_500)
    return message


def test_a_cut_in_the_middle_of_the_message_is_retried() -> None:
    def cut(visit: mail.Visit) -> bytes:
        visit.connection.sendall(b"354 go on\r\n")
        visit.input.readline()
        return mail.reset(visit)

    with Scripted(DATA=cut) as server:
        outcome = call(smtp(server, message=heavy))
    assert type(outcome) is Retry
    assert "TimeoutError" not in text(outcome)
    assert not server.messages


def test_a_server_that_does_not_read_is_bounded() -> None:
    def stuck(visit: mail.Visit) -> bytes:
        visit.connection.sendall(b"354 go on\r\n")
        return mail.silence(visit)

    started = time.monotonic()
    with Scripted(DATA=stuck) as server:
        outcome = call(smtp(server, timeout=2.0, message=heavy))
        assert time.monotonic() - started < 5
    assert server.heard[-1] == "DATA"
    assert type(outcome) is Retry
    assert "TimeoutError" in text(outcome)


@pytest.mark.parametrize("stage", ["connect", "EHLO", "MAIL", "RCPT"])
def test_answers_before_their_questions_are_no_answers(stage: str) -> None:
    """Else a server could have said `250` to a message before there was one."""
    ahead = b"250 ok\r\n" * 2 + b"354 go on\r\n250 queued\r\n"
    with Scripted({stage: mail.POLITE[stage] + ahead}) as server:  # type: ignore[operator]
        outcome = call(smtp(server))
    assert type(outcome) is Retry
    assert "out of turn" in text(outcome)
    assert not server.messages


def test_a_refused_connection_is_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = Smtp("127.0.0.1", port, sender="shop@shop.example", tls="none")(a_delivery(), an_attempt())
    assert type(outcome) is Retry
    assert text(outcome).startswith(f"ConnectionRefusedError from 127.0.0.1:{port}")


def test_a_name_that_leads_nowhere_is_retried() -> None:
    outcome = Smtp("nowhere.invalid", sender="shop@shop.example")(a_delivery(), an_attempt())
    assert type(outcome) is Retry
    assert "nowhere.invalid:587" in text(outcome)


def test_connecting_has_a_bound_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        started = time.monotonic()
        port = server.getsockname()[1]
        adapter = Smtp("127.0.0.1", port, sender="shop@shop.example", tls="none", connect_timeout=0.2)
        outcome = adapter(a_delivery(), an_attempt())
        for filler in fillers:
            filler.close()
    assert type(outcome) is Retry
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(("own", "attempt"), [(30.0, 0.4), (0.3, 10.0)])
def test_the_tighter_timeout_counts_and_ours_comes_before_the_attempts(own: float, attempt: float) -> None:
    started = time.monotonic()
    with Scripted(MAIL=mail.silence) as server:
        outcome = call(smtp(server, timeout=own), attempt=an_attempt(timeout=attempt))
        assert time.monotonic() - started < min(own, attempt) + 3
    assert type(outcome) is Retry
    assert "TimeoutError" in text(outcome)


def test_making_the_message_counts_on_the_time() -> None:
    def slow(delivery: Delivery) -> EmailMessage:
        threading.Event().wait(0.2)
        return letter(delivery)

    with Scripted() as server:
        outcome = call(smtp(server, message=slow, timeout=0.1))
    assert type(outcome) is Retry
    assert server.heard == []


@pytest.mark.parametrize("act", [mail.silence, mail.hang_up, mail.endless, b"500 no\r\n"])
def test_a_bad_goodbye_changes_nothing_and_takes_no_time(act: Act) -> None:
    started = time.monotonic()
    with Scripted(QUIT=act) as server:
        outcome = call(smtp(server))
        assert time.monotonic() - started < 4
    assert isinstance(outcome, Delivered)


def test_one_adapter_serves_many_threads() -> None:
    outcomes: list[Outcome] = []
    with Postbox() as postbox:
        adapter = smtp(postbox)
        threads = [threading.Thread(target=lambda: outcomes.append(call(adapter))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 8
    assert len(postbox.letters) == 8


# -- TLS and passwords -------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_over_tls(tls: str) -> None:
    with Postbox(tls=tls) as postbox:
        assert isinstance(call(smtp(postbox, tls=tls, context=trusting())), Delivered)
    assert postbox.letters[0].tls or tls == "implicit"


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_certificates_are_verified(tls: str) -> None:
    with Postbox(tls=tls) as postbox:
        outcome = call(smtp(postbox, tls=tls))
    assert type(outcome) is Retry
    assert "certificate verify failed" in text(outcome).lower()
    assert postbox.letters == []


def test_tls_is_demanded_never_done_without() -> None:
    with Scripted() as server:
        outcome = call(smtp(server, tls="starttls", username="shop", password=PASSWORD))
    assert type(outcome) is Retry
    assert "offers no TLS" in text(outcome)
    assert [line.split()[0].upper() for line in server.heard] == ["EHLO", "QUIT"]


OFFERS_TLS = b"250-scripted.example\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"


def test_what_is_slipped_in_before_tls_is_no_answer_after_it() -> None:
    injected = b"250-scripted.example\r\n250 AUTH PLAIN\r\n235 ok\r\n250 ok\r\n"
    with Scripted({"EHLO": OFFERS_TLS, "STARTTLS": mail.secured(injected)}) as server:
        outcome = call(smtp(server, tls="starttls", context=trusting(), username="shop", password=PASSWORD))
    assert type(outcome) is Retry
    assert not any(line.startswith("AUTH") for line in server.heard)


def test_what_was_offered_before_tls_counts_no_more() -> None:
    def after(visit: mail.Visit) -> bytes:
        return b"250 scripted.example\r\n" if isinstance(visit.connection, ssl.SSLSocket) else OFFERS_TLS

    with Scripted({"EHLO": after, "STARTTLS": mail.secured()}) as server:
        outcome = call(smtp(server, tls="starttls", context=trusting(), username="shop", password=PASSWORD))
    assert type(outcome) is Retry
    assert not any(line.startswith("AUTH") for line in server.heard)


def test_the_password_is_sent_under_tls() -> None:
    with Postbox(tls="starttls", password=PASSWORD) as postbox:
        options = {"tls": "starttls", "context": trusting(), "username": "shop"}
        assert isinstance(call(smtp(postbox, password=PASSWORD, **options)), Delivered)
        outcome = call(smtp(postbox, password="wrong", **options))
    assert [got.login for got in postbox.letters] == ["shop"]
    assert type(outcome) is Retry
    assert "SMTP 535 to AUTH" in text(outcome)


@pytest.mark.parametrize("code", [454, 535, 550])
def test_a_password_that_is_echoed_is_not_told(code: int) -> None:
    def echo(visit: mail.Visit) -> bytes:
        sent = visit.server.heard[-1].encode()
        return b"%d you said %b, that is %b\r\n" % (code, sent, PASSWORD.encode())

    script: dict[str, Act] = {"EHLO": OFFERS_TLS, "STARTTLS": mail.secured(), "AUTH": echo}
    with Scripted(script) as server:
        outcome = call(smtp(server, tls="starttls", context=trusting(), username="shop", password=PASSWORD))
    assert type(outcome) is Retry
    (sent,) = [line.split()[-1] for line in server.heard if line.startswith("AUTH")]
    assert PASSWORD not in repr(outcome)
    assert sent not in repr(outcome)
    assert text(outcome).count("[redacted]") == 2


# -- the arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"host": ""},
        {"host": "mail.example:25\r\n"},
        {"host": "mail.example/x"},
        {"host": None},
        {"port": 0},
        {"port": 65_536},
        {"port": "25"},
        {"port": True},
        {"sender": "shop"},
        {"sender": "a@example.org, b@example.org"},
        {"sender": "shop@example.org\r\nBcc: eve@example.org"},
        {"sender": "Shop <shöp@example.org>"},
        {"sender": ""},
        {"sender": None},
        {"tls": "maybe"},
        {"tls": None},
        {"username": "shop"},
        {"password": "x"},
        {"username": "shop", "password": "pässword"},
        {"username": "shop", "password": "x", "tls": "none"},
        {"hostname": "a b"},
        {"hostname": "a\r\nMAIL"},
        {"effect": "Unsafe"},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"connect_timeout": 0},
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any]) -> None:
    given = {"host": "mail.example", "sender": "shop@example.org", **options}
    with pytest.raises(InvalidAdapter):
        Smtp(**given)


def test_a_second_copy_is_natural_unless_said_otherwise() -> None:
    assert Smtp("mail.example", sender="shop@example.org").effect == "natural"
    assert (
        Smtp("mail.example", sender="s@example.org", effect="unsafe", timeout=timedelta(seconds=5)).effect
        == "unsafe"
    )
