"""HTTP to Console: one session, time-outs everywhere, and only what is idempotent is ever sent twice."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from akashllm.errors import KeyRefused, MarketError, MarketUnavailable, UsageError
from akashllm.market.clock import Clock, RealClock, wrong_clock
from akashllm.market.console_errors import no_answer, nonsense, refusal, unavailable_page
from akashllm.market.console_key import WHERE, ApiKey
from akashllm.version import __version__

URL = "https://console-api.akash.network"
URL_VARIABLE = "AKASH_CONSOLE_API_URL"

CONNECT, READ = 10.0, 60.0
"""Seconds. Console signs and sends a transaction before it answers: that takes some blocks."""

MAX_BYTES = 32 << 20
_TRIES = 4
_BACKOFF, _MAX_WAIT = 1.0, 30.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Key(AuthBase):
    """Sends the key; being an `auth`, it also keeps `.netrc` from adding a second credential."""

    def __init__(self, key: ApiKey | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["x-api-key"] = self._key.secret()
        return request


class ConsoleHttp:
    """Calls of Console's API. The key goes to `base` only: redirects are not followed.

    base       https, or plain http on loopback for tests
    patience   seconds for connecting, and for each silence while an answer comes
    chance     gives the jitter, 0 to 1
    """

    def __init__(
        self,
        key: ApiKey | None,
        *,
        base: str | None = None,
        clock: Clock | None = None,
        patience: tuple[float, float] = (CONNECT, READ),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.base = checked_base(base or os.environ.get(URL_VARIABLE) or URL)
        self._key = key
        self._clock = clock or RealClock()
        self._patience = patience
        self._chance = chance
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"akashllm/{__version__}"

    def __repr__(self) -> str:
        return f"ConsoleHttp({self.base})"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @property
    def has_key(self) -> bool:
        """Whether there is a key at all."""
        return self._key is not None

    @property
    def mark(self) -> str:
        """Tells this key from another; empty without one."""
        return "" if self._key is None else self._key.mark

    def get(
        self, path: str, params: Mapping[str, str] | None = None, *, key: bool = True, tries: int = _TRIES
    ) -> Any:
        """Read. Tried again on what may pass."""
        return self._again("GET", path, params=params, key=key, tries=tries)

    def ask(self, path: str, body: Mapping[str, Any], *, key: bool = True) -> Any:
        """A POST that changes nothing: tried again as a read is."""
        return self._again("POST", path, body=body, key=key)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something. Sent once: what became of it when no answer comes is the caller's to find out."""
        try:
            return self._once("POST", path, body=body)
        except _Later as later:
            raise later.error from None

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Replace something. Tried again."""
        return self._again("PUT", path, body=body)

    def delete(self, path: str) -> Any:
        """End something. Tried again."""
        return self._again("DELETE", path)

    def _again(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        key: bool = True,
        tries: int = _TRIES,
    ) -> Any:
        for number in range(1, tries + 1):
            try:
                return self._once(method, path, params=params, body=body, key=key)
            except _Later as later:
                if number == tries:
                    raise later.error from None
                wait = _BACKOFF * 2 ** (number - 1) * (0.5 + self._chance())
                self._clock.sleep(min(_MAX_WAIT, max(wait, later.seconds)))
            except MarketUnavailable:
                if number == tries:
                    raise
                self._clock.sleep(_BACKOFF * 2 ** (number - 1) * (0.5 + self._chance()))
        raise AssertionError

    def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        key: bool = True,
    ) -> Any:
        if key and self._key is None:
            raise KeyRefused("there is no API key for Console", hint=WHERE)
        call = f"{method} {path.rsplit('?', maxsplit=1)[0]}"
        try:
            with self._session.request(
                method,
                self.base + path,
                params=params,
                json=body,
                auth=_Key(self._key if key else None),
                timeout=self._patience,
                allow_redirects=False,
                stream=True,
            ) as reply:
                return self._read(reply, call)
        # No chaining: an exception of the library carries the request, and with it the key.
        except requests.exceptions.ConnectTimeout:
            raise no_answer("it cannot be reached", acted=False) from None
        except requests.exceptions.SSLError as error:
            if "certificate" in str(error).lower():
                raise MarketError(
                    "Console's certificate is not valid",
                    hint=wrong_clock(str(error)) or "check the network, or AKASH_CONSOLE_API_URL",
                ) from None
            # Any record of a connection may be broken, also the one after which Console has acted.
            raise no_answer("the encrypted connection broke", acted=None) from None
        except requests.ConnectionError as error:
            raise no_answer("the connection failed", acted=_refused(error)) from None
        except (requests.RequestException, HTTPError, OSError) as error:
            raise no_answer(type(error).__name__, acted=None) from None

    def _read(self, reply: requests.Response, call: str) -> Any:
        body = self._body(reply, call)
        if not 200 <= reply.status_code < 300:
            error = refusal(reply.status_code, body, call=call)
            error.message = self._without_key(error.message)
            error.args = (error.message,)
            if reply.status_code in _AGAIN and isinstance(error, MarketUnavailable):
                raise _Later(error, _seconds(reply.headers.get("Retry-After")))
            raise error
        if reply.status_code == 204:
            return {}
        if body.lstrip()[:1] == b"<":
            raise unavailable_page()
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise nonsense(call) from None

    def _body(self, reply: requests.Response, call: str) -> bytes:
        body = bytearray()
        deadline = time.monotonic() + 2 * self._patience[1]
        for piece in reply.iter_content(64 << 10):
            body += piece
            if len(body) > MAX_BYTES or time.monotonic() > deadline:
                raise nonsense(call)
        return bytes(body)

    def _without_key(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key.secret(), "[redacted]")


class _Later(MarketUnavailable):
    """A refusal that may pass; `seconds` is what the market asked to wait."""

    def __init__(self, error: MarketUnavailable, seconds: float) -> None:
        super().__init__(error.message, hint=error.hint, acted=error.acted)
        self.error = error
        self.seconds = seconds


def checked_base(url: str) -> str:
    """The address, once it is certain that a key may be sent there. Raises `UsageError`."""
    parts = urlsplit(url)
    loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise UsageError("Console's address is no https address", hint=f"unset {URL_VARIABLE}")
    if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
        raise UsageError("Console's address holds more than a host and a path", hint=f"unset {URL_VARIABLE}")
    return url.rstrip("/")


def _seconds(text: str | None) -> float:
    """Retry-After in seconds; a date is not worth its parsing here."""
    return float(text) if text and text.isdigit() else 0.0


def _refused(error: requests.ConnectionError) -> bool | None:
    """False where the connection was never made: then nothing can have happened."""
    return False if "NewConnectionError" in str(error) or "NameResolutionError" in str(error) else None
