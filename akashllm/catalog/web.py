"""Small, bounded reads from a model hub: whole small files, and ranges of large ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from akashllm.errors import MarketError, UnknownModel, Unreachable, UsageError
from akashllm.version import __version__

TIMEOUT = (5.0, 20.0)
"""Seconds to connect, and between two pieces of an answer."""

MAX_REDIRECTS = 5
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class HubRefused(UsageError):
    """The hub wants a token or a licence to be accepted first."""


class HubBusy(MarketError):
    """The hub is up but does not answer now: too many requests, or a fault of its own."""


class Web:
    """A session that never reads more than it was asked to, and says in one sentence what went wrong.

    The token goes to the host it was given for only: `requests` drops it when a redirect leaves that host.
    """

    def __init__(self, token: str | None = None, timeout: tuple[float, float] = TIMEOUT) -> None:
        self._session = requests.Session()
        self._session.max_redirects = MAX_REDIRECTS
        self._session.headers["User-Agent"] = f"akashllm/{__version__}"
        # Credentials of ~/.netrc are for other programs.
        self._session.trust_env = False
        self._session.hooks["response"].append(_check_redirect)
        self._token = token
        self._timeout = timeout

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def read(self, url: str, limit: int, *, what: str, accept: str = "*/*") -> bytes:
        """The whole body, or a `UsageError` if it is longer than `limit` bytes."""
        with self._get(url, {"Accept": accept}, what) as answer:
            body = _take(answer, limit + 1, what)
        if len(body) > limit:
            raise UsageError(f"{what} is larger than {limit} bytes, which no real one is")
        return body

    def json(self, url: str, limit: int, *, what: str, accept: str = "application/json") -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.read(url, limit, what=what, accept=accept))
        except (ValueError, RecursionError):
            raise UsageError(f"{what} is not JSON") from None

    def part(self, url: str, start: int, end: int, *, what: str) -> tuple[bytes, int]:
        """Bytes `start` up to `end` (exclusive) and the size of the whole file."""
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with self._get(url, headers, what) as answer:
            if answer.status_code == requests.codes.ok:
                # A server that knows no ranges sends everything: only the front of it is of use.
                total = int(answer.headers.get("Content-Length", 0)) or end
                body = _take(answer, end, what)[start:]
            else:
                total = _total(answer, what)
                body = _take(answer, end - start, what)
        return body, total

    def _get(self, url: str, headers: Mapping[str, str], what: str) -> requests.Response:
        sent = dict(headers)
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        host = urlsplit(url).hostname or url
        try:
            answer = self._session.get(url, headers=sent, stream=True, timeout=self._timeout)
        except requests.TooManyRedirects:
            raise HubBusy(f"{host} sends {what} round in circles") from None
        except requests.RequestException as fault:
            kind = "does not answer in time" if isinstance(fault, requests.Timeout) else "cannot be reached"
            raise Unreachable(
                f"{host} {kind}",
                hint="check the network, or give the model's figures by flags (--parameters ...)",
            ) from None
        if answer.status_code >= 400:
            with answer:
                raise _refusal(answer, host, what, token=bool(self._token))
        return answer


def _refusal(answer: requests.Response, host: str, what: str, *, token: bool) -> Exception:
    status = answer.status_code
    gated = "gated" in answer.headers.get("X-Error-Code", "").lower()
    if status == 403 or (status == 401 and (gated or token)):
        if token:
            return HubRefused(
                f"{host} does not let this token read {what}",
                hint="accept the model's licence on its page, or use a token of the account that did",
            )
        return HubRefused(f"{what} is gated on {host}", hint="accept its licence there and set HF_TOKEN")
    if status == 401:
        return UnknownModel(
            f"{host} has no public {what}", hint="check the spelling; if it is private or gated, set HF_TOKEN"
        )
    if status in {404, 410}:
        return UnknownModel(f"{host} has no {what}", hint="check the spelling of the repository and the file")
    if status == 429:
        after = answer.headers.get("Retry-After", "")
        wait = f"in {after} s" if after.isdigit() else "in a few minutes"
        return HubBusy(f"{host} says that it was asked too often", hint=f"try again {wait}, or set HF_TOKEN")
    return HubBusy(f"{host} answered {status} for {what}", hint="try again later, or give the figures by flags")


def _check_redirect(answer: requests.Response, **_: Any) -> None:
    if not answer.is_redirect:
        return
    target = urlsplit(requests.compat.urljoin(answer.url, answer.headers.get("Location", "")))
    secure = target.scheme == "https"
    local = (
        target.scheme == "http" and target.hostname in _LOOPBACK and urlsplit(answer.url).hostname in _LOOPBACK
    )
    if not (secure or local):
        raise requests.ConnectionError("a redirect leaves https")


def _take(answer: requests.Response, limit: int, what: str) -> bytes:
    body = bytearray()
    try:
        for piece in answer.iter_content(1 << 16):
            body += piece
            if len(body) >= limit:
                break
    except requests.RequestException:
        raise Unreachable(f"the connection broke while {what} was read", hint="try again") from None
    return bytes(body[:limit])


def _total(answer: requests.Response, what: str) -> int:
    tail = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if not tail.isdigit():
        raise HubBusy(f"the hub does not say how large {what} is")
    return int(tail)
