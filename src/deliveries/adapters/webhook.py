"""Webhooks: each attempt is one POST of the payload as JSON. Needs `deliveries[http]`.

    app.adapter("webhook", queue="web", timeout=15.0)(Webhook())

========================  ==========================================================================
2xx                       `Delivered`, the receipt being the status and an excerpt of the body
408, 425, 429, 5xx        `Retry`, after what `Retry-After` asks for, else by the backoff
network error, timeout    `Retry`, and so for any status outside 200..599
3xx                       `Cancel`. Following one would take the payload where nobody sent it; a 303
                          may mean that the effect happened, so repeating is no better: a person
                          has to look, and to enter the final address
other 4xx                 `Cancel`: the same request would be refused again
no or no usable address   `Cancel`, and so for a payload or a header that cannot be sent
========================  ==========================================================================

Only a complete answer counts (RFC 9112, section 8: a cut body is an incomplete message), with one
exception: past `max_response_bytes` nothing is read, and the status decides.

No text that leaves this module holds more of an address than scheme, host and port: userinfo,
query, and at many receivers the path too, are secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Literal
from urllib.parse import unquote

import msgspec

from deliveries.core.delivery import Attempt, Delivery
from deliveries.core.notes import clean, describe, type_name
from deliveries.core.outcomes import Cancel, Delivered, Outcome, Retry, Unknown, seconds
from deliveries.errors import InvalidAdapter

try:
    import httpx2
except ModuleNotFoundError as missing:
    raise ImportError("webhooks need httpx2: pip install 'deliveries[http]'") from missing

from deliveries.adapters.http import Clients, Unspoken, agent, flaw_of, origin, retry_after, target

HEADROOM: Final = 0.1
"""Share of an attempt's timeout kept back, at most half a second, so that our verdict is first."""

_OURS: Final = frozenset({"idempotency-key", "delivery-id", "delivery-attempt"})
_FRAMING: Final = frozenset({"accept-encoding", "content-length", "transfer-encoding"})
_NEVER_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
)


class Webhook:
    """An adapter that POSTs the payload to `delivery.recipient`, else to `url`.

    Every attempt of a delivery carries the same `Idempotency-Key` (the bare key, as most receivers
    take it; draft-ietf-httpapi-idempotency-key-header would quote it), its own `Delivery-Attempt`
    (from 1) and the `Delivery-Id`. Credentials in an address are sent as Basic authentication.
    Durations are seconds or a timedelta.

    Args:
        url: Where deliveries without a recipient go.
        headers: Sent with each request, to every recipient; may replace Content-Type and
            User-Agent, but neither the three above nor the framing.
        effect: As registered. With "unsafe" a failure that may have come after the effect (a reset,
            a timeout, a 5xx) is `Unknown`: a `Retry` would assert that nothing happened.
        timeout: From the start of connecting to the end of the answer; the attempt's own timeout
            bounds it too. A receiver that drips a byte at a time gains nothing.
        connect_timeout: For resolving and connecting, and once more for the TLS handshake.
        max_response_bytes: Nothing past it is read. Answers are asked for unencoded and never
            decompressed, so a bomb costs no more than its bytes.
        max_retry_after: A longer `Retry-After` is cut to this.
        receipt_chars: Characters kept of a body, in receipts and in failure texts; 0 keeps none.
        trust_env: Let HTTP_PROXY, SSL_CERT_FILE and their like take effect.
        client: Makes a new client for each event loop, for proxies, certificates or HTTP/2 of your
            own; replaces `trust_env`.

    Raises:
        InvalidAdapter: an argument is out of range, or the url or a header cannot be sent.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        effect: Literal["keyed", "natural", "unsafe"] = "keyed",
        timeout: float | timedelta = 30.0,
        connect_timeout: float | timedelta = 5.0,
        max_response_bytes: int = 65_536,
        max_retry_after: float | timedelta = timedelta(hours=6),
        receipt_chars: int = 500,
        trust_env: bool = False,
        client: Callable[[], httpx2.AsyncClient] | None = None,
    ) -> None:
        self._trust_env = trust_env
        self._clients = Clients(client or self._new_client)
        self._max_bytes, self._excerpt_chars = max_response_bytes, receipt_chars
        self._own, self.effect = dict(headers or {}), effect
        try:
            self._url = None if url is None else target(url)
            self._timeout = seconds(timeout, "timeout")
            self._connect_timeout = seconds(connect_timeout, "connect_timeout")
            self._max_retry_after = seconds(max_retry_after, "max_retry_after")
            flaw = flaw_of(self._own)
        except (ValueError, TypeError) as error:
            raise InvalidAdapter(str(error)) from None
        if not self._timeout or not self._connect_timeout:
            flaw = "a timeout of 0 seconds leaves no time to send anything"
        if min(max_response_bytes, receipt_chars) < 0:
            flaw = "max_response_bytes and receipt_chars must not be negative"
        if taken := sorted(name for name in self._own if name.lower() in _OURS | _FRAMING):
            flaw = f"headers that are not yours to set: {', '.join(taken)}"
        if effect not in ("keyed", "natural", "unsafe"):
            flaw = f"effect must be 'keyed', 'natural' or 'unsafe', not {effect!r}"
        if flaw is not None:
            raise InvalidAdapter(flaw)

    async def __call__(self, delivery: Delivery, attempt: Attempt) -> Outcome:
        """One attempt. No `Exception` leaves it; a cancellation does."""
        try:
            url = target(delivery.recipient) if delivery.recipient else self._url
            body = msgspec.json.encode(delivery.payload)
        except Exception as error:
            return Cancel(f"the request cannot be made: {describe(error)}")
        if url is None:
            return Cancel("no address: the delivery has no recipient, the adapter no url")
        limit = min(self._timeout, attempt.timeout - min(attempt.timeout * HEADROOM, 0.5))
        sending = False
        try:
            headers = self._headers(delivery, attempt, body)
            if flaw := flaw_of(headers):
                return Cancel(f"the request cannot be made: {flaw}")
            client = await self._clients.get()
            sending = True
            return await self._exchange(client, url, headers, body, limit)
        except Exception as error:
            sent = sending and not isinstance(error, _NEVER_SENT)
            return self._again(self._broken(url, error), sent=sent)

    async def aclose(self) -> None:
        """Close the running loop's client. Optional: `asyncio.run` does it at its end."""
        await self._clients.aclose()

    def _headers(self, delivery: Delivery, attempt: Attempt, body: bytes) -> Mapping[str, str]:
        """All headers of the request; a signature over `body` goes here."""
        headers = httpx2.Headers({"Content-Type": "application/json", "User-Agent": agent()})
        headers.update(self._own)
        headers.update(
            {
                "Accept-Encoding": "identity",
                "Idempotency-Key": delivery.idempotency_key,
                "Delivery-Id": str(delivery.id),
                "Delivery-Attempt": str(attempt.number),
            }
        )
        return headers

    def _new_client(self) -> httpx2.AsyncClient:
        """The client of one event loop; a guard of addresses goes here, as its transport.

        No cookies: a receiver's would be kept for ever. No bound on connections: the queue's
        concurrency is one, and waiting for a second would eat the attempt's time.
        """
        return httpx2.AsyncClient(
            trust_env=self._trust_env,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def _exchange(
        self,
        client: httpx2.AsyncClient,
        url: httpx2.URL,
        headers: Mapping[str, str],
        body: bytes,
        limit: float,
    ) -> Outcome:
        timeout = httpx2.Timeout(limit, connect=min(self._connect_timeout, limit))
        try:
            async with asyncio.timeout(limit):
                request = client.build_request("POST", url, headers=headers, content=body, timeout=timeout)
                request.url = Unspoken(request.url)
                response = await client.send(request, stream=True, follow_redirects=False)
                answer = await self._read(response)
        except TimeoutError:
            return self._again(f"no complete answer from {origin(url)} within {limit:.3g} s")
        return self._judge(response, self._told(url, answer, self._excerpt_chars))

    async def _read(self, response: httpx2.Response) -> str:
        """The body as text, as far as it is read; empty where it came encoded all the same.

        Leaving the chunks closes the answer, and its connection where something is unread.
        """
        kept = bytearray()
        if response.is_stream_consumed:  # by a transport made for tests, which cannot stream
            kept += response.content[: self._max_bytes]
        else:
            async with aclosing(response.aiter_raw()) as chunks:
                async for chunk in chunks:
                    kept += chunk[: self._max_bytes - len(kept)]
                    if len(kept) >= self._max_bytes:
                        break
        encoded = response.headers.get("content-encoding", "identity").lower() != "identity"
        return "" if encoded else kept.decode("utf-8", "replace")

    def _judge(self, response: httpx2.Response, excerpt: str) -> Outcome:
        status = response.status_code
        if 200 <= status < 300:
            return Delivered({"status": status, "body": excerpt} if excerpt else {"status": status})
        phrase = httpx2.codes.get_reason_phrase(status)
        text = f"HTTP {status} {phrase}".strip() + f" from {origin(response.request.url)}"
        if 300 <= status < 400:
            return Cancel(f"{text}: not followed, the recipient must be the final address")
        text += f": {excerpt}" if excerpt else ""
        wait = retry_after(response.headers, datetime.now(UTC))
        after = None if wait is None else min(wait, self._max_retry_after)
        if status in (408, 425, 429):
            return Retry(text, after=after)
        return Cancel(text) if 400 <= status < 500 else self._again(text, after=after)

    def _again(self, text: str, *, after: float | None = None, sent: bool = True) -> Outcome:
        if sent and self.effect == "unsafe":
            return Unknown(text)
        return Retry(text, after=after)

    def _broken(self, url: httpx2.URL, error: Exception) -> str:
        name, text = type_name(error), describe(error)
        silent = text.startswith(f"{name}(")  # its repr, for want of a text
        return f"{name} from {origin(url)}" + ("" if silent else f": {self._told(url, text, 200)}")

    def _told(self, url: httpx2.URL, text: str, limit: int) -> str:
        """`text`, which the other side may have chosen, without what it can echo of our secrets."""
        ours = [url.userinfo.decode(), url.username, url.password, *self._own.values()]
        ours += [url.query.decode(), unquote(url.query), *(v for _, v in url.params.multi_items())]
        for secret in sorted(ours, key=len, reverse=True):
            if len(secret) >= 4:  # a shorter one would be found everywhere
                text = text.replace(secret, "[redacted]")
        return clean(text, limit) if limit else ""
