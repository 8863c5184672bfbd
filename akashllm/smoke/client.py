"""HTTP to a URL nobody vouches for: bounded in time and memory, no redirects, nothing of it shown raw."""

from __future__ import annotations

import ipaddress
import json
import queue
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from akashllm.errors import Unreachable, UsageError
from akashllm.version import __version__

MAX_BODY = 8 * 1024 * 1024
"""Bytes read of any reply; what comes after is not read."""

MAX_PIECES = 20_000
"""Arrivals remembered of one reply."""


def clean(text: str, limit: int = 200) -> str:
    """`text` for a terminal or a report: one line, bounded, no control, format or bidirectional characters."""
    kept = "".join(
        " " if c in "\r\n\t" else c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for c in text[: limit * 4]
    )
    kept = " ".join(kept.split())
    return kept if len(kept) <= limit else kept[: limit - 3] + "..."


def is_loopback(host: str) -> bool:
    """Whether traffic to `host` stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def base_url(text: str) -> str:
    """The address to judge, without a trailing `/` or `/v1`. Raises UsageError when it is none."""
    if any(unicodedata.category(c)[0] == "C" or c.isspace() for c in text):
        raise UsageError("the URL has control characters or spaces in it")
    if "://" not in text:
        text = (
            f"http://{text}"
            if is_loopback(text.split("/", maxsplit=1)[0].rsplit(":", 1)[0])
            else f"https://{text}"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"not a URL: {clean(text)}", hint=str(error)) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or "\\" in text:
        raise UsageError(f"not an http or https URL: {clean(text)}", hint="give it as https://HOST[:PORT]")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "the URL carries a password, a query or a fragment",
            hint="give the address alone; the key goes into an environment variable (--api-key-env)",
        )
    path = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/openai")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `pieces` are the arrivals: seconds since the request was sent, and the bytes."""

    status: int
    headers: Mapping[str, str]
    pieces: tuple[tuple[float, bytes], ...]
    seconds: float
    cut: str = ""

    @property
    def body(self) -> bytes:
        """The whole body, as far as it was read."""
        return b"".join(data for _, data in self.pieces)

    @property
    def text(self) -> str:
        """The body as text, undecodable bytes replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON; ValueError when it is none, or was cut."""
        if self.cut:
            raise ValueError(f"the reply {self.cut}")
        return json.loads(self.body)

    def said(self) -> str:
        """The server's own words about an error, for a reason line."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return clean(self.text, 120) or "nothing"
        if isinstance(value, dict):
            value = value.get("error", value)
        if isinstance(value, dict):
            value = value.get("message", value)
        return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 160)


@dataclass(slots=True)
class Client:
    """One address and one key. Every call ends within `timeout` seconds, whatever the server does.

    The key is sent to this address only; a redirect is reported, never followed.
    """

    base: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    insecure: bool = False

    @property
    def host(self) -> str:
        """The host name of the address."""
        return urlsplit(self.base).hostname or ""

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine."""
        return is_loopback(self.host)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        key: str | None = "",
        accept: str = "*/*",
        kind: str = "application/json",
        timeout: float | None = None,
    ) -> Reply:
        """One request; `kind` is the body's Content-Type. `key` "" is the client's own, None is none.

        Raises Unreachable when nothing answers.
        """
        limit = self.timeout if timeout is None else timeout
        headers = {
            "User-Agent": f"akashllm-smoke-test/{__version__}",
            "Accept": accept,
            "Accept-Encoding": "identity",
        }
        secret = self.key if key == "" else key
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = kind
        exchange = _Exchange(self.base + path, method, headers, data, limit, verify=not self.insecure)
        return exchange.result()


class _Exchange:
    """One request on a thread of its own, so that a server that drips bytes cannot hold the caller."""

    def __init__(
        self, url: str, method: str, headers: dict[str, str], data: bytes | None, limit: float, *, verify: bool
    ) -> None:
        self.url, self.method, self.headers, self.data = url, method, headers, data
        self.limit, self.verify = limit, verify
        self.stop = threading.Event()
        self.outcome: queue.Queue[Reply | Exception] = queue.Queue()
        self.head: tuple[int, dict[str, str]] | None = None
        self.pieces: list[tuple[float, bytes]] = []
        self.started = time.monotonic()

    def result(self) -> Reply:
        """The reply, cut where the time or the size ran out. Raises Unreachable."""
        threading.Thread(target=self._run, name="smoke-exchange", daemon=True).start()
        try:
            outcome = self.outcome.get(timeout=self.limit)
        except queue.Empty:
            self.stop.set()
            if self.head is None:
                raise Unreachable(f"no answer within {self.limit:g} s") from None
            return self._reply(f"was not complete after {self.limit:g} s")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _reply(self, cut: str = "") -> Reply:
        status, headers = self.head or (0, {})
        return Reply(status, headers, tuple(self.pieces), time.monotonic() - self.started, cut)

    def _run(self) -> None:
        try:
            self.outcome.put(self._exchange())
        except Exception as error:  # noqa: BLE001 - crosses the thread, raised again by the caller
            self.outcome.put(_reason(error))

    def _exchange(self) -> Reply:
        if not self.verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", HTTPAdapter(max_retries=0))
            session.mount("https://", HTTPAdapter(max_retries=0))
            response = session.request(
                self.method,
                self.url,
                data=self.data,
                headers=self.headers,
                stream=True,
                allow_redirects=False,
                verify=self.verify,
                timeout=(min(10.0, self.limit), self.limit),
            )
            with response:
                self.head = (response.status_code, {k.lower(): v[:2000] for k, v in response.headers.items()})
                for size, data in _sized(response.raw):
                    self.pieces.append((time.monotonic() - self.started, data))
                    if size > MAX_BODY or len(self.pieces) > MAX_PIECES:
                        return self._reply(f"is longer than {MAX_BODY // 2**20} MiB")
                    if self.stop.is_set():
                        break
        return self._reply()


def _sized(raw: urllib3.BaseHTTPResponse) -> Iterator[tuple[int, bytes]]:
    """Bytes as they arrive, each with the total so far."""
    total = 0
    while data := raw.read1(65_536, decode_content=False):
        total += len(data)
        yield total, data


def _reason(error: Exception) -> Exception:
    """An exception of the HTTP stack as one of ours, in words."""
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        for sign, words in (
            ("self-signed", "its certificate is self-signed"),
            ("self signed", "its certificate is self-signed"),
            ("expired", "its certificate has expired"),
            ("doesn't match", "its certificate is for another host name"),
            ("mismatch", "its certificate is for another host name"),
            ("unable to get local issuer", "its certificate is signed by nobody this machine trusts"),
        ):
            if sign in text:
                return Unreachable(f"TLS: {words}", hint="--insecure tests it all the same")
        return Unreachable(f"TLS: {clean(text)}", hint="--insecure tests it all the same")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unreachable("no connection within 10 s")
    if isinstance(error, requests.exceptions.ReadTimeout):
        return Unreachable("connected, but no answer in time")
    if isinstance(error, requests.exceptions.ConnectionError):
        if "NameResolution" in text or "Name or service" in text or "getaddrinfo" in text:
            return Unreachable("that host name does not resolve")
        if "refused" in text:
            return Unreachable("connection refused: nothing listens there")
        return Unreachable(f"the connection broke: {clean(text.rsplit('(', 1)[-1], 100)}")
    if isinstance(error, (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)):
        return Unreachable(f"not HTTP as it should be: {clean(text, 120)}")
    return error
