"""What an HTTP adapter needs beside its verdicts: clients, addresses, headers, dates."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from importlib import metadata

import httpx2

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"([!-~]([ -~\t]*[!-~])?)?")  # RFC 9110, 5.5, without obs-text
_HOST = re.compile(r"(?=.{1,254}\Z)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?|[0-9a-f.]*:[0-9a-f:.]*")
_DELTA_SECONDS = re.compile(r"[0-9]{1,10}")
_DAY = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? ")


class Clients:
    """One client per event loop, made on first use and closed with the loop.

    Sockets belong to the loop that opened them. Each client lives in an asynchronous generator,
    since these a loop's runner closes (`shutdown_asyncgens`) while the loop can still run; a loop
    closed without that leaves its sockets to the garbage collector.
    """

    def __init__(self, new: Callable[[], httpx2.AsyncClient]) -> None:
        self._new = new
        self._open: dict[
            asyncio.AbstractEventLoop,
            tuple[httpx2.AsyncClient, AsyncGenerator[httpx2.AsyncClient]],
        ] = {}

    async def get(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for dead in [known for known in tuple(self._open) if known.is_closed()]:
                self._open.pop(dead, None)
            life = self._life(loop)
            # Nothing in `_life` waits before its yield, so no other task comes in between.
            self._open[loop] = (await anext(life), life)
        return self._open[loop][0]

    async def _life(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[httpx2.AsyncClient]:
        client = self._new()
        client.event_hooks["response"].append(stay)
        try:
            yield client
        finally:
            self._open.pop(loop, None)
            await client.aclose()

    async def aclose(self) -> None:
        held = self._open.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()


async def stay(response: httpx2.Response) -> None:
    """Forget where a redirect leads: httpx2 would build the next request, and fail at odd places."""
    response.headers.pop("location", None)


class Unspoken(httpx2.URL):
    """Prints as its origin: httpx2 logs the URL of every request, at INFO."""

    def __str__(self) -> str:
        return origin(self)


def target(address: str) -> httpx2.URL:
    """`address` as an absolute http or https URL with a host that a resolver would take.

    Raises: ValueError, repeating no part of the address.
    """
    try:
        url = httpx2.URL(address)
        resolvable = url.host and _HOST.fullmatch(url.raw_host.decode())
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise ValueError("the address is not a URL") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("the address is not an http or https URL")
    if not resolvable:
        raise ValueError("the address has no valid host")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise ValueError("the address has no valid port")
    return url


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that `Retry-After` asks to wait (RFC 9110, section 10.2.3); None if it says nothing.

    Both forms count: delta-seconds of at most ten digits, and an HTTP-date (section 5.6.7), taken
    against the answer's own `Date` where it has one, so that no clock but the sender's matters.
    Anything else, zero and the past say nothing: the backoff decides.
    """
    value = headers.get("retry-after", "").strip()
    if _DELTA_SECONDS.fullmatch(value):
        wait = float(value)
    elif (until := _http_date(value)) is not None:
        wait = (until - (_http_date(headers.get("date", "")) or now)).total_seconds()
    else:
        return None
    return wait if wait > 0 else None


def _http_date(value: str) -> datetime | None:
    if len(value) > 40 or not _DAY.match(value):
        return None
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def flaw_of(headers: Mapping[str, str]) -> str | None:
    """What keeps HTTP from carrying `headers`, never repeating a value; None if nothing does."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            return f"{name!r} is no header name"
        if not _HEADER_VALUE.fullmatch(value):
            return f"the value of header {name} cannot be sent"
    return None


def origin(url: httpx2.URL) -> str:
    """Scheme, host and port: all of an address that may be told."""
    return f"{url.scheme}://{url.netloc.decode()}"


@cache
def agent() -> str:
    """The User-Agent."""
    try:
        return f"deliveries/{metadata.version('deliveries')}"
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "deliveries/0"
