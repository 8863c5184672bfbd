"""One address that files come from: redirects, credentials, and what each refusal means."""

from __future__ import annotations

import email.utils
import logging
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from akashllm.errors import BadName, DownloadFailed
from akashllm.version import __version__

# Its lines show whole addresses, and some carry signatures.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.INFO)

MAX_REDIRECTS = 8
REDIRECTS = frozenset({301, 302, 303, 307, 308})
Origin = tuple[str, str, int | None]
"""Scheme, host and port."""

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})
_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What an address that a redirect led to answers once its signature has run out."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a bad connection is put up with.

    attempts    in a row without a step forward
    connect     seconds until a connection stands;  read: between two pieces of an answer
    pause       seconds before the second attempt, doubled each time and shortened by chance
    longest     seconds of one pause; a server that asks for more is not waited for
    """

    attempts: int = 6
    connect: float = 10.0
    read: float = 30.0
    pause: float = 0.5
    longest: float = 60.0

    def wait(self, failures: int, asked: float | None) -> float:
        """Seconds until the next attempt. `asked` is what the server wants."""
        if asked is not None:
            return asked
        most = min(self.longest, self.pause * 2.0 ** (failures - 1))
        return most * (0.5 + random.random() / 2)  # noqa: S311 - spreads retries, guards nothing


class Changed(Exception):
    """The file behind the address is another one than before."""


class Unranged(Exception):
    """The server does not do ranges, or says one thing and does another."""


class Refused(DownloadFailed):
    """A server will not give a file. `word` is its own code for why, where it has one (`X-Error-Code`)."""

    def __init__(self, message: str, *, hint: str = "", status: int, word: str = "") -> None:
        super().__init__(message, hint=hint, status=status)
        self.word = word


class Again(Exception):
    """Worth another attempt; `reason` is what to say if there is none, `after` the seconds to wait."""

    def __init__(self, reason: str, after: float | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.status = status


def new_client(patience: Patience, *, parts: int = 4) -> httpx.AsyncClient:
    """A client that follows nothing by itself and keeps no cookies between hosts."""
    return httpx.AsyncClient(
        headers={"user-agent": f"akashllm/{__version__}"},
        timeout=httpx.Timeout(patience.read, connect=patience.connect, pool=None),
        limits=httpx.Limits(max_connections=parts + 2, max_keepalive_connections=parts),
        follow_redirects=False,
    )


class Source:
    """One file at one address. `what` is its name in errors; `headers` go to the address's own origin only."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, what: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._client = client
        self.url = checked_url(url)
        self.what = what
        self._headers = dict(headers or {})
        self._resolved: httpx.URL | None = None

    @property
    def host(self) -> str:
        """The host as people know it: that of the address they gave."""
        return self.url.host

    @asynccontextmanager
    async def get(self, extra: Mapping[str, str] | None = None) -> AsyncIterator[httpx.Response]:
        """The answer (200, 206 or 416) with its body still to come.

        Raises `Again` for what may pass and `DownloadFailed` for what will not. Where a redirect led once is
        asked directly from then on, until it refuses.
        """
        response = await self._ask(extra or {})
        try:
            yield response
        except httpx.HTTPError as error:
            raise Again(f"{self.host} {_broken(error)} while {self.what} was fetched") from error
        finally:
            await response.aclose()

    async def _ask(self, extra: Mapping[str, str]) -> httpx.Response:
        url = self._resolved or self.url
        for _ in range(MAX_REDIRECTS):
            response = await self._send(url, extra)
            if response.status_code in REDIRECTS:
                await response.aclose()
                url = self._next(url, response)
                continue
            if response.status_code in {200, 206, 416}:
                self._resolved = url
                return response
            await response.aclose()
            if self._resolved is not None and response.status_code in _EXPIRED and url != self.url:
                self._resolved, url = None, self.url
                continue
            raise self._refusal(response)
        raise DownloadFailed(
            f"{self.host} sends {self.what} round in circles", hint="check the address, or try again later"
        )

    async def _send(self, url: httpx.URL, extra: Mapping[str, str]) -> httpx.Response:
        headers = {"accept-encoding": "identity", **self._own(url), **extra}
        request = self._client.build_request("GET", url, headers=headers)
        try:
            return await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise Again(f"{self.host} {_broken(error)} while {self.what} was asked for") from error

    def _own(self, url: httpx.URL) -> dict[str, str]:
        """The caller's headers; those that open doors only where they were meant to."""
        if origin(url) == origin(self.url):
            return self._headers
        return {name: value for name, value in self._headers.items() if name.lower() not in _PRIVATE}

    def _next(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Where a redirect leads. From https only to https, from http to the same host or https."""
        location = response.headers.get("location", "")
        try:
            target = url.join(location) if location else httpx.URL("")
        except (httpx.InvalidURL, ValueError):
            target = httpx.URL("")
        same = target.scheme == "http" and url.scheme == "http" and target.host == url.host
        if not target.host or not (target.scheme == "https" or same):
            raise DownloadFailed(
                f"{self.host} redirects {self.what} to an address that is not safe to follow",
                hint="only https addresses are followed to another host",
            )
        return target

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        if status in _TRANSIENT:
            after = retry_after(response.headers.get("retry-after", ""))
            why = "was asked too often" if status == 429 else f"answers {status}"
            return Again(f"{self.host} {why} for {self.what}", after, status)
        word = response.headers.get("x-error-code", "")
        if status in {401, 403}:
            return Refused(
                f"{self.host} does not let us read {self.what} (it answers {status})",
                hint="it may need a token, or a licence to be accepted first",
                status=status,
                word=word,
            )
        if status in {404, 410}:
            return Refused(
                f"{self.host} has no {self.what}",
                hint="check the spelling of the name",
                status=status,
                word=word,
            )
        return Refused(f"{self.host} answers {status} for {self.what}", status=status, word=word)


def checked_url(url: str) -> httpx.URL:
    """The address, if it is one. Raises `BadName`, never repeating what might hold a password."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise BadName("the address of a file is malformed", hint="write it as https://host/path/file.gguf")
    return parsed


def retry_after(value: str) -> float | None:
    """Seconds of a `Retry-After` header, a number or a date; None if it says nothing."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def origin(url: httpx.URL) -> Origin:
    """Where credentials for `url` may go: equal for two addresses of one server."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _broken(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx.TimeoutException):
        return "does not answer in time"
    return "breaks the connection"
