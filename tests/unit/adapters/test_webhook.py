from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import httpx2
import msgspec
import pytest

from deliveries.adapters.webhook import Webhook
from deliveries.core.delivery import Attempt, Delivery, Status
from deliveries.core.outcomes import Cancel, Delivered, Outcome, Retry, Unknown
from deliveries.errors import InvalidAdapter
from support.receiver import CERTIFICATE, Receiver, Reply, gzip_bomb

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ID = UUID("01890000-0000-7000-8000-000000000001")
KEY = str(ID)


def an_attempt(number: int = 1, timeout: float = 10.0) -> Attempt:
    return Attempt(number=number, is_last=False, timeout=timeout, started_at=NOW)


def a_delivery(recipient: str | None, payload: Any = None, **fields: Any) -> Delivery:
    return Delivery(
        id=ID,
        channel="webhook",
        queue="web",
        status=Status.ATTEMPTING,
        version=2,
        scheduled_at=NOW,
        due_at=None,
        recipient=recipient,
        payload=payload,
        **fields,
    )


def call(
    webhook: Webhook,
    recipient: str | None,
    payload: Any = None,
    *,
    attempt: Attempt | None = None,
    **fields: Any,
) -> Outcome:
    delivery = a_delivery(recipient, payload, **fields)
    return asyncio.run(webhook(delivery, attempt or an_attempt()))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
    gc.collect()  # what a test leaked is this test's failure


# -- the request -------------------------------------------------------------------------------


def test_the_payload_is_posted_as_json(receiver: Receiver) -> None:
    url = receiver.on("/hook")
    assert call(Webhook(), url, {"order": 7, "note": "grün"}) == Delivered({"status": 200, "body": "ok"})
    (seen,) = receiver.seen
    assert (seen.method, seen.target) == ("POST", "/hook")
    assert seen.headers["content-type"] == "application/json"
    assert msgspec.json.decode(seen.body) == {"order": 7, "note": "grün"}


def test_every_attempt_carries_the_same_key_and_its_own_number(receiver: Receiver) -> None:
    url = receiver.on("/hook", Reply(503), Reply(200))
    for number in (1, 2):
        call(Webhook(), url, attempt=an_attempt(number))
    assert receiver.calls == {KEY: 2}
    assert [seen.headers["delivery-attempt"] for seen in receiver.seen] == ["1", "2"]
    assert {seen.headers["delivery-id"] for seen in receiver.seen} == {KEY}


def test_a_redriven_delivery_keeps_the_key_of_its_root(receiver: Receiver) -> None:
    root = UUID(int=ID.int + 1)
    call(Webhook(), receiver.on("/hook"), root_id=root)
    assert receiver.calls == {str(root): 1}
    assert receiver.seen[0].headers["delivery-id"] == KEY


def test_the_sender_names_itself_and_asks_for_no_encoding(receiver: Receiver) -> None:
    call(Webhook(), receiver.on("/hook"))
    assert receiver.seen[0].headers["user-agent"].startswith("deliveries/")
    assert receiver.seen[0].headers["accept-encoding"] == "identity"


def test_own_headers_are_sent_and_may_replace_the_harmless_ones(receiver: Receiver) -> None:
    own = {"X-Tenant": "a b\tc", "content-type": "application/cloudevents+json", "X-Empty": ""}
    call(Webhook(headers=own), receiver.on("/hook"))
    seen = receiver.seen[0].headers
    assert seen["x-tenant"] == "a b\tc"
    assert seen["content-type"] == "application/cloudevents+json"


@pytest.mark.parametrize(
    "name",
    [
        "Idempotency-Key",
        "idempotency-key",
        "DELIVERY-ID",
        "Delivery-Attempt",
        "Accept-Encoding",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_headers_of_ours_cannot_be_replaced(name: str) -> None:
    with pytest.raises(InvalidAdapter, match="not yours"):
        Webhook(headers={name: "x"})


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "geheim\r\nX-Evil: 1"},
        {"X": "geheim\n"},
        {"X": "geheim\0"},
        {"X": "geheim "},
        {"X": "geheimé"},
        {"X\n": "geheim"},
        {"": "geheim"},
        {"X:": "geheim"},
        {"X": 5},
        {5: "geheim"},
    ],
)
def test_headers_that_http_cannot_carry_are_refused_at_once(headers: Mapping[str, str]) -> None:
    with pytest.raises(InvalidAdapter) as caught:
        Webhook(headers=headers)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"connect_timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"max_retry_after": -1},
        {"url": "ftp://127.0.0.1/"},
        {"url": "http://0xn--/"},
        {"max_response_bytes": -1},
        {"receipt_chars": -1},
        {"effect": "Unsafe"},
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidAdapter):
        Webhook(**options)


def test_without_the_extra_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['httpx2'] = None; import deliveries.adapters.webhook"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: webhooks need httpx2: pip install 'deliveries[http]'" in run.stderr


def test_credentials_in_the_address_are_sent_as_basic_authentication(receiver: Receiver) -> None:
    url = receiver.on("/hook").replace("://", "://us%40er:pa%3Ass@")
    assert isinstance(call(Webhook(), url), Delivered)
    assert receiver.seen[0].headers["authorization"] == "Basic dXNAZXI6cGE6c3M="
    assert receiver.seen[0].target == "/hook"


# -- where it goes -----------------------------------------------------------------------------


def test_the_recipient_comes_before_the_configured_url(receiver: Receiver) -> None:
    webhook = Webhook(receiver.on("/default"))
    call(webhook, receiver.on("/own"))
    call(webhook, None)
    call(webhook, "")
    assert [seen.target for seen in receiver.seen] == ["/own", "/default", "/default"]


def test_without_any_address_it_is_cancelled() -> None:
    outcome = call(Webhook(), None)
    assert isinstance(outcome, Cancel)
    assert "no address" in outcome.text


@pytest.mark.parametrize(
    "address",
    [
        "ftp://geheim.example/",
        "file:///geheim",
        "ws://geheim.example/",
        "javascript:geheim",
        "geheim.example/hook",
        "//geheim.example/hook",
        "/geheim",
        "geheim",
        "http://",
        "http:///geheim",
        "https://?geheim",
        " http://geheim.example",
        "http://geheim.example\r\n",
        "http://geheim\x00.example",
        "http://[::1/geheim",
        "http://[geheim]/",
        "http://1.2.3.999/geheim",
        "http://geheim:pass:word@",
        "http://geheim.example:port/",
        "http://geheim.example:0/",
        "http://geheim.example:-1/",
        "http://geheim.example:65536/",
        "http://ge heim.example/",
        "http://ge%68eim.example/geheim",
        "http://geheim..example/",
        "http://" + "geheim" * 11 + ".example/",
        "http://" + "geheim." * 37,
        "http://geheim\ud800.example/",
        "http://geheim.example/\ud800",
        "http://geheim.example/" + "x" * 70_000,
    ],
)
def test_an_address_that_cannot_be_used_cancels_and_is_not_repeated(address: str) -> None:
    outcome = call(Webhook(), address)
    assert isinstance(outcome, Cancel)
    assert "geheim" not in str(outcome.text)


def test_a_payload_that_is_no_json_cancels() -> None:
    assert isinstance(call(Webhook(), "http://127.0.0.1:9/", {"a": object()}), Cancel)
    assert isinstance(call(Webhook(), "http://127.0.0.1:9/", "\ud800"), Cancel)


def test_a_header_that_cannot_be_sent_cancels() -> None:
    class Odd(Webhook):
        def _headers(self, *args: Any) -> Mapping[str, str]:
            return {**super()._headers(*args), "X-Signature": "a\r\nb"}

    outcome = call(Odd(), "http://127.0.0.1:9/")
    assert isinstance(outcome, Cancel)
    assert "X-Signature" in outcome.text


@pytest.mark.parametrize("effect", ["keyed", "unsafe"])
def test_headers_that_cannot_be_made_now_are_a_failed_attempt(effect: Any) -> None:
    class Locked(Webhook):
        def _headers(self, *args: Any) -> Mapping[str, str]:
            raise ConnectionError("the vault is down")

    outcome = call(Locked(effect=effect), "http://127.0.0.1:9/")
    assert outcome == Retry("ConnectionError from http://127.0.0.1:9: the vault is down")


# -- what the status decides -------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_2xx_is_delivered(receiver: Receiver, status: int) -> None:
    body = b"" if status == 204 else b"ok"
    outcome = call(Webhook(), receiver.on("/hook", Reply(status, body=body)))
    assert outcome == Delivered({"status": status, "body": "ok"} if body else {"status": status})


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 599, 600, 999])
def test_what_may_pass_is_retried(receiver: Receiver, status: int) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(status, body=b"later")))
    assert isinstance(outcome, Retry)
    assert outcome.after is None
    assert f"HTTP {status}" in str(outcome.error)
    assert str(outcome.error).endswith(f"from {receiver.url}: later")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 411, 413, 418, 422, 451, 499])
def test_what_the_receiver_refuses_is_cancelled(receiver: Receiver, status: int) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(status, body=b"no field foo")))
    assert type(outcome) is Cancel
    assert f"HTTP {status}" in str(outcome.text)
    assert "no field foo" in str(outcome.text)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 399])
def test_a_redirect_is_not_followed_and_cancels(receiver: Receiver, status: int) -> None:
    body = b"" if status == 304 else b"moved"
    location = {"Location": receiver.on("/elsewhere")}
    outcome = call(Webhook(), receiver.on("/hook", Reply(status, location, body)))
    assert type(outcome) is Cancel
    assert "not followed" in str(outcome.text)
    assert [seen.target for seen in receiver.seen] == ["/hook"]


@pytest.mark.parametrize("location", ["", "//", "http://[", "http://\xe9\xff:99999/", "x:y", "?\\"])
def test_a_redirect_to_nowhere_cancels_too(receiver: Receiver, location: str) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(302, {"Location": location})))
    assert type(outcome) is Cancel


def test_switching_protocols_is_no_answer(receiver: Receiver) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    assert isinstance(call(Webhook(), receiver.on("/hook", Reply(raw=switch))), Retry)


def test_an_interim_answer_is_passed_over(receiver: Receiver) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    assert call(Webhook(), receiver.on("/hook", Reply(raw=raw))) == Delivered({"status": 204})


# -- Retry-After -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_retry_after_in_seconds_is_honoured(receiver: Receiver, status: int) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(status, {"Retry-After": "120"})))
    assert isinstance(outcome, Retry)
    assert outcome.after == 120.0


def test_retry_after_as_a_date_is_honoured(receiver: Receiver) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=900), usegmt=True)
    outcome = call(Webhook(), receiver.on("/hook", Reply(503, {"Retry-After": until})))
    assert isinstance(outcome, Retry)
    assert outcome.after == pytest.approx(900, abs=30)


def test_a_date_is_read_by_the_answers_own_clock(receiver: Receiver) -> None:
    headers = {
        "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT",
    }
    outcome = call(Webhook(), receiver.on("/hook", Reply(503, headers)))
    assert isinstance(outcome, Retry)
    assert outcome.after == 60.0


@pytest.mark.parametrize("value", ["21601", "9999999999", "Sun, 06 Nov 2994 08:49:37 GMT"])
def test_retry_after_is_capped(receiver: Receiver, value: str) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(429, {"Retry-After": value})))
    assert isinstance(outcome, Retry)
    assert outcome.after == 6 * 3600


def test_the_cap_is_yours(receiver: Receiver) -> None:
    webhook = Webhook(max_retry_after=timedelta(minutes=1))
    outcome = call(webhook, receiver.on("/hook", Reply(429, {"Retry-After": "3600"})))
    assert isinstance(outcome, Retry)
    assert outcome.after == 60.0


@pytest.mark.parametrize("value", ["", "soon", "-5", "0", "1e9", "9" * 5000, "12, 13", "\xb2"])
def test_retry_after_that_says_nothing_leaves_it_to_the_backoff(receiver: Receiver, value: str) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(503, {"Retry-After": value})))
    assert isinstance(outcome, Retry)
    assert outcome.after is None


# -- the network -------------------------------------------------------------------------------


def test_a_refused_connection_is_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = call(Webhook(), f"http://127.0.0.1:{port}/geheim?key=geheim")
    assert isinstance(outcome, Retry)
    assert str(outcome.error).startswith(f"ConnectError from http://127.0.0.1:{port}: ")
    assert "geheim" not in str(outcome.error)


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener whose queue is full: a further SYN gets no answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        try:
            yield server.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def test_connecting_has_a_bound_of_its_own() -> None:
    with full_backlog() as port:
        started = time.monotonic()
        outcome = call(Webhook(connect_timeout=0.2), f"http://127.0.0.1:{port}/")
    assert isinstance(outcome, Retry)
    assert "ConnectTimeout" in str(outcome.error)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"])
def test_a_reset_is_retried(receiver: Receiver, raw: bytes) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(raw=raw, reset=True)))
    assert isinstance(outcome, Retry)
    assert receiver.url in str(outcome.error)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\xff" * 50,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 99 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
)
def test_what_is_not_a_whole_http_answer_is_retried(receiver: Receiver, raw: bytes) -> None:
    outcome = call(Webhook(), receiver.on("/hook", Reply(raw=raw)))
    assert isinstance(outcome, Retry)
    assert len(str(outcome.error)) < 400


@pytest.mark.parametrize(
    "slow",
    [
        Reply(delay=15.0),
        Reply(drip_head=0.05),
        Reply(body=b"x" * 500, drip=0.05),
        Reply(400, body=b"x" * 500, drip=0.05),
    ],
    ids=["silent", "dripping head", "dripping body", "dripping refusal"],
)
def test_the_total_time_is_bounded(receiver: Receiver, slow: Reply) -> None:
    started = time.monotonic()
    outcome = call(Webhook(timeout=0.3), receiver.on("/hook", slow))
    assert isinstance(outcome, Retry)
    assert time.monotonic() - started < 3


def test_endless_interim_answers_are_bounded_too(receiver: Receiver) -> None:
    flood = b"HTTP/1.1 102 Processing\r\n\r\n" * 100_000
    outcome = call(Webhook(timeout=0.3), receiver.on("/hook", Reply(raw=flood)))
    assert isinstance(outcome, Retry)


def test_a_receiver_that_does_not_read_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        outcome = call(Webhook(timeout=0.3), url, "x" * (16 * 2**20))
    assert isinstance(outcome, Retry)


@pytest.mark.parametrize(("own", "attempt", "bound"), [(30.0, 0.4, 0.36), (0.3, 0.4, 0.3), (0.3, 10.0, 0.3)])
def test_the_tighter_timeout_counts_and_ours_comes_before_the_attempts(
    receiver: Receiver, own: float, attempt: float, bound: float
) -> None:
    url = receiver.on("/hook", Reply(delay=15.0))
    outcome = call(Webhook(timeout=own), url, attempt=an_attempt(timeout=attempt))
    assert outcome == Retry(f"no complete answer from {receiver.url} within {bound} s")


def test_a_cancelled_call_is_cancelled(receiver: Receiver) -> None:
    async def cancel_midway() -> None:
        task = asyncio.create_task(Webhook()(a_delivery(url), an_attempt()))
        assert await asyncio.to_thread(receiver.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    url = receiver.on("/hook", Reply(delay=15.0))
    asyncio.run(cancel_midway())


# -- how much is read --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 503])
def test_past_the_cap_the_status_decides(receiver: Receiver, status: int) -> None:
    url = receiver.on("/hook", Reply(status, body=b"x" * 2**20, repeat=2**10))
    outcome = call(Webhook(), url)
    assert type(outcome) is {200: Delivered, 400: Cancel, 503: Retry}[status]


def test_the_cap_is_exact(receiver: Receiver) -> None:
    webhook = Webhook(max_response_bytes=4)
    outcome = call(webhook, receiver.on("/hook", Reply(body=b"12345")))
    assert outcome == Delivered({"status": 200, "body": "1234"})
    assert call(Webhook(max_response_bytes=0), receiver.url + "/hook") == Delivered({"status": 200})


def test_a_body_beyond_the_cap_need_not_end_well(receiver: Receiver) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * 70_000
    assert isinstance(call(Webhook(), receiver.on("/hook", Reply(raw=cut))), Delivered)


def test_a_bomb_is_never_unpacked(receiver: Receiver) -> None:
    bomb = gzip_bomb()
    assert len(bomb.body) < 2**17
    no_gzip = Reply(200, {"Content-Encoding": "gzip"}, b"no gzip at all")
    for reply in (bomb, no_gzip):
        outcome = call(Webhook(max_response_bytes=2**20), receiver.on("/hook", reply))
        assert outcome == Delivered({"status": 200})


def test_the_excerpt_is_short_clean_text(receiver: Receiver) -> None:
    body = b"\0\x1b[31m\xff" + "grün".encode() + b"x" * 2_000
    outcome = call(Webhook(receipt_chars=40), receiver.on("/hook", Reply(body=body)))
    assert isinstance(outcome, Delivered)
    text = outcome.receipt["body"]
    assert text.startswith("\\u0000\\u001b[31m\N{REPLACEMENT CHARACTER}grünx")
    assert len(text) == 40


def test_no_characters_kept_means_no_body_anywhere(receiver: Receiver) -> None:
    url = receiver.on("/hook", Reply(200, body=b"private"), Reply(404, body=b"private"))
    webhook = Webhook(receipt_chars=0)
    assert call(webhook, url) == Delivered({"status": 200})
    assert call(webhook, url) == Cancel(f"HTTP 404 Not Found from {receiver.url}")


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 302, 403, 503])
def test_secrets_are_neither_told_nor_logged(
    receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    echo = b"your query key=query%20pearl&x=1 (query pearl), user userpearl, passpearl, headerpearl"
    url = receiver.on("/pathpearl", Reply(status, body=echo)).replace("://", "://userpearl:passpearl@")
    webhook = Webhook(headers={"X-Api-Key": "headerpearl"})
    with caplog.at_level(logging.DEBUG):
        outcome = call(webhook, url + "?key=query%20pearl&x=1")
    assert receiver.seen[0].target == "/pathpearl?key=query%20pearl&x=1"
    told = repr(outcome)
    assert "pearl" not in told
    assert "pearl" not in caplog.text
    assert status == 302 or told.count("[redacted]") >= 4


def test_secrets_are_not_in_the_texts_of_broken_answers(receiver: Receiver) -> None:
    url = receiver.on("/hook", Reply(raw=b"HTTP/1.1 what about pearls\r\n\r\n"))
    outcome = call(Webhook(), url + "?what=about%20pearls")
    assert isinstance(outcome, Retry)
    assert "pearl" not in str(outcome.error)


# -- an unsafe effect --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [Reply(500), Reply(504), Reply(raw=b""), Reply(reset=True), Reply(delay=15.0), Reply(600)],
)
def test_what_may_have_happened_is_unknown_if_repeating_is_unsafe(receiver: Receiver, reply: Reply) -> None:
    outcome = call(Webhook(effect="unsafe", timeout=0.3), receiver.on("/hook", reply))
    assert isinstance(outcome, Unknown)


@pytest.mark.parametrize("status", [408, 425, 429])
def test_a_plain_refusal_is_retried_although_unsafe(receiver: Receiver, status: int) -> None:
    assert isinstance(call(Webhook(effect="unsafe"), receiver.on("/hook", Reply(status))), Retry)


def test_what_was_never_sent_is_retried_although_unsafe() -> None:
    with full_backlog() as port:
        webhook = Webhook(effect="unsafe", connect_timeout=0.2)
        assert isinstance(call(webhook, f"http://127.0.0.1:{port}/"), Retry)


# -- proxies and certificates ------------------------------------------------------------------


def test_proxies_of_the_environment_are_trusted_only_if_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    url = receiver.on("/hook")
    with Receiver() as proxy:
        proxy.on("/hook")
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert isinstance(call(Webhook(), url), Delivered)
        assert (len(receiver.seen), len(proxy.seen)) == (1, 0)
        assert isinstance(call(Webhook(trust_env=True), url), Delivered)
        assert (len(receiver.seen), len(proxy.seen)) == (1, 1)


def test_certificates_are_verified() -> None:
    def trusting() -> httpx2.AsyncClient:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=CERTIFICATE)
        return httpx2.AsyncClient(verify=context, trust_env=False)

    with Receiver(tls=True) as receiver:
        url = receiver.on("/hook")
        outcome = call(Webhook(), url)
        assert isinstance(outcome, Retry)
        assert "certificate verify failed" in str(outcome.error).lower()
        assert receiver.seen == []
        assert isinstance(call(Webhook(client=trusting), url), Delivered)


# -- clients and loops -------------------------------------------------------------------------


def test_a_loop_keeps_its_connection_and_the_next_loop_makes_its_own(receiver: Receiver) -> None:
    async def twice() -> None:
        for _ in range(2):
            assert isinstance(await webhook(a_delivery(url), an_attempt()), Delivered)

    webhook, url = Webhook(), receiver.on("/hook")
    asyncio.run(twice())
    asyncio.run(twice())
    peers = [seen.peer for seen in receiver.seen]
    assert peers[0] == peers[1] != peers[2] == peers[3]


def test_clients_are_closed_with_their_loop(receiver: Receiver) -> None:
    made: list[httpx2.AsyncClient] = []

    def client() -> httpx2.AsyncClient:
        made.append(httpx2.AsyncClient(trust_env=False))
        return made[-1]

    webhook, url = Webhook(client=client), receiver.on("/hook")
    for _ in range(3):
        call(webhook, url)
    assert len(made) == 3
    assert all(each.is_closed for each in made)


def test_a_loop_that_was_closed_carelessly_is_forgotten(receiver: Receiver) -> None:
    def client() -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(trust_env=False)
        made.append(weakref.ref(client))
        return client

    made: list[weakref.ref[httpx2.AsyncClient]] = []
    webhook = Webhook(client=client)
    url = receiver.on("/hook", Reply(headers={"Connection": "close"}))
    for _ in range(2):
        loop = asyncio.new_event_loop()
        outcome = loop.run_until_complete(webhook(a_delivery(url), an_attempt()))
        loop.close()
        assert isinstance(outcome, Delivered)
    del loop
    gc.collect()
    assert [client() is None for client in made] == [True, False]


def test_no_call_keeps_its_connection(receiver: Receiver) -> None:
    def narrow() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=1))

    async def all_kinds() -> None:
        webhook = Webhook(client=narrow, timeout=0.3)
        for reply in replies:
            await webhook(a_delivery(receiver.on("/bad", reply)), an_attempt())
            seen = len(receiver.seen)
            task = asyncio.create_task(webhook(a_delivery(slow), an_attempt()))
            assert await asyncio.to_thread(receiver.wait_for, seen + 1)
            task.cancel()
            assert isinstance(await webhook(a_delivery(good), an_attempt()), Delivered)

    replies = [
        Reply(body=b"x" * 2**20),
        Reply(drip_head=0.05),
        Reply(body=b"x" * 500, drip=0.05),
        Reply(reset=True),
        Reply(raw=b"no http"),
        Reply(302, {"Location": "http://["}),
        Reply(raw=b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ]
    good, slow = receiver.on("/good"), receiver.on("/slow", Reply(delay=15.0))
    asyncio.run(all_kinds())


def test_loops_in_two_threads_share_the_adapter(receiver: Receiver) -> None:
    webhook, url = Webhook(), receiver.on("/hook", Reply(delay=0.05))
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(call(webhook, url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 4


def test_after_aclose_the_next_call_connects_anew(receiver: Receiver) -> None:
    async def close_between() -> None:
        await webhook.aclose()  # nothing is open yet
        for _ in range(2):
            assert isinstance(await webhook(a_delivery(url), an_attempt()), Delivered)
            await webhook.aclose()

    webhook, url = Webhook(), receiver.on("/hook")
    asyncio.run(close_between())
    assert receiver.seen[0].peer != receiver.seen[1].peer


def test_many_calls_share_one_client(receiver: Receiver) -> None:
    async def many() -> list[Outcome]:
        calls = [webhook(a_delivery(url), an_attempt()) for _ in range(150)]
        return await asyncio.gather(*calls)

    made: list[httpx2.AsyncClient] = []
    webhook = Webhook()
    new_client = webhook._new_client
    webhook = Webhook(client=lambda: made.append(new_client()) or made[-1])  # type: ignore[func-returns-value]
    url = receiver.on("/hook", Reply(delay=0.1))
    assert {type(outcome) for outcome in asyncio.run(many())} == {Delivered}
    assert len(made) == 1


def test_cookies_are_not_kept(receiver: Receiver) -> None:
    async def twice() -> None:
        for _ in range(2):
            await webhook(a_delivery(url), an_attempt())

    webhook = Webhook()
    url = receiver.on("/hook", Reply(headers={"Set-Cookie": "tracking=1; Path=/"}))
    asyncio.run(twice())
    assert all("cookie" not in seen.headers for seen in receiver.seen)


@pytest.mark.parametrize("effect", ["keyed", "unsafe"])
def test_a_client_that_cannot_be_made_is_a_failed_attempt(effect: Any) -> None:
    def broken() -> httpx2.AsyncClient:
        raise RuntimeError("no certificates here")

    outcome = call(Webhook(client=broken, effect=effect), "http://127.0.0.1:9/")
    assert outcome == Retry("RuntimeError from http://127.0.0.1:9: no certificates here")
