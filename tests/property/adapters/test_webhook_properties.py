"""Whatever stands in an address, a status line or a `Retry-After`: a clear outcome, and no secret."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deliveries.adapters.webhook import Webhook, retry_after, target
from deliveries.core.delivery import Attempt, Delivery, Status
from deliveries.core.outcomes import Cancel, Delivered, Outcome, Retry

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CAP = 6 * 3600

instants = st.datetimes(
    min_value=(NOW - timedelta(days=13_000)).replace(tzinfo=None),
    max_value=(NOW + timedelta(days=12_000)).replace(tzinfo=None),
    timezones=st.just(UTC),
).map(lambda instant: instant.replace(microsecond=0))


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates would take most of the time


ATTEMPT = Attempt(number=1, is_last=False, timeout=10.0, started_at=NOW)


def outcome_of(recipient: str, response: httpx2.Response | Exception) -> Outcome:
    """What the adapter makes of `response`, which a transport in this process gives."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if isinstance(response, Exception):
            raise response
        return response

    def client() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(answer), verify=_NO_TLS)

    delivery = Delivery(
        id=UUID(int=7),
        channel="webhook",
        queue="web",
        status=Status.ATTEMPTING,
        version=2,
        scheduled_at=NOW,
        due_at=None,
        recipient=recipient,
    )
    return asyncio.run(Webhook(client=client)(delivery, ATTEMPT))


# -- Retry-After -------------------------------------------------------------------------------


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9 :+-]*[A-Z]{0,3}"))
@example("Sun, 06 Nov 1994 08:49:37 +9999")
@example("Sun, 06 Nov 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, ")
def test_any_retry_after_says_nothing_or_a_positive_wait(value: str) -> None:
    for date in ("", value, "Sun, 06 Nov 1994 08:49:37 GMT"):
        wait = retry_after({"retry-after": value, "date": date}, NOW)
        assert wait is None or 0 < wait < float("inf")


@given(st.integers())
def test_seconds_count_from_one_to_ten_digits(number: int) -> None:
    expected = float(number) if 0 < number < 10**10 else None
    assert retry_after({"retry-after": str(number)}, NOW) == expected


FORMS = {
    "IMF-fixdate": lambda instant: format_datetime(instant, usegmt=True),
    "rfc850-date": lambda instant: instant.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
    "asctime-date": lambda instant: instant.strftime("%a %b %e %H:%M:%S %Y"),
}


@pytest.mark.parametrize("form", FORMS)
@given(until=instants, now=instants)
def test_a_date_means_the_time_until_then_in_all_three_forms(
    form: str, until: datetime, now: datetime
) -> None:
    wait = retry_after({"retry-after": FORMS[form](until)}, now)
    left = (until - now).total_seconds()
    assert wait == (left if left > 0 else None)


@given(skew=st.timedeltas(timedelta(days=-900), timedelta(days=900)), wait=st.integers(1, 10**6))
def test_no_clock_but_the_senders_matters(skew: timedelta, wait: int) -> None:
    theirs = (NOW + skew).replace(microsecond=0)
    headers = {
        "date": format_datetime(theirs, usegmt=True),
        "retry-after": format_datetime(theirs + timedelta(seconds=wait), usegmt=True),
    }
    assert retry_after(headers, NOW) == wait


# -- addresses ---------------------------------------------------------------------------------

schemes = ["http", "https", "ftp", "://"]
marks = [":", "/", "//", "@", "[", "]", "%", "?", "#", "..", "\\", "\t", "\x00", "\ud800", "ß", "。"]
hosts = ["::1", "127.0.0.1", "example.com", "xn--", "65536", "80"]
pieces = st.sampled_from([*schemes, *marks, *hosts])
addresses = st.lists(pieces | st.text(max_size=3), max_size=9).map("".join)


@given(addresses | st.text() | addresses.map("http://".__add__))
def test_any_address_is_usable_or_cancels(address: str) -> None:
    outcome = outcome_of(address, httpx2.Response(200))
    if isinstance(outcome, Cancel):
        assert str(outcome.text).startswith(("the request cannot be made: the address ", "no address"))
        return
    assert outcome == Delivered({"status": 200})
    url = target(address)
    assert url.scheme in ("http", "https")
    assert url.raw_host.decode().encode("idna")  # what a resolver does with it first
    assert url.port is None or 1 <= url.port <= 65_535


@given(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,9}){0,3}", fullmatch=True),
    st.none() | st.integers(1, 65_535),
)
def test_ordinary_addresses_are_usable(scheme: str, host: str, port: int | None) -> None:
    address = f"{scheme}://{host}{'' if port is None else f':{port}'}/a/b?c=d"
    assert target(address).host == host


# -- answers -----------------------------------------------------------------------------------


def expected(status: int) -> type[Outcome]:
    if 200 <= status < 300:
        return Delivered
    return Cancel if 300 <= status < 500 and status not in (408, 425, 429) else Retry


def test_every_status_has_its_outcome() -> None:
    for status in range(100, 1000):
        outcome = outcome_of("http://receiver.example/", httpx2.Response(status))
        assert type(outcome) is expected(status), status


header_values = st.binary(max_size=60)


@settings(max_examples=300)
@given(
    st.integers(200, 599),
    header_values,
    st.sampled_from(["http://", "//", "?", "http://[", "http://xn--", ":", ""]),
    header_values,
    st.binary(max_size=200),
)
def test_whatever_is_answered_the_status_decides(
    status: int, value: bytes, prefix: str, location: bytes, body: bytes
) -> None:
    headers: list[tuple[bytes, bytes]] = [
        (b"Retry-After", value),
        (b"Date", value),
        (b"Location", prefix.encode() + location),
        (b"Content-Encoding", value),
        (b"Content-Type", value),
        (b"Set-Cookie", value),
    ]
    response = httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))
    outcome = outcome_of("http://receiver.example/", response)
    assert type(outcome) is expected(status)
    assert not isinstance(outcome, Retry) or outcome.after is None or 0 < outcome.after <= CAP


errors: st.SearchStrategy[Any] = st.sampled_from(
    [
        httpx2.ConnectError,
        httpx2.ReadTimeout,
        httpx2.PoolTimeout,
        httpx2.InvalidURL,
        httpx2.DecodingError,
        httpx2.LocalProtocolError,
        httpx2.ProxyError,
        RuntimeError,
        OSError,
        ExceptionGroup,
        RecursionError,
    ]
)


@given(errors, st.text())
def test_whatever_is_raised_is_a_failed_attempt(kind: Any, text: str) -> None:
    error = kind(text, [ValueError()]) if kind is ExceptionGroup else kind(text)
    outcome = outcome_of("http://user:pearl@receiver.example/?q=pearl", error)
    assert isinstance(outcome, Retry)
    assert kind.__name__ in str(outcome.error)
    assert len(str(outcome.error)) < 400


secrets = st.from_regex(r"[a-zA-Z0-9_~.-]{4,30}", fullmatch=True)


@given(secrets, secrets, secrets, st.integers(200, 599), st.text(max_size=20))
def test_no_echo_of_the_address_is_told(
    user: str, password: str, token: str, status: int, noise: str
) -> None:
    marked = [f"§{secret}§" for secret in (user, password, token)]
    address = "http://{}:{}@r.example/hook?t={}".format(*marked)
    echo = noise.join(["", *marked, str(httpx2.URL(address)), noise])
    outcome = outcome_of(address, httpx2.Response(status, text=echo))
    assert not any(secret in repr(outcome) for secret in marked)
    assert "%C2%A7" not in repr(outcome)
