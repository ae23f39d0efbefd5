"""No personal data and no secret in events: what people wrote stands beside the stream, erasable."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import select

from deliveries import (
    Bounced,
    Cancel,
    Delivered,
    Deliveries,
    Discard,
    IdempotencyConflict,
    Retry,
    Snooze,
    Suppress,
    Unknown,
)
from deliveries.store.schema import metadata
from support.apps import RunningClock, eventually, schedule

SECRETS = ("ann@example.org", "4111-1111", "Oscar", "Error-Text", "Receipt-Text", "Reason-Text")
BESIDE = {"delivery_contents", "delivery_notes"}


def found(app: Deliveries) -> dict[str, set[str]]:
    """Table -> the secrets that its rows hold, whatever the column."""
    with app.engine.connect() as connection:
        return {
            table.name: {
                secret
                for row in connection.execute(select(table))
                for value in row
                for secret in SECRETS
                if secret in (bytes(value).decode("latin-1") if isinstance(value, bytes) else str(value))
            }
            for table in metadata.sorted_tables
        }


def test_secrets_stand_in_contents_and_notes_alone(
    timed: Deliveries, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Any] = [
        Retry("Error-Text"),
        ValueError("Error-Text for ann@example.org"),
        Cancel("Error-Text"),
        Bounced("Error-Text"),
        Discard("Error-Text"),
        Suppress("Error-Text"),
        Snooze(5, reason="Error-Text"),
        Unknown("Error-Text"),
        Delivered("Receipt-Text"),
        Delivered({"Receipt-Text": 1}),
    ]

    @timed.adapter("email", on_unknown="hold")
    def email(delivery: Any, attempt: Any) -> Any:
        outcome = outcomes[delivery.payload["n"]]
        if isinstance(outcome, ValueError):
            raise outcome
        return outcome

    with caplog.at_level(logging.DEBUG):
        ids = [
            schedule(
                timed, "email", {"n": n, "card": "4111-1111", "Oscar": 1}, recipient="ann@example.org"
            ).id
            for n in range(len(outcomes))
        ]
        for act in (timed.cancel, timed.suppress):
            spare = schedule(timed, "email", {"n": 0, "card": "4111-1111"}, recipient="ann@example.org").id
            with timed.engine.begin() as connection:
                act(connection, spare, reason="Reason-Text", actor="operator-7")
        timed.drain()
        with timed.engine.begin() as connection:
            timed.resolve(connection, ids[7], Delivered("Receipt-Text"), actor="operator-7")
    places = found(timed)
    assert {name for name, secrets in places.items() if secrets} == BESIDE
    assert places["delivery_contents"] | places["delivery_notes"] == set(SECRETS)
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_errors_name_no_secret(timed: Deliveries) -> None:
    timed.adapter("email")(lambda delivery, attempt: None)
    schedule(timed, "email", {"card": "4111-1111"}, recipient="ann@example.org", key="k")
    with pytest.raises(IdempotencyConflict) as caught:
        schedule(timed, "email", {"card": "4111-2222"}, recipient="ann@example.org", key="k")
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


def test_equal_contents_have_different_digests(timed: Deliveries) -> None:
    """Salted: who knows a recipient cannot look for him in the events."""
    timed.adapter("email")(lambda delivery, attempt: None)
    one, other = (schedule(timed, "email", 1, recipient="ann@example.org").id for _ in range(2))
    first, second = timed.history(one)[0].event, timed.history(other)[0].event
    assert first.payload_digest != second.payload_digest
    assert first.recipient_digest != second.recipient_digest


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("postgresql://ann:hunter2@db/x refused", "postgresql://ann:[redacted]@db/x refused"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer [redacted]"),
        ('{"password": "hunter2"}', '{"password": [redacted]}'),
        ("api_key=hunter2&x=1", "api_key=[redacted]&x=1"),
    ],
)
def test_secrets_in_error_texts_are_redacted(sqlite_url: str, apps: Any, text: str, kept: str) -> None:
    app = apps(sqlite_url)
    app.adapter("email")(lambda delivery, attempt: Retry(text))
    id = schedule(app).id
    app.drain()
    note = app.history(id)[-1].note
    assert "hunter2" not in note
    assert "abcdefgh" not in note
    assert note.split("[")[0] == kept.split("[", maxsplit=1)[0]


def test_a_late_report_keeps_no_text(app: Deliveries) -> None:
    import threading

    gate = threading.Event()

    @app.adapter("email", timeout=0.1, max_attempts=1)
    def email(delivery: Any, attempt: Any) -> Any:
        gate.wait(20)
        raise ValueError("Error-Text for ann@example.org")

    id = schedule(app, recipient="ann@example.org").id
    with app.running() as processor:
        eventually(lambda: app.get(id).is_terminal)
        gate.set()
        eventually(lambda: processor.summary.late == 1)
    assert {name for name, secrets in found(app).items() if secrets} <= BESIDE
