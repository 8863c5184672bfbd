"""The connection to the upstream: requests out, lines in, nothing unbounded, closed once nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec

from akashllm.errors import EngineDied, EngineFailed
from akashllm.server.engines.upstream.faults import garbage, refusal

logging.getLogger("httpx").setLevel(logging.WARNING)

MAX_LINE = 8 * 1024 * 1024
"""Bytes of one line of a stream; Ollama's own client takes no more."""

MAX_ANSWER = 256 * 1024 * 1024
"""Bytes of an answer that is no stream: a few thousand embeddings."""

MAX_ERROR = 64 * 1024
"""Bytes of an error that are read."""

CONNECT = 5.0
FIRST = 600.0
STALL = 120.0

_CONNECTING = (httpx.ConnectError, httpx.ConnectTimeout)
_IDLE = 3.0
"""Seconds a connection is kept for the next request: servers close theirs after five."""


class Unreachable(EngineFailed):
    """Nobody answers at the upstream's address: worth trying again."""


class Silent(Unreachable):
    """It takes connections and says nothing."""


class Link:
    """One upstream. `first` and `stall` are the seconds its first and each further byte may take.

    Redirects are not followed and the environment's proxies not used: the key goes to the address that was
    configured and nowhere else.
    """

    def __init__(self, url: str, key: str | None = None, *, first: float = FIRST, stall: float = STALL) -> None:
        self.url = url.rstrip("/")
        self._first = first
        self._stall = stall
        self._key = key
        self._client: httpx.AsyncClient | None = None

    @property
    def shown(self) -> str:
        """Host and port, for the log. Errors reach clients, who need not know where the upstream is."""
        return httpx.URL(self.url).netloc.decode("ascii", "replace")

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            headers = {"accept-encoding": "identity", "user-agent": "akashllm"}
            if self._key:
                headers["authorization"] = f"Bearer {self._key}"
            self._client = httpx.AsyncClient(
                headers=headers,
                verify=_certificates(self.url),
                timeout=httpx.Timeout(None, connect=CONNECT),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=_IDLE),
                trust_env=False,
                follow_redirects=False,
            )
        return self._client

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, within: float | None = None
    ) -> Any:
        """The JSON of an answer. Raises a `ServiceError` for everything else."""
        try:
            async with asyncio.timeout(within or self._first), self._request(method, path, body) as response:
                data = await _bounded(response)
        except TimeoutError:
            raise Silent("the upstream does not answer in time", retry_after=5) from None
        try:
            return msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise garbage("an answer that is not JSON") from error

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes]:
        """The lines of a streamed answer, without their ends. Closing the iterator closes the connection."""
        limit = self._first
        buffer = bytearray()
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(limit):
                    response = await stack.enter_async_context(self._request("POST", path, body))
                chunks = response.aiter_bytes()
                while True:
                    async with asyncio.timeout(limit):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    limit = self._stall
                    buffer += chunk
                    if b"\n" in chunk:
                        *whole, rest = bytes(buffer).split(b"\n")
                        buffer[:] = rest
                        for line in whole:
                            yield line.rstrip(b"\r")
                    if len(buffer) > MAX_LINE:
                        raise garbage(f"a line of more than {MAX_LINE} bytes")
        except TimeoutError:
            raise EngineDied(
                f"the upstream said nothing for {limit:g} seconds",
                hint="send the request again",
            ) from None
        if buffer:
            yield bytes(buffer).rstrip(b"\r")

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[httpx.Response]:
        """An answer with status 200, its body not read yet."""
        client = self._open()
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"content-type": "application/json"}
        request = client.build_request(method, self.url + path, content=content, headers=headers)
        try:
            response = await self._send(client, request)
            try:
                if response.status_code != 200:
                    raise refusal(response.status_code, await _beginning(response), response.headers)
                yield response
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise EngineDied(
                f"the connection to the upstream broke: {_reason(error)}",
                hint="send the request again",
            ) from error

    async def _send(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """Send, a second time if a kept connection turned out to be closed before anything came back."""
        try:
            return await client.send(request, stream=True)
        except _CONNECTING as error:
            raise Unreachable(f"the upstream cannot be reached: {_reason(error)}", retry_after=5) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return await client.send(request, stream=True)


def _certificates(url: str) -> ssl.SSLContext:
    """The system's certificates. Without TLS they are not read, which takes a tenth of a second."""
    if url.startswith("https:"):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _beginning(response: httpx.Response) -> bytes:
    """As much of an error's body as is read."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MAX_ERROR:
            break
    return bytes(data[:MAX_ERROR])


async def _bounded(response: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MAX_ANSWER:
            raise garbage(f"an answer of more than {MAX_ANSWER} bytes")
    return bytes(data)


def _reason(error: httpx.TransportError) -> str:
    """The last of its own words, or what kind of failure it was."""
    return str(error) or type(error).__name__


async def payloads(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The data of server-sent events; comments and other fields are skipped."""
    data: list[bytes] = []
    async for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data.clear()
    if data:
        yield b"\n".join(data)


async def objects(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The lines of NDJSON that have something on them; spaces between them keep a connection warm."""
    async for line in lines:
        text = line.strip()
        if text:
            yield text
