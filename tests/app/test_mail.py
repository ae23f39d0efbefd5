"""The e-mail adapter in an application: what a mail server says, as history."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from deliveries import Backoff, Deliveries, Delivery, NotDone
from deliveries.adapters.email import Smtp
from support import mail
from support.mail import Act, Postbox, Scripted

PAID = {"subject": "Paid", "text": "Thank you.\n"}


def registered(app: Deliveries, server: Postbox | Scripted, effect: Any = "natural", **options: Any) -> None:
    smtp = Smtp("127.0.0.1", server.port, sender="shop@example.org", tls="none", effect=effect)
    app.adapter("email", **{"backoff": Backoff.schedule([0]), "max_attempts": 2, **options})(smtp)


def owed(app: Deliveries, recipient: str = "ann@example.org") -> Delivery:
    with Session(app.engine) as session, session.begin():
        return app.schedule(session, "email", PAID, recipient=recipient)


def types(app: Deliveries, delivery: Delivery) -> list[str]:
    return [recorded.type for recorded in app.history(delivery.id)]


def test_a_mail_arrives_and_its_receipt_is_kept(app: Deliveries) -> None:
    with Postbox() as postbox:
        registered(app, postbox)
        delivery = owed(app)
        assert app.drain().succeeded == 1
    (got,) = postbox.letters
    assert got.message["Message-ID"] == f"<{delivery.idempotency_key}@example.org>"
    assert "Ok: queued as 1" in app.explain(delivery.id).why


@pytest.mark.parametrize(
    ("reply", "status", "cause"),
    [
        (b"550 5.1.1 ann@example.org is unknown\r\n", "cancelled", "bounced"),
        (b"550 5.7.1 ann@example.org: no relaying\r\n", "cancelled", "permanent_failure"),
        (b"451 ann@example.org: later\r\n", "exhausted", "attempts"),
    ],
)
def test_a_refusal_ends_it_and_leaves_nothing_personal_in_the_events(
    app: Deliveries, reply: bytes, status: str, cause: str
) -> None:
    with Scripted(RCPT=reply) as server:
        registered(app, server)
        delivery = owed(app)
        app.drain()
        app.drain()
    history = app.history(delivery.id)
    assert app.get(delivery.id).status == status
    assert getattr(history[-1].event, "cause", None) == cause
    assert all("ann@" not in repr(recorded.event) for recorded in history)


def test_what_may_have_been_accepted_is_sent_again_under_one_message_id(app: Deliveries) -> None:
    replies: list[Act] = [mail.hang_up, b"250 ok\r\n"]

    def once(visit: mail.Visit) -> bytes:
        act = replies.pop(0)
        return act(visit) if callable(act) else act

    with Scripted(message=once) as server:
        registered(app, server)
        delivery = owed(app)
        app.drain()
        app.drain()
    assert types(app, delivery) == ["Scheduled", "Attempted", "Failed", "Attempted", "Succeeded"]
    assert getattr(app.history(delivery.id)[2].event, "cause", None) == "unknown"
    first, second = (message.split(b"Message-ID: ")[1].split()[0] for message in server.messages)
    assert first == second


@pytest.mark.parametrize("effect", ["natural", "unsafe"])
def test_what_may_have_been_accepted_is_held_if_that_is_asked_for(app: Deliveries, effect: str) -> None:
    with Scripted(message=mail.hang_up) as server:
        registered(app, server, effect, on_unknown="hold")
        delivery = owed(app)
        app.drain()
        app.drain()
        assert types(app, delivery) == ["Scheduled", "Attempted", "Held"]
        assert len(server.messages) == 1
        server.script["message"] = b"250 ok\r\n"
        with Session(app.engine) as session, session.begin():
            app.resolve(session, delivery.id, NotDone(), actor="ops:ann")
        app.drain()
    assert app.get(delivery.id).status == "succeeded"


def test_what_broke_before_the_end_of_the_message_is_no_doubt_even_if_unsafe(app: Deliveries) -> None:
    with Scripted(DATA=mail.hang_up) as server:
        registered(app, server, "unsafe", on_unknown="hold")
        delivery = owed(app)
        app.drain()
        server.script["DATA"] = mail.POLITE["DATA"]
        app.drain()
    assert types(app, delivery) == ["Scheduled", "Attempted", "Failed", "Attempted", "Succeeded"]
